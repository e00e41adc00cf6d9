"""One runner for the module and all effects, so that one network and one cache are in memory."""

from __future__ import annotations

import slicer

from .Runner import SegmentationRunner

_runner: SegmentationRunner | None = None
_users = 0


def acquireRunner(cacheBytes: int | None = None) -> SegmentationRunner:
    """The application's runner, created at first use; every call needs its `releaseRunner`.

    Args:
        cacheBytes: limit of the memory for image embeddings, if this call creates the runner.
    """
    global _runner, _users
    if _runner is None:
        options = {} if cacheBytes is None else {"cacheBytes": cacheBytes}
        _runner = SegmentationRunner(slicer.mrmlScene, **options)
        slicer.app.connect("aboutToQuit()", _close)
    _users += 1
    return _runner


def releaseRunner() -> None:
    """Closes the runner when its last user lets go of it."""
    global _users
    _users = max(0, _users - 1)
    if _users == 0:
        _close()


def _close() -> None:
    global _runner
    if _runner is not None:
        runner, _runner = _runner, None
        slicer.app.disconnect("aboutToQuit()", _close)
        runner.close()
