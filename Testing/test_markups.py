"""Slicer's ROI files: read as Slicer means them, written as Slicer reads them."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dbsam.geometry.grid import OrientedBox
from dbsam.io.roi_markups import MarkupsRoi, read_roi, write_roi

DATA = Path(__file__).parent / "data"
ROTATED = DATA / "roi_rotated_by_slicer.mrk.json"  # saved by vtkMRMLMarkupsROIJsonStorageNode, LPS
BOUNDING = DATA / "roi_bounding_by_slicer.mrk.json"  # the same, RAS


def sorted_corners(box: OrientedBox) -> np.ndarray:
    corners = box.corners_ras().round(6) + 0.0
    return corners[np.lexsort(corners.T)]


def edited(tmp_path: Path, **changes: object) -> Path:
    """Copies the rotated ROI with some of its properties replaced (None: removed)."""
    document = json.loads(ROTATED.read_text(encoding="utf-8"))
    document["markups"][0].update(changes)
    document["markups"][0] = {key: value for key, value in document["markups"][0].items() if value is not None}
    path = tmp_path / "edited.mrk.json"
    path.write_text(json.dumps(document))
    return path


def test_a_rotated_roi_saved_by_slicer_is_read_with_its_axes():
    # It was made in RAS as: size 40 x 60 x 25 mm, turned by 30 degrees about S, then moved to (12.5, -30, 44).
    (roi,) = read_roi(ROTATED)
    cos, sin = np.sqrt(3) / 2, 0.5
    half_axes = [[20 * cos, 20 * sin, 0], [-30 * sin, 30 * cos, 0], [0, 0, 12.5]]
    expected = OrientedBox(np.array([12.5, -30, 44]), np.array(half_axes))
    np.testing.assert_allclose(sorted_corners(roi.box), sorted_corners(expected), atol=1e-6)
    assert roi.color_rgb == (0.25, 0.5, 1.0)
    assert (roi.name, roi.roi_type, roi.inside_out) == ("roi_rotated_by_slicer", "Box", False)


def test_a_bounding_box_roi_saved_in_ras_is_read():
    # Around the points (0, 0, 0), (10, 20, 5), (-3, 4, 8).
    (roi,) = read_roi(BOUNDING)
    corners = roi.box.corners_ras()
    np.testing.assert_allclose(corners.min(axis=0), [-3, 0, 0], atol=1e-9)
    np.testing.assert_allclose(corners.max(axis=0), [10, 20, 8], atol=1e-9)
    assert roi.roi_type == "BoundingBox"


def test_a_file_without_coordinate_system_is_lps_as_in_slicer(tmp_path):
    (roi,) = read_roi(edited(tmp_path, coordinateSystem=None))
    np.testing.assert_allclose(roi.box.center_ras, [12.5, -30, 44])


def test_an_roi_without_orientation_is_axis_aligned(tmp_path):
    (roi,) = read_roi(edited(tmp_path, orientation=None))
    np.testing.assert_allclose(np.abs(roi.box.half_axes_ras), np.diag([20, 30, 12.5]))


def test_a_scaled_orientation_scales_the_roi_as_in_slicer(tmp_path):
    (roi,) = read_roi(edited(tmp_path, orientation=[2, 0, 0, 0, 1, 0, 0, 0, 1]))
    np.testing.assert_allclose(np.abs(roi.box.half_axes_ras), np.diag([40, 30, 12.5]))


def test_every_roi_of_a_file_is_read_and_other_markups_are_passed_over(tmp_path):
    document = json.loads(ROTATED.read_text(encoding="utf-8"))
    roi = document["markups"][0]
    document["markups"] = [{**roi, "name": "liver"}, {"type": "Fiducial"}, {**roi, "center": [1, 2, 3]}]
    path = tmp_path / "two.mrk.json"
    path.write_text(json.dumps(document))
    liver, second = read_roi(path)
    assert (liver.name, second.name) == ("liver", "two_1")
    np.testing.assert_allclose(second.box.center_ras, [-1, -2, 3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"type": "Plane"}, r"holds no ROI \(it holds: Plane\)"),
        ({"coordinateSystem": "IJK"}, r"coordinate system 'IJK'.*LPS or RAS"),
        ({"size": [40, 0, 25]}, r"size \[40.0, 0.0, 25.0\] mm.*positive"),
        ({"size": None}, r"3 numbers as 'size', not None"),
        ({"center": [1, 2]}, r"3 numbers as 'center', not \[1, 2\]"),
        ({"center": [1, 2, "3"]}, r"3 numbers as 'center'"),
        ({"center": [1, 2, float("nan")]}, r"3 numbers as 'center'"),
        ({"coordinateSystem": [1]}, r"coordinate system \[1\].*LPS or RAS"),
        ({"name": 5}, r"the name 5, which is no text"),
        ({"display": []}, r"has \[\] as 'display'"),
        ({"display": {"color": [1]}}, r"needs 3 numbers as 'color', not \[1\]"),
        ({"display": {"selectedColor": "red"}}, r"needs 3 numbers as 'selectedColor', not 'red'"),
        ({"orientation": [0] * 9}, r"encloses no volume"),
        ({"orientation": [1, 0, 0, 1, 0, 0, 0, 0, 1]}, r"encloses no volume"),
        ({"orientation": [1, 1, 0, 0, 1, 0, 0, 0, 1]}, r"sheared: two of its axes are 45\.00 degrees apart"),
    ],
)
def test_an_unusable_roi_is_refused_with_the_value_and_the_file(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as refused:
        read_roi(edited(tmp_path, **changes))
    assert "edited.mrk.json" in str(refused.value)


def test_an_roi_without_a_colour_of_its_own_has_none_and_a_display_of_null_is_refused(tmp_path):
    assert read_roi(edited(tmp_path, display={"color": None}))[0].color_rgb is None
    path = edited(tmp_path, display={})
    path.write_text(path.read_text(encoding="utf-8").replace('"display": {}', '"display": null'))
    with pytest.raises(ValueError, match=r"edited\.mrk\.json has None as 'display', which holds its colour"):
        read_roi(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("NRRD0004", "is not a JSON file"),
        ("[" * 100_000, "is not a JSON file"),
        ("[]", "not a Slicer markups file"),
        ('{"@schema": "https://x/markups-schema-v2.0.0.json#", "markups": []}', r"markups-schema-v2\.0\.0"),
        ('{"@schema": "https://x/markups-schema-v1.0.3.json#", "markups": ["ROI"]}', "not a Slicer markups file"),
        ('{"@schema": "https://x/markups-schema-v1.0.3.json#", "markups": []}', "it holds: nothing"),
    ],
)
def test_a_file_that_is_no_roi_file_is_refused(tmp_path, content, message):
    path = tmp_path / "file.mrk.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_roi(path)


def test_a_missing_file_is_reported_as_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        read_roi(tmp_path / "gone.mrk.json")


def oblique_rois() -> list[MarkupsRoi]:
    generator = np.random.default_rng(3)
    turned = np.linalg.qr(generator.normal(size=(3, 3)))[0] * np.array([[20.0], [8.0], [31.0]])
    left_handed = np.diag([10.0, 20.0, -30.0])
    half_a_turn = np.diag([-10.0, -0.5, 30.0])
    return [
        MarkupsRoi("turned", OrientedBox(np.array([5.0, -70.0, 120.0]), turned), (0.1, 0.2, 0.3)),
        MarkupsRoi("left-handed", OrientedBox(np.zeros(3), left_handed), inside_out=True),
        MarkupsRoi("thin", OrientedBox(np.ones(3), half_a_turn)),
    ]


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "rois.mrk.json"
    write_roi(path, oblique_rois())
    for read, written in zip(read_roi(path), oblique_rois(), strict=True):
        np.testing.assert_allclose(sorted_corners(read.box), sorted_corners(written.box), atol=1e-6)
        assert (read.name, read.color_rgb, read.inside_out) == (written.name, written.color_rgb, written.inside_out)


def test_written_axes_are_right_handed_and_the_centre_point_is_there(tmp_path):
    path = tmp_path / "roi.mrk.json"
    write_roi(path, oblique_rois()[1])
    (markup,) = json.loads(path.read_text(encoding="utf-8"))["markups"]
    assert np.linalg.det(np.reshape(markup["orientation"], (3, 3))) > 0
    assert markup["size"] == [20, 40, 60]
    assert markup["controlPoints"][0]["position"] == markup["center"]  # without it Slicer sets the size to zero


def test_a_name_that_slicer_would_not_open_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"does not end in \.mrk\.json"):
        write_roi(tmp_path / "roi.txt", oblique_rois()[0])
    with pytest.raises(ValueError, match="no ROI to write"):
        write_roi(tmp_path / "roi.mrk.json", [])


def test_a_sheared_box_is_not_written_since_slicer_would_change_it(tmp_path):
    sheared = OrientedBox(np.zeros(3), np.array([[10.0, 0, 0], [10.0, 10.0, 0], [0, 0, 5.0]]))
    with pytest.raises(ValueError, match=r"45\.00 degrees apart"):
        write_roi(tmp_path / "roi.mrk.json", MarkupsRoi("sheared", sheared))


_LOAD_AND_SAVE_IN_MRML = """
import sys
import slicer_core
import vtk
vtk.vtkObject.GlobalWarningDisplayOff()
scene = slicer_core.vtkMRMLScene()
scene.AddNode(slicer_core.vtkMRMLSelectionNode())
logic = slicer_core.vtkSlicerMarkupsLogic()
logic.SetMRMLScene(scene)
roi = scene.GetNodeByID(logic.LoadMarkups(sys.argv[1], "", None))
matrix = roi.GetObjectToWorldMatrix()
for r in (-0.5, 0.5):
    for a in (-0.5, 0.5):
        for s in (-0.5, 0.5):
            corner = [f * size for f, size in zip((r, a, s), roi.GetSize())] + [1.0]
            print(*matrix.MultiplyPoint(corner)[:3])
storage = roi.GetStorageNode()
storage.SetFileName(sys.argv[2])
assert storage.WriteData(roi) == 1
"""


@pytest.mark.parametrize("roi", oblique_rois(), ids=lambda roi: roi.name)
def test_slicers_own_storage_node_reads_and_saves_the_same_box(tmp_path, roi):
    pytest.importorskip("slicer_core", reason="needs the slicer-core wheel (Python 3.12)")
    ours, theirs = tmp_path / "ours.mrk.json", tmp_path / "theirs.mrk.json"
    write_roi(ours, roi)
    command = [sys.executable, "-c", _LOAD_AND_SAVE_IN_MRML, str(ours), str(theirs)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    in_mrml = np.array([line.split() for line in printed.splitlines()], dtype=float).round(6) + 0.0
    np.testing.assert_allclose(in_mrml[np.lexsort(in_mrml.T)], sorted_corners(roi.box), atol=1e-6)
    (saved,) = read_roi(theirs)
    np.testing.assert_allclose(sorted_corners(saved.box), sorted_corners(roi.box), atol=1e-6)
    assert saved.inside_out == roi.inside_out
    assert roi.color_rgb is None or saved.color_rgb == pytest.approx(roi.color_rgb)
