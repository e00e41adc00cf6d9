"""Interruptions at random moments, and how long the main thread is held up."""

import gc
import os
import random
import time

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("host", reason="needs slicer-core and PySide6")
import host
import slicer
import slicer_scene as scenes
from DBSAMSegmentLib.Mrml.NodeRequests import requestOf
from threshold_worker import ThresholdInWorker, ThresholdSettings

SHAPE = (12, 32, 32)
LONGEST_PAUSE_SECONDS = 0.05


def block_volume(scene):
    voxels = np.full(SHAPE, -1000, np.int16)
    voxels[2:10, 8:24, 8:24] = 150
    return scenes.add_volume(scene, voxels)


def observer_count(scene):
    return sum(
        bool(scene.HasObserver(event))
        for event in (slicer.vtkMRMLScene.StartCloseEvent, slicer.vtkMRMLScene.NodeRemovedEvent)
    )


def cancel(stage, rng):
    stage["job"].cancel.cancel()


def close_scene(stage, rng):
    stage["scene"].Clear(False)


def delete_volume(stage, rng):
    stage["scene"].RemoveNode(stage["volume"])


def delete_segmentation(stage, rng):
    stage["scene"].RemoveNode(stage["segmentation"])


def delete_segment(stage, rng):
    stage["segmentation"].GetSegmentation().RemoveSegment("target")


def delete_roi(stage, rng):
    stage["scene"].RemoveNode(stage["roi"])


def replace_model(stage, rng):
    stage["runner"].worker.predictors.predictor = ThresholdSettings(
        "slice", 32, seconds_per_slice=0.003, name=f"other {rng.random()}"
    )


def second_run(stage, rng):
    request = requestOf(stage["volume"], [stage["roi"]], ["other"], stage["segmentation"])
    stage["second"] = stage["runner"].start(
        stage["volume"], stage["segmentation"], request, onFinished=stage["finished"].append
    )


def preview(stage, rng):
    request = requestOf(stage["volume"], [stage["roi"]], None, stage["segmentation"], axis="K")
    stage["runner"].preview(request, 5, lambda job: None)


def change_voxels(stage, rng):
    stage["volume"].GetImageData().GetPointData().GetScalars().Modified()


def fail(stage, rng):
    stage["runner"].worker.predictors.predictor.fail_at = 0


ACTIONS = (
    cancel,
    close_scene,
    delete_volume,
    delete_segmentation,
    delete_segment,
    delete_roi,
    replace_model,
    second_run,
    preview,
    change_voxels,
    fail,
)


def test_random_interruptions_lose_no_segment_and_leave_nothing_behind():
    count = int(os.environ.get("DBSAM_TEST_INTERRUPTIONS", "55"))
    from DBSAMSegmentLib.Run.Runner import SegmentationRunner

    scene = scenes.new_scene()
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)  # the application's scene always has it
    rng = random.Random(7)
    runner = SegmentationRunner(scene, ThresholdInWorker())
    happened = dict.fromkeys(("written", "cancelled", "refused"), 0)
    try:
        for number in range(count):
            action = ACTIONS[number % len(ACTIONS)]
            rule = ThresholdSettings("slice", 32, seconds_per_slice=0.003, name=f"run {number}")
            runner.worker.predictors.predictor = rule
            volume = block_volume(scene)
            segmentation = scenes.add_segmentation(scene, volume, ["target", "other", "kept"])
            kept = np.zeros(SHAPE, bool)
            kept[0:3, 0:9, 0:9] = True
            from DBSAMSegmentLib.Write.SegmentWriter import SegmentMask

            runner.writer.write(volume, segmentation, [SegmentMask("kept", kept, ((0, 31), (0, 31), (0, 11)))])
            roi = scenes.add_roi(scene, (15.5, 15.5, 5.5), (20, 20, 12))
            stage = {
                "scene": scene,
                "volume": volume,
                "segmentation": segmentation,
                "roi": roi,
                "runner": runner,
                "finished": [],
            }
            nodes = scenes.node_names(scene)
            request = requestOf(volume, [roi], ["target"], segmentation)
            stage["job"] = runner.start(volume, segmentation, request, onFinished=stage["finished"].append)

            deadline = time.monotonic() + rng.uniform(0, 0.06)
            while time.monotonic() < deadline:
                runner.worker.poll()
                time.sleep(0.001)
            action(stage, rng)
            deadline = time.monotonic() + 10
            while runner.worker.poll():
                assert time.monotonic() < deadline, f"{action.__name__}: work never ended"
                time.sleep(0.001)

            jobs = [stage["job"]] + ([stage["second"]] if "second" in stage else [])
            assert stage["finished"] == jobs, f"{action.__name__}: every run ends exactly once"
            for job in jobs:
                outcome = "cancelled" if job.cancelled else "refused" if job.error is not None else "written"
                happened[outcome] += 1
                assert not (
                    job.error is not None and type(job.error).__name__ not in ("SegmentationError", "GeometryError")
                ), f"{action.__name__}: {job.error!r}"
            if scene.IsNodePresent(segmentation):
                np.testing.assert_array_equal(scenes.segment_array(segmentation, "kept", SHAPE), kept)
            gone = {
                "close_scene": None,
                "delete_volume": 1,
                "delete_segmentation": 1,
                "delete_roi": 1,
            }.get(action.__name__, 0)
            if gone is not None:
                assert len(scenes.node_names(scene)) == len(nodes) - gone, action.__name__
            for node in (volume, segmentation, roi):
                if scene.IsNodePresent(node):
                    scene.RemoveNode(node)
            assert runner._jobNodes == {}
    finally:
        runner.close()
    assert all(times > 5 for times in happened.values()), happened
    assert runner.worker.busy is False


