"""Correcting by clicks in the Segment Editor effect, run in the stand-in of Slicer's application."""

import os
import random

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("host", reason="needs slicer-core and PySide6")
import host
import slicer
import slicer_scene as scenes
import vtk
from DBSAMSegmentLib.Mrml.SliceViews import showSlice
from slicer_stage import SHAPE, active_effect, two_part_volume, two_parts

BOX = (5.5, 7.5, 40.5, 30.5)
OTHER, WANTED = (34, 19), (15, 19)  # in the part that doesn't belong, and in the one that does


@pytest.fixture
def stage():
    """A volume with two bright parts in the Red view at slice 5, the effect active on an empty segment."""
    with active_effect(two_part_volume) as staged:
        look_at(staged[0], 5)
        yield staged


def red():
    return slicer.app.layoutManager().sliceWidget("Red")


def look_at(volume, index):
    red().mrmlSliceNode().SetOrientation("Axial")
    showSlice([red().mrmlSliceNode()], volume, 2, index)


def mouse(effect, ijk_xy, *events, ctrl=False, shift=False):
    """Moves the mouse over a pixel of the slice in the Red view and sends what it does; returns whether it was used."""
    node, interactor = red().mrmlSliceNode(), red().sliceView().interactor()
    toXy = np.linalg.inv([[node.GetXYToRAS().GetElement(r, c) for c in range(4)] for r in range(4)])
    plane = [node.GetSliceToRAS().GetElement(row, 3) for row in range(3)]
    x, y = (toXy @ [*ijk_xy, plane[2], 1])[:2]
    interactor.SetEventPosition(round(x), round(y))
    interactor.SetControlKey(ctrl)
    interactor.SetShiftKey(shift)
    try:
        return [effect.processInteractionEvents(interactor, event, red()) for event in events]
    finally:
        interactor.SetControlKey(False)
        interactor.SetShiftKey(False)


PRESS, RELEASE = vtk.vtkCommand.LeftButtonPressEvent, vtk.vtkCommand.LeftButtonReleaseEvent


def click(effect, ijk_xy, ctrl=False):
    assert mouse(effect, ijk_xy, PRESS, RELEASE, ctrl=ctrl) == [True, True]


def drag(effect):
    mouse(effect, BOX[:2], PRESS)
    mouse(effect, BOX[2:], vtk.vtkCommand.MouseMoveEvent, RELEASE)


def press(effect, key):
    interactor = red().sliceView().interactor()
    interactor.SetKeySym(key)
    return effect.processInteractionEvents(interactor, vtk.vtkCommand.KeyPressEvent, red())


def finish(effect, runner):
    while effect.job is not None:
        runner.worker.waitFor(effect.job)


def previewed(effect, runner):
    finish(effect, runner)
    return effect._preview[0].labelmap_KJI() > 0


def segment(segmentation, name="target"):
    return scenes.segment_array(segmentation, name, SHAPE)


def status(effect):
    return effect.options.statusLabel.text


def test_clicks_correct_the_dragged_box_and_backspace_takes_them_back(stage):
    _, segmentation, effect, runner = stage
    wanted, other = two_parts()
    before = scenes.node_names(slicer.mrmlScene)
    click(effect, OTHER)
    assert effect.job is None
    assert status(effect).startswith("Drag a box first")
    drag(effect)
    boxed = previewed(effect, runner)
    assert boxed[5][other[5]].all()
    click(effect, OTHER, ctrl=True)
    corrected = previewed(effect, runner)
    assert not (corrected & other).any()
    assert (corrected[5] != wanted[5]).sum() <= 0.12 * wanted[5].sum()
    assert len(effect._clicks.points) == 1
    click(effect, OTHER)
    np.testing.assert_array_equal(previewed(effect, runner), boxed)
    assert press(effect, "BackSpace")
    np.testing.assert_array_equal(previewed(effect, runner), corrected)
    assert press(effect, "BackSpace")
    np.testing.assert_array_equal(previewed(effect, runner), boxed)
    click(effect, OTHER, ctrl=True)
    finish(effect, runner)
    assert not segment(segmentation).any(), "a preview writes nothing"
    assert press(effect, "Return")
    np.testing.assert_array_equal(segment(segmentation), corrected)
    assert effect._clicks.points == ()
    editor = slicer.modules.segmenteditor.widgetRepresentation().editor
    editor.undo()
    assert not segment(segmentation).any()
    editor.redo()
    np.testing.assert_array_equal(segment(segmentation), corrected)
    assert scenes.node_names(slicer.mrmlScene) == before

    # With no click left, Backspace drops the box.
    drag(effect)
    finish(effect, runner)
    assert press(effect, "BackSpace")
    assert effect._preview is None
    assert effect._boxes == {}


