"""Batches for each step, prepared in the training process or in worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dbsam.modeling.config import DBSAMConfig
from dbsam_training.batches.augment import Batch, make_batch
from dbsam_training.batches.sampling import Sampler
from dbsam_training.recipe import Recipe
from dbsam_training.store.format import TrainingStore
from dbsam_training.store.gpu import GpuStore

Reader = Callable[[Tensor], dict[str, Tensor]]
"""Returns the arrays of samples by their positions (B,) in the store."""


def mask_size(recipe: Recipe, config: DBSAMConfig) -> int:
    """Side of the masks that the loss compares."""
    return config.low_res_size if recipe.loss.resolution == "low_res" else config.image_size


class BatchDataset(Dataset[Batch]):
    """What one process trains on: item (step, part) is its share of that step's batch.

    Args:
        folders: The stores.
        recipe: How to draw, prompt and augment.
        rank: Of the process.
        world: Number of processes.
        device: Whose memory holds the samples; None to read them from disk.
        maps: Name of the files of the slices' features, for a model with a slice view.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        recipe: Recipe,
        rank: int,
        world: int,
        device: torch.device | None = None,
        maps: str | None = None,
    ) -> None:
        self._device, self._maps = device, maps
        self._folders, self._recipe = folders, recipe
        self._config = recipe.model.config
        self._rank, self._world = rank, world
        self._opened: tuple[Reader, Sampler] | None = None

    def __getstate__(self) -> dict[str, object]:
        # Worker processes open the stores themselves instead of receiving their columns.
        return {**self.__dict__, "_opened": None}

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        return self.make(*self.choose(*key))

    def choose(self, step: int, part: int = 0) -> tuple[Tensor, Tensor]:
        """Positions (B,) of the samples of this process's share of a step, and their random numbers (B, COUNT)."""
        sampler, run = self._open()[1], self._recipe.run
        size = run.batch_size // (self._world * run.gradient_accumulation_steps)
        start = (self._rank * run.gradient_accumulation_steps + part) * size
        share = np.sort(sampler.mixed(step)[start : start + size])
        return torch.from_numpy(sampler.batch(step)[share]), torch.from_numpy(sampler.draws(step)[share])

    def make(self, positions: Tensor, draws: Tensor) -> Batch:
        """The samples that were chosen, prompted and augmented."""
        table = draws.to(self._device or "cpu")
        size, masks = self._config.image_size, mask_size(self._recipe, self._config)
        return make_batch(self.read(positions), size, masks, table, self._recipe.prompts, self._recipe.augment)

    @property
    def read(self) -> Reader:
        """Returns the arrays of samples by their positions in the store."""
        return self._open()[0]

    def _open(self) -> tuple[Reader, Sampler]:
        if self._opened is None:
            store = TrainingStore(self._folders)
            run = self._recipe.run
            self._opened = (
                reader(store, self._device, self._maps),
                Sampler(store, self._recipe.data, run.batch_size, run.seed),
            )
        return self._opened


def reader(store: TrainingStore, device: torch.device | None, maps: str | None = None) -> Reader:
    """What returns the arrays of samples by their positions: from disk, or from a device's memory."""
    if device is not None:
        return GpuStore(store, device).batch
    return lambda positions: {
        name: torch.from_numpy(values) for name, values in store.batch(positions.tolist(), maps).items()
    }


class _Steps:
    """Keys of a `BatchDataset` from one step to another."""

    def __init__(self, first: int, last: int, parts: int) -> None:
        self._steps, self._parts = range(first, last), parts

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return ((step, part) for step in self._steps for part in range(self._parts))

    def __len__(self) -> int:
        return len(self._steps) * self._parts


def batch_loader(dataset: BatchDataset, recipe: Recipe, first: int, last: int, pin: bool) -> DataLoader[Batch]:
    """Batches of the steps from `first` up to, not including, `last`, in order."""
    workers = recipe.run.workers
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=_Steps(first, last, recipe.run.gradient_accumulation_steps),
        num_workers=workers,
        pin_memory=pin,
        worker_init_fn=_single_thread if workers else None,
        multiprocessing_context="spawn" if workers else None,
    )


def _single_thread(_: int) -> None:
    torch.set_num_threads(1)
