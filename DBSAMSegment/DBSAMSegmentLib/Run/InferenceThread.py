"""The persistent thread on which networks run, and how its results reach the main thread.

The thread never touches Qt, VTK or MRML: it gets arrays and posts results to a queue. Whoever owns the main thread
calls `poll` (in the application a timer does), and callbacks run there.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbsam.progress import CancelToken, Progress

logger = logging.getLogger(__name__)


class Priority(IntEnum):
    """Which waiting job is next."""

    PREVIEW = 0
    RUN = 1
    IDLE = 2


class Job:
    """One piece of work on the inference thread.

    `work` is called there with the job; it may call `post` and must watch `cancel`. On the main thread `onProgress`
    gets the newest progress, `onPosted` every posted value in order, and `onFinished` the job once, whatever happened:
    `result` holds what `work` returned, `error` what it raised, `cancelled` whether it was cancelled. Then the job lets
    go of all callbacks: they hold nodes, which must be deleted on the main thread.
    """

    def __init__(
        self,
        work: Callable[[Job], Any],
        cancel: CancelToken,
        priority: Priority = Priority.RUN,
        onFinished: Callable[[Job], None] | None = None,
        onProgress: Callable[[Progress], None] | None = None,
        onPosted: Callable[[Any], None] | None = None,
    ) -> None:
        self.work = work
        self.cancel = cancel
        self.priority = priority
        self.onFinished = onFinished
        self.onProgress = onProgress
        self.onPosted = onPosted
        self.result: Any = None
        self.error: BaseException | None = None
        self.cancelled = False
        self.delivered = False
        self.startedAt: float | None = None
        self._lock = threading.Lock()
        self._progress: Progress | None = None
        self._posted: deque[Any] = deque()

    def reportProgress(self, progress: Progress) -> None:
        """Tells how far the work is; any thread. Only the newest report is delivered."""
        with self._lock:
            self._progress = progress

    def post(self, value: Any) -> None:
        """Sends an intermediate result to `onPosted`; any thread."""
        with self._lock:
            self._posted.append(value)

    def release(self) -> None:
        """Lets go of everything that the callbacks hold; main thread only, when they won't be called any more."""
        self.work = _nothing
        self.onFinished = self.onProgress = self.onPosted = None

    def takeNews(self) -> tuple[Progress | None, list[Any]]:
        """Progress and values that were not delivered yet."""
        with self._lock:
            progress, posted = self._progress, list(self._posted)
            self._progress = None
            self._posted.clear()
        return progress, posted


class InferenceThread:
    """Runs jobs one after another, previews before runs and runs before idle work.

    The thread starts with the first job and lives until `stop`, as cuDNN keeps its plans per thread.
    """

    def __init__(self, name: str = "DB-SAM inference") -> None:
        self._name = name
        self._thread: threading.Thread | None = None
        self._condition = threading.Condition()
        self._waiting: list[tuple[int, int, Job]] = []
        self._order = itertools.count()
        self._running: Job | None = None
        self._undelivered: list[Job] = []
        self._stopping = False

    @property
    def busy(self) -> bool:
        """Whether a job waits, runs, or has results that were not delivered."""
        with self._condition:
            return bool(self._undelivered)

    def submit(self, job: Job) -> Job:
        """Queues a job; idle work that runs or waits is cancelled in its favour.

        Raises:
            RuntimeError: the thread was stopped.
        """
        with self._condition:
            if self._stopping:
                raise RuntimeError("DB-SAM is shutting down: no new work is accepted.")
            if job.priority < Priority.IDLE:
                for other in self._undelivered:
                    if other.priority == Priority.IDLE:
                        other.cancel.cancel()
            self._undelivered.append(job)
            self._waiting.append((job.priority, next(self._order), job))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
            self._condition.notify_all()
        return job

    def poll(self) -> bool:
        """Delivers news to the callbacks; main thread only.

        Returns:
            Whether there is work left to wait for.
        """
        with self._condition:
            jobs = list(self._undelivered)
        for job in jobs:
            finished = self._isFinished(job)  # asked before the news are taken, so that the last ones come along
            progress, posted = job.takeNews()
            if not job.cancel.cancelled:
                if progress is not None and job.onProgress is not None:
                    _call(job.onProgress, progress)
                if job.onPosted is not None:
                    for value in posted:
                        _call(job.onPosted, value)
            if finished and not job.delivered:
                job.delivered = True
                with self._condition:
                    if job in self._undelivered:
                        self._undelivered.remove(job)
                if job.onFinished is not None:
                    _call(job.onFinished, job)
                job.release()
        return self.busy

    def waitFor(self, job: Job, pollSeconds: float = 0.02) -> None:
        """Delivers news until the job has finished; main thread only. Ctrl-C cancels the job."""
        try:
            while not job.delivered:
                self.poll()
                if job.delivered:
                    return
                with self._condition:
                    if not self._isFinishedLocked(job):
                        self._condition.wait(pollSeconds)
        except KeyboardInterrupt:
            job.cancel.cancel()
            raise

    def cancelAll(self) -> None:
        """Asks every job to stop; they are still delivered, as cancelled."""
        with self._condition:
            for job in self._undelivered:
                job.cancel.cancel()

    def stop(self, timeoutSeconds: float = 5.0) -> bool:
        """Cancels everything and ends the thread; callbacks of what was pending are never called.

        Returns:
            Whether the thread has ended in time; it is a daemon and dies with the process at the latest.
        """
        with self._condition:
            self._stopping = True
            dropped = list(self._undelivered)
            for job in dropped:
                job.cancel.cancel()
                job.delivered = True
            self._undelivered.clear()
            self._waiting.clear()
            thread = self._thread
            self._condition.notify_all()
        ended = True
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeoutSeconds)
            ended = not thread.is_alive()
        for job in dropped:
            job.release()
        return ended

    def _isFinished(self, job: Job) -> bool:
        with self._condition:
            return self._isFinishedLocked(job)

    def _isFinishedLocked(self, job: Job) -> bool:
        return job is not self._running and all(job is not waiting for _, _, waiting in self._waiting)

    def _run(self) -> None:
        from dbsam.progress import Cancelled

        while True:
            with self._condition:
                while not self._waiting and not self._stopping:
                    self._condition.wait()
                if self._stopping:
                    return
                entry = min(self._waiting, key=lambda entry: entry[:2])
                self._waiting.remove(entry)
                job = self._running = entry[2]
            try:
                job.startedAt = time.monotonic()
                job.cancel.raise_if_cancelled()
                job.result = job.work(job)
            except Cancelled:
                job.cancelled = True
            except BaseException as error:  # whatever a network raises is the main thread's to report
                job.error = error
            finally:
                with self._condition:
                    self._running = None
                    self._condition.notify_all()
                del entry, job  # while it waits, the thread must not keep alive what the job holds


def _nothing(job: Job) -> None:
    """The work of a job that was delivered."""


def _call(callback: Callable[[Any], None], value: Any) -> None:
    """Runs a callback; its error must not keep the other callbacks from running."""
    try:
        callback(value)
    except Exception:
        logger.exception("A DB-SAM result could not be handled")
