"""The worker process asked over its protocol: order, cancelling, errors, its ends, and that nothing is left of it."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from processes import has_ended, is_running
from threshold_predictor import ThresholdPredictor
from threshold_worker import ThresholdInWorker, ThresholdSettings

from dbsam.geometry.grid import ImageGeometry, OrientedBox
from dbsam.inference.segmenter import VolumeSegmenter
from dbsam.preprocess.volume import Volume
from dbsam.progress import CancelToken
from dbsam.worker.channel import framed
from dbsam.worker.client import STARTING, Job, WorkerClient, WorkerEnded, WorkerError
from dbsam.worker.networks import Networks, is_memory_full
from dbsam.worker.protocol import (
    VERSION,
    Answer,
    DescribeTask,
    LoadTask,
    PrefetchTask,
    Priority,
    SegmentTask,
    VolumeBegin,
    VolumePart,
    encode,
)
from dbsam.worker.values import ProtocolError
from dbsam.worker.volumes import VolumeStore

SHAPE = (20, 40, 50)
BOX = OrientedBox(np.array([20.5, 17.0, 8.5]), np.diag([11.0, 9.5, 7.0]))


def bright_block(low=-1000, high=150):
    voxels = np.full(SHAPE, low, np.int16)
    voxels[4:14, 10:25, 12:30] = high
    return Volume(voxels, ImageGeometry.from_spacing((1, 1, 1), SHAPE[::-1]))


VOLUME = bright_block()


@pytest.fixture
def rule():
    return ThresholdInWorker(ThresholdSettings("slice", size=50))


@pytest.fixture
def client(rule):
    result = client_of(rule)
    yield result
    result.stop()


@pytest.fixture
def heeding_ctrl_c():
    """What a shell started in the background ignores Ctrl+C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class UnchangingVoxels:
    volume: Volume

    @property
    def identity(self) -> str:
        return self.volume.identity

    @property
    def geometry(self) -> ImageGeometry:
        return self.volume.geometry

    @property
    def voxels(self) -> NDArray[np.generic]:
        return self.volume.voxels

    def changed(self) -> bool:
        return False


def client_of(rule, **options):
    return WorkerClient(sys.executable, source=rule.source, source_options=rule.options, **options)


def segment_job(volume=VOLUME, model="rule", boxes=(BOX,), with_slices=False, **options):
    names = tuple(f"box {number}" for number in range(len(boxes)))
    settings = {"axis": "K", "strategy": "track", "intensity": "auto"}
    task = SegmentTask(volume.identity, tuple(boxes), names, model, "cpu", settings, with_slices)
    return Job(task, volume=UnchangingVoxels(volume), **options)


def started(client):
    """Starts the worker; returns its process."""
    client.wait_for(client.submit(Job(LoadTask("rule", "cpu"))))
    return client.process_id


