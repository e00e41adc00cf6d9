"""Tasks on worker processes, of this computer or of many, by Dask's `distributed`.

Dask, because it is pure Python and runs where Slicer's users are (Linux, macOS, Windows), gives a dead worker's task to
another one and restarts the worker (a `concurrent.futures` pool breaks at the first death), and one client serves two
processes on a laptop as well as workers that SLURM or Kubernetes started. Ray would bring a daemon and an object store,
which tasks that go from files to files do not need.
"""

from __future__ import annotations

import argparse
import logging
import os
import queue
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

if TYPE_CHECKING:
    from distributed import Client, Future

    from dbsam.progress import CancelToken

logger = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")

DASHBOARD = "127.0.0.1:8787"
"""Where workers started here show what they do: on this computer only, because their tasks name patients' files."""

_CONNECT_SECONDS = 20
_LOOK_SECONDS = 0.2
_LOST = "The scheduler was lost. The same command goes on from here."

_one_at_a_time = threading.Lock()


class ClusterError(ConnectionError):
    """The workers cannot be used, or were lost; the message says why and what to do."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add `--workers` and `--scheduler`, which `Workers.of` reads."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--workers", type=_count, metavar="N", help="share the work among N processes of this computer")
    group.add_argument(
        "--scheduler", type=_address, metavar="ADDRESS",
        help="share it among the workers of a Dask scheduler, such as tcp://host:8786",
    )  # fmt: skip


def _count(text: str) -> int:
    """A number of processes; argparse tells the error."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return int(text)


def _address(text: str) -> str:
    """A scheduler's address. Dask tries others for a minute and more before it gives up."""
    address = urlsplit(text if "://" in text else f"tcp://{text}")
    try:
        usable = address.hostname and address.port and not address.path
    except ValueError:  # the port is no number up to 65535
        usable = False
    if not usable:
        raise argparse.ArgumentTypeError(f"{text!r} is no address of a host and a port, such as tcp://host:8786")
    return text


@dataclass(frozen=True)
class Workers:
    """Worker processes: `count` of them to be started here, or those of the Dask scheduler at an address."""

    count: int | None = None
    scheduler: str | None = None

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Workers | None:
        """What the options of `add_options` ask for; None for this process alone."""
        if arguments.workers is None and arguments.scheduler is None:
            return None
        return cls(arguments.workers, arguments.scheduler)

    def run(
        self, function: Callable[[Task], Result], tasks: Iterable[Task], cancel: CancelToken | None = None
    ) -> Generator[tuple[Task, Callable[[], Result]], None, None]:
        """Do tasks that do not depend on each other; close the iterator to end early.

        A task is read from `tasks` when a worker is free for it and forgotten when it has ended, so memory does not
        grow with their number. When its worker dies it is done again, on at most four workers in all: `function` must
        do no harm when it is called twice. A worker does one task at a time, in the caller's working folder.

        Args:
            function: Can be pickled: a function of a module, or a `functools.partial` of one.
            tasks: Can be pickled.
            cancel: Ends the work. What a scheduler's workers are doing at that moment they finish.

        Yields:
            Tasks in the order in which they end, each with a function that returns its result or raises its error.

        Raises:
            ClusterError: The workers cannot be used, or the scheduler was lost.
            Cancelled: `cancel` was cancelled.
        """
        waiting = iter(tasks)
        exhausted = False
        running: dict[str, tuple[Task, Future]] = {}
        ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        with self._connected() as client:
            while running or not exhausted:
                if cancel is not None:
                    cancel.raise_if_cancelled()
                while not exhausted and len(running) < _worker_count(client):
                    try:
                        task = next(waiting)
                    except StopIteration:
                        exhausted = True
                        break
                    key = f"dbsam-{uuid4().hex}"
                    future = client.submit(_do, function, Path.cwd(), task, key=key, pure=False)
                    future.add_done_callback(lambda ended_future: ended.put(str(ended_future.key)))
                    running[key] = task, future
                    del future  # the scheduler keeps what somebody refers to
                if any(future.status in ("lost", "cancelled") for _, future in running.values()):
                    raise ClusterError(_LOST)
                try:
                    key = ended.get(timeout=_LOOK_SECONDS)
                except queue.Empty:
                    continue
                task, done = running.pop(key)
                yield task, done.result
                del task, done

    @contextmanager
    def _connected(self) -> Iterator[Client]:
        try:
            from distributed import Client, LocalCluster
        except ImportError as error:
            raise ClusterError(
                f"--workers and --scheduler need the package distributed ({error}): pip install 'dbsam[cluster]'."
            ) from error
        if self.count is None:
            try:
                client = Client(self.scheduler, timeout=_CONNECT_SECONDS, set_as_default=False)
            except (OSError, ValueError) as error:
                raise ClusterError(f"No Dask scheduler answers at {self.scheduler!r} ({error}).") from error
            with client:
                if not _worker_count(client):
                    logger.warning("No worker has come to %s yet; waiting for one.", self.scheduler)
                yield _set_up(client)
            return
        threads = max(1, _cores() // self.count)
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        with (
            LocalCluster(
                n_workers=self.count,
                threads_per_worker=1,
                memory_limit=1 / self.count,
                dashboard_address=DASHBOARD,
                silence_logs=logging.CRITICAL,
                env={name: os.environ.get(name, str(threads)) for name in names},
                preload=["dbsam.cli.cluster"],
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield _set_up(client)


def dask_setup(worker: Any) -> None:
    """Called by Dask in each process started here: Ctrl-C, which a terminal sends to all, is for the first one only."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _set_up(client: Client) -> Client:
    """Tell where the dashboard is, and the workers' warnings as if they were given here."""
    logger.info("Dashboard: %s", client.dashboard_link)
    client.forward_logging("dbsam", logging.WARNING)
    return client


def _do(function: Callable[[Task], Result], folder: Path, task: Task) -> Result:
    # A model's memory and threads are reckoned for one task, however many threads the worker was started with.
    with _one_at_a_time:
        if folder.is_dir():
            os.chdir(folder)  # relative paths mean the same here
        return function(task)


def _worker_count(client: Client) -> int:
    try:
        return len(client.nthreads())
    except (OSError, RuntimeError) as error:
        raise ClusterError(_LOST) from error


def _cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
