"""How long a slice takes, for the estimate before a run."""

from __future__ import annotations

from .Predictors import gpuTorch

# Seconds per slice on two cores of a server, rounded up (docs/benchmarks.md): the compact network, and the others with
# SAM's ViT-B on 1024 x 1024 pixels. Own files are most likely fine-tuned from one of the large ones.
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
        return _CPU_SECONDS.get(model, _LARGE_CPU_SECONDS)
