"""Runs from nodes to segments on real MRML, with a rule in place of a network."""

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("dbsam.inference.segmenter")
import slicer
import slicer_scene as scenes
from DBSAMSegmentLib.Mrml.NodeRequests import requestOf
from DBSAMSegmentLib.Run.Runner import SegmentationError, SegmentationRunner
from processes import is_running
from threshold_worker import ThresholdInWorker, ThresholdSettings

from dbsam.progress import Cancelled, CancelToken

SHAPE = (20, 40, 50)


def bright_block(shape=SHAPE, k=(4, 14), j=(10, 25), i=(12, 30), low=-1000, high=150):
    voxels = np.full(shape, low, np.int16)
    voxels[slice(*k), slice(*j), slice(*i)] = high
    return voxels


@pytest.fixture
def scene():
    return scenes.new_scene()


@pytest.fixture
def runner(scene):
    source = ThresholdInWorker(ThresholdSettings("slice", size=50))
    result = SegmentationRunner(scene, source)
    yield result
    result.close()


def run(runner, volume, rois, segmentation, segmentIds=None, **options):
    split = {name: options.pop(name) for name in ("mode", "editorNode", "progress", "cancel") if name in options}
    request = requestOf(volume, rois, segmentIds, segmentation, **options)
    return runner.segment(volume, segmentation, request, **split)


def block_mask(k, j, i):
    mask = np.zeros(SHAPE, bool)
    mask[slice(*k), slice(*j), slice(*i)] = True
    return mask


BLOCK = block_mask((4, 14), (10, 25), (12, 30))


def roi_around_block(scene, name="block", margin=2):
    center = ((12 + 29) / 2, (10 + 24) / 2, (4 + 13) / 2)
    return scenes.add_roi(scene, center, (18 + 2 * margin, 15 + 2 * margin, 10 + 2 * margin), name)


@pytest.mark.parametrize("axis", ["I", "J", "K", "auto"])
@pytest.mark.parametrize("strategy", ["track", "box"])
def test_a_bright_block_in_an_roi_becomes_its_segment(scene, runner, axis, strategy):
    volume = scenes.add_volume(scene, bright_block())
    segmentation = scenes.add_segmentation(scene, volume, ["seg"])
    report = run(runner, volume, [roi_around_block(scene)], segmentation, ["seg"], axis=axis, strategy=strategy)
    found = scenes.segment_array(segmentation, "seg", SHAPE)
    difference = (found != BLOCK).sum()
    assert difference <= 0.1 * BLOCK.sum()
    (segment,) = report.segments
    assert (segment.segmentId, segment.voxels) == ("seg", int(found.sum()))
    assert report.model == "compact"


def test_a_new_segment_gets_the_rois_name_and_a_second_run_goes_to_the_same(scene, runner):
    volume = scenes.add_volume(scene, bright_block())
    segmentation = scenes.add_segmentation(scene, volume)
    roi = roi_around_block(scene, "liver")
    first = run(runner, volume, [roi], segmentation)
    second = run(runner, volume, [roi], segmentation)
    assert first.segments[0].segmentId == second.segments[0].segmentId
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 1
    assert segmentation.GetSegmentation().GetNthSegment(0).GetName() == "liver"


def test_several_rois_make_several_segments_and_one_undo_state(scene, runner):
    voxels = bright_block()
    voxels[2:6, 30:38, 35:48] = 150
    volume = scenes.add_volume(scene, voxels)
    segmentation = scenes.add_segmentation(scene, volume)
    rois = [roi_around_block(scene, "a"), scenes.add_roi(scene, (41, 33.5, 3.5), (15, 10, 6), "b")]
    report = run(runner, volume, rois, segmentation)
    assert [segment.name for segment in report.segments] == ["a", "b"]
    runner.writer.undo(segmentation)
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 0
    assert not runner.writer.canUndo(segmentation)


