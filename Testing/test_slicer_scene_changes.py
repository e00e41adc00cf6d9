"""What the open panel makes of a scene that changes under it: loaded, closed, nodes and segments that come and go."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("host", reason="needs slicer-core and PySide6")
import host
import slicer
import slicer_scene as scenes
import vtk
from slicer_stage import block_roi, block_volume, opened_module
from threshold_worker import ThresholdSettings

SAMPLE = Path(__file__).resolve().parents[1] / "Resources" / "Sample"


@pytest.fixture
def panel():
    """The opened module with a rule in place of a network, in an empty scene."""
    with opened_module(ThresholdSettings("slice", size=48)) as widget:
        yield widget


def parameters(widget):
    return widget.logic.getParameterNode()


def apply(widget):
    widget.ui.applyButton.click()
    assert host.process_events(60, lambda: widget.panel.run.job is None)


def listed(widget):
    """Names in the list of boxes, and whether they are checked."""
    import qt

    items = [widget.ui.boxList.item(row) for row in range(widget.ui.boxList.count)]
    return {item.text(): item.checkState() == qt.Qt.Checked for item in items}


def test_a_scene_that_is_loaded_while_the_panel_is_open_comes_back_whole(panel, tmp_path):
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi("a"), block_roi("b")]
    block_roi("c")
    node.segmentation = scenes.add_segmentation(slicer.mrmlScene, node.volume, ["liver"])
    node.segmentId = "liver"
    path = str(tmp_path / "scene.mrml")
    slicer.mrmlScene.SetURL(path)
    slicer.mrmlScene.SetRootDirectory(str(tmp_path))
    slicer.mrmlScene.Commit(path)
    host.new_scene()
    assert listed(panel) == {}
    slicer.mrmlScene.SetURL(path)
    slicer.mrmlScene.Import()
    host.process_events(0.1)
    node = parameters(panel)
    assert [roi.GetName() for roi in node.rois] == ["a", "b"]
    assert listed(panel) == {"a": True, "b": True, "c": False}
    assert panel.ui.volumeSelector.currentNode() is node.volume
    assert node.volume.GetName() == "block"
    assert panel.ui.segmentationSelector.currentNode() is node.segmentation
    assert node.segmentation.GetName() == "segmentation"


def test_a_batch_that_adds_nodes_leaves_what_is_chosen(panel):
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi("a")]
    slicer.mrmlScene.StartState(slicer.vtkMRMLScene.BatchProcessState)
    block_volume("another")
    block_roi("b")
    slicer.mrmlScene.EndState(slicer.vtkMRMLScene.BatchProcessState)
    host.process_events(0.1)
    assert listed(panel) == {"a": True, "b": False}
    assert panel.ui.volumeSelector.currentNode().GetName() == "block"


def test_a_volume_that_is_loaded_is_taken_up_where_none_is_chosen(panel):
    assert parameters(panel).volume is None
    assert panel.ui.nextStepLabel.text == "Load a volume, or choose one."
    loaded = slicer.util.loadVolume(str(SAMPLE / "phantom_ct.nrrd"))
    host.process_events(0.1)
    assert parameters(panel).volume is loaded
    assert panel.ui.nextStepLabel.text == "Press Place and draw a box round a structure."
    slicer.util.loadVolume(str(SAMPLE / "phantom_mr.nrrd"))
    host.process_events(0.1)
    assert parameters(panel).volume is loaded


def test_a_name_in_the_list_is_the_boxs_name_and_that_of_its_segment(panel):
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi("Box")]
    panel.ui.boxList.item(0).setText("liver")
    assert node.rois[0].GetName() == "liver"
    node.rois[0].SetName("spleen")
    assert listed(panel) == {"spleen": True}
    apply(panel)
    assert [one.name for one in panel.panel.result.report.segments] == ["spleen"]


@pytest.mark.parametrize("ending", ["cancelled", "failed", "refused"])
def test_a_first_run_that_comes_to_nothing_leaves_nothing(panel, monkeypatch, ending):
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda *args, **options: None)
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi()]
    before = scenes.node_names(slicer.mrmlScene)
    if ending == "refused":
        monkeypatch.setattr(panel.logic.runner, "compute", lambda *args, **options: 1 / 0)
    predictor = panel.logic.runner.worker.predictors.predictor
    predictor.seconds_per_slice, predictor.fail_at = (0.2, None) if ending == "cancelled" else (0.0, 1)
    panel.ui.applyButton.click()
    panel.ui.cancelButton.click() if ending == "cancelled" else None
    assert host.process_events(60, lambda: panel.panel.run.job is None)
    assert node.segmentation is None
    assert scenes.node_names(slicer.mrmlScene) == before
    assert panel.ui.applyButton.enabled
    assert not panel.ui.cancelButton.enabled


def test_after_the_scene_was_closed_nothing_of_it_is_shown(panel):
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi("liver")]
    apply(panel)
    assert "Shown to the network" in panel.ui.intensityLabel.text
    assert "1 segment in" in panel.ui.statusLabel.text
    host.new_scene()
    host.process_events(0.1)
    assert panel.ui.intensityLabel.text == panel.ui.weakestLabel.text == panel.ui.warningsLabel.text == ""
    assert panel.ui.statusLabel.text == "Apply needs a volume: load one, or choose one above."
    assert (panel.ui.boxList.count, panel.ui.resultCombo.count, panel.ui.segmentCombo.count) == (0, 0, 1)


def test_a_segment_that_is_deleted_in_a_run_stops_it_and_is_named(panel):
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi("liver")]
    apply(panel)
    node.segmentation.GetSegmentation().GetNthSegment(0).SetName("My liver")
    panel.logic.runner.worker.predictors.predictor.name = "slow"
    panel.logic.runner.worker.predictors.predictor.seconds_per_slice = 0.3
    panel.ui.applyButton.click()
    job = panel.panel.run.job
    host.process_events(0.1)
    node.segmentation.GetSegmentation().RemoveSegment(node.segmentation.GetSegmentation().GetNthSegmentID(0))
    assert job.cancel.cancelled
    assert host.process_events(60, lambda: panel.panel.run.job is None)
    assert panel.ui.statusLabel.text.startswith("The segment My liver was deleted, so the run was stopped")
    assert panel.ui.applyButton.enabled


def test_the_result_of_a_deleted_segment_is_dropped(panel):
    node = parameters(panel)
    node.volume, node.rois, node.useMasking = block_volume(), [block_roi("a"), block_roi("b")], False
    apply(panel)
    segmentation = node.segmentation.GetSegmentation()
    segmentation.RemoveSegment(segmentation.GetNthSegmentID(0))
    assert [one.name for one in panel.panel.result.report.segments] == ["b"]
    assert panel.ui.correctButton.enabled
    panel.exit()
    segmentation.RemoveSegment(segmentation.GetNthSegmentID(0))
    panel.enter()
    assert panel.panel.result.report is None
    assert not panel.ui.correctButton.enabled
    assert panel.ui.intensityLabel.text == ""


def test_boxes_are_outlines_while_a_result_is_in_view_and_filled_as_before_afterwards(panel, tmp_path):
    node = parameters(panel)
    filled, bare = block_roi("filled"), block_roi("bare")
    for roi in (filled, bare):
        roi.CreateDefaultDisplayNodes()
    bare.GetDisplayNode().SetFillVisibility(False)
    node.volume, node.rois, node.useMasking = block_volume(), [filled, bare], False

    def fills():
        return [bool(roi.GetDisplayNode().GetFillVisibility()) for roi in (filled, bare)]

    assert fills() == [True, False]
    apply(panel)
    assert fills() == [False, False]
    assert filled.GetDisplayNode().GetOutlineVisibility()
    saved = []
    filled.GetDisplayNode().AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: saved.append(fills()[0]))
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.StartState(slicer.vtkMRMLScene.SaveState)
    assert fills() == [True, False]
    slicer.mrmlScene.EndState(slicer.vtkMRMLScene.SaveState)
    assert fills() == [False, False]
    node.rois = [bare]
    assert fills() == [True, False]
    node.rois = [filled]
    panel.exit()
    assert fills() == [True, False]
    panel.enter()
    assert fills() == [False, False]
    panel.ui.undoButton.click()
    assert fills() == [True, False]


def test_a_result_that_cannot_be_shown_leaves_the_buttons_usable(panel, monkeypatch):
    shown = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, *args, **options: shown.append(text))
    monkeypatch.setattr(panel.panel.result, "show", lambda report: 1 / 0)
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi()]
    apply(panel)
    assert "could not be shown" in shown[0]
    assert panel.ui.applyButton.enabled
    assert not panel.ui.cancelButton.enabled


def test_who_declines_the_installation_is_told_what_that_means(panel, monkeypatch):
    from DBSAMSegmentLib.Panel import RunPanel

    monkeypatch.setattr(RunPanel, "ensurePackages", lambda parent: False)
    monkeypatch.setattr(type(panel.logic.runner), "needsPackages", True)
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi()]
    panel.ui.applyButton.click()
    assert panel.panel.run.job is None
    assert "Nothing was installed" in panel.ui.statusLabel.text
    assert node.segmentation is None


@pytest.mark.parametrize(
    "background", [(0.0, 0.0, 0.0), (0.5, 0.45, 0.5), (1.0, 1.0, 1.0)], ids=["air", "lung", "bone"]
)
def test_the_outline_is_yellow_on_every_tissue(panel, background):
    from host.slice_views import rendered

    node = parameters(panel)
    roi = block_roi()
    node.volume, node.rois, node.live, node.axis = block_volume(), [roi], True, "K"
    slicer.util.setSliceViewerLayers(background=node.volume)
    widget = slicer.app.layoutManager().sliceWidget("Red")
    widget.mrmlSliceNode().SetOrientationToAxial()
    widget.mrmlSliceNode().JumpSliceByCentering(22.5, 18.5, 5.0)
    roi.SetCenter(22.0, 18.5, 5.5)
    outlines = panel.panel.live.outlines._outlines
    assert host.process_events(
        60, lambda: any(one.actor.GetVisibility() for *_, one in panel.panel.live.outlines._outlines)
    ), outlines
    pixels = rendered(widget, background).reshape(-1, 3)
    drawn = pixels[np.abs(pixels.astype(int) - np.round(np.array(background) * 255)).max(axis=1) > 2]
    assert len(drawn) > 50
    # Yellow: 255, 217, 26; where a line is smoothed it is mixed with what lies below.
    assert (np.abs(drawn.astype(int) - (255, 217, 26)).max(axis=1) < 3).sum() > 0.3 * len(drawn)


def test_live_mode_says_why_it_outlines_nothing(panel):
    node = parameters(panel)
    roi = block_roi()
    node.volume, node.rois, node.live, node.axis = block_volume(), [roi], True, "K"
    manager = slicer.app.layoutManager()
    nodes = [manager.sliceWidget(name).mrmlSliceNode() for name in manager.sliceViewNames()]
    for view in nodes:
        view.SetOrientationToSagittal()
    try:
        roi.SetCenter(22.0, 18.5, 5.5)
        assert host.process_events(20, lambda: "No view shows slices along K" in panel.ui.statusLabel.text)
        nodes[0].SetOrientationToAxial()
        turn = vtk.vtkTransform()
        turn.SetMatrix(nodes[0].GetSliceToRAS())
        turn.RotateX(20)
        nodes[0].GetSliceToRAS().DeepCopy(turn.GetMatrix())
        nodes[0].UpdateMatrices()
        roi.SetCenter(22.5, 18.5, 5.5)
        host.process_events(0.3)
        assert "No view shows slices along K" in panel.ui.statusLabel.text
        nodes[0].SetOrientationToAxial()
        nodes[0].JumpSliceByCentering(22.5, 18.5, 50.0)
        roi.SetCenter(22.0, 18.5, 5.5)
        assert host.process_events(20, lambda: "outside the box" in panel.ui.statusLabel.text)
    finally:
        for view, orientation in zip(nodes, ("Axial", "Sagittal", "Coronal"), strict=True):
            view.SetOrientation(orientation)


def test_a_box_drawn_in_an_oblique_view_is_turned_as_the_view_is(panel):
    parameters(panel).volume = block_volume()
    red = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
    turned = vtk.vtkTransform()
    turned.SetMatrix(red.GetSliceToRAS())
    turned.RotateX(25)
    turned.RotateY(15)
    try:
        red.GetSliceToRAS().DeepCopy(turned.GetMatrix())
        red.UpdateMatrices()
        panel.ui.placeRoiButton.click()
        [roi] = parameters(panel).rois
        toRas = np.array([[turned.GetMatrix().GetElement(r, c) for c in range(4)] for r in range(4)])
        for x, y in ((-15, -10), (25, 20)):
            roi.AddControlPoint(*(toRas @ [x, y, 0, 1])[:3])
        assert roi.GetSize() == pytest.approx((40, 30, 30))
        assert roi.GetCenterWorld() == pytest.approx((toRas @ [5, 5, 0, 1])[:3])
        matrix = roi.GetObjectToWorldMatrix()
        axes = np.array([[matrix.GetElement(r, c) for c in range(3)] for r in range(3)])
        assert np.abs(axes.T @ toRas[:3, :3]) == pytest.approx(np.eye(3), abs=1e-6)
        assert np.linalg.det(axes) == pytest.approx(1)
    finally:
        red.SetOrientationToAxial()


def test_a_box_drawn_in_a_straight_view_is_slicers(panel):
    parameters(panel).volume = block_volume()
    panel.ui.placeRoiButton.click()
    [roi] = parameters(panel).rois
    roi.AddControlPoint(5, 5, 0)
    roi.AddControlPoint(35, 25, 0)
    assert roi.GetSize() == pytest.approx((30, 20, 20))


def test_no_text_of_the_panels_speaks_of_nodes_or_of_predicted_iou_without_confidence():
    """Words of users: what is in quotes for them, in sources and forms."""
    import ast
    import re

    root = Path(__file__).resolve().parents[1]
    texts = []
    for path in [
        *root.glob("DBSAM*/DBSAM*Lib/**/*.py"),
        *root.glob("DBSAM*/SegmentEditor*/*.py"),
        *root.glob("DBSAM*/*.py"),
    ]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "_" and isinstance(node.args[0], ast.Constant):
                texts.append(node.args[0].value)
    for path in root.glob("DBSAM*/Resources/UI/*.ui"):
        texts += re.findall(r"<string>([^<]*)</string>", path.read_text(encoding="utf-8"))
    assert len(texts) > 100
    for text in texts:
        assert not re.search(r"\bnodes?\b", text, re.IGNORECASE), text
        assert "IoU" not in text or "onfidence" in text, text


def test_the_panel_with_a_result_fits_a_narrow_window_without_scroll_bars(panel):
    node = parameters(panel)
    node.volume, node.rois = block_volume(), [block_roi("liver")]
    apply(panel)
    form = panel.ui.nextStepLabel.parent()
    assert form.minimumSizeHint.width() <= 420
    layout = form.layout()
    height = layout.heightForWidth(420) if layout.hasHeightForWidth() else form.sizeHint.height()
    assert height <= 850  # of 1050, of which Slicer's menus, tool bars and the panel's help take the rest
