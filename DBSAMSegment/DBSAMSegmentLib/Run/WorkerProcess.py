"""The process in which networks compute, as the application runs it: its interpreter, a timer, and its end.

`Job` and `Priority` are the library's; callbacks run on the main thread, where a timer takes up what comes back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import qt
import slicer

# Here and not at the first run: a click must not wait for imports.
from dbsam.worker.client import Job, WorkerClient

from .Interpreter import pythonExecutable

if TYPE_CHECKING:
    from .Predictors import Predictors

_MILLISECONDS = 20
_IDLE_MINUTES_SETTING = "DBSAM/WorkerIdleMinutes"
_IDLE_MINUTES = 10.0


class WorkerProcess:
    """One worker, started with the first job and ended by `close`, or after some minutes without a job.

    Args:
        predictors: where the worker gets networks from, from its first job on.
        cacheBytes: limit of its memory for image embeddings.
    """

    def __init__(self, predictors: Predictors, cacheBytes: int) -> None:
        self.predictors = predictors
        self._cacheBytes = cacheBytes
        self._client: WorkerClient | None = None
        self._closed = False
        self._timer = qt.QTimer()
        self._timer.setInterval(_MILLISECONDS)
        self._timer.connect("timeout()", self.poll)

    @property
    def client(self) -> WorkerClient:
        """The library's side of it."""
        if self._client is None:
            self._client = WorkerClient(
                pythonExecutable(),
                source=self.predictors.source,
                source_options=self.predictors.options,
                cache_bytes=self._cacheBytes,
                idle_seconds=60 * idleMinutes(),
            )
        return self._client

    @property
    def busy(self) -> bool:
        """Whether a job waits, runs, or has results that were not delivered."""
        return self._client is not None and self._client.busy

    @property
    def processId(self) -> int | None:
        """The worker's, where it runs."""
        return None if self._client is None else self._client.process_id

    def submit(self, job: Job) -> Job:
        """Queues a job; its callbacks are called from now on as long as the event loop runs.

        Raises:
            RuntimeError: the application has no interpreter for it, or `close` was called.
        """
        if self._closed:
            raise RuntimeError("DB-SAM is shutting down: no new work is accepted.")
        self.client.submit(job)
        self._watch()
        return job

    def waitFor(self, job: Job) -> None:
        """Waits for a job while windows are redrawn; Ctrl+C cancels it."""

        def serve() -> None:
            # What a user clicks meanwhile comes after it: the call that waits must find the scene as it left it.
            slicer.app.processEvents(qt.QEventLoop.ExcludeUserInputEvents)

        self.client.wait_for(job, serve)

    def poll(self) -> bool:
        """Takes up what has come back, which the timer does by itself; returns whether there is work left."""
        if self._client is None or not self._client.poll():
            self._timer.stop()
            return False
        self._watch()
        return True

    def cancelAll(self) -> None:
        """Asks every job to stop; they are still delivered, as cancelled."""
        if self._client is not None:
            self._client.cancel_all()

    def forgetVolumes(self) -> None:
        """Lets go of volumes and embeddings there."""
        if self._client is not None:
            self._client.forget()

    def close(self) -> None:
        """Ends the process; callbacks of what was pending are never called."""
        if self._closed:
            return
        self._closed = True
        self._timer.stop()
        self._timer.disconnect("timeout()", self.poll)
        if self._client is not None:
            self._client.stop()

    def _watch(self) -> None:
        interval = 0 if self.client.sending else _MILLISECONDS
        if self._timer.interval != interval:
            self._timer.setInterval(interval)
        if not self._timer.active:
            self._timer.start()


def idleMinutes() -> float:
    """After how many minutes without work the process ends, by the application's settings; 0 for never."""

    def converted(value: Any) -> float:
        return max(0.0, float(value))

    convert: Callable[[Any], float] = converted
    try:
        return slicer.util.settingsValue(_IDLE_MINUTES_SETTING, _IDLE_MINUTES, converter=convert)
    except ValueError:  # somebody else's idea of a number
        return _IDLE_MINUTES
