"""Random numbers of each sample, drawn together before anything is known of its batch."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

COUNT = 192
"""Uniform numbers that prompts and augmentation may use for one sample."""
_NOISE = 1 << 20


class Draws:
    """Hands out the columns of a table of uniform numbers, one row a sample.

    Everything random about a sample is a function of its row, so that it does not depend on the rest of the batch, on
    the number of processes, or on the device.

    Args:
        table: (B, COUNT), 0..1.
    """

    def __init__(self, table: Tensor) -> None:
        self._table, self._next = table, 0

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Numbers (B, *shape) from `low` to `high`."""
        count = math.prod(shape)
        columns = self._table[:, self._next : self._next + count]
        assert columns.shape[1] == count, f"more than {COUNT} numbers a sample are asked for"
        self._next += count
        return low + (high - low) * columns.reshape(-1, *shape)

    def chance(self, share: float) -> Tensor:
        """True (B,) for this share of the samples."""
        return self.uniform(0.0, 1.0) < share

    def noise(self, count: int) -> Tensor:
        """Standard normal numbers (B, count): a stretch of one long series, from a random place on."""
        series = _normal_series(self._table.device)
        start = (self.uniform(0.0, 1.0) * _NOISE).long()
        return series[(start[:, None] + torch.arange(count, device=series.device)) % _NOISE]


@lru_cache(16)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers on a device, copied there once."""
    return torch.tensor(values, device=device)


@lru_cache(2)
def _normal_series(device: torch.device) -> Tensor:
    return torch.randn(_NOISE, generator=torch.Generator().manual_seed(0)).to(device)
