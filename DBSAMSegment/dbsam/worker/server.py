"""The worker's side: takes jobs from the application and does them, the most urgent first."""

from __future__ import annotations

import itertools
import logging
import os
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from dbsam.inference.embedding_cache import EmbeddingCache
from dbsam.progress import Cancelled, CancelToken, Progress
from dbsam.worker.channel import BlockingChannel
from dbsam.worker.engine import Engine
from dbsam.worker.networks import is_memory_full, source_named
from dbsam.worker.protocol import (
    Cancel,
    CorrectTask,
    DecidedSlice,
    DescribeTask,
    Done,
    DownloadTask,
    Failed,
    Forget,
    Goodbye,
    LoadTask,
    NeedVolume,
    PrefetchTask,
    Priority,
    ProgressNews,
    Ready,
    SegmentTask,
    SliceNews,
    Started,
    Stopped,
    Submit,
    VolumeBegin,
    VolumeGone,
    VolumePart,
    WeightsDescription,
    Welcome,
    decode,
    encode,
)
from dbsam.worker.volumes import VolumeStore

logger = logging.getLogger(__name__)

# Rules without a network decide thousands of slices a second, of which nobody needs to see each count.
_PROGRESS_SECONDS = 0.02


class _Job:
    def __init__(self, submit: Submit, order: int) -> None:
        self.number = submit.job
        self.task = submit.task
        self.urgency = (submit.priority, order)
        self.cancel = CancelToken()


class _Lane:
    """One thread that does jobs one after another."""

    def __init__(self, name: str, do: Callable[[_Job], None]) -> None:
        self._do = do
        self._condition = threading.Condition()
        self._waiting: list[_Job] = []
        self._running: _Job | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def add(self, job: _Job) -> None:
        """Queues a job; idle work that runs or waits is cancelled in favour of anything else."""
        with self._condition:
            if job.urgency[0] < Priority.IDLE:
                for other in self._all():
                    if other.urgency[0] >= Priority.IDLE:
                        other.cancel.cancel()
            self._waiting.append(job)
            self._condition.notify()

    def jobs(self) -> list[_Job]:
        """All that wait or run."""
        with self._condition:
            return self._all()

    def _all(self) -> list[_Job]:
        return self._waiting + ([self._running] if self._running is not None else [])

    def _run(self) -> None:
        while True:
            with self._condition:
                self._running = None
                while not self._waiting:
                    self._condition.wait()
                job = self._running = min(self._waiting, key=lambda one: one.urgency)
                self._waiting.remove(job)
            self._do(job)
            del job


