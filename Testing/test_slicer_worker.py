"""All doors of the application lead to the worker: what it computes, and that torch never enters the application."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer")
import slicer_scene as scenes
from DBSAMSegmentLib.Mrml.NodeRequests import requestOf
from DBSAMSegmentLib.Run.Runner import SegmentationError, SegmentationRunner
from processes import has_ended, is_running
from threshold_worker import ThresholdInWorker, ThresholdSettings

from dbsam.worker.client import Job
from dbsam.worker.protocol import LoadTask

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "Resources" / "Sample"
SHAPE = (12, 32, 32)

# Everything once, in an application of its own, which other tests have not imported anything into.
EVERY_DOOR = """
import sys
sys.path[:0] = {paths!r}
import host
host.start()
import numpy as np, slicer
import slicer_scene as scenes
volume = slicer.util.loadVolume({volume!r})
roi = slicer.util.loadMarkups({roi!r})
widget = host.open_module("DBSAMSegment")
node = widget.logic.getParameterNode()
node.volume, node.rois, node.device = volume, [roi], "cpu"
host.process_events(0.1)

# the panel, with preparing and a preview
node.prefetch = True
host.process_events(2)
widget.ui.applyButton.click()
assert host.process_events(300, lambda: widget.panel.run.job is None)
assert node.segmentation.GetSegmentation().GetNumberOfSegments() == 1, widget.ui.statusLabel.text
widget.logic.runner.undo(node.segmentation)

# the console
report = widget.logic.segment(volume, roi, node.segmentation, device="cpu")
assert report.segments[0].voxels > 1000

# a batch
from DBSAMSegmentLib.Run.Batches import BatchCase
reports = widget.logic.segmentBatch([BatchCase({volume!r}, [{roi!r}])], device="cpu")
assert [one.error for one in reports] == [""]

# the effect
host.load_module(host.MODULES["SegmentEditorDBSAM"])
host.complete_startup()
editor = host.activate_effect("DB-SAM", node.segmentation, volume, report.segments[0].segmentId)
effect = editor.self()
effect.previewBox(2, 20, (40.0, 40.0, 60.0, 60.0))
assert effect.job is not None
assert host.process_events(300, lambda: effect.job is None)
assert effect._preview is not None

# the weights
from DBSAMSegmentLib.Panel.WeightsDialog import WeightsDialog
import qt
qt.QFileDialog.getOpenFileName = staticmethod(lambda *_: {weights!r})
dialog = WeightsDialog()
dialog.onChooseFile()
assert host.process_events(120, lambda: dialog._job is None)
assert dialog.chosenModel == {weights!r}, dialog.statusLabel.text
dialog.shutDown()