def wait_until(client, condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition():
        client.poll()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_results_are_those_of_the_library_and_news_arrive_in_order(client):
    seen = []
    job = segment_job(
        boxes=(BOX, BOX),
        with_slices=True,
        on_progress=lambda progress: seen.append(progress),
        on_slice=lambda decided: seen.append(decided),
        on_finished=lambda job: seen.append("finished"),
    )
    client.wait_for(client.submit(job))
    assert job.error is None
    expected = VolumeSegmenter(ThresholdPredictor("slice", size=50)).segment(VOLUME, BOX, axis="K")
    first, second = job.result.segmentations
    for found in (first, second):
        np.testing.assert_array_equal(found.mask_KJI, expected.mask_KJI)
        assert found.mask_KJI.dtype == np.uint8
        assert found.slices == expected.slices
        assert (found.extent_ijk, found.axis, found.intensity) == (
            expected.extent_ijk, expected.axis, expected.intensity,
        )  # fmt: skip
    assert seen[-1] == "finished"
    assert seen.count("finished") == 1
    stages = [one.stage for one in seen if hasattr(one, "stage")]
    assert stages[0] == STARTING
    assert stages[-1].endswith(": segmenting")
    assert all((one.total == 0) == (not one.stage.endswith("segmenting")) for one in seen if hasattr(one, "stage"))
    slices = [one for one in seen if hasattr(one, "report")]
    assert [one.prompt for one in slices] == sorted(one.prompt for one in slices)
    whole = np.zeros(SHAPE, np.uint8)
    for one in slices:
        if one.prompt == 0:
            (y, x), (height, width) = one.origin_yx, one.mask.shape
            whole[one.report.index, y : y + height, x : x + width] = one.mask
    np.testing.assert_array_equal(whole, first.labelmap_KJI())


def test_a_volume_is_sent_once_and_again_when_it_has_changed(client, monkeypatch):
    import dbsam.worker.client as module

    sent = []
    whole = module._parts
    monkeypatch.setattr(module, "_parts", lambda voxels: sent.append(voxels.shape) or whole(voxels))
    for volume in (VOLUME, VOLUME, bright_block(high=120), VOLUME):
        job = client.submit(segment_job(volume))
        client.wait_for(job)
        assert job.error is None
    assert len(sent) == 3


@pytest.mark.parametrize(
    "voxels",
    [
        np.asfortranarray(VOLUME.voxels),
        np.repeat(np.where(VOLUME.voxels > 0, 250, 5).astype(np.uint8)[..., None], 4, -1)[..., :3],
        VOLUME.voxels.astype(np.float64),
        np.pad(VOLUME.voxels, ((0, 0), (0, 300), (0, 400)), constant_values=-1000),
    ],
    ids=["transposed", "colour", "floating point", "several megabytes"],
)
def test_voxels_of_all_kinds_arrive_as_they_are(client, voxels):
    volume = Volume(voxels, ImageGeometry.from_spacing((1, 1, 1), voxels.shape[2::-1]))
    job = client.submit(segment_job(volume))
    client.wait_for(job)
    expected = VolumeSegmenter(ThresholdPredictor("slice", size=50)).segment(volume, BOX, axis="K")
    np.testing.assert_array_equal(job.result.segmentations[0].mask_KJI, expected.mask_KJI)
    assert expected.mask_KJI.any()


def test_a_volume_that_changes_while_it_is_sent_is_not_read_on(client):
    class Changing(UnchangingVoxels):
        def changed(self):
            return True

    job = segment_job()
    job.volume = Changing(VOLUME)
    client.wait_for(client.submit(job))
    assert "was changed while it was being segmented" in str(job.error)


def test_previews_go_before_runs_and_idle_work_gives_way(client, rule):
    rule.predictor.seconds_per_slice = 0.05
    prefetch = Job(
        PrefetchTask(VOLUME.identity, BOX, "rule", "cpu", {"axis": "K"}),
        priority=Priority.IDLE,
        volume=UnchangingVoxels(VOLUME),
    )
    client.submit(prefetch)
    wait_until(client, lambda: rule.predictor.encoded_slices > 0)
    order = []
    order_of_submission = [("run", Priority.RUN), ("second run", Priority.RUN), ("preview", Priority.PREVIEW)]
    jobs = [
        segment_job(priority=priority, on_finished=lambda job, name=name: order.append(name))
        for name, priority in order_of_submission
    ]
    for job in jobs:
        client.submit(job)
    for job in (prefetch, *jobs):
        client.wait_for(job)
    assert prefetch.cancelled
    # The first run may have begun before the preview was there.
    assert order in (["preview", "run", "second run"], ["run", "preview", "second run"])


def test_cancelling_is_told_at_once_and_the_worker_stops_within_one_slice(client, rule):
    rule.predictor.seconds_per_slice = 0.3
    started(client)
    job = client.submit(segment_job())
    wait_until(client, lambda: rule.predictor.encoded_slices >= 2)
    job.cancel.cancel()
    began = time.monotonic()
    client.poll()
    assert job.delivered
    assert job.cancelled
    assert time.monotonic() - began < rule.predictor.seconds_per_slice
    encoded = rule.predictor.encoded_slices
    started(client)
    assert rule.predictor.encoded_slices <= encoded + 1


def test_a_job_cancelled_while_it_waits_never_starts(client, rule):
    rule.predictor.seconds_per_slice = 0.05
    first, second = client.submit(segment_job()), client.submit(segment_job(model="never"))
    second.cancel.cancel()
    client.wait_for(first)
    started(client)
    assert second.cancelled
    assert "never" not in [model for model, _ in rule.asked]


def test_an_error_is_the_jobs_and_the_worker_goes_on(client, rule):
    rule.predictor.fail_at = 2
    failing = client.submit(segment_job())
    client.wait_for(failing)
    assert isinstance(failing.error, WorkerError)
    assert (str(failing.error), failing.error.kind) == ("the network failed", "RuntimeError")
    assert "threshold_predictor.py" in failing.error.trace
    process = client.process_id
    rule.predictor.fail_at = None
    after = client.submit(segment_job())
    client.wait_for(after)
    assert after.error is None
    assert client.process_id == process


def test_a_callback_that_fails_keeps_no_other_from_running(client):
    delivered = []
    jobs = [segment_job(on_finished=lambda job: 1 / 0), segment_job(on_finished=delivered.append)]
    for job in jobs:
        client.submit(job)
    for job in jobs:
        client.wait_for(job)
    assert delivered == jobs[1:]


def test_what_a_job_holds_is_let_go_of_when_it_was_delivered(client):
    class Node:
        def __del__(self):
            deleted.append(True)

    deleted = []

    def submitted():
        node = Node()
        return client.submit(segment_job(on_finished=lambda job: node))

    client.wait_for(submitted())
    assert deleted == [True]


def test_a_worker_killed_in_a_job_is_named_and_the_next_job_has_a_new_one(client, rule):
    rule.predictor.seconds_per_slice = 0.05
    process = started(client)
    job = client.submit(segment_job())
    wait_until(client, lambda: rule.predictor.encoded_slices > 1)
    os.kill(process, signal.SIGKILL)
    client.wait_for(job)
    assert isinstance(job.error, WorkerEnded)
    for words in ("ended unexpectedly", "SIGKILL", "nothing was changed", "out of memory", "starts anew"):
        assert words in str(job.error)
    again = client.submit(segment_job())
    client.wait_for(again)
    assert again.result.segmentations[0].mask_KJI.any()
    assert client.process_id != process


def test_its_last_words_are_told(client):
    started(client)
    job = client.submit(Job(DescribeTask("/dev/null" if os.name != "nt" else "NUL")))
    client.wait_for(job)
    assert "is truncated or not" in str(job.error)
    os.kill(client.process_id, signal.SIGSEGV)
    job = client.submit(segment_job(with_slices=True))
    client.wait_for(job)
    assert job.error is None, "what had not begun is done by the next worker"


def test_what_waits_behind_a_job_that_ends_the_worker_is_done_by_the_next(client, rule):
    rule.predictor.seconds_per_slice = 0.05
    process = started(client)
    first, second = client.submit(segment_job()), client.submit(segment_job())
    wait_until(client, lambda: rule.predictor.encoded_slices > 1)
    os.kill(process, signal.SIGKILL)
    client.wait_for(first)
    client.wait_for(second)
    assert isinstance(first.error, WorkerEnded)
    assert second.error is None
    assert second.result.segmentations[0].mask_KJI.any()


def test_a_worker_that_always_ends_is_not_started_for_ever(client, rule):
    options = {**rule.options, "dies": True}
    broken = WorkerClient(sys.executable, source="threshold_worker:Dying", source_options=options)
    try:
        job = broken.submit(segment_job())
        broken.wait_for(job)
        assert "could not be started" in str(job.error)
        assert "exit code 7" in str(job.error)
        assert "these are my last words" in str(job.error)
    finally:
        broken.stop()


def test_a_source_of_networks_that_is_not_there_is_named():
    client = WorkerClient(sys.executable, source="nowhere.at.all:Networks")
    job = client.submit(segment_job())
    client.wait_for(job)
    assert "nowhere.at.all:Networks" in str(job.error)
    client.stop()


def test_an_interpreter_that_is_not_there_is_named():
    client = WorkerClient("/no/such/python")
    job = client.submit(segment_job())
    client.wait_for(job)
    assert "could not be started with '/no/such/python'" in str(job.error)


def test_an_idle_worker_ends_and_the_next_job_starts_another(rule):
    client = client_of(rule, idle_seconds=0.5)
    process = started(client)
    assert has_ended(process, 10)
    job = client.submit(segment_job())
    client.wait_for(job)
    assert job.error is None
    assert client.process_id != process
    client.stop()


def test_the_process_ends_with_stop_also_in_the_middle_of_a_slice(client, rule):
    rule.predictor.seconds_per_slice = 5
    process = started(client)
    delivered = []
    client.submit(segment_job(on_finished=delivered.append))
    wait_until(client, lambda: bool(rule.predictor.threads))
    began = time.monotonic()
    client.stop()
    assert time.monotonic() - began < rule.predictor.seconds_per_slice
    assert not is_running(process)
    client.poll()
    assert delivered == []
    with pytest.raises(RuntimeError, match="shutting down"):
        client.submit(segment_job())


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_ctrl_c_cancels_what_is_waited_for_and_spares_the_worker(client, rule, heeding_ctrl_c):
    rule.predictor.seconds_per_slice = 0.1
    process = started(client)
    job = client.submit(segment_job())
    count = []

    def interrupt():
        count.append(1)
        if len(count) == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        client.wait_for(job, interrupt)
    assert job.cancelled
    os.kill(process, signal.SIGINT)  # as a terminal sends to the whole group
    started(client)
    assert client.process_id == process


def test_strangers_are_refused_and_do_not_disturb(client, monkeypatch):
    ports = []

    class Listening(socket.socket):
        def listen(self, *args):
            super().listen(*args)
            ports.append(self.getsockname()[1])

    monkeypatch.setattr("dbsam.worker.client.socket.socket", Listening)
    job = client.submit(segment_job())
    strangers = []
    for sent in (b"", b"GET / HTTP/1.1\r\n\r\n" * 10, b"\xff" * 64, framed_answer()):
        stranger = socket.create_connection(("127.0.0.1", ports[0]))
        stranger.sendall(sent)
        strangers.append(stranger)
    client.wait_for(job)
    assert job.error is None
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", ports[0]))
    for stranger in strangers:
        stranger.close()


def framed_answer():
    """The answer of a process that speaks the protocol and doesn't know the key."""
    return b"".join(framed(*encode(Answer(VERSION, "0" * 64, "nonce", 1))))


def test_a_worker_without_the_key_gives_up():
    environment = {name: value for name, value in os.environ.items() if name != "DBSAM_WORKER_KEY"}
    command = [sys.executable, "-m", "dbsam.worker", "1"]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ended.returncode == 2
    assert "started by DB-SAM, not by hand" in ended.stderr


APPLICATION = """
import sys, time
sys.path[:0] = {paths!r}
import test_worker as t
rule = t.ThresholdInWorker(t.ThresholdSettings("slice", size=50, seconds_per_slice=0.2))
client = t.WorkerClient({python!r}, source=rule.source, source_options=rule.options)
t.started(client)
client.submit(t.segment_job())
print(client.process_id, flush=True)
while True:
    client.poll()
    time.sleep(0.01)
"""


@pytest.mark.skipif(os.name == "nt", reason="a launcher of its own")
@pytest.mark.parametrize("launched", [False, True], ids=["python", "behind a launcher"])
def test_when_the_application_is_killed_no_worker_is_left(tmp_path, launched):
    python = sys.executable
    if launched:  # as PythonSlicer is one: a process that waits for the interpreter that it has started
        python = str(tmp_path / "PythonSlicer")
        with open(python, "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n')
        os.chmod(python, 0o755)
    code = APPLICATION.format(paths=sys.path, python=python)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    application = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(temporary)}
    )
    worker = int(application.stdout.readline())
    assert is_running(worker)
    application.kill()
    application.wait()
    assert has_ended(worker, 10)
    # The rule's settings are the test's own; voxels and what the worker says lie in no file that has a name.
    assert [path.name for path in temporary.iterdir() if not path.name.startswith("dbsam-threshold-")] == []


