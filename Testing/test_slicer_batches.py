"""Batches and sequences on real MRML."""

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("dbsam.inference.segmenter")
import slicer
import slicer_scene as scenes
from DBSAMSegmentLib.Run.Batches import BatchCase, runBatch, runSequence
from DBSAMSegmentLib.Run.Runner import SegmentationRunner
from threshold_worker import ThresholdInWorker, ThresholdSettings

from dbsam.progress import Cancelled, CancelToken

SHAPE = (8, 30, 32)


def block_voxels(i):
    voxels = np.full(SHAPE, -1000, np.int16)
    voxels[2:6, 8:20, i : i + 10] = 150
    return voxels


@pytest.fixture
def scene():
    return scenes.new_scene()


@pytest.fixture
def runner(scene):
    result = SegmentationRunner(scene, ThresholdInWorker(ThresholdSettings("slice", size=32)))
    yield result
    result.close()


def roi_at(scene, i, name="roi"):
    return scenes.add_roi(scene, (i + 4.5, 13.5, 3.5), (14, 16, 6), name)


def test_a_batch_goes_on_after_a_case_that_fails(scene, runner):
    first = scenes.add_volume(scene, block_voxels(5), name="first")
    broken = scenes.add_volume(scene, np.full(SHAPE, 3, np.int16), name="broken")
    last = scenes.add_volume(scene, block_voxels(15), name="last")
    steps = []
    reports = runBatch(
        runner,
        [
            BatchCase(first, [roi_at(scene, 5)]),
            BatchCase(broken, [roi_at(scene, 5)]),
            BatchCase(last, [roi_at(scene, 15)]),
        ],
        progress=steps.append,
    )
    assert [(report.case, bool(report.error)) for report in reports] == [
        ("first", False),
        ("broken", True),
        ("last", False),
    ]
    assert "All values of the image are 3" in reports[1].error
    assert [node.GetName() for node in scene.GetNodesByClass("vtkMRMLSegmentationNode")] == [
        "first segmentation",
        "last segmentation",
    ]
    assert steps[-1].stage.startswith("last (3 of 3)")


def test_a_cancelled_batch_stops_and_leaves_no_half_done_node(scene, runner):
    volume = scenes.add_volume(scene, block_voxels(5))
    roi = roi_at(scene, 5)
    cancel = CancelToken()
    cancel.cancel()
    before = scenes.node_count(scene)
    with pytest.raises(Cancelled):
        runBatch(runner, [BatchCase(volume, [roi])], cancel=cancel)
    assert scenes.node_count(scene) == before


def sequence_of(scene, positions):
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine")
    for frame, i in enumerate(positions):
        node = slicer.vtkMRMLScalarVolumeNode()
        node.SetAndObserveImageData(scenes.image_data(block_voxels(i)))
        sequence.SetDataNodeAtValue(node, str(frame))
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    logic = slicer.vtkSlicerSequencesLogic()
    logic.SetMRMLScene(scene)
    logic.UpdateProxyNodesFromSequences(browser)
    return browser, browser.GetProxyNode(sequence)


def test_every_frame_of_a_sequence_gets_its_own_segmentation(scene, runner):
    browser, volume = sequence_of(scene, (5, 6, 7))
    browser.SetSelectedItemNumber(1)
    roi = scenes.add_roi(scene, (10.5, 13.5, 3.5), (20, 16, 6))
    reports, output = runSequence(runner, volume, [roi], browser)
    assert [report.frame for report in reports] == [0, 1, 2]
    assert output.GetNumberOfDataNodes() == 3
    for frame, i in enumerate((5, 6, 7)):
        node = output.GetNthDataNode(frame)
        segmentId = node.GetSegmentation().GetNthSegmentID(0)
        found = scenes.segment_array(node, segmentId, SHAPE)
        columns = np.flatnonzero(found.any(axis=(0, 1)))
        assert abs(columns[0] - i) <= 1
        assert abs(columns[-1] - (i + 9)) <= 1
    assert browser.GetSelectedItemNumber() == 1
    assert browser.IsSynchronizedSequenceNode(output)


def test_chosen_frames_only_and_unknown_frames_are_refused(scene, runner):
    browser, volume = sequence_of(scene, (5, 6, 7))
    roi = scenes.add_roi(scene, (10.5, 13.5, 3.5), (20, 16, 6))
    reports, output = runSequence(runner, volume, [roi], browser, frames=[2])
    assert [report.frame for report in reports] == [2]
    counts = [output.GetNthDataNode(frame).GetSegmentation().GetNumberOfSegments() for frame in range(3)]
    assert counts == [0, 0, 1]
    with pytest.raises(ValueError, match="frames 0 to 2, not"):
        runSequence(runner, volume, [roi], browser, frames=[3])


def test_frames_are_the_browsers_also_where_the_volume_has_fewer_and_follow_its_transform(scene, runner):
    browser, volume = sequence_of(scene, (5, 6))
    moved = np.eye(4)
    moved[:3, 3] = 100, 0, 0
    transform = scenes.add_transform(scene, moved)
    master = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "master")
    for value in ("0", "0.5", "1"):
        master.SetDataNodeAtValue(transform, value)
    browser.AddSynchronizedSequenceNode(master)
    browser.SetAndObserveMasterSequenceNodeID(master.GetID())
    slicer.vtkSlicerSequencesLogic().UpdateProxyNodesFromSequences(browser)
    volume.SetAndObserveTransformNodeID(transform.GetID())
    roi = scenes.add_roi(scene, (110.5, 13.5, 3.5), (20, 16, 6))
    reports, output = runSequence(runner, volume, [roi], browser)
    assert [report.frame for report in reports] == [0, 1, 2]
    assert [output.GetNthIndexValue(frame) for frame in range(3)] == ["0", "0.5", "1"]
    assert browser.GetProxyNode(output).GetParentTransformNode() is transform


def test_a_failed_sequence_leaves_the_scene_as_it_was(scene, runner):
    browser, volume = sequence_of(scene, (5, 6, 7))
    roi = scenes.add_roi(scene, (10.5, 13.5, 3.5), (20, 16, 6))
    before = scenes.node_count(scene)
    runner.worker.predictors.predictor.fail_at = 6
    with pytest.raises(RuntimeError, match="network failed"):
        runSequence(runner, volume, [roi], browser)
    assert scenes.node_count(scene) == before
    assert browser.GetSelectedItemNumber() == 0
