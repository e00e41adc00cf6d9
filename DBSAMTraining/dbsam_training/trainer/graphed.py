"""A training step as one CUDA graph: a small network's thousands of kernels take longer to launch than to run."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dbsam_training.batches.rng import COUNT

WARM_UP = 3
"""Steps before the graph is recorded, in which libraries choose their algorithms and the optimizer makes its state."""

Figures = tuple[Tensor, Tensor]
"""Loss and gradient norm of a step."""


class GraphedStep:
    """Does training steps; from the fourth on by replaying one recorded graph.

    Args:
        step: Does a whole step on samples at positions (B,) with their random numbers (B, COUNT), both on `device`, and
            returns its loss and gradient norm. It must leave gradients None, wait for nothing, and copy nothing from or
            to the computer's memory.
        batch_size: Samples B of a step.
        device: A CUDA device.
    """

    def __init__(self, step: Callable[[Tensor, Tensor], Figures], batch_size: int, device: torch.device) -> None:
        self._step = step
        self._positions = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self._draws = torch.zeros(batch_size, COUNT, device=device)
        self._stream = torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._figures: Figures | None = None
        self._done = 0

    def __call__(self, positions: Tensor, draws: Tensor) -> Figures:
        """Do the step of samples that were chosen, both on the CPU; returns loss and gradient norm on the device."""
        self._positions.copy_(positions.pin_memory(), non_blocking=True)
        self._draws.copy_(draws.pin_memory(), non_blocking=True)
        self._done += 1
        if self._done <= WARM_UP:
            return self._beside()
        if self._graph is None:
            self._record()
        assert self._graph is not None
        assert self._figures is not None
        self._graph.replay()
        loss, norm = self._figures
        return loss.clone(), norm.clone()

    def _beside(self) -> Figures:
        """The step as it is, on the stream on which it will be recorded."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            figures = self._step(self._positions, self._draws)
        torch.cuda.current_stream().wait_stream(self._stream)
        return figures

    def _record(self) -> None:
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=self._stream):
            self._figures = self._step(self._positions, self._draws)
