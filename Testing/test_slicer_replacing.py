"""What a run may replace: it asks, says what masking held back, and tells boxes and segments apart."""

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("host", reason="needs slicer-core and PySide6")
import host
import slicer
import slicer_scene as scenes
from DBSAMSegmentLib.Panel.KeyBoxes import RoiKeyBoxes
from slicer_stage import SHAPE, block_roi, block_volume, opened_module
from threshold_worker import ThresholdSettings

INSIDE_ALL = slicer.vtkMRMLSegmentationNode.EditAllowedInsideAllSegments
INSIDE_ONE = slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment


@pytest.fixture
def panel():
    """The opened module with a rule in place of a network, a volume, and two boxes that don't overlap much."""
    with opened_module(ThresholdSettings("slice", size=48)) as widget:
        node = widget.logic.getParameterNode()
        node.volume, node.useMasking = block_volume(), False
        yield widget


@pytest.fixture
def dialogs(monkeypatch):
    """What was asked and said; questions are answered by `dialogs.answer`."""

    class Dialogs(list):
        answer = True

    said = Dialogs()
    monkeypatch.setattr(
        slicer.util, "confirmOkCancelDisplay", lambda text, *args, **options: said.append(text) or said.answer
    )
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, *args, **options: said.append(text))
    return said


def small_roi(name):
    return scenes.add_roi(slicer.mrmlScene, (15, 14, 5.5), (8, 8, 10), name)


def apply(widget):
    widget.ui.applyButton.click()
    assert host.process_events(20, lambda: widget.panel.run.job is None)


def per_slice(segmentation, name):
    segments = segmentation.GetSegmentation()
    [segmentId] = [one for one in segments.GetSegmentIDs() if segments.GetSegment(one).GetName() == name]
    return scenes.segment_array(segmentation, segmentId, SHAPE).sum(axis=(1, 2)).tolist()


def erase_slice(node, name, index):
    segments = node.segmentation.GetSegmentation()
    [segmentId] = [one for one in segments.GetSegmentIDs() if segments.GetSegment(one).GetName() == name]
    voxels = scenes.segment_array(node.segmentation, segmentId, SHAPE).astype(np.uint8)
    voxels[index] = 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(voxels, node.segmentation, segmentId, node.volume)


def editor_node():
    node = slicer.vtkMRMLSegmentEditorNode()
    node.SetSingletonTag("SegmentEditor")
    return slicer.mrmlScene.AddNode(node)


def test_a_run_asks_before_it_replaces_what_was_edited_by_hand(panel, dialogs):
    node = panel.logic.getParameterNode()
    node.rois = [block_roi("organ")]
    apply(panel)
    node.rois = [*node.rois, small_roi("lesion")]
    apply(panel)
    assert dialogs == []  # the second run only added a segment, in the same labelmap
    erase_slice(node, "organ", 4)
    dialogs.answer = False
    apply(panel)
    assert per_slice(node.segmentation, "organ")[4] == 0
    assert dialogs == ["Edited since the last run: organ. This run replaces these edits. Go on?"]
    dialogs.answer = True
    apply(panel)
    assert per_slice(node.segmentation, "organ")[4] > 0


def test_live_segments_only_the_box_that_was_moved(panel, dialogs):
    node = panel.logic.getParameterNode()
    node.rois = [block_roi("organ"), small_roi("lesion")]
    apply(panel)
    erase_slice(node, "organ", 4)
    before = per_slice(node.segmentation, "lesion")
    node.live = True
    moved = node.rois[1]
    moved.SetSize(10, 8, 10)
    moved.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
    assert host.process_events(20, lambda: per_slice(node.segmentation, "lesion") != before)
    assert per_slice(node.segmentation, "organ")[4] == 0
    assert dialogs == []


@pytest.mark.parametrize("mode", [INSIDE_ALL, INSIDE_ONE])
def test_slices_are_redone_inside_their_own_segment(panel, mode):
    node = panel.logic.getParameterNode()
    node.rois, node.axis = [block_roi("organ")], "K"
    apply(panel)
    before = per_slice(node.segmentation, "organ")
    node.useMasking = True
    editor = editor_node()
    editor.SetMaskMode(mode)
    editor.SetMaskSegmentID(node.segmentId)
    panel.panel._redoFrom(panel.panel.result.segment, 7, [9.5, 7.5, 35.5, 29.5])
    assert host.process_events(20, lambda: panel.panel.run.job is None)
    assert per_slice(node.segmentation, "organ") == before


