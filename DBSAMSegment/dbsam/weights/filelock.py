"""An advisory lock between processes, so that two of them never write the same file or folder at once."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dbsam.progress import CancelToken

logger = logging.getLogger(__name__)

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    def _unlock(descriptor: int) -> None:
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _unlock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


_HELD_BY_ANOTHER = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)


@contextmanager
def exclusive_lock(path: Path, cancel: CancelToken | None = None, poll_seconds: float = 0.1) -> Iterator[bool]:
    """Hold the lock file `path` while the block runs, waiting for whoever holds it.

    The operating system drops the lock when its holder ends, however it ends, so a lock file left behind by a crash
    blocks nobody.

    Args:
        path: The lock file; made if absent, left in place.
        cancel: Ends the waiting when cancelled.
        poll_seconds: How often a held lock is tried again.

    Yields:
        Whether the lock is held: False where the file system has no locks (some network drives).

    Raises:
        Cancelled: `cancel` was cancelled while waiting.
        OSError: The lock file cannot be made.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    held = False
    try:
        waited = False
        while not held:
            try:
                _try_lock(descriptor)
                held = True
            except OSError as error:
                if error.errno not in _HELD_BY_ANOTHER:
                    logger.warning("No lock on %s (%s): do not start the same work twice at once.", path, error)
                    break
                if cancel is not None:
                    cancel.raise_if_cancelled()
                if not waited:
                    logger.info("Another process holds %s: waiting for it.", path)
                    waited = True
                time.sleep(poll_seconds)
        yield held
    finally:
        if held:
            _unlock(descriptor)
        os.close(descriptor)
