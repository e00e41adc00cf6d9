"""Where files may come to be, and how they come to be whole."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dbsam.progress import CancelToken

logger = logging.getLogger(__name__)

_PREFIX = ".dbsam-"
_LOCK, _CONTENT = "lock", "new"
_FORGOTTEN_SECONDS = 3600.0


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write a file to, moved to `path` when the block ends and deleted when it fails.

    Readers see the old file or the whole new one, also after a power cut. The path has the name's endings, by which
    writers know the format, in lower case, because some know no other. The folder of `path` is made, and what killed
    processes left in it is removed. A `path` that is a symbolic link stays one: the file it leads to is replaced.

    Raises:
        OSError: The file cannot be written; a former one stays.
    """
    target = link_target(Path(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(target.parent)
    with tempfile.TemporaryDirectory(prefix=_PREFIX, dir=target.parent) as folder, _held(Path(folder, _LOCK)):
        content = Path(folder, _CONTENT)  # there only once the lock is held
        content.mkdir()
        temporary = content / target.name.lower()
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, target)


def link_target(path: Path) -> Path:
    """The path itself, or where it leads to as a symbolic link, whether something is there or not.

    Raises:
        OSError: It leads to itself.
    """
    if not path.is_symlink():
        return path
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(errno.ELOOP, f"{path}: a symbolic link that leads to itself; name a file.")
    return target


def remove_unfinished(folder: Path) -> None:
    """Remove from a folder what processes that were killed within `atomic_path` left there."""
    with os.scandir(folder) as entries:
        found = [Path(entry.path) for entry in entries if entry.name.startswith(_PREFIX) and entry.is_dir()]
    for left in found:
        with suppress(OSError, NotImplementedError):  # it is gone already, or the drive has no locks: it stays
            if (left / _CONTENT).is_dir():
                abandoned = _can_be_locked(left / _LOCK)
            else:
                # Killed in the moment before the lock was held, or another process is in that moment.
                abandoned = time.time() - left.stat().st_mtime > _FORGOTTEN_SECONDS
            if abandoned:
                shutil.rmtree(left, ignore_errors=True)


@contextmanager
def _held(lock_file: Path) -> Iterator[None]:
    """Hold a lock that nobody else wants, as a sign of life; the operating system drops it when the process ends."""
    try:
        from filelock import FileLock  # comes with torch, without which nothing is lost but that sign
    except ImportError:
        yield
        return
    lock = FileLock(lock_file)
    with suppress(NotImplementedError):  # some network drives have no locks
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _can_be_locked(lock_file: Path) -> bool:
    try:
        from filelock import FileLock, Timeout
    except ImportError:
        return False
    try:
        with FileLock(lock_file, timeout=0):
            return True
    except Timeout:
        return False


def check_place(path: Path) -> None:
    """Refuse a path at which no file can come to be.

    Raises:
        OSError: It is a folder, is below a file or a missing drive, or its folder may not be written.
    """
    if path.is_dir():
        raise IsADirectoryError(f"{path}: a folder, where a file is to be written; name a file in it.")
    place = link_target(path).absolute()
    above = next((folder for folder in place.parents if folder.exists()), None)
    if above is None:
        raise FileNotFoundError(f"{path}: its drive or share {place.anchor} is not there.")
    if not above.is_dir():
        raise NotADirectoryError(f"{path}: {above} is a file and can hold no other; choose another folder.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise PermissionError(f"{path}: nothing may be written into {above}; choose another folder.")


@contextmanager
def exclusive_lock(path: Path, cancel: CancelToken | None = None, poll_seconds: float = 0.1) -> Iterator[None]:
    """Hold the lock file `path` while the block runs, waiting for whoever holds it.

    The operating system drops the lock when its holder ends, however it ends, so a lock file left behind by a crash
    blocks nobody.

    Args:
        path: The lock file; made if absent.
        cancel: Ends the waiting when cancelled.
        poll_seconds: How often a held lock is tried again.

    Raises:
        Cancelled: `cancel` was cancelled while waiting.
        OSError: The lock file cannot be made.
    """
    from filelock import FileLock, Timeout  # comes with torch

    lock, waited = FileLock(path), False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            if cancel is not None:
                cancel.raise_if_cancelled()
            if not waited:
                logger.info("Another process holds %s: waiting for it.", path)
            waited = True
            time.sleep(poll_seconds)
        except NotImplementedError as error:  # some network drives have no locks
            logger.warning("No lock on %s (%s): do not start the same work twice at once.", path, error)
            break
    try:
        yield
    finally:
        lock.release()