def test_what_masking_holds_back_is_said(panel):
    node = panel.logic.getParameterNode()
    node.rois, node.useMasking = [block_roi("organ")], True
    editor = editor_node()
    editor.SetSourceVolumeIntensityMask(True)
    editor.SetSourceVolumeIntensityMaskRange(-900, -600)
    apply(panel)
    found = panel.panel.result.segment.voxels
    assert sum(per_slice(node.segmentation, "organ")) == 0
    assert f"{found} voxels of the mask aren't in the segment" in panel.ui.warningsLabel.text


def test_a_mask_of_another_segmentation_limits_nothing(panel):
    node = panel.logic.getParameterNode()
    node.rois, node.useMasking = [block_roi("organ")], True
    editor = editor_node()
    editor.SetAndObserveSegmentationNode(scenes.add_segmentation(slicer.mrmlScene, node.volume, ("x",), "other"))
    editor.SetMaskMode(INSIDE_ONE)
    editor.SetMaskSegmentID("x")
    apply(panel)
    assert sum(per_slice(node.segmentation, "organ")) == panel.panel.result.segment.voxels > 0
    assert "aren't in the segment" not in panel.ui.warningsLabel.text


@pytest.mark.parametrize("names", [("Lesion", "lesion"), ("box", "box")])
def test_boxes_of_nearly_the_same_name_keep_their_own_segments(panel, names):
    node = panel.logic.getParameterNode()
    node.rois = [block_roi(names[0]), small_roi(names[1])]
    found = []
    for _ in range(2):
        apply(panel)
        found.append([one.segmentId for one in panel.panel.result.report.segments])
    assert found[0] == found[1]
    assert len(set(found[0])) == node.segmentation.GetSegmentation().GetNumberOfSegments() == 2


def test_a_renamed_box_keeps_its_segment_among_several(panel):
    node = panel.logic.getParameterNode()
    node.rois = [block_roi("a"), small_roi("b")]
    apply(panel)
    node.rois[0].SetName("liver")
    panel.panel._redoFrom(panel.panel.result.segment, 7, [9.5, 7.5, 35.5, 29.5])
    assert host.process_events(20, lambda: panel.panel.run.job is None)
    apply(panel)
    assert node.segmentation.GetSegmentation().GetNumberOfSegments() == 2


def test_the_result_is_there_again_after_looking_elsewhere(panel):
    node = panel.logic.getParameterNode()
    node.rois = [block_roi("organ")]
    volume = node.volume
    panel.ui.applyButton.click()
    panel.exit()
    assert host.process_events(20, lambda: panel.panel.run.job is None)
    panel.enter()
    assert panel.panel.result.segment.name == "organ"
    panel.panel.corrections.set(node.rois[0], RoiKeyBoxes(2, {5: [1.0, 1.0, 8.0, 8.0]}))
    node.volume = block_volume("other")
    assert panel.panel.result.segment is None
    node.rois = [*node.rois]
    panel.panel.corrections.check([*node.rois, small_roi("lesion")])
    node.volume = volume
    assert panel.panel.result.segment.name == "organ"
    assert list(panel.panel.corrections.of(node.rois[0]).boxes) == [5]


def test_a_segmentation_that_cannot_be_written_to_is_refused_before_anything_is_computed(panel, dialogs):
    node = panel.logic.getParameterNode()
    node.rois = [block_roi("organ")]
    node.segmentation = scenes.add_segmentation(slicer.mrmlScene, node.volume, ("old",))
    node.segmentation.SetAndObserveTransformNodeID(scenes.add_grid_transform(slicer.mrmlScene).GetID())
    panel.ui.applyButton.click()
    assert len(dialogs) == 1
    assert "non-linear" in dialogs[0]
    assert panel.panel.run.job is None
    assert panel.logic.runner.worker.predictors.predictor.encoded_slices == 0


def test_weights_that_are_not_there_are_named_before_the_time_is_asked(tmp_path, monkeypatch):
    from DBSAMSegmentLib.Run.Predictors import requireWeights

    monkeypatch.setenv("DBSAM_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"weights of sam are not on this computer: press Weights\.\.\."):
        requireWeights("sam")
    requireWeights("compact")
