"""One process at a time writes a store or a run folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from dbsam.io.files import exclusive_lock, remove_unfinished
from dbsam.progress import Cancelled, CancelToken
from dbsam_training.schema import SettingError

LOCK_FILE = ".lock"


@contextmanager
def sole_use(folder: Path) -> Iterator[None]:
    """Hold a folder, made if needed, while the block runs; a process that ends, however it ends, holds nothing.

    Raises:
        SettingError: Another process holds it.
        OSError: The folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    no_waiting = CancelToken()
    no_waiting.cancel()
    with ExitStack() as stack:
        try:
            stack.enter_context(exclusive_lock(folder / LOCK_FILE, no_waiting))
        except Cancelled as error:
            raise SettingError(
                f"Another process is at work in {folder}: wait until it has ended, or name another output folder."
            ) from error
        remove_unfinished(folder)
        yield
