"""Networks by name, loaded at first use and kept; in the worker only."""

from __future__ import annotations

import gc
import logging
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from dbsam.inference.predictor import SlicePredictor
    from dbsam.progress import CancelToken, ProgressCallback

logger = logging.getLogger(__name__)

DEFAULT_SOURCE = "dbsam.worker.networks:Networks"


class NetworkSource(Protocol):
    """Where the worker gets predictors from; a rule of one's own that needs no network can be one."""

    def __call__(self, model: str, device: str, cancel: CancelToken, progress: ProgressCallback) -> SlicePredictor:
        """The predictor of a model on a device; the same object as long as it is the same."""

    def clear(self) -> None:
        """Frees memory."""


def source_named(name: str, options: Mapping[str, Any]) -> NetworkSource:
    """Makes the source that is called "module:name" with these arguments.

    Raises:
        ValueError: There is none of this name.
    """
    module, _, attribute = name.partition(":")
    try:
        factory: Callable[..., NetworkSource] = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"The source of networks {name!r} can't be imported by the worker: {error}") from error
    return factory(**options)


class Networks:
    """Loads the predictor of a model once and keeps it while its file stays the same."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._predictor: SlicePredictor | None = None

    def __call__(self, model: str, device: str, cancel: CancelToken, progress: ProgressCallback) -> SlicePredictor:
        """See `NetworkSource`.

        Raises:
            CheckpointError: Unknown, missing, damaged or foreign weights; nothing is downloaded here.
            ValueError: This computer has no such device.
        """
        from dbsam.api import load_predictor
        from dbsam.weights.load import locate

        path = locate(model)
        status = path.stat() if path is not None else None
        key = (model, device, str(path), status and (status.st_mtime_ns, status.st_size))
        if self._predictor is None or key != self._key:
            self.clear()
            self._predictor = load_predictor(model, device, download=False, progress=progress, cancel=cancel)
            self._key = key
        return self._predictor

    def clear(self) -> None:
        """Frees the network and what the GPU's memory pool holds for it."""
        self._key = self._predictor = None
        free_gpu_memory()


def free_gpu_memory() -> None:
    """Gives cached GPU memory back to the system, if torch was loaded at all."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_memory_full(error: BaseException) -> bool:
    """Whether an error says that memory was full, on a GPU or not; without loading torch."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error)
