"""How long a slice and loading a model take on this computer, for the estimate before a run."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import slicer

if TYPE_CHECKING:
    from dbsam.worker.protocol import Segmented

# Seconds per slice on two cores of a server, rounded up (docs/benchmarks.md): the compact network, those with
# LiteMedSAM's ViT on whole slices, and those with SAM's ViT-B on 1024 x 1024 pixels. Files that don't say what they
# hold most likely are one of the large ones.
_CPU_SECONDS = {"compact": 0.1, "two-view": 0.8, "medsam-lite": 0.8, "sam": 8.0, "medsam": 8.0}
_LARGE_CPU_SECONDS = 11.0
_GPU_SECONDS = 0.2
# Starting the process and importing torch, from a cold disk cache.
_LOAD_SECONDS = 6.0
_SETTINGS = "DBSAM/Pace"


class Pace:
    """Seconds a slice, by model and device: measured ones, and usual ones until there are any.

    What was measured is kept in the application's settings for the next session.
    """

    def __init__(self) -> None:
        self._measured: dict[str, float] = {}

    def measured(self, model: str, device: str, segmented: Segmented) -> None:
        """Takes over what a run took, as it was measured in the worker."""
        # Slices that were encoded before cost next to nothing: they tell nothing of new ones.
        results = segmented.segmentations
        slices, hits = sum(len(one.slices) for one in results), sum(one.cache_hits for one in results)
        if slices > 2 * hits:
            self._keep(model, device, "slice", sum(one.seconds for one in results) / max(1, slices - hits))
        if segmented.load_seconds > 0:
            self._keep(model, device, "load", segmented.load_seconds)

    def secondsPerSlice(self, model: str, device: str) -> float:
        """What a slice is expected to take.

        Args:
            model: a model's name or the path of a weights file.
            device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        """
        # Other weights of an architecture are as fast as those that were timed.
        for name in (model, _system(model)):
            known = self._known(name, device, "slice")
            if known is not None:
                return known
        if device.split(":")[0] in ("cuda", "mps"):
            return _GPU_SECONDS
        return _CPU_SECONDS.get(_system(model), _LARGE_CPU_SECONDS)

    def secondsToLoad(self, model: str, device: str) -> float:
        """What loading the model is expected to take where it isn't loaded."""
        for name in (model, _system(model)):
            known = self._known(name, device, "load")
            if known is not None:
                return known
        return _LOAD_SECONDS

    def _keep(self, model: str, device: str, what: str, seconds: float) -> None:
        key = _key(model, device, what)
        self._measured[key] = seconds
        slicer.app.settings().setValue(key, round(seconds, 4))

    def _known(self, model: str, device: str, what: str) -> float | None:
        key = _key(model, device, what)
        if key not in self._measured:
            stored = _positive(slicer.app.settings().value(key))
            if stored is None:
                return None
            self._measured[key] = stored
        return self._measured[key]


def _key(model: str, device: str, what: str) -> str:
    name = model.replace("/", "|").replace("\\", "|")  # a slash begins a group of the settings
    return f"{_SETTINGS}/{name}@{device}/{what}"


def _positive(value: Any) -> float | None:
    try:
        seconds = float(value)
    except (TypeError, ValueError):  # absent, or changed by hand
        return None
    return seconds if seconds > 0 else None


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
