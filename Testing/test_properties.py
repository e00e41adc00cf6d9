"""Geometry, cut rectangles, markups and checkpoint headers, on inputs that nobody thought of."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file
from test_read_properties import frames, generated, numbers, rotations, sizes

from dbsam.geometry.grid import ImageGeometry, OrientedBox, slice_axes, slice_boxes_xyxy
from dbsam.io.roi_markups import MarkupsRoi, RoiFileError, read_roi, write_roi
from dbsam.weights.metadata import METADATA_KEY, CheckpointError, read_info


@generated
@given(frame=frames(), shape=sizes, points=st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=5))
def test_to_voxels_and_back_is_the_same_place(frame, shape, points):
    geometry = ImageGeometry(frame, shape)
    there = np.column_stack([points, np.ones(len(points))]).T
    np.testing.assert_allclose(geometry.ijk_to_ras @ (geometry.ras_to_ijk @ there), there, atol=1e-6)
    np.testing.assert_allclose(geometry.spacing_mm, np.linalg.norm(frame[:3, :3], axis=0))
    assert sorted({geometry.axis_index(name) for name in ("axial", "coronal", "sagittal")}) == [0, 1, 2]


@generated
@given(
    frame=frames(), shape=st.tuples(*[st.integers(2, 12)] * 3), axis=st.integers(0, 2), rotation=rotations(),
    center=st.tuples(*[st.floats(0, 1)] * 3), half=st.tuples(*[st.floats(0.3, 8)] * 3),
)  # fmt: skip
def test_the_rectangles_of_a_box_hold_what_brute_force_finds_inside(frame, shape, axis, rotation, center, half):
    """Points on a fine raster of each slice that lie in the box lie in its rectangle, and reach to its edges."""
    geometry = ImageGeometry(frame, shape)
    middle = (frame @ [*(np.array(center) * (np.array(shape) - 1)), 1.0])[:3]
    scale = float(np.mean(geometry.spacing_mm))
    box = OrientedBox(middle, (rotation * half).T * scale)
    rectangles = slice_boxes_xyxy(box, geometry, axis)
    x_axis, y_axis = slice_axes(axis)
    steps = 10
    xs = np.linspace(-0.5, shape[x_axis] - 0.5, steps * shape[x_axis] + 1)
    ys = np.linspace(-0.5, shape[y_axis] - 0.5, steps * shape[y_axis] + 1)
    x, y = (values.ravel() for values in np.meshgrid(xs, ys))
    for index in range(shape[axis]):
        ijk = np.full((4, x.size), float(index))
        ijk[x_axis], ijk[y_axis], ijk[3] = x, y, 1
        inside = box.contains_ras((geometry.ijk_to_ras @ ijk)[:3].T)
        if not inside.any():
            continue
        assert index in rectangles, "a slice with a part of the box has a rectangle"
        x0, y0, x1, y1 = rectangles[index]
        assert x0 - 1e-6 <= x[inside].min()
        assert x[inside].max() <= x1 + 1e-6
        assert y0 - 1e-6 <= y[inside].min()
        assert y[inside].max() <= y1 + 1e-6


@generated
@given(rotation=rotations(), center=st.tuples(numbers, numbers, numbers), half=st.tuples(*[st.floats(0.01, 300)] * 3),
       name=st.text(min_size=1, max_size=20).filter(lambda text: text.isprintable()))  # fmt: skip
def test_an_roi_that_is_written_is_the_same_when_read(rotation, center, half, name):
    box = OrientedBox(np.array(center), (rotation * half).T)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mrk.json"
        write_roi(path, MarkupsRoi(name, box))
        [roi] = read_roi(path)
    assert roi.name == name
    np.testing.assert_allclose(_sorted(roi.box.corners_ras()), _sorted(box.corners_ras()), atol=1e-6)


def _sorted(corners: np.ndarray) -> np.ndarray:
    rounded = corners.round(4) + 0.0
    return corners[np.lexsort(rounded.T)]


def json_values() -> st.SearchStrategy:
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400)
    return st.recursive(leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner),
                        max_leaves=8)  # fmt: skip


KEYS = ("type", "name", "coordinateSystem", "coordinateUnits", "center", "size", "orientation", "display", "insideOut")


@generated
@given(changes=st.dictionaries(st.sampled_from(KEYS), json_values(), min_size=1, max_size=3))
def test_odd_markups_are_read_or_refused_with_their_name(changes):
    markup = {"type": "ROI", "coordinateSystem": "LPS", "coordinateUnits": "mm", "center": [1, 2, 3], "size": [4, 5, 6]}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "odd.mrk.json"
        schema = "https://raw.githubusercontent.com/slicer/slicer/master/markups-schema-v1.0.3.json#"
        path.write_text(json.dumps({"@schema": schema, "markups": [{**markup, **changes}]}))
        try:
            found, message = read_roi(path), ""
        except RoiFileError as error:
            found, message = [], str(error)
    assert found or "odd.mrk.json" in message
    assert all(np.isfinite(roi.box.corners_ras()).all() for roi in found)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, "NaN", "\udcff"], ids=range(5))
def test_what_no_parser_survives_is_refused_as_markups_and_as_header(tmp_path, text):
    (tmp_path / "odd.mrk.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RoiFileError, match=r"odd\.mrk\.json"):
        read_roi(tmp_path / "odd.mrk.json")
    if text != "\udcff":
        save_file({"a": np.zeros(1)}, tmp_path / "odd.safetensors", {METADATA_KEY: text})
        with pytest.raises(CheckpointError, match=r"odd\.safetensors has a damaged or foreign header"):
            read_info(tmp_path / "odd.safetensors")


@generated
@given(values=json_values())
def test_odd_headers_of_checkpoints_are_refused_with_their_name(values):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "odd.safetensors"
        save_file({"a": np.zeros(1)}, path, {METADATA_KEY: json.dumps(values)})
        with pytest.raises(CheckpointError, match=r"odd\.safetensors"):
            read_info(path)


@pytest.mark.parametrize("units", ["um", "cm", ["mm", "mm", "cm"], None, 3])
def test_markups_in_another_unit_are_refused(tmp_path, units):
    write_roi(tmp_path / "a.mrk.json", MarkupsRoi("a", OrientedBox(np.zeros(3), np.eye(3))))
    text = (
        (tmp_path / "a.mrk.json")
        .read_text()
        .replace('"coordinateUnits": "mm"', f'"coordinateUnits": {json.dumps(units)}')
    )
    (tmp_path / "a.mrk.json").write_text(text)
    with pytest.raises(RoiFileError, match="unit of length"):
        read_roi(tmp_path / "a.mrk.json")


@pytest.mark.parametrize("key", ["center", "size"])
@pytest.mark.parametrize("number", [10**400, True, float("nan"), "1"])
def test_markups_with_numbers_that_are_none_are_refused(tmp_path, key, number):
    write_roi(tmp_path / "a.mrk.json", MarkupsRoi("a", OrientedBox(np.zeros(3), np.eye(3))))
    document = json.loads((tmp_path / "a.mrk.json").read_text())
    document["markups"][0][key] = [1, 1, number]
    (tmp_path / "a.mrk.json").write_text(json.dumps(document))
    with pytest.raises(RoiFileError, match=f"needs 3 numbers as '{key}'"):
        read_roi(tmp_path / "a.mrk.json")
