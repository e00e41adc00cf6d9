"""What the command line shows while it works: a progress bar on a terminal, nothing in a log file."""

from __future__ import annotations

import logging
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import TextIO

from dbsam.progress import Progress

_BAR_CELLS = 24
_REDRAW_SECONDS = 0.1


class ProgressBar:
    """A progress callback that draws one line on a terminal and clears it at the end.

    Where the stream is no terminal, or `quiet` is set, nothing is drawn.
    """

    def __init__(self, label: str = "", quiet: bool = False, stream: TextIO | None = None) -> None:
        self._label = label
        self._stream = stream or sys.stderr
        self._draws = not quiet and self._stream.isatty()
        self._last_drawn = 0.0
        self._last_stage = ""

    def __call__(self, progress: Progress) -> None:
        """Draw `progress`, unless the line was drawn a moment ago and there is more to come."""
        now = time.monotonic()
        moment_ago = now - self._last_drawn < _REDRAW_SECONDS
        if not self._draws or (moment_ago and progress.stage == self._last_stage and progress.done < progress.total):
            return
        self._last_drawn, self._last_stage = now, progress.stage
        columns = shutil.get_terminal_size().columns - 1
        self._stream.write("\r\x1b[K" + progress_line(self._label, progress)[:columns])
        self._stream.flush()

    def clear(self) -> None:
        """Take the line away, so that messages start on a clean one."""
        if self._draws:
            self._stream.write("\r\x1b[K")
            self._stream.flush()

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.clear()


def progress_line(label: str, progress: Progress) -> str:
    """The text of a progress bar, such as `liver.nrrd  encoding [######----] 12/20  0:07 left`."""
    share = min(1.0, progress.done / progress.total) if progress.total else 0.0
    cells = round(share * _BAR_CELLS)
    large = progress.total >= 1_000_000  # bytes
    count = f"{progress.done / 1e6:.0f}/{progress.total / 1e6:.0f} MB" if large else f"{progress.done}/{progress.total}"
    left = progress.seconds_left
    seconds = f"  {int(left) // 60}:{int(left) % 60:02d} left" if left is not None else ""
    bar = "#" * cells + "-" * (_BAR_CELLS - cells)
    return "  ".join(part for part in (label, progress.stage) if part) + f" [{bar}] {count}{seconds}"


@contextmanager
def log_to_terminal(verbose: bool, quiet: bool) -> Iterator[None]:
    """Show the library's log on standard error: warnings, with `verbose` also the steps, with `quiet` only errors."""
    log, handler = logging.getLogger("dbsam"), _TerminalHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    level = log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if verbose else logging.ERROR if quiet else logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)
        log.removeHandler(handler)


class _TerminalHandler(logging.Handler):
    """Writes to what is standard error at that moment, over a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        over = "\r\x1b[K" if sys.stderr.isatty() else ""
        sys.stderr.write(f"{over}{self.format(record)}\n")
