"""The application's side: starts the worker when there is work, gives it jobs, and takes up what comes back.

Everything happens in `WorkerClient.poll`, on the caller's thread and without waiting: no other thread is needed, as
Python threads get no time where an event loop keeps the interpreter's lock.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.grid import ImageGeometry
from dbsam.progress import CancelToken, Progress
from dbsam.worker.channel import Channel
from dbsam.worker.keys import KEY_VARIABLE, is_proof, new_key, new_nonce, proof
from dbsam.worker.launch import ChildProcess, library_environment, worker_command
from dbsam.worker.networks import DEFAULT_SOURCE
from dbsam.worker.protocol import (
    VERSION,
    Answer,
    Cancel,
    Challenge,
    DecidedSlice,
    Done,
    Failed,
    Forget,
    Goodbye,
    NeedVolume,
    Priority,
    ProgressNews,
    Ready,
    SliceNews,
    Started,
    Stopped,
    Submit,
    Task,
    VolumeBegin,
    VolumeGone,
    VolumePart,
    Welcome,
    decode,
    encode,
)
from dbsam.worker.values import ProtocolError

logger = logging.getLogger(__name__)

DEFAULT_CACHE_BYTES = 1024 * 2**20
DEFAULT_IDLE_SECONDS = 600.0

STARTING = "Starting the process that computes"

# The first start after an installation compiles the library's files, and virus scanners read them all.
_START_SECONDS = 120.0
# From the end of the connection to the end of the process.
_END_SECONDS = 2.0
# What a killed process needs until it is gone; where it needs more, the system takes care of it.
_KILL_SECONDS = 0.2
_PART_BYTES = 1 << 20
_BYTES_UNDER_WAY = 4 << 20
# How long sending may hold the main thread at a time.
_SEND_SECONDS = 0.008
_WAIT_SECONDS = 0.02


class WorkerError(RuntimeError):
    """What a job raised in the worker.

    Attributes:
        kind: Name of the error's class there.
        memory_full: Whether memory was full.
        trace: Where it came from, for the log.
    """

    def __init__(self, message: str, kind: str = "", memory_full: bool = False, trace: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.memory_full = memory_full
        self.trace = trace


class WorkerEnded(WorkerError):
    """The worker could not be started, or ended in the middle of a job; the next job starts it anew."""


class VoxelSource(Protocol):
    """A volume that can be sent, and may change meanwhile."""

    @property
    def identity(self) -> str:
        """Changes with every change of voxels or grid."""

    @property
    def geometry(self) -> ImageGeometry:
        """The grid."""

    @property
    def voxels(self) -> NDArray[np.generic]:
        """(K, J, I) or (K, J, I, 3); read in parts."""

    def changed(self) -> bool:
        """Whether the voxels are no longer those that the identity stands for, so that they must not be read."""


class Job:
    """One piece of work, and who is told of it.

    `on_progress` gets the newest progress, `on_slice` every decided slice in order, and `on_finished` the job once,
    whatever happened: `result` holds what the worker returned, `error` what it raised, `cancelled` whether it was
    cancelled. Then the job lets go of all callbacks.

    Args:
        task: What is to be done.
        cancel: Ends it; it counts as cancelled at once, and the worker stops before its next slice.
        priority: Which waiting job is next.
        volume: The volume that the task names.
        on_finished: See above; all callbacks run in `WorkerClient.poll`.
        on_progress: See above.
        on_slice: See above.
    """

    def __init__(
        self,
        task: Task,
        cancel: CancelToken | None = None,
        priority: Priority = Priority.RUN,
        volume: VoxelSource | None = None,
        on_finished: Callable[[Job], None] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        on_slice: Callable[[DecidedSlice], None] | None = None,
    ) -> None:
        self.task = task
        self.cancel = CancelToken() if cancel is None else cancel
        self.priority = priority
        self.volume = volume
        self.on_finished = on_finished
        self.on_progress = on_progress
        self.on_slice = on_slice
        self.result: Any = None
        self.error: BaseException | None = None
        self.cancelled = False
        self.delivered = False
        self._news = _News()

    def release(self) -> None:
        """Lets go of everything that the callbacks hold, when they won't be called any more."""
        self.volume = None
        self.on_finished = self.on_progress = self.on_slice = None


