"""Which box, segment and volume the panel takes: nothing is replaced that a run has nothing to do with."""

import gc

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("host", reason="needs slicer-core and PySide6")
import host
import slicer
import slicer_scene as scenes
from DBSAMSegmentLib.Panel.KeyBoxes import RoiKeyBoxes
from DBSAMSegmentLib.Write.SegmentWriter import SegmentMask, SegmentWriter
from slicer_stage import SHAPE, block_roi, block_volume, opened_module
from threshold_worker import ThresholdSettings

DRAWN = SegmentMask("", np.ones((2, 3, 4), np.uint8), ((0, 3), (0, 2), (0, 1)), "drawn")


@pytest.fixture
def panel(monkeypatch):
    """The opened module with a rule in place of a network and a volume; what it says in dialogs is an error."""

    def refuse(text, *args, **options):
        raise AssertionError(text)

    monkeypatch.setattr(slicer.util, "errorDisplay", refuse)
    with opened_module(ThresholdSettings("slice", size=48)) as widget:
        node = widget.logic.getParameterNode()
        node.volume, node.useMasking = block_volume(), False  # the boxes of these tests overlap
        yield widget


def apply(widget):
    widget.ui.applyButton.click()
    assert host.process_events(20, lambda: widget.panel.run.job is None)


def sizes(segmentation):
    """Segments by name, with their voxels."""
    segments = segmentation.GetSegmentation()
    return {
        segments.GetSegment(segmentId).GetName(): int(scenes.segment_array(segmentation, segmentId, SHAPE).sum())
        for segmentId in segments.GetSegmentIDs()
    }


def check(widget, node, checked):
    import qt

    row = widget.panel.boxes._boxes.index(node)
    widget.ui.boxList.item(row).setCheckState(qt.Qt.Checked if checked else qt.Qt.Unchecked)


def test_apply_becomes_possible_when_the_placed_box_was_drawn(panel):
    panel.ui.placeRoiButton.click()
    [roi] = panel.logic.getParameterNode().rois
    assert not panel.ui.applyButton.enabled
    assert "waits for the box" in panel.ui.statusLabel.text
    assert "Click one corner" in panel.ui.nextStepLabel.text
    roi.AddControlPoint(10, 8, 1)
    assert not panel.ui.applyButton.enabled  # a corner is no box yet
    roi.AddControlPoint(35, 30, 10)
    assert panel.ui.applyButton.enabled
    roi.RemoveAllControlPoints()
    assert not panel.ui.applyButton.enabled


def test_another_box_gets_a_segment_of_its_own(panel):
    node, liver, kidney = panel.logic.getParameterNode(), block_roi("liver"), block_roi("kidney")
    check(panel, kidney, False)
    check(panel, liver, True)
    apply(panel)
    check(panel, liver, False)
    check(panel, kidney, True)
    apply(panel)
    found = sizes(node.segmentation)
    assert sorted(found) == ["kidney", "liver"]
    assert found["kidney"] == found["liver"] > 0


def test_a_deleted_boxs_segment_is_not_the_next_ones(panel):
    node = panel.logic.getParameterNode()
    liver = block_roi("liver")
    check(panel, liver, True)
    apply(panel)
    slicer.mrmlScene.RemoveNode(liver)
    check(panel, block_roi("kidney"), True)
    apply(panel)
    assert sorted(sizes(node.segmentation)) == ["kidney", "liver"]


def test_a_box_keeps_its_segment_when_that_is_renamed(panel):
    node = panel.logic.getParameterNode()
    node.rois = [block_roi("Box")]
    apply(panel)
    node.segmentation.GetSegmentation().GetNthSegment(0).SetName("Liver")
    apply(panel)
    assert list(sizes(node.segmentation)) == ["Liver"]


@pytest.mark.parametrize("others", [[DRAWN], []])
def test_after_undo_the_next_run_leaves_other_segments_alone(panel, others):
    node = panel.logic.getParameterNode()
    segmentation = scenes.add_segmentation(slicer.mrmlScene, node.volume)
    if others:
        SegmentWriter(slicer.mrmlScene).write(node.volume, segmentation, others)
    node.segmentation, node.rois = segmentation, [block_roi("liver")]
    apply(panel)
    once = sizes(segmentation)
    panel.ui.undoButton.click()
    apply(panel)
    assert sizes(segmentation) == once
    assert once.get("drawn", 24) == 24


@pytest.mark.parametrize("others", [["x"], ["DBSAM"], None])
def test_with_another_segmentation_the_run_makes_a_segment_of_the_boxs_name_there(panel, others):
    node = panel.logic.getParameterNode()
    node.rois = [block_roi("liver")]
    apply(panel)
    first = node.segmentation
    expected = sizes(first)
    node.segmentation = None if others is None else scenes.add_segmentation(slicer.mrmlScene, node.volume, others)
    apply(panel)
    assert node.segmentation is not first
    assert sizes(node.segmentation) == dict.fromkeys(others or [], 0) | expected
    assert sizes(first) == expected


def test_a_chosen_segment_is_written_to(panel):
    node = panel.logic.getParameterNode()
    node.segmentation = scenes.add_segmentation(slicer.mrmlScene, node.volume, ["a", "b"])
    combo = panel.ui.segmentCombo
    assert [combo.itemText(index) for index in range(combo.count)] == ["New, named after the box", "a", "b"]
    combo.setCurrentIndex(2)
    node.rois = [block_roi("liver")]
    apply(panel)
    found = sizes(node.segmentation)
    assert list(found) == ["a", "b"]
    assert found["b"] > found["a"] == 0


