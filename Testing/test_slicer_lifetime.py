"""Several parameter nodes at once, the application's quit and a module's reload in the middle of a run."""

import sys

import pytest

pytest.importorskip("slicer")
pytest.importorskip("host", reason="needs slicer-core and PySide6")
import host
import slicer
import slicer_scene as scenes
from slicer_stage import block_roi, block_volume, opened_module
from threshold_worker import ThresholdInWorker, ThresholdSettings


@pytest.fixture
def running():
    """The module in the middle of a slow run; its runner and segmentation."""
    with opened_module(ThresholdSettings("slice", 48, seconds_per_slice=0.2)) as widget:
        node = widget.logic.getParameterNode()
        node.volume, node.rois = block_volume(), [block_roi()]
        node.segmentation = scenes.add_segmentation(slicer.mrmlScene, node.volume)
        widget.ui.applyButton.click()
        host.process_events(0.3)
        assert widget.panel.run.job is not None
        yield widget, widget.logic.runner, node.segmentation


def test_quitting_the_application_in_the_middle_of_a_run_ends_the_thread_and_writes_nothing(running):
    _, runner, segmentation = running
    slicer.app.aboutToQuit.emit()
    host.process_events(0.3)
    assert not runner.worker.busy
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 0


@pytest.fixture
def own_modules():
    """Puts back the modules that a reload replaces, as other tests hold classes of theirs."""
    before = dict(sys.modules)
    yield
    sys.modules.update(before)


def test_reloading_the_module_in_the_middle_of_a_run_ends_it_writes_nothing_and_opens_a_new_one(running, own_modules):
    widget, runner, segmentation = running
    widget.onReload()
    host.process_events(0.3)
    assert not runner.worker.busy
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 0
    reloaded = slicer.modules.DBSAMSegmentWidget
    assert type(reloaded) is not type(widget)
    reloaded.logic.runner.worker.predictors = ThresholdInWorker(ThresholdSettings("slice", 48))
    reloaded.enter()
    reloaded.ui.applyButton.click()
    while reloaded.panel.run.job is not None:
        host.process_events(0.1)
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 1


def test_several_parameter_nodes_live_in_one_scene_and_are_right_after_reloading(tmp_path):
    host.start()
    scene = host.new_scene()
    host.open_module("DBSAMSegment")
    Parameters = sys.modules["DBSAMSegment"].DBSAMSegmentParameterNode
    settings = {"first": ("sam", "I", "box", "[1]"), "second": ("own.safetensors", "K", "track", "[2]")}
    for name, values in settings.items():
        node = scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", name)
        parameters = Parameters(node)
        parameters.model, parameters.axis, parameters.strategy, parameters.keyBoxes = values
        parameters.rois = [scenes.add_roi(scene, (1, 2, 3), (4, 5, 6), f"{name} box")]
    path = str(tmp_path / "scene.mrml")
    scene.SetURL(path)
    scene.SetRootDirectory(str(tmp_path))
    scene.Commit(path)
    host.new_scene()
    scene.SetURL(path)
    scene.Import()
    for name, values in settings.items():
        parameters = Parameters(scene.GetFirstNodeByName(name))
        assert (parameters.model, parameters.axis, parameters.strategy, parameters.keyBoxes) == values
        assert [roi.GetName() for roi in parameters.rois] == [f"{name} box"]
    host.close_module("DBSAMSegment")
    host.new_scene()
