"""How long a slice takes, for the estimate before a run."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from .Predictors import gpuTorch

# Seconds per slice on two cores of a server, rounded up (docs/benchmarks.md): the compact network, and the others with
# SAM's ViT-B on 1024 x 1024 pixels. Files that don't say what they hold most likely are one of the large ones.
_CPU_SECONDS = {"compact": 0.1, "sam": 8.0, "medsam": 8.0}
_LARGE_CPU_SECONDS = 11.0
_GPU_SECONDS = 0.2


class Pace:
    """Seconds a slice, by model and device: measured ones, and usual ones until there are any."""

    def __init__(self) -> None:
        self._measured: dict[tuple[str, str], float] = {}

    def measured(self, model: str, device: str, secondsPerSlice: float) -> None:
        """Takes over what a run took."""
        self._measured[model, device] = secondsPerSlice

    def secondsPerSlice(self, model: str, device: str) -> float:
        """What a slice is expected to take.

        Args:
            model: a model's name or the path of a weights file.
            device: "auto", "cpu", "cuda", "cuda:N" or "mps". "auto" is a GPU only where PyTorch was loaded and has one.
        """
        if (model, device) in self._measured:
            return self._measured[model, device]
        if device.split(":")[0] in ("cuda", "mps") or (device == "auto" and gpuTorch() is not None):
            return _GPU_SECONDS
        return _CPU_SECONDS.get(_system(model), _LARGE_CPU_SECONDS)


def _system(model: str) -> str:
    """The system that a name or a weights file stands for; "" for a file that doesn't say."""
    if model in _CPU_SECONDS:
        return model
    try:
        status = Path(model).stat()
    except (OSError, ValueError):
        return ""
    return _systemInHeader(model, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _systemInHeader(path: str, mtime_ns: int, size: int) -> str:
    """What a file's header says, read again when the file has changed; without loading torch."""
    try:
        from dbsam.weights.metadata import CheckpointError, read_info
    except ImportError:  # safetensors isn't installed yet
        return ""
    try:
        return read_info(path).config.system
    except CheckpointError:
        return ""
