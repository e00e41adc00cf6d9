"""Which part of an input is meant, and that no part of one is overwritten: command line, tables and Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dicom_files import frames_along_z, write_enhanced, write_series
from test_read_formats import VOXELS, meta, nrrd
from threshold_predictor import ThresholdPredictor

import dbsam
from dbsam.cli.case import Case, run_case
from dbsam.cli.main import ExitCode, main
from dbsam.cli.manifest import ManifestError, read_manifest
from dbsam.preprocess.intensity import parse_window

BOX = ("--box-ijk", "1", "1", "0", "4", "3", "2")


def table(folder: Path, header: str, *rows: str) -> Path:
    path = folder / "cases.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def two_times(tmp_path) -> Path:
    bright = frames_along_z(range(3), (40, 50), TemporalPositionIndex=1)
    dark = frames_along_z(range(3), (40, 50), TemporalPositionIndex=2)
    for frame in dark:
        frame.pixels = -frame.pixels
    return write_enhanced(tmp_path / "mr.dcm", bright + dark)


def test_the_command_line_asks_for_a_stack_and_takes_it(two_times, tmp_path, capsys, monkeypatch):
    seen = []

    def stop(case, *_):
        seen.append(dbsam.read_volume(case.volume, stack=case.stack).voxels.min())
        raise ValueError("seen")

    out = ("--output", str(tmp_path / "m.nrrd"))
    assert main(["segment", str(two_times), *BOX, *out]) == ExitCode.FILES
    assert "--stack 2  3 slices, time 2" in capsys.readouterr().err
    monkeypatch.setattr("dbsam.cli.main.run_case", stop)
    assert main(["segment", str(two_times), *BOX, *out, "--stack", "2"]) == ExitCode.FILES
    assert seen == [-(200 + 40 * 50 - 1)]
    for wrong in ("0", "first", "-1"):
        with pytest.raises(SystemExit):
            main(["segment", str(two_times), *BOX, *out, f"--stack={wrong}"])
        assert "is no number of a stack" in capsys.readouterr().err


def test_a_case_and_a_table_take_a_stack(two_times, tmp_path):
    header = "volume,box_ijk,output,stack,component"
    [case] = read_manifest(table(tmp_path, header, "mr.dcm,1 1 0 20 20 2,m.nrrd,2,"), parse_window)
    assert (case.stack, case.component) == (2, None)
    report = run_case(case, ThresholdPredictor)
    assert report["segments"][0]["slices"]
    [case] = read_manifest(table(tmp_path, header, "mr.dcm,1 1 0 20 20 2,m.nrrd,,RGB"), parse_window)
    assert case.component == "rgb"
    for cells, reason in ((",x,", "'x' is no number of a stack"), (",,red", "'red' is neither rgb nor")):
        with pytest.raises(ManifestError, match=f"line 2: {reason}"):
            read_manifest(table(tmp_path, header, f"mr.dcm,1 1 0 2 2 2,m.nrrd{cells}"), parse_window)


def test_python_takes_a_stack_of_a_file_and_refuses_one_of_a_volume(two_times):
    volume = dbsam.read_volume(two_times, stack=2)
    box = dbsam.OrientedBox.from_ijk((5, 5, 0), (30, 20, 2), volume.geometry)
    result = dbsam.segment(two_times, box, ThresholdPredictor(), stack=2)
    again = dbsam.segment(volume, box, ThresholdPredictor())
    np.testing.assert_array_equal(result.mask_KJI, again.mask_KJI)
    with pytest.raises(dbsam.ImageFileError, match="stack=N"):
        dbsam.segment(two_times, box, ThresholdPredictor())
    with pytest.raises(dbsam.ImageFileError, match="there is no component 2"):
        dbsam.segment(two_times, box, ThresholdPredictor(), stack=1, component=2)
    with pytest.raises(TypeError, match=r"give them to dbsam\.read_volume"):
        dbsam.segment(volume, box, ThresholdPredictor(), stack=2)


PLACES_IN_MM = {
    "an ROI": ("--roi", "roi.mrk.json"),
    "a box": ("--box-mm", "1", "1", "0", "4", "3", "2"),
    "a click": (*BOX, "--include", "1", "1", "1"),
}


@pytest.mark.parametrize("what", PLACES_IN_MM)
def test_places_in_mm_are_refused_on_an_image_without_position(tmp_path, capsys, monkeypatch, what):
    from dbsam.io.roi_markups import MarkupsRoi, write_roi

    monkeypatch.chdir(tmp_path)
    roi = MarkupsRoi("roi", dbsam.OrientedBox(np.ones(3), np.eye(3)))
    write_roi(tmp_path / "roi.mrk.json", roi)
    path = nrrd(tmp_path / "a.nrrd", "space: ", "space directions: ", "space origin: ", "spacings: 0.5 0.75 3")
    code = main(["segment", str(path), *PLACES_IN_MM[what], "--output", "m.nrrd"])
    assert code == ExitCode.FILES
    assert "a.nrrd doesn't say where it lies" in capsys.readouterr().err
    with pytest.raises(ValueError, match="doesn't say where it lies"):
        dbsam.segment(path, roi, ThresholdPredictor())


def test_slices_without_position_are_segmented_when_their_distance_is_given(tmp_path):
    from dataclasses import replace

    frames = [replace(frame, position=None, orientation=None) for frame in frames_along_z(range(3), (40, 50))]
    write_series(tmp_path / "us", frames)
    header = "volume,box_ijk,output,slice_spacing"
    [case] = read_manifest(table(tmp_path, header, "us,5 5 0 30 20 2,m.nrrd,2.5"), parse_window)
    run_case(case, ThresholdPredictor)
    np.testing.assert_allclose(dbsam.read_volume(tmp_path / "m.nrrd").geometry.spacing_mm, (0.5, 0.75, 2.5))
    for wrong in ("0", "-1", "nan", "inf", "wide"):
        with pytest.raises(ManifestError, match="is no distance"):
            read_manifest(table(tmp_path, header, f"us,5 5 0 30 20 2,m.nrrd,{wrong}"), parse_window)


def detached(folder: Path, write) -> tuple[Path, Path]:
    """A header and its voxels under a name to which masks are written."""
    voxels = folder / "voxels.mha"
    voxels.write_bytes(VOXELS.tobytes())
    if write is nrrd:
        return nrrd(folder / "a.nhdr", "data file: voxels.mha", data=b""), voxels
    return meta(folder / "a.mhd", "ElementDataFile = voxels.mha", data=b""), voxels


@pytest.mark.parametrize("write", [nrrd, meta])
def test_the_voxels_of_a_detached_header_are_never_an_output(tmp_path, capsys, write):
    header, voxels = detached(tmp_path, write)
    with pytest.raises(SystemExit):
        main(["segment", str(header), *BOX, "--output", str(voxels)])
    assert "would overwrite an input" in capsys.readouterr().err
    with pytest.raises(ValueError, match="would overwrite an input"):
        run_case(Case(header, voxels, boxes_ijk=((1, 1, 0, 3, 3, 2),)), ThresholdPredictor)
    rows = (f"{header},1 1 0 3 3 2,other.nrrd", f"other.mha,1 1 0 3 3 2,{voxels}")
    for shown in (rows, rows[::-1]):
        with pytest.raises(ManifestError, match="would overwrite an input of line"):
            read_manifest(table(tmp_path, "volume,box_ijk,output", *shown), parse_window)
    assert voxels.read_bytes() == VOXELS.tobytes()


def test_a_changed_voxel_file_is_noticed_by_a_batch(tmp_path):
    from dbsam.cli.batch_log import states_of_inputs

    header, voxels = detached(tmp_path, meta)
    case = Case(header, tmp_path / "m.nrrd", boxes_ijk=((1, 1, 0, 3, 3, 2),))
    before = states_of_inputs(case, tmp_path)
    voxels.write_bytes(VOXELS[::-1].tobytes() + b"0")
    assert states_of_inputs(case, tmp_path) != before


def test_what_is_written_into_a_dicom_folder_is_no_change_of_it(tmp_path):
    from dbsam.cli.batch_log import states_of_inputs

    write_series(tmp_path / "ct", frames_along_z([0, 1, 2]))
    case = Case(tmp_path / "ct", tmp_path / "ct/seg.dcm", boxes_ijk=((1, 1, 0, 3, 3, 2),))
    before = states_of_inputs(case, tmp_path)
    (tmp_path / "ct/seg.dcm").write_bytes(b"made")
    assert states_of_inputs(case, tmp_path) == before


def test_the_library_is_imported_without_the_readers():
    """In Slicer volumes come from the scene, and none of these libraries but Slicer's own is needed."""
    code = """
import sys
for name in ("nibabel", "pydicom", "highdicom", "PIL", "SimpleITK", "gdcm"):
    sys.modules[name] = None
import dbsam
import dbsam.io.images
for name in dir(dbsam):
    getattr(dbsam, name)
import numpy as np
volume = dbsam.Volume(np.zeros((2, 3, 4)), dbsam.ImageGeometry(np.eye(4), (4, 3, 2)))
dbsam.write_segmentation(sys.argv[1], [dbsam.Segment("a", np.ones((2, 3, 4)))], volume.geometry)
"""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-c", code, f"{folder}/a.seg.nrrd"], check=True, capture_output=True)
        assert np.all(dbsam.read_labelmap(f"{folder}/a.seg.nrrd")[0] == 1)
