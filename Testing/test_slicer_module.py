"""The module's panel, run in the stand-in of Slicer's application."""

import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("host", reason="needs slicer-core and PySide6")
import host
import slicer
import slicer_scene as scenes
from slicer_stage import SHAPE, block_mask, block_roi, block_volume, opened_module
from threshold_worker import ThresholdInWorker, ThresholdSettings


@pytest.fixture
def panel():
    """The opened module with a rule in place of a network, in an empty scene."""
    with opened_module(ThresholdSettings("slice", size=48)) as widget:
        yield widget


def parameters(widget):
    return widget.logic.getParameterNode()


def apply(widget, seconds=20):
    widget.ui.applyButton.click()
    assert host.process_events(seconds, lambda: widget.panel.run.job is None)


def test_opening_the_panel_loads_neither_torch_nor_segment_anything():
    code = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import host
        host.start()
        before = set(sys.modules)
        host.load_module(host.MODULES["SegmentEditorDBSAM"])
        host.load_module(host.MODULES["DBSAMSegment"])
        loaded = {{name.split(".")[0] for name in set(sys.modules) - before}}
        assert not loaded & {{"dbsam", "DBSAMSegmentLib"}}, "a start of Slicer pays for nothing"
        host.open_module("DBSAMSegment")
        loaded = {{name.split(".")[0] for name in set(sys.modules) - before}}
        assert not loaded & {{"torch", "torchvision", "segment_anything", "SimpleITK"}}, loaded
        # What the first click needs is there before it, as imports would hold the main thread.
        assert "dbsam.worker.client" in sys.modules
    """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]


def test_apply_is_off_until_volume_and_box_are_there_and_says_why(panel):
    assert not panel.ui.applyButton.enabled
    assert "needs a volume" in panel.ui.statusLabel.text
    parameters(panel).volume = block_volume()
    assert "needs a box" in panel.ui.statusLabel.text
    assert panel.ui.nextStepLabel.text == "Press Place and draw a box round a structure."
    parameters(panel).rois = [block_roi()]
    assert panel.ui.applyButton.enabled
    assert panel.ui.statusLabel.text == "Apply will take about 7 s."  # six of them to load the model


def test_apply_makes_a_segmentation_with_the_boxs_segment_and_shows_the_slices(panel):
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi()]
    apply(panel)
    segmentation = node.segmentation
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 1
    segmentId = segmentation.GetSegmentation().GetNthSegmentID(0)
    found = scenes.segment_array(segmentation, segmentId, SHAPE)
    assert (found != block_mask()).sum() <= 0.1 * block_mask().sum()
    assert panel.ui.resultCombo.count == 1
    assert panel.panel.result.segment.name == "bright"
    assert not panel.ui.resultButton.collapsed
    assert panel.ui.undoButton.enabled
    panel.ui.undoButton.click()
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 0
    assert panel.ui.redoButton.enabled
    panel.ui.redoButton.click()
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 1


def test_cancel_stops_a_run_and_nothing_is_changed(panel):
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi()]
    node.segmentation = scenes.add_segmentation(slicer.mrmlScene, node.volume)
    panel.logic.runner.worker.predictors.predictor.seconds_per_slice = 0.3
    panel.ui.applyButton.click()
    assert panel.ui.cancelButton.enabled
    host.process_events(0.4)
    panel.ui.cancelButton.click()
    assert host.process_events(20, lambda: panel.panel.run.job is None)
    assert node.segmentation.GetSegmentation().GetNumberOfSegments() == 0
    assert "Cancelled" in panel.ui.statusLabel.text
    assert not panel.ui.undoButton.enabled


def test_progress_tells_the_time_left(panel):
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi()]
    panel.logic.runner.worker.predictors.predictor.seconds_per_slice = 0.2
    panel.ui.applyButton.click()
    texts = set()
    host.process_events(20, lambda: texts.add(panel.ui.statusLabel.text) or panel.panel.run.job is None)
    assert any("left" in text for text in texts), texts


def test_several_checked_boxes_become_several_segments(panel):
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi("a"), block_roi("b")]
    apply(panel)
    names = [segment.name for segment in panel.panel.result.report.segments]
    assert names == ["a", "b"]
    assert panel.ui.resultCombo.count == 2


def test_the_combo_boxes_write_to_the_parameter_node_and_back(panel):
    node = parameters(panel)
    panel.ui.axisCombo.setCurrentIndex(panel.ui.axisCombo.findData("sagittal"))
    panel.ui.strategyCombo.setCurrentIndex(panel.ui.strategyCombo.findData("box"))
    panel.ui.liveCheckBox.click()
    assert (node.axis, node.strategy, node.live) == ("sagittal", "box", True)
    node.intensity = "ct-lung"
    assert panel.ui.intensityCombo.itemData(panel.ui.intensityCombo.currentIndex) == "ct-lung"
    node.model = "/somewhere/own.safetensors"
    assert panel.ui.modelCombo.currentText == "/somewhere/own.safetensors"


def test_parameters_survive_saving_and_loading_the_scene(panel, tmp_path):
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi("a"), block_roi("b")]
    node.model, node.axis, node.strategy = "medsam", "coronal", "box"
    node.keyBoxes = '[{"axis": 1, "boxes": {"7": [1, 2, 3, 4]}}, {"axis": 1, "boxes": {}}]'
    text_path = str(tmp_path / "scene.mrml")
    slicer.mrmlScene.SetURL(text_path)
    slicer.mrmlScene.SetRootDirectory(str(tmp_path))
    slicer.mrmlScene.Commit(text_path)
    host.new_scene()
    assert parameters(panel).model == "compact"
    host.new_scene()
    slicer.mrmlScene.SetURL(text_path)
    slicer.mrmlScene.Import()
    host.process_events()
    again = parameters(panel)
    assert (again.model, again.axis, again.strategy) == ("medsam", "coronal", "box")
    assert [roi.GetName() for roi in again.rois] == ["a", "b"]
    assert again.volume.GetName() == "block"
    from DBSAMSegmentLib.Panel.KeyBoxes import decodeKeyBoxes

    first, second = decodeKeyBoxes(again.keyBoxes, 2)
    assert (first.axis, first.boxes, second.boxes) == (1, {7: [1.0, 2.0, 3.0, 4.0]}, {})


def test_closing_the_scene_in_the_middle_of_a_run_is_safe(panel):
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi()]
    panel.logic.runner.worker.predictors.predictor.seconds_per_slice = 0.2
    panel.ui.applyButton.click()
    host.process_events(0.3)
    host.new_scene()
    assert host.process_events(20, lambda: panel.panel.run.job is None)
    assert slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode") is None


def test_unloading_the_module_in_the_middle_of_a_run_is_safe():
    host.start()
    host.new_scene()
    widget = host.open_module("DBSAMSegment")
    widget.logic.runner.worker.predictors = ThresholdInWorker(ThresholdSettings("slice", 48, seconds_per_slice=0.2))
    node = parameters(widget)
    node.volume, node.rois = block_volume(), [block_roi()]
    widget.ui.applyButton.click()
    host.process_events(0.3)
    host.close_module("DBSAMSegment")
    host.process_events(0.5)
    segmentation = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 0


def test_a_click_in_the_plot_goes_to_the_slice(panel):
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi()]
    node.axis = "K"
    apply(panel)
    plot = panel.panel.result.plot
    plot.resize(400, 120)
    assert plot.sliceAt(0) is None
    indices = [report.index for report in panel.panel.result.segment.slices]
    width = 400 - 44 - 8
    for position, index in enumerate(range(indices[0], indices[-1] + 1)):
        x = 44 + (position + 0.5) * width / (indices[-1] - indices[0] + 1)
        assert plot.sliceAt(x) == index
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    red.SetOrientationToAxial()
    panel.panel.result.goToSlice(6)
    from DBSAMSegmentLib.Mrml.SliceViews import viewedSlice

    viewed = viewedSlice(red, node.volume)
    assert (viewed.axis, viewed.index) == (2, 6)


def test_a_corrected_box_is_redone_from_its_slice_and_kept_in_the_scene(panel):
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi()]
    node.axis = "K"
    apply(panel)
    segmentId = node.segmentId
    edited = scenes.segment_array(node.segmentation, segmentId, SHAPE)
    edited[4] = False
    slicer.util.updateSegmentBinaryLabelmapFromArray(edited.astype(np.uint8), node.segmentation, segmentId, node.volume)
    before = scenes.segment_array(node.segmentation, segmentId, SHAPE)
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    red.SetOrientationToAxial()
    panel.panel.result.goToSlice(7)
    nodes = scenes.node_names(slicer.mrmlScene)
    panel.ui.correctButton.click()
    roi = slicer.mrmlScene.GetFirstNodeByName("Box on slice 7")
    assert roi not in panel.panel.boxes._boxes
    assert not roi.GetSaveWithScene()
    roi.SetCenter(16, 18.5, 7)
    roi.SetSize(8, 19, 1)
    panel.ui.redoFromHereButton.click()
    assert host.process_events(20, lambda: panel.panel.run.job is None)
    after = scenes.segment_array(node.segmentation, segmentId, SHAPE)
    np.testing.assert_array_equal(after[:7], before[:7])
    assert after[7].any()
    assert not after[7][:, 21:].any()
    assert "7" in node.keyBoxes
    assert scenes.node_names(slicer.mrmlScene) == nodes
    panel.ui.clearKeyBoxesButton.click()
    assert node.keyBoxes == ""
    panel.ui.undoButton.click()
    assert not scenes.segment_array(node.segmentation, segmentId, SHAPE)[4].any()
    assert not panel.ui.correctButton.enabled  # the segment is no longer the last run's


def test_fit_to_view_places_a_box_in_the_views_plane(panel):
    node = parameters(panel)
    node.volume = block_volume()
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    panel.ui.fitRoiButton.click()
    (roi,) = node.rois
    fieldOfView = red.GetFieldOfView()
    assert roi.GetSize()[0] == pytest.approx(fieldOfView[0] / 2)
    matrix = red.GetSliceToRAS()
    assert roi.GetCenterWorld() == pytest.approx([matrix.GetElement(row, 3) for row in range(3)])


def test_live_mode_previews_while_dragging_and_segments_on_release(panel):
    node = parameters(panel)
    roi = block_roi()
    node.volume, node.rois, node.live, node.axis = block_volume(), [roi], True, "K"
    slicer.util.setSliceViewerLayers(background=node.volume)
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    red.SetOrientationToAxial()
    red.JumpSliceByCentering(22.5, 18.5, 5.0)
    host.process_events(0.2)
    roi.SetCenter(22.0, 18.5, 5.5)
    outlines = panel.panel.live.outlines
    assert host.process_events(20, lambda: sum(one.actor.GetVisibility() for *_, one in outlines._outlines) == 1)
    assert node.segmentation is None
    roi.InvokeEvent(slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent)
    assert host.process_events(20, lambda: node.segmentation is not None and panel.panel.run.job is None)
    assert node.segmentation.GetSegmentation().GetNumberOfSegments() == 1
    assert not outlines._outlines


def test_live_mode_says_what_it_needs_where_packages_are_missing(panel, monkeypatch):
    from DBSAMSegmentLib.Panel import Panel

    monkeypatch.setattr(Panel, "missingPackages", lambda: ["torch"])
    monkeypatch.setattr(type(panel.logic.runner), "needsPackages", property(lambda _: True))
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi()]
    host.process_events(0.2)
    assert "Live" not in panel.ui.statusLabel.text
    node.live = True
    assert host.process_events(
        20, lambda: "Live outlines need packages that aren't installed" in panel.ui.statusLabel.text
    ), panel.ui.statusLabel.text


def test_an_error_is_shown_and_the_next_run_works(panel):
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi()]
    panel.logic.runner.worker.predictors.predictor.fail_at = 2
    apply(panel)
    assert "the network failed" in panel.ui.statusLabel.text
    assert node.segmentation is None
    panel.logic.runner.worker.predictors.predictor.fail_at = None
    apply(panel)
    assert node.segmentation.GetSegmentation().GetNumberOfSegments() == 1


def test_the_modules_own_self_test_passes(panel):
    sys.modules["DBSAMSegment"].DBSAMSegmentTest().runTest()


def test_sample_data_is_registered_with_the_files_true_checksums(panel):
    import hashlib

    sources = slicer.modules.sampleDataSources["DB-SAM"]
    folder = Path(__file__).resolve().parents[1] / "Resources" / "Sample"
    assert len({source.sampleName for source in sources}) >= 3
    for source in sources:
        for name, checksum in zip(source.fileNames, source.checksums, strict=True):
            assert checksum == "SHA256:" + hashlib.sha256((folder / name).read_bytes()).hexdigest()


def test_slices_are_prepared_while_idle_and_the_run_needs_no_encoding(panel):
    node = parameters(panel)
    node.volume, node.rois, node.axis = block_volume(), [block_roi()], "K"
    predictor = panel.logic.runner.worker.predictors.predictor
    node.prefetch = True
    assert host.process_events(20, lambda: predictor.encoded_slices > 0 and not panel.logic.runner.worker.busy)
    prepared = predictor.encoded_slices
    apply(panel)
    assert predictor.encoded_slices == prepared
    assert panel.panel.result.report.cacheHits > 0


def test_the_weights_manager_lists_the_models_with_size_and_licence(panel, tmp_path, monkeypatch):
    pytest.importorskip("safetensors")
    monkeypatch.setenv("DBSAM_CACHE", str(tmp_path))
    from DBSAMSegmentLib.Panel.WeightsDialog import WeightsDialog

    dialog = WeightsDialog()
    table = dialog.table
    rows = {
        table.item(row, 0).text(): [table.item(row, column).text() for column in range(1, 6)]
        for row in range(table.rowCount)
    }
    assert rows["SAM ViT-B"][1] == "375 MB"
    assert rows["SAM ViT-B"][3] == "Apache-2.0"
    assert rows["MedSAM ViT-B"][1] == "375 MB"
    assert rows["MedSAM ViT-B"][3] == "CC-BY-4.0"
    assert "live previews" in rows["DB-SAM compact"][2]
    assert re.search(r"About \S+ s a slice on this computer", rows["DB-SAM compact"][2])
    dialog.selectModel("sam")
    assert dialog.downloadButton.enabled
    assert not dialog.clearButton.enabled
    (tmp_path / "sam_vit_b_01ec64.pth.part").write_bytes(b"half")
    dialog.refresh()
    dialog.selectModel("sam")
    assert dialog.clearButton.enabled
    dialog.shutDown()


def test_a_batch_of_files_saves_segmentations_and_leaves_the_scene_as_it_was(panel, tmp_path):
    from DBSAMSegmentLib.Run.Batches import BatchCase

    from dbsam.io.images import read_labelmap

    sample = Path(__file__).resolve().parents[1] / "Resources" / "Sample"
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)  # Slicer's scene always has it
    before = scenes.node_names(slicer.mrmlScene)
    output = tmp_path / "out" / "phantom.seg.nrrd"
    module = sys.modules["DBSAMSegment"]
    logic = module.DBSAMSegmentLogic(predictors=panel.logic.runner.worker.predictors)
    try:
        good, missing = logic.segmentBatch(
            [
                BatchCase(sample / "phantom_ct.nrrd", [sample / "phantom_roi.mrk.json"], output=output),
                BatchCase(tmp_path / "none.nrrd", [sample / "phantom_roi.mrk.json"], name="missing"),
            ]
        )
    finally:
        logic.close()
    assert good.error == ""
    assert len(good.segments) == 1
    assert "There is no file" in missing.error
    assert output.exists()
    assert scenes.node_names(slicer.mrmlScene) == before
    labels, _geometry = read_labelmap(output)
    assert labels.any()


def test_the_console_call_takes_a_single_roi_and_reports_what_it_did(panel):
    module = sys.modules["DBSAMSegment"]
    volume, roi = block_volume(), block_roi()
    segmentation = scenes.add_segmentation(slicer.mrmlScene, volume)
    logic = module.DBSAMSegmentLogic(predictors=panel.logic.runner.worker.predictors)
    steps = []
    try:
        report = logic.segment(volume, roi, segmentation, axis="K", strategy="box", progress=steps.append)
    finally:
        logic.close()
    assert [segment.name for segment in report.segments] == ["bright"]
    assert (report.model, report.strategy, report.segments[0].axis) == ("compact", "box", 2)
    assert all(0 <= one.predicted_iou <= 1 for one in report.segments[0].slices)
    assert steps