@pytest.mark.skipif(os.name == "nt", reason="a launcher of its own")
def test_behind_a_launcher_all_of_the_tree_ends_with_stop(tmp_path, rule):
    launcher = tmp_path / "PythonSlicer"
    launcher.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\nexit $?\n', encoding="utf-8")
    launcher.chmod(0o755)
    client = WorkerClient(str(launcher), source=rule.source, source_options=rule.options)
    process = started(client)
    tree = [process, client._link._process.process_id]
    assert tree[0] != tree[1]
    os.kill(process, signal.SIGSTOP)  # it can't end by itself
    client.stop()
    assert all(has_ended(one, 2) for one in tree)


def test_the_application_never_waits_for_a_worker_that_hangs(client, rule):
    process = started(client)
    os.kill(process, signal.SIGSTOP)
    large = np.zeros((200, 512, 512), np.int16)
    large[90:110, 200:300, 200:300] = 150
    volume = Volume(large, ImageGeometry.from_spacing((1, 1, 1), (512, 512, 200)))
    box = OrientedBox(np.array([250.0, 250.0, 100.0]), np.diag([60.0, 60.0, 12.0]))
    job = client.submit(segment_job(volume, boxes=(box,)))
    longest = 0.0
    for _ in range(50):
        began = time.thread_time()
        client.poll()
        longest = max(longest, time.thread_time() - began)
        time.sleep(0.005)
    assert longest < 0.05
    os.kill(process, signal.SIGCONT)
    client.wait_for(job)
    assert job.error is None


