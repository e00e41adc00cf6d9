"""Progress and times in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from slicer.i18n import tr as _

if TYPE_CHECKING:
    from dbsam.progress import Progress


def duration(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return _("{count} s").format(count=max(1, round(seconds)))
    return _("{count} min").format(count=round(seconds / 60))


def progressText(progress: Progress) -> str:
    """What is done, how far it is, and the time left where it is known."""
    if progress.total == 0:  # nothing that could be counted, such as loading the model
        return _("{stage}...").format(stage=progress.stage)
    text = _("{stage}: {done} of {total}").format(stage=progress.stage, done=progress.done, total=progress.total)
    if progress.seconds_left is not None:
        text += _(", {time} left").format(time=duration(progress.seconds_left))
    return text