def test_prompts_and_progress_and_one_thread_for_everything(scene, runner):
    volume = scenes.add_volume(scene, bright_block())
    segmentation = scenes.add_segmentation(scene, volume)
    steps = []
    run(runner, volume, [roi_around_block(scene)], segmentation, progress=steps.append)
    run(runner, volume, [roi_around_block(scene, "again", 4)], segmentation)
    assert steps[-1].done <= steps[-1].total
    assert runner.worker.predictors.predictor.threads == {"DB-SAM inference"}


def test_embeddings_serve_the_next_prompt(scene, runner):
    volume = scenes.add_volume(scene, bright_block())
    segmentation = scenes.add_segmentation(scene, volume)
    roi = roi_around_block(scene)
    run(runner, volume, [roi], segmentation)
    encoded = runner.worker.predictors.predictor.encoded_slices
    report = run(runner, volume, [roi], segmentation)
    assert runner.worker.predictors.predictor.encoded_slices == encoded
    assert report.cacheHits > 0


def test_cancelling_changes_nothing_and_takes_effect_within_one_slice(scene, runner):
    volume = scenes.add_volume(scene, bright_block())
    segmentation = scenes.add_segmentation(scene, volume)
    predictor = runner.worker.predictors.predictor
    predictor.seconds_per_slice = 0.4  # slow enough that the engine encodes slices one by one
    cancel = CancelToken()
    seen = []

    def stop(step):
        if step.done >= 2 and not seen:
            cancel.cancel()
            seen.append(predictor.encoded_slices)

    before = scenes.node_count(scene)
    with pytest.raises(Cancelled):
        run(runner, volume, [roi_around_block(scene)], segmentation, progress=stop, cancel=cancel)
    runner.worker.waitFor(runner.warmUp("compact", "cpu"))  # behind what the worker is still doing
    assert predictor.encoded_slices <= seen[0] + 1
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 0
    assert not runner.writer.canUndo(segmentation)
    assert scenes.node_count(scene) == before + 1  # the ROI of this test


def test_a_failing_network_changes_nothing_and_the_next_run_works(scene, runner):
    volume = scenes.add_volume(scene, bright_block())
    segmentation = scenes.add_segmentation(scene, volume)
    predictor = runner.worker.predictors.predictor
    predictor.fail_at = 3
    with pytest.raises(SegmentationError, match="the network failed"):
        run(runner, volume, [roi_around_block(scene)], segmentation)
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 0
    predictor.fail_at = None
    assert run(runner, volume, [roi_around_block(scene, "again")], segmentation).segments


def test_full_memory_is_explained_and_embeddings_are_freed(scene, runner):
    volume = scenes.add_volume(scene, bright_block())
    segmentation = scenes.add_segmentation(scene, volume)
    predictor = runner.worker.predictors.predictor
    predictor.fail_at = 3
    predictor.error = MemoryError("no more")
    with pytest.raises(SegmentationError, match=r"memory was full.*run again"):
        run(runner, volume, [roi_around_block(scene)], segmentation)
    predictor.fail_at = None
    assert run(runner, volume, [roi_around_block(scene)], segmentation).cacheHits == 0


def start(runner, scene, volume, segmentation, **options):
    finished = []
    request = requestOf(volume, [roi_around_block(scene)], None, segmentation)
    job = runner.start(volume, segmentation, request, onFinished=finished.append, **options)
    return job, finished


def wait(runner, job):
    runner.worker.waitFor(job)


def test_a_volume_deleted_in_the_middle_drops_the_result(scene, runner):
    volume = scenes.add_volume(scene, bright_block())
    segmentation = scenes.add_segmentation(scene, volume)
    runner.worker.predictors.predictor.seconds_per_slice = 0.02
    job, finished = start(runner, scene, volume, segmentation)
    scene.RemoveNode(volume)
    wait(runner, job)
    assert finished == [job]
    assert job.cancelled
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 0