def test_a_token_may_be_shared_with_what_else_is_going_on(client, rule):
    rule.predictor.seconds_per_slice = 0.05
    token = CancelToken()
    jobs = [client.submit(segment_job(cancel=token)) for _ in range(3)]
    wait_until(client, lambda: rule.predictor.encoded_slices > 0)
    token.cancel()
    for job in jobs:
        client.wait_for(job)
        assert job.cancelled


def test_a_network_is_loaded_once_and_again_when_its_file_was_replaced(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    import dbsam.api

    loaded = []
    monkeypatch.setattr(
        dbsam.api, "load_predictor", lambda *args, **options: loaded.append((args, options)) or object()
    )
    path = tmp_path / "own.safetensors"
    path.write_bytes(b"first")
    source = Networks()
    first = source(str(path), "cpu", CancelToken(), print)
    assert source(str(path), "cpu", CancelToken(), print) is first
    path.write_bytes(b"replaced")
    assert source(str(path), "cpu", CancelToken(), print) is not first
    assert source(str(path), "auto", CancelToken(), print) is not first
    assert len(loaded) == 3
    assert all(options["download"] is False for _, options in loaded)


def test_full_memory_is_recognised_without_torch():
    class OutOfMemoryError(RuntimeError):
        pass

    assert is_memory_full(OutOfMemoryError("CUDA"))
    assert is_memory_full(MemoryError())
    assert is_memory_full(RuntimeError("DefaultCPUAllocator: out of memory"))
    assert not is_memory_full(ValueError("no"))


def test_the_compact_model_gives_in_the_worker_what_it_gives_here_to_the_last_bit():
    pytest.importorskip("torch")
    from dbsam.api import load_predictor
    from dbsam.io.images import read_volume

    sample = Path(__file__).parents[1] / "Resources" / "Sample" / "phantom_ct.nrrd"
    volume = read_volume(sample)
    box = OrientedBox.from_ijk((60, 50, 18), (110, 100, 22), volume.geometry)
    expected = VolumeSegmenter(load_predictor("compact", "cpu")).segment(volume, box, axis=2)
    client = WorkerClient(sys.executable)
    try:
        task = SegmentTask(volume.identity, (box,), ("liver",), "compact", "cpu", {"axis": 2}, False)
        job = client.submit(Job(task, volume=UnchangingVoxels(volume)))
        client.wait_for(job)
        assert job.error is None
        (found,) = job.result.segmentations
        assert job.result.device == "cpu"
        assert job.result.load_seconds > 0
        np.testing.assert_array_equal(found.mask_KJI, expected.mask_KJI)
        # Rectangles and confidences are floating-point numbers out of the networks' embeddings.
        assert found.slices == expected.slices
        assert found.mask_KJI.any()
    finally:
        client.stop()


def begin_of(volume):
    return VolumeBegin(volume.identity, volume.voxels.shape, volume.voxels.dtype.str, volume.geometry)


def test_a_volume_that_was_given_up_for_a_cancelled_job_is_there_for_the_next():
    asked = []
    store = VolumeStore(asked.append, lambda: {VOLUME.identity})
    store.gone(VOLUME.identity, ValueError("not needed any more"))  # nobody waited for it
    threading.Timer(0.2, lambda: (store.begin(begin_of(VOLUME)), store.part(part_of(VOLUME)))).start()
    found = store.get(VOLUME.identity, CancelToken())
    np.testing.assert_array_equal(found.voxels, VOLUME.voxels)
    assert asked == [VOLUME.identity]


def part_of(volume):
    return VolumePart(volume.identity, volume.voxels.tobytes())


def test_a_volume_that_does_not_fit_or_has_gone_ends_the_job_that_waits_for_it():
    store = VolumeStore(lambda identity: None, lambda: {VOLUME.identity})
    huge = VolumeBegin(VOLUME.identity, (10**6, 10**6, 10**6), "<i2", VOLUME.geometry)
    for change, error in (
        (lambda: store.begin(huge), MemoryError),
        (lambda: store.gone(VOLUME.identity, ValueError("changed")), ValueError),
    ):
        threading.Timer(0.2, change).start()
        with pytest.raises(error):
            store.get(VOLUME.identity, CancelToken())


def test_more_voxels_than_announced_are_refused():
    store = VolumeStore(lambda identity: None, lambda: {VOLUME.identity})
    store.begin(begin_of(VOLUME))
    with pytest.raises(ProtocolError, match="more voxels than its shape says"):
        store.part(VolumePart(VOLUME.identity, VOLUME.voxels.tobytes() + b"x"))
