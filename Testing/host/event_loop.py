"""The event loop as it is in Slicer: while it waits, the main thread keeps the interpreter's lock.

No Python thread runs meanwhile, so that what relies on one is as slow here as there.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import PySide6
from PySide6 import QtCore

# `static void QCoreApplication::processEvents(QEventLoop::ProcessEventsFlags)` as compilers of Linux and macOS name it.
_PROCESS_EVENTS = "_ZN16QCoreApplication13processEventsE6QFlagsIN10QEventLoop17ProcessEventsFlagEE"
_LIBRARIES = {
    "linux": "Qt/lib/libQt6Core.so.6",
    "darwin": "Qt/lib/QtCore.framework/Versions/A/QtCore",
}


def _process_events() -> Callable[[int], None]:
    """Qt's function, called without letting go of the lock; where it isn't found, the one that does let go."""
    path = Path(PySide6.__file__).parent / _LIBRARIES.get(sys.platform, "")
    if not path.is_file():
        return lambda flags: QtCore.QCoreApplication.processEvents(QtCore.QEventLoop.ProcessEventsFlag(flags))
    function = getattr(ctypes.PyDLL(str(path)), _PROCESS_EVENTS)
    function.argtypes, function.restype = [ctypes.c_int], None
    return function


_held = _process_events()
keeps_the_lock = isinstance(_held, ctypes._CFuncPtr)
_WAIT = QtCore.QEventLoop.ProcessEventsFlag.WaitForMoreEvents.value


@contextmanager
def waiting(milliseconds: int) -> Iterator[Callable[[], None]]:
    """Gives what waits for the next event and handles it, no longer than a number of milliseconds.

    Calls of PySide let go of the lock: in the block there should be as few as possible.
    """
    wake = QtCore.QTimer()  # without a slot, waking up costs no Python
    wake.setTimerType(QtCore.Qt.TimerType.PreciseTimer)
    wake.start(milliseconds)
    try:
        yield lambda: _held(_WAIT)
    finally:
        wake.stop()