def test_a_volume_changed_in_the_middle_drops_the_result_and_says_so(scene, runner):
    volume = scenes.add_volume(scene, bright_block())
    segmentation = scenes.add_segmentation(scene, volume)
    runner.worker.predictors.predictor.seconds_per_slice = 0.02
    job, _ = start(runner, scene, volume, segmentation)
    volume.GetImageData().GetPointData().GetScalars().Modified()
    wait(runner, job)
    assert "was changed while it was being segmented" in str(job.error)
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 0


def test_a_closed_scene_cancels_the_run(scene, runner):
    volume = scenes.add_volume(scene, bright_block())
    segmentation = scenes.add_segmentation(scene, volume)
    runner.worker.predictors.predictor.seconds_per_slice = 0.02
    job, finished = start(runner, scene, volume, segmentation)
    scene.Clear(False)
    wait(runner, job)
    assert finished == [job]
    assert job.cancelled


def test_two_runs_started_together_are_both_written(scene, runner):
    volume = scenes.add_volume(scene, bright_block())
    segmentation = scenes.add_segmentation(scene, volume)
    first, _ = start(runner, scene, volume, segmentation)
    request = requestOf(volume, [roi_around_block(scene, "second")], None, segmentation)
    second = runner.start(volume, segmentation, request)
    wait(runner, second)
    assert [one.result.segments[0].name for one in (first, second)] == ["block", "second"]
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 2


def test_no_observer_node_or_process_is_left_when_the_runner_is_closed(scene):
    volume = scenes.add_volume(scene, bright_block())
    segmentation = scenes.add_segmentation(scene, volume)
    roi = roi_around_block(scene)
    before = scenes.node_count(scene)
    runner = SegmentationRunner(scene, ThresholdInWorker())
    run(runner, volume, [roi], segmentation)
    process = runner.worker.processId
    assert is_running(process)
    runner.close()
    assert not is_running(process)
    assert scenes.node_count(scene) == before
    scene.RemoveNode(volume)  # calls no observer of the closed runner
    with pytest.raises(RuntimeError, match="shutting down"):
        start(runner, scene, scenes.add_volume(scene, bright_block()), segmentation)


@pytest.mark.parametrize(
    ("voxels", "class_name"),
    [
        (np.where(BLOCK, 60000, 100).astype(np.uint16), "vtkMRMLScalarVolumeNode"),
        (np.where(BLOCK, 1.5, np.nan).astype(np.float32), "vtkMRMLScalarVolumeNode"),
        (np.repeat(np.where(BLOCK, 250, 5).astype(np.uint8)[..., None], 3, -1), "vtkMRMLVectorVolumeNode"),
        (np.where(BLOCK, 250, 5).astype(np.uint8), "vtkMRMLScalarVolumeNode"),
    ],
    ids=["16-bit unsigned", "floating point with NaN", "colour", "8-bit"],
)
def test_other_kinds_of_voxels_are_segmented_too(scene, runner, voxels, class_name):
    if voxels.dtype.kind == "f":
        voxels[0, 0, :2] = (0.1, 0.2)  # so that it isn't constant
    volume = scenes.add_volume(scene, voxels, class_name=class_name)
    segmentation = scenes.add_segmentation(scene, volume)
    report = run(runner, volume, [roi_around_block(scene)], segmentation)
    found = scenes.segment_array(segmentation, report.segments[0].segmentId, SHAPE)
    assert (found != BLOCK).sum() <= 0.1 * BLOCK.sum()


def test_a_one_slice_volume_is_segmented_on_that_slice(scene, runner):
    voxels = np.where(BLOCK[5:6], 250, 5).astype(np.uint8)
    volume = scenes.add_volume(scene, voxels)
    segmentation = scenes.add_segmentation(scene, volume)
    roi = scenes.add_roi(scene, (20.5, 17, 3.0), (22, 19, 10))
    report = run(runner, volume, [roi], segmentation)
    assert [one.index for one in report.segments[0].slices] == [0]
    found = scenes.segment_array(segmentation, report.segments[0].segmentId, (1, 40, 50))
    assert (found != BLOCK[5:6]).sum() <= 0.1 * BLOCK[5:6].sum()


