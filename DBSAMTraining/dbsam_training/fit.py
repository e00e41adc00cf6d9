"""The training loop."""

from __future__ import annotations

import copy
import csv
import json
import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from dbsam.modeling.builder import build_model
from dbsam.modeling.config import named_config
from dbsam.modeling.dbsam import DBSAM
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dbsam_training.augment import AugmentOptions, Batch, PromptOptions, make_batch
from dbsam_training.losses import cross_entropy_dice, intersection_over_union
from dbsam_training.store import PatchStore, iterate_batches

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FitOptions:
    """One training run.

    Attributes:
        system: Name of the system to train.
        model: Settings of the model that differ from the system's.
        batch_size: Patches a step.
        steps: Optimizer steps.
        learning_rate: Peak of AdamW's rate; polynomial decay after a linear warm-up.
        warm_up: Steps of the warm-up.
        weight_decay: AdamW's.
        power: Power of the polynomial decay.
        iou_weight: Weight of the predicted-IoU head's squared error.
        balance: Data sets are drawn in proportion to their number of patches to this power.
        ema: Decay of the averaged weights, which are what is validated and exported.
        validate_every: Steps between validations.
        checkpoint_every: Steps between resume points.
        seed: Seed of weights, sampler and augmentation.
        prompts: How prompts are drawn.
        augment: How images are changed.
    """

    system: str = "compact"
    model: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 32
    steps: int = 4000
    learning_rate: float = 1.5e-3
    warm_up: int = 200
    weight_decay: float = 0.05
    power: float = 0.9
    iou_weight: float = 0.2
    balance: float = 0.5
    ema: float = 0.998
    validate_every: int = 500
    checkpoint_every: int = 200
    seed: int = 0
    prompts: PromptOptions = PromptOptions()
    augment: AugmentOptions = AugmentOptions()


def learning_rate_at(step: int, options: FitOptions) -> float:
    """Linear warm-up, then polynomial decay to zero."""
    if step < options.warm_up:
        return options.learning_rate * (step + 1) / options.warm_up
    progress = (step - options.warm_up) / max(1, options.steps - options.warm_up)
    return options.learning_rate * (1 - progress) ** options.power


def sampling_weights(store: PatchStore, indices: NDArray[np.int64], balance: float) -> NDArray[np.float64]:
    """Probability of each patch: data sets by size**balance, structures of a data set alike by the square root."""
    names = [store.entries[i].dataset for i in indices]
    groups = [(store.entries[i].dataset, store.entries[i].structure) for i in indices]
    set_size: dict[str, int] = defaultdict(int)
    group_size: dict[tuple[str, str], int] = defaultdict(int)
    for name, group in zip(names, groups, strict=True):
        set_size[name] += 1
        group_size[group] += 1
    share: dict[str, float] = defaultdict(float)
    for (name, _), size in group_size.items():
        share[name] += size**0.5
    weights = np.array(
        [set_size[n] ** balance * group_size[g] ** 0.5 / share[n] / group_size[g] for n, g in zip(names, groups, strict=True)]
    )
    return weights / weights.sum()


