"""What a user is told when a run fails."""

from __future__ import annotations

from typing import Any

from ..Mrml.Geometry import GeometryError
from .Predictors import freeGpuMemory, isOutOfMemory


class SegmentationError(RuntimeError):
    """A run that could not be finished; nothing was changed, and the message says what to do."""


def explainedError(error: BaseException, cache: Any) -> BaseException:
    """The error to show; memory is freed where it was full, so that the next run needs no restart.

    Args:
        error: what the inference thread or the writer raised.
        cache: the embedding cache, which is cleared when the memory was full.
    """
    if isOutOfMemory(error):
        cache.clear()
        freeGpuMemory()
        return SegmentationError(
            "The memory was full, so the run was stopped and nothing was changed. Cached embeddings were freed: run"
            f" again, or choose the device cpu or the model compact. ({type(error).__name__}: {error})"
        )
    if isinstance(error, (SegmentationError, GeometryError)):
        return error
    if isinstance(error, (ValueError, OSError, RuntimeError)):
        return SegmentationError(str(error)).with_traceback(error.__traceback__)
    return error