packages = {{name.partition(".")[0] for name in sys.modules}}
loaded = sorted(packages & {{"torch", "torchvision", "segment_anything", "triton"}})
print("IN THE APPLICATION:", loaded, "WORKER:", widget.logic.runner.worker.processId, flush=True)
slicer.app.aboutToQuit.emit()
host.process_events(0.2)
"""


def test_torch_is_never_in_the_applications_process_whatever_was_used(tmp_path):
    code = EVERY_DOOR.format(
        paths=sys.path,
        volume=str(SAMPLE / "phantom_ct.nrrd"),
        roi=str(SAMPLE / "phantom_roi.mrk.json"),
        weights=str(ROOT / "DBSAMSegment/Resources/Models/dbsam_compact.safetensors"),
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "TEMP": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=900, env=environment
    )
    assert done.returncode == 0, done.stderr
    said = next(line for line in done.stdout.splitlines() if line.startswith("IN THE APPLICATION"))
    assert said.startswith("IN THE APPLICATION: [] WORKER: ")
    assert has_ended(int(said.rpartition(" ")[2]), 10)
    # The stand-in's own folders are the application's; of the worker nothing is left.
    assert [path.name for path in tmp_path.iterdir() if "dbsam" in path.name.lower()] == []


def block_volume(scene):
    voxels = np.full(SHAPE, -1000, np.int16)
    voxels[3:9, 9:24, 8:25] = 150
    return scenes.add_volume(scene, voxels)


def kill_worker(runner):
    process = runner.worker.processId
    if process is not None and is_running(process):
        os.kill(process, signal.SIGKILL)
        return True
    # Still starting: what was started is killed.
    link = runner.worker.client._link
    if link is not None:
        link._process.kill()
        return True
    return False


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_worker_killed_at_random_moments_loses_nothing_and_the_next_run_is_right():
    kill_at_random_moments(int(os.environ.get("DBSAM_TEST_KILLS", "12")))


def kill_at_random_moments(count):
    """Kills the worker in runs, previews, loading; what is written is whole or not at all, and then all works."""
    scene = scenes.new_scene()
    rng = random.Random(11)
    runner = SegmentationRunner(scene, ThresholdInWorker(ThresholdSettings("slice", 32)))
    volume = block_volume(scene)
    roi = scenes.add_roi(scene, (15.5, 15.5, 5.5), (20, 20, 12))
    reference = scenes.add_segmentation(scene, volume, ["target"])
    request = requestOf(volume, [roi], ["target"], reference, axis="K")
    runner.segment(volume, reference, request)
    whole = scenes.segment_array(reference, "target", SHAPE).copy()
    assert whole.any()
    seen = {"named": 0, "written": 0, "processes": set()}
    try:
        for number in range(count):
            what = ("run", "preview", "loading")[number % 3]
            rule = ThresholdSettings("slice", 32, seconds_per_slice=0.02, name=f"rule {number}")
            runner.worker.predictors.predictor = rule
            segmentation = scenes.add_segmentation(scene, volume, ["target"])
            finished = []
            if what == "run":
                job = runner.start(volume, segmentation, request, onFinished=finished.append)
            elif what == "preview":
                job = runner.preview(request, 5, finished.append)
            else:
                job = runner.worker.submit(Job(LoadTask("rule", "cpu"), on_finished=finished.append))
            until = time.monotonic() + rng.uniform(0, 0.5)
            while time.monotonic() < until and not finished:
                runner.worker.poll()
                time.sleep(0.001)
            seen["processes"].add(runner.worker.processId)
            kill_worker(runner)
            deadline = time.monotonic() + 60
            while runner.worker.poll():
                assert time.monotonic() < deadline, f"{what}: work never ended"
                time.sleep(0.001)
            assert finished == [job], f"{what}: it ends exactly once"
            if job.error is not None:
                seen["named"] += 1
                assert "ended unexpectedly" in str(job.error) or "could not be started" in str(job.error)
            found = scenes.segment_array(segmentation, "target", SHAPE)
            if what == "run" and job.error is None:
                seen["written"] += 1
                np.testing.assert_array_equal(found, whole)
            else:
                assert not found.any(), "nothing is half written"
            runner.segment(volume, segmentation, request)
            np.testing.assert_array_equal(scenes.segment_array(segmentation, "target", SHAPE), whole)
            scene.RemoveNode(segmentation)
        assert runner._jobNodes == {}
        seen["processes"].add(runner.worker.processId)
    finally:
        runner.close()
    assert seen["named"] > 0
    assert all(has_ended(process, 10) for process in seen["processes"] - {None})
    return seen


def test_a_download_that_loses_its_worker_is_named_and_goes_on_where_it_was(tmp_path, monkeypatch):
    import hashlib
    import http.server
    import threading

    content = bytes(range(256)) * 40000
    served = []

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            first = int(self.headers.get("Range", "bytes=0-").split("=")[1].split("-")[0])
            served.append(first)
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(content) - first))
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            for start in range(first, len(content), 65536):
                self.wfile.write(content[start : min(start + 65536, len(content))])
                if len(served) <= 3:
                    time.sleep(0.02)

        def log_message(self, *_):
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow)
    # In a thread of this process it would starve while the event loop waits; here nothing but sleeping waits.
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "served_weights.py").write_text(
        textwrap.dedent(f"""
        from dataclasses import replace
        from dbsam.weights import registry
        from dbsam.weights.download import Digest, RemoteFile
        from threshold_worker import Source
        remote = RemoteFile("http://127.0.0.1:{server.server_port}/sam.pth", {len(content)},
                            Digest("sha256", "{hashlib.sha256(content).hexdigest()}"))
        registry.REGISTRY["sam"] = replace(registry.REGISTRY["sam"], remote=remote)
        """),
        encoding="utf-8",
    )
    monkeypatch.setenv("DBSAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ["PYTHONPATH"]]))
    from dbsam.worker.protocol import DownloadTask

    rule = ThresholdInWorker()
    runner = SegmentationRunner(scenes.new_scene(), rule)
    runner.worker.predictors = type("Served", (), {"source": "served_weights:Source", "options": rule.options})
    progress = []
    try:
        for arrived in (200_000, 1_500_000, 3_000_000):
            job = runner.worker.submit(Job(DownloadTask("sam"), on_progress=progress.append))
            while not any(step.done > arrived for step in progress):
                assert not job.delivered
                runner.worker.poll()
                time.sleep(0.005)
            kill_worker(runner)
            while not job.delivered:
                runner.worker.poll()
                time.sleep(0.005)
            assert "ended unexpectedly" in str(job.error)
        again = runner.worker.submit(Job(DownloadTask("sam")))
        while not again.delivered:
            runner.worker.poll()
            time.sleep(0.005)
        assert again.error is None
        assert Path(again.result).read_bytes() == content
        assert served[-1] > 0, "it went on where it was"
    finally:
        runner.close()
        server.shutdown()


def test_a_blocking_call_serves_the_event_loop_and_can_be_cancelled_from_it():
    import qt

    from dbsam.progress import Cancelled, CancelToken

    scene = scenes.new_scene()
    runner = SegmentationRunner(scene, ThresholdInWorker(ThresholdSettings("slice", 32, seconds_per_slice=0.2)))
    volume = block_volume(scene)
    segmentation = scenes.add_segmentation(scene, volume, ["target"])
    roi = scenes.add_roi(scene, (15.5, 15.5, 5.5), (20, 20, 12))
    ticks, token = [], CancelToken()
    timer = qt.QTimer()
    timer.setInterval(10)
    timer.connect("timeout()", lambda: ticks.append(time.monotonic()))
    timer.start()
    qt.QTimer.singleShot(700, token.cancel)
    try:
        with pytest.raises(Cancelled):
            runner.segment(volume, segmentation, requestOf(volume, [roi], ["target"], segmentation), cancel=token)
    finally:
        timer.stop()
        runner.close()
    assert len(ticks) > 10
    assert not scenes.segment_array(segmentation, "target", SHAPE).any()


def test_a_model_that_cannot_be_loaded_is_told_as_the_library_tells_it(tmp_path):
    damaged = tmp_path / "own.safetensors"
    damaged.write_bytes(b"no weights")
    scene = scenes.new_scene()
    runner = SegmentationRunner(scene)
    volume = block_volume(scene)
    segmentation = scenes.add_segmentation(scene, volume, ["target"])
    roi = scenes.add_roi(scene, (15.5, 15.5, 5.5), (20, 20, 12))
    try:
        with pytest.raises(SegmentationError, match=r"own\.safetensors .* is truncated or not a safetensors file"):
            runner.segment(volume, segmentation, requestOf(volume, [roi], None, segmentation, model=str(damaged)))
    finally:
        runner.close()
