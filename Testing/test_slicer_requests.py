"""Requests without MRML: what one slice of them is."""

import numpy as np
import pytest

pytest.importorskip("slicer")
import slicer_scene  # noqa: F401  (the modules' folder is importable)
from DBSAMSegmentLib.Mrml.Geometry import VolumeSnapshot
from DBSAMSegmentLib.Mrml.Requests import RunPrompt, RunRequest, onOneSlice

import dbsam.geometry.grid
from dbsam.geometry.grid import ImageGeometry, OrientedBox, slice_boxes_xyxy
from dbsam.preprocess.prompts import PromptPlan

GRID = ImageGeometry.from_spacing((1, 1, 2), (30, 40, 50))
TURNED = OrientedBox((15, 20, 50), np.array([[6, 4, 3], [-4, 6, 2], [0, -3, 20]]))


@pytest.fixture
def cuts(monkeypatch):
    """One entry for every slice at which a box was cut."""
    done, cut = [], dbsam.geometry.grid.clip_polygon

    def counted(*args):
        done.append(1)
        return cut(*args)

    monkeypatch.setattr(dbsam.geometry.grid, "clip_polygon", counted)
    return done


def request_of(box, axis):
    snapshot = VolumeSnapshot(np.empty(0), GRID, "volume", None, 0)
    return RunRequest(snapshot, (RunPrompt("one", box),), axis=axis)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_one_slice_of_a_box_is_the_boxs_own_cut_on_it_and_none_beyond(axis):
    boxes = slice_boxes_xyxy(TURNED, GRID, axis)
    for index in range(-1, GRID.dimensions_ijk[axis] + 1):
        single = onOneSlice(request_of(TURNED, axis), index)
        if index not in boxes:
            assert single is None
            continue
        prompt = single.prompts[0].prompt
        assert list(prompt.key_boxes) == [index]
        np.testing.assert_array_equal(prompt.key_boxes[index], boxes[index])
        assert prompt.clip is TURNED


def test_one_slice_of_a_box_costs_one_cut_here_and_one_where_it_is_computed(cuts):
    single = onOneSlice(request_of(TURNED, 2), 25)
    assert len(cuts) == 1
    plan = PromptPlan(single.prompts[0].prompt, GRID, 2)
    assert len(cuts) == 2
    assert plan.indices == [25]
    np.testing.assert_array_equal(plan.boxes_xyxy[25], slice_boxes_xyxy(TURNED, GRID, 2)[25])
