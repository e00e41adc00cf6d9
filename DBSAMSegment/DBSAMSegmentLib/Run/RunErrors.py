"""What a user is told when a run fails."""

from __future__ import annotations

import logging

from ..Mrml.Geometry import GeometryError

logger = logging.getLogger(__name__)


class SegmentationError(RuntimeError):
    """A run that could not be finished; nothing was changed, and the message says what to do."""


def explainedError(error: BaseException) -> BaseException:
    """The error to show.

    Args:
        error: what the worker or the writer raised.
    """
    from dbsam.worker.client import WorkerEnded, WorkerError
    from dbsam.worker.networks import is_memory_full

    if isinstance(error, WorkerError):
        if error.trace:
            logger.debug("In the worker: %s", error.trace)
        if error.memory_full:
            return SegmentationError(
                "The memory was full, so the run was stopped and nothing was changed. Cached embeddings were freed:"
                f" run again, or choose the device cpu or the model compact. ({error.kind}: {error})"
            )
        kind = "" if isinstance(error, WorkerEnded) or error.kind in _FOR_USERS else f"{error.kind}: "
        return SegmentationError(f"{kind}{error}")
    if is_memory_full(error):
        return SegmentationError(
            "Slicer's memory was full, so the result was dropped and nothing was changed: close other volumes and run"
            f" again. ({type(error).__name__}: {error})"
        )
    if isinstance(error, (SegmentationError, GeometryError)):
        return error
    if isinstance(error, (ValueError, OSError, RuntimeError)):
        return SegmentationError(str(error)).with_traceback(error.__traceback__)
    return error


# Errors whose text is written for users; the others' class says half of what happened.
_FOR_USERS = ("ValueError", "RuntimeError", "CheckpointError", "WeightsNotFoundError", "DownloadError", "DeviceError")