def test_a_constant_image_is_refused_with_what_to_do(scene, runner):
    volume = scenes.add_volume(scene, np.full(SHAPE, 7, np.int16))
    segmentation = scenes.add_segmentation(scene, volume)
    with pytest.raises(SegmentationError, match="All values of the image are 7"):
        run(runner, volume, [roi_around_block(scene)], segmentation)


def test_an_roi_beside_the_volume_is_refused_with_what_to_do(scene, runner):
    volume = scenes.add_volume(scene, bright_block())
    segmentation = scenes.add_segmentation(scene, volume)
    with pytest.raises(SegmentationError, match="outside the volume"):
        run(runner, volume, [scenes.add_roi(scene, (500, 0, 0), (5, 5, 5))], segmentation)


def test_as_displayed_takes_the_window_of_the_display_node(scene, runner):
    volume = scenes.add_volume(scene, bright_block())
    display = scene.AddNewNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(200, 100)
    volume.SetAndObserveDisplayNodeID(display.GetID())
    segmentation = scenes.add_segmentation(scene, volume)
    report = run(runner, volume, [roi_around_block(scene)], segmentation, intensity="displayed")
    assert (report.segments[0].intensity.low, report.segments[0].intensity.high) == (0, 200)


OBLIQUE = scenes.rotation("x", 20) @ scenes.rotation("z", 35) @ np.diag([1.0, 1.0, 2.0, 1.0])


def test_rotated_volume_rotated_roi_and_finer_segmentation_meet_in_world(scene, runner):
    shape = (24, 48, 48)
    k, j, i = np.indices(shape)
    points = np.stack([i, j, k], -1) @ OBLIQUE[:3, :3].T
    center = np.array([23.5, 23.5, 11.5]) @ OBLIQUE[:3, :3].T
    radius = 12.0
    volume = scenes.add_volume(
        scene, np.where(np.linalg.norm(points - center, axis=-1) <= radius, 150, -1000).astype(np.int16), OBLIQUE
    )
    volumeToWorld = scenes.rotation("y", 30)
    volumeToWorld[:3, 3] = (3, -4, 5)
    volume.SetAndObserveTransformNodeID(scenes.add_transform(scene, volumeToWorld).GetID())
    centerWorld = (volumeToWorld @ [*center, 1])[:3]
    roiToWorld = scenes.rotation("x", 45)
    roi = scenes.add_roi(scene, (np.linalg.inv(roiToWorld) @ [*centerWorld, 1])[:3], (30, 30, 30))
    roi.SetAndObserveTransformNodeID(scenes.add_transform(scene, roiToWorld).GetID())
    grid = OBLIQUE @ np.diag([0.5, 0.5, 0.5, 1.0])
    finer = scenes.add_volume(scene, np.zeros((47, 95, 95), np.uint8), grid, "finer")
    segmentation = scenes.add_segmentation(scene, finer, ["seg"])
    segmentation.SetAndObserveTransformNodeID(volume.GetTransformNodeID())

    run(runner, volume, [roi], segmentation, ["seg"])

    found = scenes.segment_world_points(segmentation, "seg")
    distance = np.linalg.norm(found - centerWorld, axis=1)
    assert distance.max() <= radius + 2.0
    np.testing.assert_allclose(found.mean(axis=0), centerWorld, atol=1.0)
    ball = 4 / 3 * np.pi * radius**3
    assert len(found) * np.linalg.det(grid[:3, :3]) == pytest.approx(ball, rel=0.15)