def test_undo_asks_before_it_takes_back_what_was_edited_since(panel, monkeypatch):
    node = panel.logic.getParameterNode()
    node.rois = [block_roi("liver")]
    apply(panel)
    SegmentWriter(slicer.mrmlScene).write(node.volume, node.segmentation, [DRAWN])
    asked = []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, *args, **options: asked.append(text))
    panel.ui.undoButton.click()
    assert list(sizes(node.segmentation)) == ["liver", "drawn"]
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, *args, **options: True)
    panel.ui.undoButton.click()
    assert sizes(node.segmentation) == {}
    [question] = asked
    assert "edited since" in question


def test_showing_a_segment_in_3d_is_no_edit(panel):
    node = panel.logic.getParameterNode()
    node.rois = [block_roi("liver")]
    apply(panel)
    node.segmentation.CreateClosedSurfaceRepresentation()
    node.segmentation.GetDisplayNode().SetVisibility(False)
    assert not panel.logic.runner.writer.editedSince(node.segmentation)


def test_corrected_boxes_stay_with_their_box_and_volume(panel):
    node, first, second = panel.logic.getParameterNode(), block_roi("first"), block_roi("second")
    check(panel, first, True)
    check(panel, second, True)
    panel.panel.corrections.set(first, RoiKeyBoxes(2, {5: [1.0, 1.0, 8.0, 8.0]}))
    volume = node.volume

    def corrected(roi):
        return panel.panel.corrections.of(roi).boxes

    assert (list(corrected(first)), corrected(second)) == ([5], {})
    node.volume = block_volume("other")
    assert corrected(first) == {}
    node.volume = volume
    assert list(corrected(first)) == [5]
    slicer.mrmlScene.RemoveNode(volume)
    node.volume = block_volume("next")
    assert corrected(first) == {}
    node.volume = block_volume("last")
    panel.panel.corrections.set(first, RoiKeyBoxes(2, {5: [1.0, 1.0, 8.0, 8.0]}))
    slicer.mrmlScene.RemoveNode(first)
    assert corrected(second) == {}


def test_slices_are_not_done_again_where_the_result_was_added(panel, monkeypatch):
    node = panel.logic.getParameterNode()
    node.rois, node.mode = [block_roi("liver")], "add"
    apply(panel)
    before = sizes(node.segmentation)
    with pytest.raises(ValueError, match="set Result"):
        panel.panel._redoFrom(panel.panel.result.segment, 8, [9.5, 7.5, 35.5, 29.5])
    assert sizes(node.segmentation) == before
    assert node.keyBoxes == ""


@pytest.mark.parametrize("change", ["volume", "scene"])
def test_a_result_leaves_with_its_volume(panel, change):
    node = panel.logic.getParameterNode()
    node.rois = [block_roi("liver")]
    apply(panel)
    assert panel.ui.correctButton.enabled
    if change == "volume":
        node.volume = block_volume("other")
    else:
        gone = []
        node.volume.AddObserver("DeleteEvent", lambda *_: gone.append(1))
        del node
        host.new_scene()
        gc.collect()
        assert gone
    assert panel.panel.result.segment is None
    assert not panel.ui.correctButton.enabled


def test_a_run_into_a_segmentation_that_was_never_shown_shows_it(panel):
    node = panel.logic.getParameterNode()
    node.rois = [block_roi("liver")]
    node.segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "new")
    assert node.segmentation.GetDisplayNode() is None
    apply(panel)
    assert node.segmentation.GetDisplayNode().GetVisibility()


def test_only_views_of_the_layout_count(panel):
    from DBSAMSegmentLib.Mrml.Views import sliceWidgets

    manager = slicer.app.layoutManager()
    nodes = {name: manager.sliceWidget(name).mrmlSliceNode() for name in manager.sliceViewNames()}
    try:
        for name, node in nodes.items():
            node.SetMappedInLayout(name == "Yellow")
        assert [widget.mrmlSliceNode().GetName() for widget in sliceWidgets()] == ["Yellow"]
        panel.ui.fitRoiButton.click()
        [roi] = panel.logic.getParameterNode().rois
        normals = [
            [matrix.GetElement(row, 2) for row in range(3)]
            for matrix in (roi.GetObjectToWorldMatrix(), nodes["Yellow"].GetSliceToRAS())
        ]
        assert normals[0] == pytest.approx(normals[1])
    finally:
        for node in nodes.values():
            node.SetMappedInLayout(True)


def test_the_shown_volume_is_selected_and_no_label_map():
    host.start()
    scene = host.new_scene()
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "labels")
    block_volume("hidden")
    shown = block_volume("shown")
    scene.GetNodeByID("vtkMRMLSelectionNodeSingleton").SetActiveVolumeID(shown.GetID())
    widget = host.open_module("DBSAMSegment")
    assert widget.logic.getParameterNode().volume is shown
    assert widget.ui.volumeSelector.currentNode() is shown
    host.close_module("DBSAMSegment")
    host.new_scene()


def test_a_closed_scene_leaves_the_open_panel_ready_for_the_next(panel):
    host.new_scene()
    assert panel.logic.getParameterNode().volume is None
    panel.logic.getParameterNode().volume = block_volume()
    panel.logic.getParameterNode().rois = [block_roi("liver")]
    apply(panel)
    assert sizes(panel.logic.getParameterNode().segmentation)["liver"] > 0
