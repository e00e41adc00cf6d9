"""Networks by name for the inference thread, loaded at first use and kept."""

from __future__ import annotations

import gc
import logging
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dbsam.inference.predictor import SlicePredictor
    from dbsam.progress import CancelToken

logger = logging.getLogger(__name__)


class PredictorSource:
    """Loads the predictor of a model once and keeps it while its file stays the same; inference thread only."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._predictor: SlicePredictor | None = None

    def __call__(self, model: str, device: str, cancel: CancelToken) -> SlicePredictor:
        """The predictor of a model on a device.

        Args:
            model: name of the registry or path of a weights file.
            device: "auto", "cpu", "mps", "cuda" or "cuda:N".
            cancel: stops a download or the check of a file.

        Raises:
            CheckpointError: unknown, missing, damaged or foreign weights; nothing is downloaded here.
            ValueError: this computer has no such device.
        """
        from dbsam.api import load_predictor
        from dbsam.weights.load import locate

        path = locate(model)
        status = path.stat() if path is not None else None
        key = (model, device, str(path), status and (status.st_mtime_ns, status.st_size))
        if self._predictor is None or key != self._key:
            self.clear()
            logger.info("Loading the model %s on device %s", model, device)
            self._predictor = load_predictor(model, device, download=False, cancel=cancel)
            self._key = key
        return self._predictor

    def clear(self) -> None:
        """Frees the network and what the GPU's memory pool holds for it."""
        self._key = self._predictor = None
        gc.collect()
        freeGpuMemory()


def requireWeights(model: str) -> None:
    """Refuses a model whose weights aren't on this computer, before a run is set up.

    Raises:
        CheckpointError: there is no such model or file.
        ValueError: its weights have to be fetched first.
    """
    from dbsam.weights.load import locate

    if locate(model) is None:
        raise ValueError(
            f"The weights of {model} are not on this computer: press Weights... to download them, or to choose a file"
            " of your own."
        )


def gpuTorch() -> Any:
    """PyTorch where it was loaded and has a CUDA GPU, else None; never loads it, which takes seconds."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and torch.cuda.is_available() else None


def freeGpuMemory() -> None:
    """Gives cached GPU memory back to the system, if torch was loaded at all."""
    torch = gpuTorch()
    if torch is not None:
        torch.cuda.empty_cache()


def isOutOfMemory(error: BaseException) -> bool:
    """Whether an error says that memory was full, on a GPU or not; without loading torch."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error)