@dataclass
class _News:
    """What is known of a job and not delivered yet."""

    number: int = 0
    sent: bool = False
    started: bool = False
    finished: bool = False
    attempts: int = 0
    progress: Progress | None = None
    slices: list[DecidedSlice] = field(default_factory=list)


class WorkerClient:
    """Gives jobs to a worker that is started at first use, kept, and started anew after it has ended.

    Args:
        python: The interpreter, or a launcher of one.
        environment: The worker's environment; this process's by default.
        source: What gives networks in the worker; see `dbsam.worker.networks`.
        source_options: Its arguments.
        cache_bytes: Limit of the memory for image embeddings.
        idle_seconds: The worker ends when nothing was to do for so long; 0 for never.
    """

    def __init__(
        self,
        python: str,
        environment: Mapping[str, str] | None = None,
        source: str = DEFAULT_SOURCE,
        source_options: Mapping[str, Any] | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        idle_seconds: float = DEFAULT_IDLE_SECONDS,
    ) -> None:
        self._command = worker_command(python)
        self._environment = library_environment(os.environ if environment is None else environment)
        self._source = (source, dict(source_options or {}))
        self.cache_bytes = cache_bytes
        self.idle_seconds = idle_seconds
        self._jobs: list[Job] = []
        self._numbers = itertools.count(1)
        self._link: _Link | None = None
        self._stopped = False

    @property
    def busy(self) -> bool:
        """Whether a job waits, runs, or has results that were not delivered."""
        return bool(self._jobs)

    @property
    def sending(self) -> bool:
        """Whether voxels are on their way, so that `poll` should be called again at once."""
        return self._link is not None and self._link.sending

    @property
    def process_id(self) -> int | None:
        """The worker's, where it runs and is ready."""
        return None if self._link is None else self._link.worker_id

    def submit(self, job: Job) -> Job:
        """Queues a job; idle work that runs or waits is cancelled in its favour.

        Raises:
            RuntimeError: `stop` was called.
        """
        if self._stopped:
            raise RuntimeError("DB-SAM is shutting down: no new work is accepted.")
        job._news.number = next(self._numbers)
        self._jobs.append(job)
        if job.priority < Priority.IDLE:
            for other in self._jobs:
                if other.priority == Priority.IDLE:
                    other.cancel.cancel()
        self._drive()
        return job

    def poll(self) -> bool:
        """Sends and receives what is possible at once, and tells the jobs' callbacks.

        Returns:
            Whether there is work left to wait for.
        """
        self._drive()
        self._deliver()
        return self.busy

    def wait_for(self, job: Job, serve: Callable[[], None] | None = None) -> None:
        """Polls until the job was delivered; Ctrl+C cancels it.

        Args:
            job: A job that was submitted.
            serve: Called some fifty times a second, to keep something else alive.
        """
        try:
            while not job.delivered:
                if self._link is not None:
                    self._link.wait(_WAIT_SECONDS)
                if serve is not None:
                    serve()
                self.poll()
        except KeyboardInterrupt:
            job.cancel.cancel()
            self.poll()
            raise

    def cancel_all(self) -> None:
        """Asks every job to stop; they are still delivered, as cancelled."""
        for job in self._jobs:
            job.cancel.cancel()

    def forget(self) -> None:
        """Lets the worker drop volumes and embeddings."""
        if self._link is not None:
            self._link.forget()

    def stop(self, seconds: float = 0.5) -> None:
        """Ends the worker; callbacks of what was pending are never called.

        Args:
            seconds: How long the worker may take before it is killed.
        """
        self._stopped = True
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            job.cancel.cancel()
            job.delivered = True
            job.release()
        if self._link is not None:
            link, self._link = self._link, None
            link.stop(seconds)

    def _drive(self) -> None:
        for job in self._jobs:
            if job.cancel.cancelled and not job._news.finished:
                job.cancelled = job._news.finished = True
                if self._link is not None and job._news.sent:
                    self._link.send(Cancel(job._news.number))
        waiting = [job for job in self._jobs if not job._news.sent and not job._news.finished]
        if self._link is None:
            if not waiting:
                return
            try:
                self._link = _Link(self._command, self._environment, self._welcome)
            except OSError as error:
                self._fail(waiting, WorkerEnded(_not_started(self._command[0], str(error))))
                return
            for job in waiting:
                job._news.progress = Progress(0, 0, STARTING, None)
        link = self._link
        link.drive()
        for message in link.take():
            self._receive(message)
        if link.ready and not link.ended:
            for job in waiting:
                follows = job.volume.identity if job.volume is not None and link.offer(job.volume) else ""
                link.send(Submit(job._news.number, job.priority, job.task, follows))
                job._news.sent = True
            link.pump(self._volume_named)
        if link.ended:
            self._link = None
            self._after_end(link)

    def _receive(self, message: Any) -> None:
        if isinstance(message, NeedVolume):
            assert self._link is not None
            volume = self._volume_named(message.identity)
            if volume is None:
                self._link.send(VolumeGone(message.identity, "The volume isn't needed any more."))
            else:
                self._link.offer(volume, again=True)
            return
        number = getattr(message, "job", None)
        job = next((one for one in self._jobs if one._news.number == number and not one._news.finished), None)
        if job is None:
            return  # it was cancelled
        if isinstance(message, Started):
            job._news.started = True
        elif isinstance(message, ProgressNews):
            job._news.progress = message.progress
        elif isinstance(message, SliceNews):
            job._news.slices.append(message.decided)
        elif isinstance(message, Done):
            job.result = message.result
            job._news.finished = True
        elif isinstance(message, Stopped):
            job.cancelled = job._news.finished = True
        elif isinstance(message, Failed):
            job.error = WorkerError(message.message, message.kind, message.memory_full, message.trace)
            job._news.finished = True

    def _after_end(self, link: _Link) -> None:
        """Fails what the worker was doing; what had not begun is given to the next one."""
        lost = []
        for job in self._jobs:
            news = job._news
            if news.finished:
                continue
            if link.goodbye is None and (not link.ready or news.started or news.attempts):
                lost.append(job)
            else:
                news.attempts += link.goodbye is None
                news.sent = False
        if link.goodbye is None:
            error = WorkerEnded(link.why())
            if lost:
                self._fail(lost, error)
            else:
                logger.warning("%s", error)

    def _fail(self, jobs: Sequence[Job], error: WorkerEnded) -> None:
        for job in jobs:
            job._news.finished = True
            if job.priority == Priority.IDLE:
                job.cancelled = True
            else:
                job.error = error

    def _deliver(self) -> None:
        for job in list(self._jobs):
            news = job._news
            progress, slices, news.progress, news.slices = news.progress, news.slices, None, []
            if not job.cancel.cancelled:
                if progress is not None and job.on_progress is not None:
                    _call(job.on_progress, progress)
                if job.on_slice is not None:
                    for decided in slices:
                        _call(job.on_slice, decided)
            if news.finished and not job.delivered:
                job.delivered = True
                if job in self._jobs:
                    self._jobs.remove(job)
                if job.on_finished is not None:
                    _call(job.on_finished, job)
                job.release()

    def _volume_named(self, identity: str) -> VoxelSource | None:
        volumes = (job.volume for job in self._jobs if job.volume is not None and not job._news.finished)
        return next((one for one in volumes if one.identity == identity), None)

    def _welcome(self, shown: str) -> Welcome:
        name, options = self._source
        return Welcome(shown, self.cache_bytes, self.idle_seconds, name, options)