def test_redo_from_here_changes_only_the_slices_outwards(scene, runner):
    volume = scenes.add_volume(scene, bright_block())
    segmentation = scenes.add_segmentation(scene, volume, ["seg"])
    roi = roi_around_block(scene)
    run(runner, volume, [roi], segmentation, ["seg"], axis="K")
    before = scenes.segment_array(segmentation, "seg", SHAPE)
    job = runner.startRedo(volume, roi, segmentation, "seg", 11, {11: (12, 10, 20, 25)})
    wait(runner, job)
    assert job.error is None
    after = scenes.segment_array(segmentation, "seg", SHAPE)
    np.testing.assert_array_equal(after[:11], before[:11])
    assert after[11].any()
    assert not after[11][:, 21:].any()
    assert [one.index for one in job.result.segments[0].slices] == sorted(
        one.index for one in job.result.segments[0].slices
    )


def test_redo_without_a_former_result_is_refused(scene, runner):
    volume = scenes.add_volume(scene, bright_block())
    segmentation = scenes.add_segmentation(scene, volume, ["seg"])
    with pytest.raises(ValueError, match="run the whole ROI first"):
        runner.startRedo(volume, roi_around_block(scene), segmentation, "seg", 5, {})


def test_the_preview_of_one_slice_writes_nothing(scene, runner):
    volume = scenes.add_volume(scene, bright_block())
    segmentation = scenes.add_segmentation(scene, volume, ["seg"])
    request = requestOf(volume, [roi_around_block(scene)], ["seg"], segmentation, axis="K")
    done = []
    job = runner.preview(request, 8, done.append)
    wait(runner, job)
    assert done == [job]
    (result,) = job.result
    assert result.extent_ijk[2] == (8, 8)
    assert abs(int(result.mask_KJI.sum()) - BLOCK[8].sum()) <= 0.15 * BLOCK[8].sum()
    assert not scenes.segment_array(segmentation, "seg", SHAPE).any()
    assert runner.preview(request, 19, done.append) is None


def test_the_estimate_is_a_usual_pace_until_slices_were_timed(scene, runner):
    volume = scenes.add_volume(scene, bright_block())
    segmentation = scenes.add_segmentation(scene, volume)
    runner.worker.predictors.predictor.seconds_per_slice = 0.01
    request_roi = roi_around_block(scene)
    request = requestOf(volume, [request_roi], None, segmentation, axis="K", device="cpu")
    slicer.app.settings().remove("DBSAM/Pace")
    usual = runner.estimateSeconds(request)
    assert usual == pytest.approx(6 + 0.1 * 14)  # the model is loaded, and the box cuts K-slices 2 to 15
    large = requestOf(volume, [request_roi], None, segmentation, axis="K", model="sam", device="cpu")
    assert runner.estimateSeconds(large) == pytest.approx(6 + 8 * 14)
    runner.segment(volume, segmentation, request)
    measured = runner.estimateSeconds(request)
    assert 0.01 < measured < 5
    assert measured != usual
    again = SegmentationRunner(scene, ThresholdInWorker())
    assert again.estimateSeconds(request) == pytest.approx(measured, abs=1), "the pace is kept for the next session"
    again.close()


def test_a_run_warns_of_what_the_library_doubts_and_of_what_the_segment_lacks(scene, runner):
    volume = scenes.add_volume(scene, bright_block())
    crop = scenes.add_volume(scene, np.zeros((8, 40, 50), np.int16), name="crop")
    segmentation = scenes.add_segmentation(scene, crop)
    too_small = scenes.add_roi(scene, (20.5, 17, 8.5), (10, 19, 14))
    report = run(runner, volume, [too_small], segmentation, axis="K")
    edge, outside = report.segments[0].warnings
    assert edge == "the mask touches the edge of the box on slices 4 to 13; a larger box may be needed"
    assert "outside the segmentation's geometry" in outside
    assert report.warnings == [f"roi: {edge}", f"roi: {outside}"]
