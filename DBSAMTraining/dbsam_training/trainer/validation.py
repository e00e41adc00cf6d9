"""Validation while training: DSC on fixed samples with fixed prompts, at the resolution of the loss."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from dbsam_training.batches.augment import Batch, make_batch
from dbsam_training.batches.loader import mask_size
from dbsam_training.batches.rng import COUNT
from dbsam_training.recipe import AugmentOptions, PromptOptions
from dbsam_training.store.format import TrainingStore
from dbsam_training.trainer.losses import OUTSIDE_LOGIT, intersection_over_union, resize_logits

if TYPE_CHECKING:
    from dbsam_training.trainer.run import Run

_SEED = 1234


@dataclass(frozen=True)
class Validation:
    """DSC of one validation.

    Attributes:
        means: By prompt: the mean over data sets; "score", the mean of all prompts, decides which state is best.
        per_set: By prompt: the mean over the samples of each data set.
    """

    means: Mapping[str, float]
    per_set: Mapping[str, Mapping[str, float]]

    @property
    def score(self) -> float:
        """What decides which state is best."""
        return self.means["score"]


@dataclass(frozen=True, eq=False)
class Example:
    """One sample as a picture shows it: image (S, S, 3) 0..255, box, predicted and true mask (M, M), and its DSC."""

    image: NDArray[np.uint8]
    box_xyxy: NDArray[np.float32]
    predicted: NDArray[np.bool_]
    truth: NDArray[np.bool_]
    dataset: str
    dsc: float


def validation_prompts(prompts: PromptOptions) -> dict[str, PromptOptions]:
    """The kinds of prompt a recipe trains for, each alone: "paper", and "roi" for the box of a whole 3D object."""
    fixed = replace(prompts, context_jitter=(1.0, 1.0), cut=0.0)
    kinds = {"paper": replace(fixed, paper=1.0, loose=0.0)}
    if prompts.loose:
        kinds["roi"] = replace(fixed, paper=0.0, loose=1.0)
    return kinds


def choose_samples(store: TrainingStore, most: int) -> NDArray[np.int64]:
    """Up to `most` random validation samples of each data set that show their object, always the same ones."""
    indices = store.indices("val")
    indices = indices[store.seen[indices]]
    rng = np.random.default_rng(0)
    chosen = [
        np.sort(rng.permutation(indices[store.dataset[indices] == n])[:most]) for n in range(len(store.dataset_names))
    ]
    return np.concatenate(chosen) if chosen else indices


@torch.no_grad()
def validate(run: Run) -> tuple[Validation | None, list[Example]]:
    """Score the weights that a run would export; the processes share the samples, and each returns the whole result.

    Returns:
        The scores (None without validation samples) and a few examples of this process's share.
    """
    recipe, store, fabric = run.recipe, run.store, run.fabric
    config = recipe.model.config
    size, masks = config.image_size, mask_size(recipe, config)
    share = choose_samples(store, recipe.run.validate_per_dataset)[fabric.global_rank :: fabric.world_size]
    at_once = max(1, recipe.run.batch_size // (fabric.world_size * recipe.run.gradient_accumulation_steps))
    scores: dict[str, list[tuple[int, float]]] = defaultdict(list)
    examples: list[Example] = []
    run.exported.eval()
    for kind, prompts in validation_prompts(recipe.prompts).items():
        for start in range(0, len(share), at_once):
            positions = share[start : start + at_once]
            arrays = run.dataset.read(torch.from_numpy(positions))
            draws = np.stack([np.random.default_rng([_SEED, int(p)]).random(COUNT, np.float32) for p in positions])
            table = torch.from_numpy(draws).to(arrays["hulls"].device)
            batch = make_batch(arrays, size, masks, table, prompts, AugmentOptions())
            logits, _ = run.predict(batch)
            full = resize_logits(logits, masks).cpu()
            batch = batch.to(full.device)
            full = full * batch.mask_valid - OUTSIDE_LOGIT * (1 - batch.mask_valid)
            iou = intersection_over_union(full, batch.masks)
            dsc = (2 * iou / (1 + iou)).tolist()
            scores[kind] += [(int(store.dataset[p]), value) for p, value in zip(positions, dsc, strict=True)]
            if kind == "paper":
                examples += _examples(batch, full > 0, [store.dataset_names[store.dataset[p]] for p in positions], dsc)
    run.train_mode()
    gathered = _gather(dict(scores), fabric.world_size)
    per_set = {kind: _means(values, store.dataset_names) for kind, values in gathered.items() if values}
    if not per_set:
        return None, []
    means = {kind: float(np.mean(list(values.values()))) for kind, values in per_set.items()}
    return Validation({"score": float(np.mean(list(means.values()))), **means}, per_set), examples


def _gather(scores: dict[str, list[tuple[int, float]]], world: int) -> dict[str, list[tuple[int, float]]]:
    if world == 1:
        return scores
    received: list[dict[str, list[tuple[int, float]]]] = [{}] * world
    dist.all_gather_object(received, scores)
    merged: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for part in received:
        for kind, values in part.items():
            merged[kind] += values
    return merged


def _means(values: list[tuple[int, float]], names: list[str]) -> dict[str, float]:
    by_set: dict[int, list[float]] = defaultdict(list)
    for code, value in values:
        by_set[code].append(value)
    return {names[code]: float(np.mean(sorted(group))) for code, group in sorted(by_set.items())}


def _examples(batch: Batch, predicted: Tensor, names: list[str], dsc: list[float]) -> list[Example]:
    return [
        Example(
            batch.images[n].permute(1, 2, 0).clamp(0, 255).byte().numpy(),
            batch.boxes_xyxy[n].numpy(),
            predicted[n].numpy(),
            batch.masks[n].numpy() > 0.5,
            names[n],
            dsc[n],
        )
        for n in range(len(names))
    ]
