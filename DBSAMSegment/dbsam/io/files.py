"""Where files may come to be, and how they come to be whole."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dbsam.progress import CancelToken

logger = logging.getLogger(__name__)

_PREFIX = ".dbsam-"
_LOCK = ".lock"
_POLL_SECONDS = 0.1


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
    with _own_folder(target.parent) as folder:
        temporary = folder / target.name.lower()
        with naming_what_is_written(path):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(temporary, target)


@contextmanager
def naming_what_is_written(path: str | os.PathLike[str]) -> Iterator[None]:
    """Name the file in an error of writing, which says of itself "No space left on device" and no more.

    Raises:
        OSError: What the block raised.
    """
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(f"{path}: cannot be written ({error.strerror}). Is the disk full?") from error


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text in UTF-8, with line ends as they are, as `atomic_path` does: whole or not at all.

    Raises:
        OSError: It cannot be written; a former one stays.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode())


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
        names = {entry.name.removesuffix(_LOCK) for entry in entries if entry.name.startswith(_PREFIX)}
    for left in (folder / name for name in names):
        lock_file = left.with_name(left.name + _LOCK)
        with suppress(OSError):  # another process removes it at this moment, or its drive has no locks
            try:
                lock = os.open(lock_file, os.O_RDWR)
            except FileNotFoundError:  # its owner makes it after the lock and removes it before, and so is dead
                shutil.rmtree(left, ignore_errors=True)
                continue
            try:
                if _try_lock(lock) and os.fstat(lock).st_nlink:
                    shutil.rmtree(left, ignore_errors=True)
                    lock_file.unlink()
            finally:
                os.close(lock)


@contextmanager
def _own_folder(parent: Path) -> Iterator[Path]:
    """A new folder, which goes when the block ends; a lock beside it shows meanwhile that its owner lives.

    Not through filelock, which makes lock files anew that others remove: here a name is never used twice.
    """
    while True:
        folder = parent / f"{_PREFIX}{uuid.uuid4().hex}"
        lock_file = folder.with_name(folder.name + _LOCK)
        lock = os.open(lock_file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with suppress(OSError):  # on a drive without locks nobody else can lock it and remove the folder
                if not _try_lock(lock) or not os.fstat(lock).st_nlink:
                    continue  # another process took it for a dead one's in the moment before it was locked
            folder.mkdir()
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return
        finally:
            os.close(lock)
            lock_file.unlink(missing_ok=True)


def _try_lock(descriptor: int) -> bool:
    """Lock an open file until it is closed or its process ends; returns False where another process has.

    Raises:
        OSError: Its drive has no locks.
    """
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            raise
        return False
    return True


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
def exclusive_lock(path: Path, cancel: CancelToken | None = None) -> Iterator[None]:
    """Hold the lock file `path` while the block runs, waiting for whoever holds it.

    The operating system drops the lock when its holder ends, however it ends, so a lock file left behind by a crash
    blocks nobody.

    Args:
        path: The lock file; made if absent.
        cancel: Ends the waiting when cancelled.

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
            time.sleep(_POLL_SECONDS)
        except NotImplementedError as error:  # some network drives have no locks
            logger.warning("No lock on %s (%s): do not start the same work twice at once.", path, error)
            break
    try:
        yield
    finally:
        lock.release()
