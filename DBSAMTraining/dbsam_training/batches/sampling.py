"""Which sample is seen at which step: a function of seed and step, so that a resumed run needs no state."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from dbsam_training.batches.rng import COUNT
from dbsam_training.recipe import DataOptions, OptimizerOptions, RunOptions
from dbsam_training.store.format import TrainingStore

# The first number of every generator's seed, so that streams of different purpose never meet.
_ORDER, _SAMPLE, _DROPOUT, _MIX = 1, 2, 3, 4


class Sampler:
    """Draws the batch of each step from a store's training samples.

    Args:
        store: The store.
        data: How to sample.
        batch_size: Samples of one optimizer step, over all processes.
        seed: Of the run.

    Raises:
        ValueError: The store has no training sample, or fewer than one batch in an epoch.
    """

    def __init__(self, store: TrainingStore, data: DataOptions, batch_size: int, seed: int) -> None:
        self.indices = store.indices("train")
        self.batch_size, self.seed = batch_size, seed
        if len(self.indices) == 0:
            raise ValueError(f"{store.folders[0]} has no training sample: prepare data with a training split.")
        self._ends: NDArray[np.float64] | None = None
        if data.sampling == "balanced":
            self._ends = np.cumsum(sampling_weights(store, self.indices, data))
        elif batch_size > len(self.indices):
            raise ValueError(
                f"run.batch_size {batch_size} exceeds the {len(self.indices)} training samples: lower it, or use "
                "data.sampling 'balanced'."
            )
        self._permutation = lru_cache(2)(self._shuffled)

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches that the training samples make; the rest of an epoch is left out."""
        return max(1, len(self.indices) // self.batch_size)

    def batch(self, step: int) -> NDArray[np.int64]:
        """Positions in the store of the samples of a step, in ascending order (neighbours on disk come together)."""
        if self._ends is not None:
            draws = np.random.default_rng([_ORDER, self.seed, step]).random(self.batch_size) * self._ends[-1]
            chosen = np.minimum(np.searchsorted(self._ends, draws, side="right"), len(self.indices) - 1)
        else:
            epoch, position = divmod(step, self.steps_per_epoch)
            start = position * self.batch_size
            chosen = self._permutation(epoch)[start : start + self.batch_size]
        return np.sort(self.indices[chosen])

    def draws(self, step: int) -> NDArray[np.float32]:
        """The random numbers of each sample of a step, (batch_size, draws.COUNT)."""
        return np.random.default_rng([_SAMPLE, self.seed, step]).random((self.batch_size, COUNT), np.float32)

    def mixed(self, step: int) -> NDArray[np.int64]:
        """An order of the samples of a step in which they can be cut into parts.

        `batch` has them by data set; batch norm must not see one data set in one part and another in the next.
        """
        return np.random.default_rng([_MIX, self.seed, step]).permutation(self.batch_size)

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([_ORDER, self.seed, epoch]).permutation(len(self.indices))


def sampling_weights(store: TrainingStore, indices: NDArray[np.int64], data: DataOptions) -> NDArray[np.float64]:
    """Probability of each sample: data sets by size**balance and factor, structures of a data set by size**0.5."""
    dataset = store.dataset[indices].astype(np.int64)
    pair = dataset * len(store.structure_names) + store.structure[indices]
    pairs, group, group_size = np.unique(pair, return_inverse=True, return_counts=True)
    dataset_of_pair = pairs // len(store.structure_names)
    count = len(store.dataset_names)
    set_size = np.bincount(dataset, minlength=count)
    roots = np.sqrt(group_size)
    share = np.bincount(dataset_of_pair, roots, minlength=count)
    set_weight = set_size**data.balance * np.array([_factor(name, store, data) for name in store.dataset_names])
    pair_weight = set_weight[dataset_of_pair] * roots / share[dataset_of_pair] / group_size
    weights = pair_weight[group]
    return np.asarray(weights / weights.sum())


def _factor(dataset: str, store: TrainingStore, data: DataOptions) -> float:
    facts = store.datasets.get(dataset, {})  # none of super-pixels
    mark = data.ill_posed_weight if facts.get("ill_posed_for_one_box") else 1.0
    return mark * data.dataset_weights.get(dataset, 1.0)


def dropout_seed(seed: int, step: int, part: int, rank: int) -> int:
    """Seed of the dropout of a part of a step in one process."""
    words = [_DROPOUT, seed, step, part, rank]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


def total_steps(run: RunOptions, steps_per_epoch: int) -> int:
    """Optimizer steps of a run."""
    if run.steps is not None:
        return run.steps
    assert run.epochs is not None
    return max(1, round(run.epochs * steps_per_epoch))


def learning_rate_at(step: int, steps: int, steps_per_epoch: int, options: OptimizerOptions) -> float:
    """Linear warm-up, then polynomial decay to zero.

    Args:
        step: 0 for the first.
        steps: Of the whole run.
        steps_per_epoch: For a warm-up that is given in epochs.
        options: Peak rate, warm-up and power.
    """
    warm_up = options.warm_up_steps + round(options.warm_up_epochs * steps_per_epoch)
    low, high = options.warm_up_from, options.learning_rate
    if step < warm_up:
        return low + (high - low) * (step + 1) / warm_up
    progress = (step - warm_up) / max(1, steps - warm_up)
    return float(high * (1 - min(1.0, progress)) ** options.power)