def test_shift_stays_slicers_and_clicks_are_marked_until_they_are_applied(stage):
    volume, _, effect, runner = stage
    renderer = red().sliceView().renderWindow().GetRenderers().GetFirstRenderer()
    before = renderer.GetViewProps().GetNumberOfItems()
    drag(effect)
    finish(effect, runner)
    assert mouse(effect, OTHER, PRESS, RELEASE, shift=True) == [False, False]
    assert mouse(effect, OTHER, PRESS, shift=True, ctrl=True) == [False]
    assert effect._clicks.points == ()
    click(effect, OTHER, ctrl=True)
    finish(effect, runner)
    marks = next(one for one in effect._clicks._marks if one._sliceNode is red().mrmlSliceNode())
    excluded = marks._kinds[1][0]
    assert excluded.GetNumberOfLines() == 2
    node = red().mrmlSliceNode()
    node.SetSliceOffset(node.GetSliceOffset() + 0.4)  # still the same slice
    assert excluded.GetNumberOfLines() == 2
    look_at(volume, 7)
    assert excluded.GetNumberOfLines() == 0
    look_at(volume, 5)
    assert excluded.GetNumberOfLines() == 2
    press(effect, "Return")
    assert effect._clicks._marks == []
    effect.onCancel()
    assert renderer.GetViewProps().GetNumberOfItems() - before <= 1  # the rubber band's


def test_a_click_elsewhere_than_the_box_says_so(stage):
    volume, _, effect, runner = stage
    drag(effect)
    finish(effect, runner)
    look_at(volume, 7)
    click(effect, OTHER, ctrl=True)
    assert "The box is on slice K = 5, this click on 7" in status(effect)
    assert effect._clicks.points == ()
    look_at(volume, 50)
    click(effect, OTHER, ctrl=True)
    assert effect._clicks.points == ()
    assert effect.job is None


def test_clicks_go_through_all_slices_of_the_roi_and_a_box_may_still_be_dragged(stage, monkeypatch):
    volume, segmentation, effect, runner = stage
    wanted, other = two_parts()
    roi = scenes.add_roi(slicer.mrmlScene, (22.5, 18.5, 5.5), (36, 22, 10), "roi")
    effect.scriptedEffect.setNodeReference("ROI", roi)
    effect.scriptedEffect.setParameter("Scope", "roi")
    drag(effect)
    finish(effect, runner)
    look_at(volume, 4)
    click(effect, OTHER, ctrl=True)
    assert "Replace takes it out" in status(effect)
    found = previewed(effect, runner)
    assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == [4]
    assert not (found & other).any()
    look_at(volume, 7)
    click(effect, OTHER, ctrl=True)
    finish(effect, runner)
    look_at(volume, 5)
    drag(effect)
    finish(effect, runner)
    assert len(effect._clicks.points) == 2
    assert press(effect, "Return")
    assert not segment(segmentation).any()
    effect.onCancel()  # the run; its clicks stay
    finish(effect, runner)
    assert not segment(segmentation).any()
    assert len(effect._clicks.points) == 2
    assert press(effect, "Return")
    finish(effect, runner)
    assert not segment(segmentation)[other].any()
    assert (segment(segmentation) != wanted).sum() <= 0.12 * wanted.sum()
    slicer.modules.segmenteditor.widgetRepresentation().editor.undo()
    assert not segment(segmentation).any()

    # A box that isn't drawn yet takes no click.
    undrawn = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "undrawn")
    effect.scriptedEffect.setNodeReference("ROI", undrawn)
    shown = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **options: shown.append(text))
    click(effect, OTHER, ctrl=True)
    assert "has no extent" in shown[0]
    assert effect._clicks.points == ()
    effect.scriptedEffect.setNodeReference("ROI", roi)

    # Clicks for one ROI aren't clicks for another, nor for another volume.
    click(effect, OTHER, ctrl=True)
    finish(effect, runner)
    effect.options.roiSelector.setCurrentNode(
        scenes.add_roi(slicer.mrmlScene, (22.5, 18.5, 5.5), (30, 22, 10), "second")
    )
    assert effect._clicks.points == ()
    click(effect, OTHER, ctrl=True)
    finish(effect, runner)
    editor = slicer.modules.segmenteditor.widgetRepresentation().editor
    editor.setSourceVolumeNode(two_part_volume("another"))
    assert effect._clicks.points == ()
    assert effect._preview is None


