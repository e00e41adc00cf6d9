"""A training store in the memory of one device, so that a GPU waits for no disk and no other processor."""

from __future__ import annotations

import torch
from torch import Tensor

from dbsam_training.store.format import PATCH_SIZE, TrainingStore


class GpuStore:
    """Every sample of a store on a device: 64 KiB a grey image, 192 KiB a colour image, 8 KiB a mask.

    Args:
        store: The store.
        device: Where to keep it.
    """

    def __init__(self, store: TrainingStore, device: torch.device) -> None:
        self._device = device
        self._arrays = {name: torch.from_numpy(values).to(device) for name, values in store.load().items()}
        self._bits = torch.arange(7, -1, -1, dtype=torch.uint8, device=device)

    def batch(self, positions: Tensor) -> dict[str, Tensor]:
        """The arrays of some samples, as `TrainingStore.batch` names them."""
        at = positions.to(self._device)
        found = {name: self._arrays[name][at] for name in ("hulls", "prompts", "slices", "pixels")}
        packed = self._arrays["masks"][at]
        bits = (packed.unsqueeze(-1) >> self._bits) & 1
        found["masks"] = bits.reshape(-1, PATCH_SIZE, PATCH_SIZE) * 255
        found["images"] = self._images(self._arrays["rows"][at].long())
        return found

    def _images(self, rows: Tensor) -> Tensor:
        """Colour images by rows from 0 up, grey ones by rows from -1 down, (B, 256, 256, 3)."""
        colour, grey = self._arrays["images"], self._arrays["greys"]
        if not len(colour):
            return grey[-1 - rows].expand(-1, -1, -1, 3)
        if not len(grey):
            return colour[rows]
        is_colour = (rows >= 0).view(-1, 1, 1, 1)
        return torch.where(is_colour, colour[rows.clamp_min(0)], grey[(-1 - rows).clamp_min(0)])
