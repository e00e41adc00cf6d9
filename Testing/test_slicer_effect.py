"""The Segment Editor effect, run in the stand-in of Slicer's application."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("host", reason="needs slicer-core and PySide6")
import host
import slicer
import slicer_scene as scenes
import vtk
from DBSAMSegmentLib.Mrml.SliceViews import showSlice
from DBSAMSegmentLib.Mrml.Views import sliceWidgets
from DBSAMSegmentLib.Write.SegmentWriter import SegmentMask
from masking_rules import EDITED, HIDDEN, MASK_MODES, OVERWRITE, VISIBLE, expected_state
from slicer_stage import SHAPE, active_effect, block_mask, block_roi, block_volume


@pytest.fixture
def stage():
    """A volume with a bright block, a segmentation with two segments, the effect active on the first."""
    with active_effect(lambda: block_volume("volume")) as (volume, segmentation, effect, runner):
        yield slicer.mrmlScene, volume, segmentation, block_mask(), effect, runner


def segment(segmentation, name="target", shape=SHAPE):
    return scenes.segment_array(segmentation, name, shape)


def finish(effect, runner):
    while effect.job is not None:
        runner.worker.waitFor(effect.job)


def test_a_box_on_a_slice_is_previewed_applied_and_undone_by_the_editor(stage):
    _, _, segmentation, block, effect, runner = stage
    before = scenes.node_names(slicer.mrmlScene)
    preview(effect, 2, 5, (9.5, 7.5, 36.5, 30.5))
    finish(effect, runner)
    assert not segment(segmentation).any()
    effect.onApply()
    found = segment(segmentation)
    assert not found[:5].any()
    assert not found[6:].any()
    assert (found[5] != block[5]).sum() <= 0.1 * block[5].sum()
    slicer.modules.segmenteditor.widgetRepresentation().editor.undo()
    assert not segment(segmentation).any()
    assert scenes.node_names(slicer.mrmlScene) == before


@pytest.mark.parametrize("axis", [0, 1])
def test_boxes_on_sagittal_and_coronal_slices_stay_on_their_slice(stage, axis):
    _, _, segmentation, block, effect, runner = stage
    index = (20, 18)[axis]
    box = ((7.5, 1.5, 30.5, 10.5), (9.5, 1.5, 36.5, 10.5))[axis]
    preview(effect, axis, index, box)
    finish(effect, runner)
    effect.onApply()
    found = np.moveaxis(segment(segmentation), 2 - axis, 0)
    truth = np.moveaxis(block, 2 - axis, 0)
    assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == [index]
    assert (found[index] != truth[index]).sum() <= 0.15 * truth[index].sum()


def preview(effect, axis, index, box_xyxy):
    """Moves a view to the slice, as only what was seen is written, and previews the box there."""
    nodes = [widget.mrmlSliceNode() for widget in sliceWidgets()]
    showSlice(nodes, effect._volume(), axis, index)
    effect.previewBox(axis, index, box_xyxy)


def press(effect, key):
    widget = slicer.app.layoutManager().sliceWidget("Red")
    interactor = widget.sliceView().interactor()
    interactor.SetKeySym(key)
    return effect.processInteractionEvents(interactor, vtk.vtkCommand.KeyPressEvent, widget)


def test_backspace_drops_the_preview_and_return_applies_it(stage):
    _, _, segmentation, _, effect, runner = stage
    preview(effect, 2, 5, (9.5, 7.5, 36.5, 30.5))
    finish(effect, runner)
    assert press(effect, "BackSpace")
    assert press(effect, "Return")
    assert not segment(segmentation).any()
    preview(effect, 2, 5, (9.5, 7.5, 36.5, 30.5))
    finish(effect, runner)
    assert not press(effect, "Escape")  # the Segment Editor's own
    assert press(effect, "Return")
    assert segment(segmentation)[5].any()


def test_all_slices_of_an_roi_are_one_undo_state(stage):
    _, _, segmentation, block, effect, runner = stage
    roi = block_roi("roi")
    effect.scriptedEffect.setNodeReference("ROI", roi)
    effect.scriptedEffect.setParameter("Scope", "roi")
    effect.onApply()
    finish(effect, runner)
    assert (segment(segmentation) != block).sum() <= 0.1 * block.sum()
    editor = slicer.modules.segmenteditor.widgetRepresentation().editor
    editor.undo()
    assert not segment(segmentation).any()


def test_a_result_is_not_written_to_a_segment_that_was_selected_meanwhile(stage):
    _, _, segmentation, _, effect, runner = stage
    effect.scriptedEffect.setNodeReference("ROI", block_roi("roi"))
    effect.scriptedEffect.setParameter("Scope", "roi")
    effect.onApply()
    editor = slicer.modules.segmenteditor.widgetRepresentation().editor
    editor.setCurrentSegmentID("other")
    finish(effect, runner)
    assert not segment(segmentation).any()
    assert not segment(segmentation, "other").any()
    assert "Another segment" in effect.options.statusLabel.text
    assert effect._reason  # it was stopped, not computed to its end
    editor.setCurrentSegmentID("target")
    effect.onApply()
    finish(effect, runner)
    assert segment(segmentation).any()


def test_while_markups_are_placed_clicks_are_not_the_effects(stage):
    scene, _, _, _, effect, _ = stage
    widget = slicer.app.layoutManager().sliceWidget("Red")
    interaction = scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")

    def press_is_used():
        return effect.processInteractionEvents(
            widget.sliceView().interactor(), vtk.vtkCommand.LeftButtonPressEvent, widget
        )

    interaction.SetCurrentInteractionMode(interaction.Place)
    assert not press_is_used()
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)
    assert press_is_used()


def test_the_outline_stays_on_its_slice_and_place_as_the_view_is_moved(stage):
    _, _, _, _, effect, runner = stage
    node = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    node.SetOrientationToAxial()
    node.JumpSliceByCentering(22.5, 18.5, 5.0)
    preview(effect, 2, 5, (9.5, 7.5, 36.5, 30.5))
    finish(effect, runner)
    *_, outline = effect._outlines._outlines[0]

    def center():
        outline._toXy.Update()
        xToXy = np.array([[node.GetXYToRAS().GetElement(row, column) for column in range(4)] for row in range(4)])
        return (xToXy @ [*outline._toXy.GetOutput().GetCenter(), 1])[:2]

    assert outline.actor.GetVisibility()
    first = center()
    node.JumpSliceByOffsetting(22.5, 18.5, 8.0)
    assert not outline.actor.GetVisibility()
    node.JumpSliceByOffsetting(22.5, 18.5, 5.0)
    node.SetFieldOfView(*(length / 3 for length in node.GetFieldOfView()[:2]), 1)
    assert outline.actor.GetVisibility()
    assert center() == pytest.approx(first, abs=1e-4)
    effect.onCancel()
    node.JumpSliceByOffsetting(22.5, 18.5, 6.0)
    assert not effect._outlines._outlines


def test_masking_of_the_editor_is_respected(stage):
    _, _, segmentation, block, effect, runner = stage
    node = effect.scriptedEffect.parameterSetNode()
    node.SetSourceVolumeIntensityMask(True)
    node.SetSourceVolumeIntensityMaskRange(1000, 2000)
    preview(effect, 2, 5, (9.5, 7.5, 36.5, 30.5))
    finish(effect, runner)
    effect.onApply()
    assert not segment(segmentation).any()
    node.SetSourceVolumeIntensityMaskRange(100, 2000)
    preview(effect, 2, 5, (9.5, 7.5, 36.5, 30.5))
    finish(effect, runner)
    effect.onApply()
    assert segment(segmentation)[5].sum() == pytest.approx(block[5].sum(), rel=0.1)
    assert not (segment(segmentation) & ~block).any()


def test_a_failing_network_changes_nothing_and_is_reported(stage):
    _, _, segmentation, _, effect, runner = stage
    runner.worker.predictors.predictor.fail_at = 0
    preview(effect, 2, 5, (9.5, 7.5, 36.5, 30.5))
    finish(effect, runner)
    effect.onApply()
    assert not segment(segmentation).any()
    assert "the network failed" in effect.options.statusLabel.text


def test_a_box_dragged_in_a_view_lands_on_the_slice_under_the_view(stage):
    _, volume, segmentation, _block, effect, runner = stage
    widget = slicer.app.layoutManager().sliceWidget("Red")
    slicer.util.setSliceViewerLayers(background=volume)
    node = widget.mrmlSliceNode()
    node.SetOrientationToAxial()
    node.JumpSliceByCentering(22.5, 18.5, 5.0)
    rasToXy = np.linalg.inv([[node.GetXYToRAS().GetElement(r, c) for c in range(4)] for r in range(4)])
    corners = [(rasToXy @ [*ras, 1])[:2] for ras in ((9, 7, 5), (36, 30, 5))]
    interactor = widget.sliceView().interactor()
    events = vtk.vtkCommand
    for event, xy in zip(
        (events.LeftButtonPressEvent, events.MouseMoveEvent, events.LeftButtonReleaseEvent),
        (corners[0], corners[1], corners[1]),
        strict=True,
    ):
        interactor.SetEventPosition(round(xy[0]), round(xy[1]))
        assert effect.processInteractionEvents(interactor, event, widget)
    finish(effect, runner)
    effect.onApply()
    found = segment(segmentation)
    assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == [5]


def test_a_click_without_a_drag_does_nothing(stage):
    _, _, _, _, effect, _ = stage
    widget = slicer.app.layoutManager().sliceWidget("Red")
    interactor = widget.sliceView().interactor()
    interactor.SetEventPosition(10, 10)
    effect.processInteractionEvents(interactor, vtk.vtkCommand.LeftButtonPressEvent, widget)
    effect.processInteractionEvents(interactor, vtk.vtkCommand.LeftButtonReleaseEvent, widget)
    assert effect.job is None


def test_with_shift_no_box_is_begun_but_a_begun_one_is_finished(stage):
    _, _, _, _, effect, _ = stage
    widget = slicer.app.layoutManager().sliceWidget("Red")
    interactor = widget.sliceView().interactor()

    def send(event: int, shift: bool) -> bool:
        interactor.SetShiftKey(shift)
        return effect.processInteractionEvents(interactor, event, widget)

    interactor.SetEventPosition(10, 10)
    try:
        assert not send(vtk.vtkCommand.LeftButtonPressEvent, shift=True)
        assert not send(vtk.vtkCommand.MouseMoveEvent, shift=True)
        assert send(vtk.vtkCommand.LeftButtonPressEvent, shift=False)
        assert send(vtk.vtkCommand.MouseMoveEvent, shift=True)
        assert send(vtk.vtkCommand.LeftButtonReleaseEvent, shift=True)
        assert not send(vtk.vtkCommand.MouseMoveEvent, shift=False)
    finally:
        interactor.SetShiftKey(False)


def test_the_modules_own_self_test_passes(stage):
    import sys

    sys.modules["SegmentEditorDBSAM"].SegmentEditorDBSAMTest().runTest()


@pytest.mark.parametrize("limits", [None, (100, 2000)], ids=["all intensities", "bright only"])
@pytest.mark.parametrize("overwrite", OVERWRITE)
@pytest.mark.parametrize("maskMode", MASK_MODES)
def test_masking_and_overwriting_are_slicers_rules(stage, maskMode, overwrite, limits):
    _, volume, segmentation, _, effect, runner = stage
    ids = {EDITED: "target", VISIBLE: "other", HIDDEN: "hidden"}
    start = {name: np.zeros(SHAPE, bool) for name in ids}
    start[EDITED][4:7, 8:14, 10:20] = True
    start[VISIBLE][5, 12:18, 20:36] = True
    start[HIDDEN][5, 20:26, 14:24] = True
    segmentation.GetSegmentation().AddEmptySegment("hidden", "hidden")
    full = tuple((0, size - 1) for size in reversed(SHAPE))
    runner.writer.write(volume, segmentation, [SegmentMask(ids[name], mask, full) for name, mask in start.items()])
    segmentation.GetDisplayNode().SetSegmentVisibility("hidden", False)
    node = effect.scriptedEffect.parameterSetNode()
    node.SetMaskMode(MASK_MODES[maskMode])
    node.SetMaskSegmentID("other")
    node.SetOverwriteMode(OVERWRITE[overwrite])
    node.SetSourceVolumeIntensityMask(limits is not None)
    if limits is not None:
        node.SetSourceVolumeIntensityMaskRange(*limits)
    preview(effect, 2, 5, (9.5, 7.5, 36.5, 30.5))
    finish(effect, runner)
    prompt = effect._preview[0].labelmap_KJI() > 0
    effect.onApply()
    voxels = slicer.util.arrayFromVolume(volume)
    expected = expected_state(start, prompt, "add", maskMode, overwrite, limits, voxels)
    for name, segmentId in ids.items():
        np.testing.assert_array_equal(segment(segmentation, segmentId), expected[name], err_msg=name)


def test_a_weights_file_is_chosen_in_the_weights_manager(stage, monkeypatch):
    _, _, _, _, effect, _ = stage
    import qt
    from DBSAMSegmentLib.Panel.WeightsDialog import WeightsDialog

    file = str(Path(__file__).resolve().parents[1] / "DBSAMSegment/Resources/Models/dbsam_compact.safetensors")
    monkeypatch.setattr(qt.QFileDialog, "getOpenFileName", staticmethod(lambda *_: file))

    def choose(dialog):
        dialog.onChooseFile()
        assert host.process_events(60, lambda: bool(dialog.chosenModel) and dialog._job is None)

    monkeypatch.setattr(WeightsDialog, "exec_", choose)
    effect.options.weightsButton.click()
    assert effect.scriptedEffect.parameter("Model") == file
    assert effect.options.combos["Model"].currentText == file


def test_weights_of_ones_own_can_be_named(stage):
    _, _, _, _, effect, runner = stage
    effect.scriptedEffect.setParameter("Model", "/somewhere/own.safetensors")
    effect.updateGUIFromMRML()
    assert effect.options.combos["Model"].currentText == "/somewhere/own.safetensors"
    preview(effect, 2, 5, (9.5, 7.5, 36.5, 30.5))
    finish(effect, runner)
    assert runner.worker.predictors.asked[-1][0] == "/somewhere/own.safetensors"


def test_another_volume_stops_a_run_at_once_and_says_so(stage):
    _, volume, segmentation, _, effect, runner = stage
    runner.worker.predictors.predictor.seconds_per_slice = 0.3
    other = block_volume("other")
    effect.scriptedEffect.setNodeReference("ROI", block_roi("roi"))
    effect.scriptedEffect.setParameter("Scope", "roi")
    effect.onApply()
    job = effect.job
    editor = slicer.modules.segmenteditor.widgetRepresentation().editor
    editor.setSourceVolumeNode(other)
    assert job.cancel.cancelled
    finish(effect, runner)
    assert "Another volume was selected, so the run was stopped" in effect.options.statusLabel.text
    assert "was changed while" not in effect.options.statusLabel.text
    assert not segment(segmentation).any()
    editor.setSourceVolumeNode(volume)
    assert effect.options.applyButton.enabled


def test_a_segment_that_is_deleted_in_a_run_is_named(stage):
    _, _, segmentation, _, effect, runner = stage
    runner.worker.predictors.predictor.seconds_per_slice = 0.3
    effect.scriptedEffect.setNodeReference("ROI", block_roi("roi"))
    effect.scriptedEffect.setParameter("Scope", "roi")
    segmentation.GetSegmentation().GetSegment("target").SetName("My liver")
    effect.onApply()
    job = effect.job
    segmentation.GetSegmentation().RemoveSegment("target")
    assert job.cancel.cancelled
    finish(effect, runner)
    assert "The segment My liver was deleted" in effect.options.statusLabel.text


def test_what_no_view_has_shown_is_not_written(stage):
    _, _, segmentation, _, effect, runner = stage
    views = [widget.mrmlSliceNode() for widget in sliceWidgets()]
    for node in views:
        turned = vtk.vtkTransform()
        turned.SetMatrix(node.GetSliceToRAS())
        turned.RotateX(20)
        turned.RotateY(20)
        node.GetSliceToRAS().DeepCopy(turned.GetMatrix())
        node.UpdateMatrices()
    try:
        effect.previewBox(2, 5, (9.5, 7.5, 36.5, 30.5))
        finish(effect, runner)
        assert press(effect, "Return")
        assert not segment(segmentation).any()
        assert not effect.options.applyButton.enabled
        assert "No view shows the outline on slice K = 5" in effect.options.statusLabel.text
        views[0].SetOrientationToAxial()
        views[0].JumpSliceByCentering(22.5, 18.5, 5.0)
        assert effect.options.applyButton.enabled
        assert press(effect, "Return")
        assert segment(segmentation)[5].any()
    finally:
        for node, orientation in zip(views, ("Axial", "Coronal", "Sagittal"), strict=True):
            node.SetOrientation(orientation)


def test_return_before_the_preview_is_there_applies_it_when_it_is(stage):
    _, _, segmentation, _, effect, runner = stage
    preview(effect, 2, 5, (9.5, 7.5, 36.5, 30.5))
    assert press(effect, "Return")
    assert not segment(segmentation).any()
    finish(effect, runner)
    assert segment(segmentation)[5].any()
    assert effect._preview is None


def test_after_a_failed_writing_the_preview_stays_and_can_be_applied_again(stage, monkeypatch):
    from DBSAMSegmentLib.Write import EffectWriting

    shown, write = [], EffectWriting.writeThroughEffect
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **options: shown.append(text))
    _, _, segmentation, _, effect, runner = stage
    preview(effect, 2, 5, (9.5, 7.5, 36.5, 30.5))
    finish(effect, runner)
    monkeypatch.setattr(EffectWriting, "writeThroughEffect", lambda *arguments: 1 / 0)
    effect.onApply()
    assert "division by zero" in shown[0]
    assert effect.options.applyButton.enabled
    monkeypatch.setattr(EffectWriting, "writeThroughEffect", write)
    effect.onApply()
    assert segment(segmentation)[5].any()
    monkeypatch.setattr(EffectWriting, "writeThroughEffect", lambda *arguments: 1 / 0)
    effect.scriptedEffect.setNodeReference("ROI", block_roi("roi"))
    effect.scriptedEffect.setParameter("Scope", "roi")
    effect.onApply()
    finish(effect, runner)
    assert len(shown) == 2
    assert (effect.options.applyButton.enabled, effect.options.cancelButton.enabled) == (True, False)


def test_the_effect_says_what_is_missing_and_what_it_applies_to(stage):
    _, _, _, _, effect, _ = stage
    assert effect.options.statusLabel.text == "Drag a box round the structure in a slice view."
    effect.scriptedEffect.setParameter("Scope", "roi")
    effect.updateGUIFromMRML()
    assert effect.options.statusLabel.text == "Choose an ROI to segment all its slices."
    import qt

    labels = [label.text for label in effect.scriptedEffect.optionsFrame().findChildren(qt.QLabel)]
    assert "Apply to:" in labels
    assert "Segment:" not in labels


def test_what_the_first_outline_waits_for_is_said_and_taken_back(stage):
    _, _, _, _, effect, runner = stage
    said = []
    show = effect._status
    effect._status = lambda text: said.append(text) or show(text)
    effect.previewBox(2, 5, (9.5, 7.5, 36.5, 30.5))
    finish(effect, runner)
    assert any(text.startswith(("Starting", "Loading the model")) for text in said)
    assert "..." not in effect.options.statusLabel.text