class _Link:
    """One worker process from its start to its end.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], welcome: Callable[[str], Welcome]
    ) -> None:
        self._key = new_key()
        self._welcome = welcome
        self._listener = socket.socket()
        try:
            self._listener.bind(("127.0.0.1", 0))
            self._listener.listen(4)
            self._listener.setblocking(False)
            port = self._listener.getsockname()[1]
            self._process = ChildProcess([*command, str(port)], {**environment, KEY_VARIABLE: self._key})
        except OSError:
            self._listener.close()
            raise
        self._program = command[0]
        self._strangers: list[tuple[Channel, str]] = []
        self._channel: Channel | None = None
        self._messages: list[Any] = []
        self._started_at = time.monotonic()
        self._ending_since: float | None = None
        self._too_late = False
        self._damage = ""
        self._sent_last = ""
        self._to_send: list[VoxelSource] = []
        self._parts: Iterator[memoryview] | None = None
        self._exit_code: int | None = None
        self._last_lines = ""
        self.worker_id: int | None = None
        self.ready = False
        self.ended = False
        self.goodbye: str | None = None

    @property
    def sending(self) -> bool:
        return bool(self._to_send) or (self._channel is not None and self._channel.waiting_bytes > 0)

    def send(self, message: Any) -> None:
        if self._channel is not None and not self._channel.closed:
            self._channel.send(*encode(message))
            self._channel.flush()

    def take(self) -> list[Any]:
        messages, self._messages = self._messages, []
        return messages

    def drive(self) -> None:
        """Connects, receives, and notices the end."""
        if self._channel is None:
            self._meet()
        if self._channel is not None and self._ending_since is None:
            self._channel.flush()
            for message in self._received(self._channel):
                if isinstance(message, Ready):
                    self.ready = True
                elif isinstance(message, Goodbye):
                    self.goodbye = message.reason
                else:
                    self._messages.append(message)
        self._notice_end()

    def wait(self, seconds: float) -> None:
        """Waits until there is something to do, no longer than `seconds`."""
        if self._channel is not None and not self._channel.closed:
            self._channel.wait(0.0 if self._to_send else seconds)
        else:
            time.sleep(seconds)

    def offer(self, volume: VoxelSource, again: bool = False) -> bool:
        """Sends a volume, unless it was the last one that was sent; returns whether it is on its way."""
        if any(one.identity == volume.identity for one in self._to_send):
            return True
        if not again and volume.identity == self._sent_last:
            return False
        self._to_send.append(volume)
        self._sent_last = volume.identity
        return True

    def pump(self, wanted: Callable[[str], VoxelSource | None]) -> None:
        """Sends more voxels, as many as the system takes in a few milliseconds."""
        assert self._channel is not None
        until = time.monotonic() + _SEND_SECONDS
        while self._to_send and self._channel.waiting_bytes < _BYTES_UNDER_WAY and time.monotonic() < until:
            volume = self._to_send[0]
            reason = ""
            if wanted(volume.identity) is None:
                reason = "The volume isn't needed any more."
            elif volume.changed():
                reason = "The volume was changed while it was being segmented; the result was dropped. Run again."
            if reason:
                self.send(VolumeGone(volume.identity, reason))
                self._sent_last = ""
                self._drop_first()
                continue
            if self._parts is None:
                voxels = volume.voxels
                self.send(VolumeBegin(volume.identity, voxels.shape, voxels.dtype.str, volume.geometry))
                self._parts = _parts(voxels)
            part = next(self._parts, None)
            if part is None:
                self._drop_first()
                continue
            # The channel must not keep a view of what may change before it is sent.
            self.send(VolumePart(volume.identity, bytes(part)))

    def forget(self) -> None:
        self._sent_last = ""
        self.send(Forget())

    def stop(self, seconds: float) -> None:
        """Ends the process; it does so by itself when the connection ends."""
        self._close_sockets()
        if not self.ready or not self._process.wait(seconds):
            self._process.kill()
            self._process.wait(_KILL_SECONDS)
        self._process.close()

    def why(self) -> str:
        """Why the process has ended, for a person."""
        code, lines = self._exit_code, self._last_lines
        said = f"\n\nIts last lines:\n{lines}" if lines else ""
        if not self.ready:
            if self._too_late:
                return _not_started(self._program, f"it did not answer within {_START_SECONDS:.0f} seconds") + said
            return _not_started(self._program, f"it ended with exit code {code}") + said
        cause = ""
        if _looks_like_full_memory(code, lines):
            cause = " Perhaps it was out of memory: close other programs, or choose the model compact."
        elif self._damage:
            cause = f" {self._damage}"
        return (
            f"The DB-SAM process ended unexpectedly ({_exit_in_words(code)}); nothing was changed.{cause} It starts"
            f" anew with the next run.{said}"
        )

    def _meet(self) -> None:
        """Takes up connections until one shows that it is the worker's."""
        try:
            connection, _ = self._listener.accept()
        except OSError:
            pass
        else:
            nonce = new_nonce()
            stranger = Channel(connection)
            stranger.send(*encode(Challenge(VERSION, nonce)))
            self._strangers.append((stranger, nonce))
        for stranger, nonce in list(self._strangers):
            stranger.flush()
            answers = self._received(stranger)
            if answers and self._is_worker(answers[0], nonce):
                self.worker_id = answers[0].process_id
                stranger.reader.trust()
                stranger.send(*encode(self._welcome(proof(self._key, "application", answers[0].nonce))))
                stranger.flush()
                self._strangers.remove((stranger, nonce))
                self._channel = stranger
                self._close_listener()
                return
            if answers or stranger.closed:
                stranger.close()
                self._strangers.remove((stranger, nonce))

    def _is_worker(self, answer: Any, nonce: str) -> bool:
        if not isinstance(answer, Answer) or not is_proof(answer.proof, self._key, "worker", nonce):
            logger.warning("A process that doesn't know the key has connected, and was refused")
            return False
        return True

    def _received(self, channel: Channel) -> list[Any]:
        try:
            return [decode(frame) for frame in channel.receive()]
        except ProtocolError as error:
            self._damage = str(error)
            channel.close()
            return []

    def _notice_end(self) -> None:
        """Waits, over several calls, for the exit code of a process whose connection has ended."""
        now = time.monotonic()
        if self._channel is None:
            self._too_late = now - self._started_at > _START_SECONDS
            over = self._process.exit_code is not None or self._too_late
        else:
            over = self._channel.closed
        if not over:
            return
        if self._ending_since is None:
            self._ending_since = now
        if self._process.exit_code is None and now - self._ending_since < (0.0 if self._too_late else _END_SECONDS):
            return
        self._exit_code = self._process.exit_code
        self._process.kill()  # where a launcher lives on, or what the worker had started
        self._process.wait(_KILL_SECONDS)
        self._last_lines = self._process.last_lines()
        self._close_sockets()
        self._process.close()
        self.ended = True

    def _drop_first(self) -> None:
        self._to_send.pop(0)
        self._parts = None

    def _close_listener(self) -> None:
        self._listener.close()
        for stranger, _ in self._strangers:
            stranger.close()
        self._strangers.clear()

    def _close_sockets(self) -> None:
        self._close_listener()
        if self._channel is not None:
            self._channel.close()