class Trainer:
    """Trains one model on a store; resumes from `run_folder` if it holds a resume point."""

    def __init__(self, store: PatchStore, options: FitOptions, run_folder: Path) -> None:
        self.store, self.options, self.folder = store, options, run_folder
        run_folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(options.seed)
        self.model = build_model(replace(named_config(options.system), **options.model))
        self.model = self.model.to(memory_format=torch.channels_last).train()
        self.averaged = copy.deepcopy(self.model).eval().requires_grad_(False)
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=options.learning_rate)
        self.rng = np.random.default_rng(options.seed)
        self.train_indices = store.indices("train")
        self.weights = sampling_weights(store, self.train_indices, options.balance)
        self.step = 0
        if (run_folder / "resume.pt").exists():
            self._load()

    def run(self) -> dict[str, Any]:
        """Train to the end and return the last validation."""
        started, seen, losses = time.monotonic(), 0, []
        report: dict[str, Any] = {}
        while self.step < self.options.steps:
            losses.append(self._train_step())
            seen += self.options.batch_size
            self.step += 1
            if self.step % 50 == 0:
                rate = seen / (time.monotonic() - started)
                logger.info("step %d loss %.4f %.1f samples/s", self.step, np.mean(losses[-50:]), rate)
            if self.step % self.options.checkpoint_every == 0:
                self._save()
            if self.step % self.options.validate_every == 0 or self.step == self.options.steps:
                report = validate(self.averaged, self.store, self.options)
                self._log({"step": self.step, "loss": float(np.mean(losses[-200:])), **report["means"]})
                (self.folder / "validation.json").write_text(json.dumps(report, indent=1))
        self._save()
        return report

    def _train_step(self) -> float:
        options = self.options
        chosen = self.rng.choice(len(self.train_indices), options.batch_size, p=self.weights)
        arrays = self.store.batch(np.sort(self.train_indices[chosen]))
        batch = make_batch(arrays, self.model.config.image_size, self.rng, options.prompts, options.augment)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate_at(self.step, options)
        with torch.autocast("cpu", torch.bfloat16):
            logits, predicted_iou = self.model(batch.images, batch.boxes_xyxy, batch.valid)
        loss = batch_loss(logits, predicted_iou, batch, options.iou_weight)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self._average()
        return float(loss.detach())

    @torch.no_grad()
    def _average(self) -> None:
        decay = min(self.options.ema, (1 + self.step) / (10 + self.step))
        for average, value in zip(self.averaged.state_dict().values(), self.model.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)

    def _save(self) -> None:
        state = {
            "step": self.step,
            "model": self.model.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "rng": json.dumps(self.rng.bit_generator.state),
            "torch_rng": torch.get_rng_state(),
        }
        part = self.folder / "resume.part"
        torch.save(state, part)
        os.replace(part, self.folder / "resume.pt")

    def _load(self) -> None:
        state = torch.load(self.folder / "resume.pt", weights_only=True)
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rng.bit_generator.state = json.loads(state["rng"])
        torch.set_rng_state(state["torch_rng"])
        logger.info("resumed at step %d", self.step)

    def _log(self, row: dict[str, Any]) -> None:
        logger.info("%s", {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
        path = self.folder / "log.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(row))
            if new:
                writer.writeheader()
            writer.writerow(row)


def batch_loss(logits: Tensor, predicted_iou: Tensor, batch: Batch, iou_weight: float) -> Tensor:
    """Mask loss on the logits at the input's resolution, plus the predicted IoU's squared error."""
    full = F.interpolate(logits.float().unsqueeze(1), batch.masks.shape[-2:], mode="bilinear", align_corners=False)[:, 0]
    full = full * batch.valid[:, 0] - 20.0 * (1 - batch.valid[:, 0])
    mask_loss = cross_entropy_dice(full, batch.masks).mean()
    iou = intersection_over_union(full.detach(), batch.masks)
    return mask_loss + iou_weight * (predicted_iou.float() - iou).square().mean()


@torch.no_grad()
def validate(model: DBSAM, store: PatchStore, options: FitOptions, most: int = 40) -> dict[str, Any]:
    """DSC per data set at the input's resolution, with the paper's prompts and with the whole object's box."""
    model.eval()
    chosen = _spread(store, most)
    plain = AugmentOptions(geometric=0, intensity=0, invert=0, repeat_channel=0)
    sides = {"paper": replace(options.prompts, paper=1.0, loose=0.0, cut=0.0), "roi": replace(options.prompts, paper=0.0, loose=1.0, cut=0.0)}
    means: dict[str, float] = {}
    per_set: dict[str, dict[str, float]] = {}
    for side, prompts in sides.items():
        prompts = replace(prompts, context_jitter=(1.0, 1.0))
        rng = np.random.default_rng(1234)
        scores: dict[str, list[float]] = defaultdict(list)
        position = 0
        for arrays in iterate_batches(store, chosen, 64):
            batch = make_batch(arrays, model.config.image_size, rng, prompts, plain)
            with torch.autocast("cpu", torch.bfloat16):
                logits, _ = model(batch.images, batch.boxes_xyxy, batch.valid)
            full = F.interpolate(logits.float().unsqueeze(1), batch.masks.shape[-2:], mode="bilinear")[:, 0]
            iou = intersection_over_union(full * batch.valid[:, 0] - (1 - batch.valid[:, 0]), batch.masks)
            for value in (2 * iou / (1 + iou)).tolist():
                scores[store.entries[chosen[position]].dataset].append(value)
                position += 1
        per_set[side] = {name: float(np.mean(values)) for name, values in scores.items()}
        means[side] = float(np.mean(list(per_set[side].values())))
        means[f"{side}_3d"] = float(np.mean([v for k, v in per_set[side].items() if k.startswith("Dataset2")]))
    return {"means": means, "per_set": per_set, "options": asdict(options)}


def _spread(store: PatchStore, most: int) -> NDArray[np.int64]:
    by_set: dict[str, list[int]] = defaultdict(list)
    for i in store.indices("val"):
        if not math.isnan(float(store.arrays["hulls"][i][0, 0])):
            by_set[store.entries[i].dataset].append(int(i))
    rng = np.random.default_rng(0)
    return np.array([i for group in by_set.values() for i in sorted(rng.permutation(group)[:most])], dtype=np.int64)
