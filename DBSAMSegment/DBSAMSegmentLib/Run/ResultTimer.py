"""A timer of the main thread that delivers the inference thread's results while there is work."""

from __future__ import annotations

from typing import TYPE_CHECKING

import qt

if TYPE_CHECKING:
    from .InferenceThread import InferenceThread

_MILLISECONDS = 20


class ResultTimer:
    """Polls one thread; runs only while it is busy."""

    def __init__(self, thread: InferenceThread) -> None:
        self._thread = thread
        self._timer = qt.QTimer()
        self._timer.setInterval(_MILLISECONDS)
        self._timer.connect("timeout()", self._poll)

    def watch(self) -> None:
        """To be called after work was submitted."""
        if not self._timer.active:
            self._timer.start()

    def close(self) -> None:
        """Stops for good."""
        self._timer.stop()
        self._timer.disconnect("timeout()", self._poll)

    def _poll(self) -> None:
        if not self._thread.poll():
            self._timer.stop()
