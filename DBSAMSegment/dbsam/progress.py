"""How long work tells how far it is, and how it is asked to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass


class Cancelled(Exception):
    """The work was cancelled."""


class CancelToken:
    """Asks work in another thread to stop; safe to share between threads."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask all work that holds this token to stop."""
        self._event.set()

    @property
    def cancelled(self) -> bool:
        """Whether the work was asked to stop."""
        return self._event.is_set()

    def raise_if_cancelled(self) -> None:
        """Stop here if asked to.

        Raises:
            Cancelled: The token was cancelled.
        """
        if self.cancelled:
            raise Cancelled("Cancelled.")


@dataclass(frozen=True)
class Progress:
    """How far work is.

    Attributes:
        done: Units of work done.
        total: Units of work in all.
        stage: What is being done.
        seconds_left: Estimated time left; None where nothing is known yet.
    """

    done: int
    total: int
    stage: str
    seconds_left: float | None


ProgressCallback = Callable[[Progress], None]