def _parts(voxels: NDArray[np.generic]) -> Iterator[memoryview]:
    """The voxels in memory order, a megabyte at a time; only what isn't contiguous is copied."""
    for block in [voxels] if voxels.flags.c_contiguous else voxels:
        content = np.ascontiguousarray(block).reshape(-1).view(np.uint8).data
        for first in range(0, len(content), _PART_BYTES):
            yield content[first : first + _PART_BYTES]


def _not_started(program: str, reason: str) -> str:
    return f"The DB-SAM process could not be started with {program!r}: {reason}."


def _exit_in_words(code: int | None) -> str:
    if code is None:
        return "no exit code"
    if code < 0:
        try:
            return f"exit code {code}, {signal.Signals(-code).name}"
        except ValueError:
            return f"exit code {code}"
    return f"exit code {code:#x}" if code > 0xFFFF else f"exit code {code}"


def _looks_like_full_memory(code: int | None, lines: str) -> bool:
    """Linux and macOS kill what takes too much; elsewhere the last lines say it."""
    killed = os.name != "nt" and code in (-signal.SIGKILL, 128 + signal.SIGKILL)
    said = ("MemoryError", "out of memory", "bad_alloc", "Cannot allocate memory", "not enough memory")
    return killed or any(one in lines for one in said)


def _call(callback: Callable[[Any], None], value: Any) -> None:
    """Runs a callback; its error must not keep the other callbacks from running."""
    try:
        callback(value)
    except Exception:
        logger.exception("A DB-SAM result could not be handled")