class Worker:
    """Serves one application until that ends, or until nothing was to do for long.

    Args:
        channel: The connection, on which both sides have shown that they know the key.
        welcome: What the application wishes.
    """

    def __init__(self, channel: BlockingChannel, welcome: Welcome) -> None:
        self._channel = channel
        self._idle_seconds = welcome.idle_seconds
        self._volumes = VolumeStore(lambda identity: self._send(NeedVolume(identity)), self._needed_volumes)
        self._source = source_named(welcome.source, welcome.source_options)
        self._cache = EmbeddingCache(welcome.cache_bytes)
        self._engine = Engine(self._source, self._cache, self._volumes.get)
        self._order = itertools.count()
        self._forget = threading.Event()
        self._computing = _Lane("DB-SAM inference", self._do)
        self._files = _Lane("DB-SAM files", self._do)

    def serve(self) -> None:
        """Takes messages until the application has gone or nothing was to do for long."""
        self._send(Ready())
        idle_since = time.monotonic()
        while True:
            frames = self._channel.receive(1.0)
            if frames is None:
                return
            for frame in frames:
                self._take(decode(frame))
            if frames or self._jobs():
                idle_since = time.monotonic()
            elif 0 < self._idle_seconds < time.monotonic() - idle_since:
                self._send(Goodbye("idle"))
                self._channel.finish()
                return

    def _take(self, message: Any) -> None:
        if isinstance(message, Submit):
            if message.volume_follows:
                self._volumes.expect(message.volume_follows)
            job = _Job(message, next(self._order))
            lane = self._files if isinstance(message.task, (DownloadTask, DescribeTask)) else self._computing
            lane.add(job)
        elif isinstance(message, Cancel):
            for job in self._jobs():
                if job.number == message.job:
                    job.cancel.cancel()
        elif isinstance(message, VolumeBegin):
            self._volumes.begin(message)
        elif isinstance(message, VolumePart):
            self._volumes.part(message)
        elif isinstance(message, VolumeGone):
            self._volumes.gone(message.identity, ValueError(message.reason))
        elif isinstance(message, Forget):
            self._volumes.clear()
            self._cache.clear()
            self._forget.set()

    def _jobs(self) -> list[_Job]:
        return self._computing.jobs() + self._files.jobs()

    def _needed_volumes(self) -> set[str]:
        tasks = [job.task for job in self._computing.jobs() if not job.cancel.cancelled]
        return {task.volume for task in tasks if isinstance(task, (SegmentTask, CorrectTask, PrefetchTask))}

    def _do(self, job: _Job) -> None:
        try:
            job.cancel.raise_if_cancelled()
            self._send(Started(job.number))
            message = encode(Done(job.number, self._work(job)))
            job.cancel.raise_if_cancelled()
        except Cancelled:
            message = encode(Stopped(job.number))
        except BaseException as error:  # whatever a network raises is the application's to report
            full = is_memory_full(error)
            trace = traceback.format_exc()
            # Frames in the traceback hold arrays and tensors; without them the memory can be freed.
            message = encode(Failed(job.number, type(error).__name__, str(error), full, trace))
            error.__traceback__ = None
            del error
            if full:
                self._engine.free_memory()
        self._send_encoded(message)

    def _work(self, job: _Job) -> Any:
        task = job.task
        report = _Reporter(lambda progress: self._send(ProgressNews(job.number, progress)))
        if isinstance(task, (SegmentTask, CorrectTask, PrefetchTask, LoadTask)):
            if self._forget.is_set():
                self._forget.clear()
                self._engine.forget()

            def decided(one: DecidedSlice) -> None:
                self._send(SliceNews(job.number, one))

            if isinstance(task, SegmentTask):
                return self._engine.segment(task, job.cancel, report, decided)
            if isinstance(task, CorrectTask):
                return self._engine.correct(task, job.cancel, report, decided)
            if isinstance(task, PrefetchTask):
                return self._engine.prefetch(task, job.cancel, report)
            return self._engine.load(task, job.cancel, report)
        if isinstance(task, DownloadTask):
            from dbsam.weights.load import download

            return str(download(task.name, report, job.cancel))
        return _described(task, report, job.cancel)

    def _send(self, message: Any) -> None:
        self._send_encoded(encode(message))

    def _send_encoded(self, message: tuple[bytes, list[memoryview]]) -> None:
        try:
            self._channel.send(*message)
        except OSError:
            end_at_once()  # the application is gone: what is computed has nobody to go to


class _Reporter:
    """Lets through what a person could see."""

    def __init__(self, send: Callable[[Progress], None]) -> None:
        self._send = send
        self._last: tuple[str, float] = ("", 0.0)

    def __call__(self, progress: Progress) -> None:
        stage, sent_at = self._last
        now = time.monotonic()
        if stage == progress.stage and now - sent_at < _PROGRESS_SECONDS and progress.done < progress.total:
            return
        self._last = (progress.stage, now)
        self._send(progress)


def _described(task: DescribeTask, report: Callable[[Progress], None], cancel: CancelToken) -> WeightsDescription:
    from pathlib import Path

    from dbsam.weights.load import weights_info

    info = weights_info(Path(task.path), report, cancel)
    return WeightsDescription(info.name, info.version, info.licence, info.config.system)


def end_at_once() -> None:
    """Ends this process without waiting for threads, which may be in the middle of a slice."""
    os._exit(0)