def test_the_editors_masking_holds_for_clicks(stage):
    _, segmentation, effect, runner = stage
    node = effect.scriptedEffect.parameterSetNode()
    node.SetSourceVolumeIntensityMask(True)
    node.SetSourceVolumeIntensityMaskRange(1000, 2000)
    drag(effect)
    finish(effect, runner)
    click(effect, OTHER, ctrl=True)
    finish(effect, runner)
    press(effect, "Return")
    assert not segment(segmentation).any()
    node.SetSourceVolumeIntensityMaskRange(100, 2000)
    drag(effect)
    finish(effect, runner)
    click(effect, OTHER, ctrl=True)
    finish(effect, runner)
    press(effect, "Return")
    assert segment(segmentation).any()
    assert not (segment(segmentation) & ~two_parts()[0]).any()


def test_in_a_turned_view_the_nearest_slice_is_named_and_takes_the_click(stage):
    volume, _, effect, runner = stage
    node = red().mrmlSliceNode()
    turned = vtk.vtkTransform()
    turned.SetMatrix(node.GetSliceToRAS())
    turned.RotateX(20)
    try:
        node.GetSliceToRAS().DeepCopy(turned.GetMatrix())
        node.UpdateMatrices()
        effect.previewBox(2, 5, BOX)
        finish(effect, runner)
        interactor = red().sliceView().interactor()
        interactor.SetEventPosition(128, 128)
        for event in (PRESS, RELEASE):
            effect.processInteractionEvents(interactor, event, red())
        assert "turned by 20 degrees" in status(effect)
        assert "nearest slice, K = 5, is used" in status(effect)
        finish(effect, runner)
        assert len(effect._clicks.points) == 1
        assert volume.GetName() in status(effect)
        assert press(effect, "Return"), "what no view shows isn't written"
        assert effect._preview is not None
    finally:
        node.SetOrientation("Axial")


def test_a_model_without_clicks_says_what_to_do(stage):
    _, _, effect, runner = stage
    runner.worker.predictors.predictor.takes_points = False
    drag(effect)
    finish(effect, runner)
    click(effect, OTHER)
    assert status(effect).startswith(
        "The model compact wasn't trained with clicks: drag another box, or choose a model"
    )
    assert effect._clicks.points == ()


def test_the_keys_are_told(stage):
    _, _, effect, _ = stage
    for words in ("Click", "Ctrl+click", "Return", "Backspace", "Shift stays Slicer's", "Escape"):
        assert words in effect.helpText()
    assert "with Ctrl (Cmd on a Mac)" in effect.options.roiSelector.toolTip
    assert "one click after the other" in effect.options.cancelButton.toolTip


def test_random_clicks_and_keys_leave_nothing_half_done(stage, monkeypatch):
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **options: None)
    volume, segmentation, effect, runner = stage
    rng, count = random.Random(3), int(os.environ.get("DBSAM_TEST_INTERRUPTIONS", "25"))
    runner.worker.predictors.predictor.seconds_per_slice = 0.01
    roi = scenes.add_roi(slicer.mrmlScene, (22.5, 18.5, 5.5), (36, 22, 10), "roi")
    effect.scriptedEffect.setNodeReference("ROI", roi)
    nodes = scenes.node_names(slicer.mrmlScene)
    editor = slicer.modules.segmenteditor.widgetRepresentation().editor
    bright = two_parts()[0] | two_parts()[1]
    actions = {
        "drag": lambda: drag(effect),
        "click": lambda: mouse(effect, (rng.uniform(8, 38), rng.uniform(10, 28)), PRESS, RELEASE),
        "exclude": lambda: mouse(effect, OTHER, PRESS, RELEASE, ctrl=True),
        "back": lambda: press(effect, "BackSpace"),
        "return": lambda: press(effect, "Return"),
        "scope": lambda: effect.scriptedEffect.setParameter("Scope", rng.choice(("slice", "roi"))),
        "slice": lambda: look_at(volume, rng.randrange(3, 9)),
        "cancel": effect.onCancel,
        "undo": editor.undo,
        "segment": lambda: editor.setCurrentSegmentID(rng.choice(("target", "other"))),
        "leave": lambda: (editor.setActiveEffectByName(""), editor.setActiveEffectByName("DB-SAM")),
    }
    written = 0
    for _ in range(count):
        for name in rng.choices(list(actions), weights=(4, 4, 6, 3, 3, 1, 2, 1, 1, 1, 1), k=6):
            before = segment(segmentation).sum() + segment(segmentation, "other").sum()
            actions[name]()
            host.process_events(rng.uniform(0, 0.03))
            after = segment(segmentation).sum() + segment(segmentation, "other").sum()
            written += after != before
        finish(effect, runner)
        assert not (segment(segmentation) | segment(segmentation, "other"))[~grown(bright)].any()
        assert scenes.node_names(slicer.mrmlScene) == nodes
        assert runner._jobNodes == {}
    assert written > 0


def grown(mask):
    from scipy import ndimage

    return ndimage.binary_dilation(mask, np.ones((1, 5, 5)))
