"""How long a slice usually takes, for the estimate before the first run with a model and device."""

from __future__ import annotations

from .Predictors import gpuTorch

# Seconds per slice on two cores of a server, rounded up (docs/benchmarks.md): the compact network, and the others with
# SAM's ViT-B on 1024 x 1024 pixels. Own files are most likely fine-tuned from one of the large ones.
_CPU_SECONDS = {"compact": 0.1, "sam": 8.0, "medsam": 8.0}
_LARGE_CPU_SECONDS = 11.0
_GPU_SECONDS = 0.2


def usualSecondsPerSlice(model: str, device: str) -> float:
    """A default pace until one was measured.

    Args:
        model: a model's name or the path of a weights file.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps". "auto" is a GPU only where PyTorch was loaded and has one.
    """
    if device.split(":")[0] in ("cuda", "mps") or (device == "auto" and gpuTorch() is not None):
        return _GPU_SECONDS
    return _CPU_SECONDS.get(model, _LARGE_CPU_SECONDS)