def test_closing_a_runner_takes_its_observers_off_the_scene():
    from DBSAMSegmentLib.Run.Runner import SegmentationRunner

    scene = scenes.new_scene()
    before = observer_count(scene)
    runner = SegmentationRunner(scene, ThresholdInWorker())
    assert observer_count(scene) > before
    runner.close()
    assert observer_count(scene) == before


def test_the_main_thread_is_never_held_up_in_a_run_of_100_slices():
    """A timer of the event loop measures the pauses between its ticks, in wall time and in the main thread's own work.

    Wall time says something only where this process gets a processor when it wants one, and where no garbage collection
    goes through what all tests before have left: some 0.3 s, which every thread waits for.
    """
    host.start()
    import qt
    from DBSAMSegmentLib.Run.Runner import SegmentationRunner

    scene = scenes.new_scene()
    voxels = np.full((120, 256, 256), -1000, np.int16)
    voxels[10:110, 64:192, 64:192] = 150
    volume = scenes.add_volume(scene, voxels)
    segmentation = scenes.add_segmentation(scene, volume, ["target"])
    roi = scenes.add_roi(scene, (127.5, 127.5, 59.5), (140, 140, 110))
    runner = SegmentationRunner(scene, ThresholdInWorker(ThresholdSettings("slice", 256, seconds_per_slice=0.01)))
    finished, pauses, work, last = [], [], [], [time.perf_counter(), time.thread_time()]
    watch = qt.QTimer()
    watch.setInterval(1)

    def tick():
        now = time.perf_counter(), time.thread_time()
        pauses.append(now[0] - last[0])
        work.append(now[1] - last[1])
        last[:] = now

    watch.connect("timeout()", tick)
    try:
        gc.collect()
        gc.freeze()
        request = requestOf(volume, [roi], ["target"], segmentation, axis="K")
        watch.start()
        host.process_events(0.1)
        pauses.clear()
        work.clear()
        runner.start(volume, segmentation, request, onFinished=finished.append)
        assert host.process_events(60, lambda: bool(finished))
        host.process_events(0.1)
    finally:
        gc.unfreeze()
        watch.stop()
        runner.close()
    assert finished[0].error is None
    assert len(finished[0].result.segments[0].slices) >= 100
    assert max(work) < LONGEST_PAUSE_SECONDS
    if os.getloadavg()[0] < os.cpu_count():
        assert max(pauses) < LONGEST_PAUSE_SECONDS


def test_a_large_volume_is_written_in_its_changed_extent_and_the_cache_stays_under_its_limit():
    from DBSAMSegmentLib.Run.Runner import SegmentationRunner

    scene = scenes.new_scene()
    voxels = np.full((300, 512, 512), 5, np.uint8)
    voxels[100:160, 200:300, 180:320] = 250
    volume = scenes.add_volume(scene, voxels)
    segmentation = scenes.add_segmentation(scene, volume, ["target"])
    roi = scenes.add_roi(scene, (249.5, 249.5, 129.5), (160, 120, 60))
    limit = 3 * 2**20
    runner = SegmentationRunner(
        scene, ThresholdInWorker(ThresholdSettings("slice", 256, seconds_per_slice=0)), cacheBytes=limit
    )
    try:
        request = requestOf(volume, [roi], ["target"], segmentation, axis="K", strategy="box")
        report = runner.segment(volume, segmentation, request)
        assert len(report.segments[0].slices) == 60
        again = runner.segment(volume, segmentation, request)
        assert 0 < again.cacheHits <= limit // (256 * 256 * 3 * 4)
    finally:
        runner.close()
    extent = segmentation.GetBinaryLabelmapInternalRepresentation("target").GetExtent()
    for axis, (low, high) in enumerate(((180, 319), (200, 299), (100, 159))):
        assert abs(extent[2 * axis] - low) <= 3
        assert abs(extent[2 * axis + 1] - high) <= 3
