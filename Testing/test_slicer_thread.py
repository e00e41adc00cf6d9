"""The inference thread, key boxes and predictor source: no Slicer is needed for these."""

import sys
import threading
import time
from pathlib import Path

import pytest

from dbsam.progress import CancelToken, Progress

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "DBSAMSegment"))
from DBSAMSegmentLib.Panel.KeyBoxes import RoiKeyBoxes, decodeKeyBoxes, encodeKeyBoxes
from DBSAMSegmentLib.Run.InferenceThread import InferenceThread, Job, Priority
from DBSAMSegmentLib.Run.Predictors import PredictorSource, isOutOfMemory


@pytest.fixture
def thread():
    result = InferenceThread("test")
    yield result
    assert result.stop()


def blocked_job(thread):
    """A running job that ends when the event is set."""
    release = threading.Event()
    job = thread.submit(Job(lambda job: release.wait(5), CancelToken()))
    while job.startedAt is None:
        time.sleep(0.001)
    return job, release


def test_results_progress_and_values_arrive_on_the_polling_thread_in_order(thread):
    here = threading.current_thread()
    seen = []

    def work(job):
        for number in range(3):
            job.post(number)
            job.reportProgress(Progress(number, 3, "step", None))
        return threading.current_thread()

    job = Job(
        work,
        CancelToken(),
        onFinished=lambda job: seen.append(("finished", threading.current_thread() is here)),
        onProgress=lambda progress: seen.append(("progress", progress.done)),
        onPosted=lambda value: seen.append(("posted", value)),
    )
    thread.submit(job)
    thread.waitFor(job)
    assert job.result is not here
    assert [value for kind, value in seen if kind == "posted"] == [0, 1, 2]
    assert ("progress", 2) in seen
    assert seen[-1] == ("finished", True)


def test_what_a_job_holds_is_let_go_of_on_the_polling_thread(thread):
    class Node:
        def __del__(self):
            deleted.append(threading.current_thread())

    deleted = []

    def submitted():
        node = Node()
        return thread.submit(Job(lambda job: bool(node), CancelToken(), onFinished=lambda job: node))

    for number in (1, 2):
        thread.waitFor(submitted())
        assert deleted == [threading.current_thread()] * number


def test_previews_go_before_runs(thread):
    _, release = blocked_job(thread)
    order = []
    jobs = [
        thread.submit(Job(lambda job, name=name: order.append(name), CancelToken(), priority))
        for name, priority in (("run", Priority.RUN), ("preview", Priority.PREVIEW))
    ]
    release.set()
    for job in jobs:
        thread.waitFor(job)
    assert order == ["preview", "run"]


def test_idle_work_gives_way_to_any_other(thread):
    started = threading.Event()

    def idle(job):
        started.set()
        while True:
            job.cancel.raise_if_cancelled()
            time.sleep(0.001)

    background = thread.submit(Job(idle, CancelToken(), Priority.IDLE))
    assert started.wait(5)
    run = thread.submit(Job(lambda job: 42, CancelToken()))
    thread.waitFor(run)
    thread.waitFor(background)
    assert run.result == 42
    assert background.cancelled


def test_an_error_is_the_jobs_and_the_thread_goes_on(thread):
    failing = thread.submit(Job(lambda job: 1 / 0, CancelToken()))
    thread.waitFor(failing)
    assert isinstance(failing.error, ZeroDivisionError)
    after = thread.submit(Job(lambda job: "alive", CancelToken()))
    thread.waitFor(after)
    assert after.result == "alive"


def test_a_callback_that_fails_keeps_no_other_from_running(thread):
    delivered = []
    first = thread.submit(Job(lambda job: 1, CancelToken(), onFinished=lambda job: 1 / 0))
    second = thread.submit(Job(lambda job: 2, CancelToken(), onFinished=lambda job: delivered.append(job.result)))
    thread.waitFor(first)
    thread.waitFor(second)
    assert delivered == [2]


def test_a_job_cancelled_while_it_waits_never_starts(thread):
    _, release = blocked_job(thread)
    waiting = Job(lambda job: pytest.fail("must not start"), CancelToken())
    thread.submit(waiting)
    waiting.cancel.cancel()
    release.set()
    thread.waitFor(waiting)
    assert waiting.cancelled


def test_nothing_is_delivered_after_stop():
    thread = InferenceThread("test")
    delivered = []
    job, release = blocked_job(thread)
    job.onFinished = delivered.append
    release.set()
    assert thread.stop()
    thread.poll()
    assert delivered == []
    with pytest.raises(RuntimeError, match="shutting down"):
        thread.submit(Job(lambda job: 1, CancelToken()))


def test_key_boxes_come_back_from_their_text_and_unknown_text_is_dropped(caplog):
    entries = [RoiKeyBoxes(2, {7: [1.0, 2.0, 3.5, 4.0]}), RoiKeyBoxes()]
    again = decodeKeyBoxes(encodeKeyBoxes(entries), 2)
    assert again == entries
    assert again[0].along(2) == {7: [1.0, 2.0, 3.5, 4.0]}
    assert again[0].along(1) == {}
    assert encodeKeyBoxes([RoiKeyBoxes()]) == ""
    assert decodeKeyBoxes("", 2) == [RoiKeyBoxes(), RoiKeyBoxes()]
    assert decodeKeyBoxes('[{"axis": 0, "boxes": {"1": [1, 2]}}]', 1) == [RoiKeyBoxes()]
    assert "could not be read" in caplog.text


def test_a_network_is_loaded_once_and_again_when_its_file_was_replaced(tmp_path, monkeypatch):
    pytest.importorskip("torch")
    import dbsam.api

    loaded = []
    monkeypatch.setattr(
        dbsam.api, "load_predictor", lambda *args, **options: loaded.append((args, options)) or object()
    )
    path = tmp_path / "own.safetensors"
    path.write_bytes(b"first")
    source = PredictorSource()
    first = source(str(path), "cpu", CancelToken())
    assert source(str(path), "cpu", CancelToken()) is first
    path.write_bytes(b"replaced")
    assert source(str(path), "cpu", CancelToken()) is not first
    assert source(str(path), "auto", CancelToken()) is not first
    assert len(loaded) == 3
    assert all(options["download"] is False for _, options in loaded)


def test_full_memory_is_recognised_without_torch():
    class OutOfMemoryError(RuntimeError):
        pass

    assert isOutOfMemory(OutOfMemoryError("CUDA"))
    assert isOutOfMemory(MemoryError())
    assert isOutOfMemory(RuntimeError("DefaultCPUAllocator: out of memory"))
    assert not isOutOfMemory(ValueError("no"))
