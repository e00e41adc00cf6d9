"""The training loop: one recipe, one store, one run folder.

    dbsam-train fit --config compact.yaml --store STORE --output RUN
    torchrun --nproc-per-node 4 -m dbsam_training.train fit --config paper.yaml --store STORE --output RUN

Every random choice is a function of the recipe's seed, the step and the sample's place in the batch: a run that was
killed goes on from its last resume point with the same losses, and the same batch on more processes gives the same
weights.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import yaml
from lightning_fabric import Fabric
from torch import Tensor, nn

from dbsam.cli.terminal import ProgressBar
from dbsam.modeling.dbsam import DBSAM
from dbsam.progress import Progress
from dbsam_training.batches.augment import Batch
from dbsam_training.batches.loader import BatchDataset, batch_loader
from dbsam_training.batches.sampling import Sampler, dropout_seed, learning_rate_at, total_steps
from dbsam_training.recipe import Recipe, recipe_from
from dbsam_training.schema import SettingError
from dbsam_training.store.format import write_json
from dbsam_training.trainer.batch_norm import synchronize_batch_norm
from dbsam_training.trainer.checks import open_stores
from dbsam_training.trainer.distributed import launch
from dbsam_training.trainer.ema import averaged_copy, update_average
from dbsam_training.trainer.failures import TrainingError, explained, not_finite_text
from dbsam_training.trainer.graphed import Figures, GraphedStep
from dbsam_training.trainer.init import kept_weights, provenance, start_model
from dbsam_training.trainer.losses import training_loss
from dbsam_training.trainer.optimizer import make_optimizer, move_rate, parameters_of, set_rate
from dbsam_training.trainer.plots import write_learning_curve, write_overlays
from dbsam_training.trainer.run_folder import (
    BEST,
    LAST,
    CsvLog,
    StateError,
    changed_settings,
    read_log,
    read_state,
    write_state,
)
from dbsam_training.trainer.validation import Validation, choose_samples, validate, validation_prompts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Taken:
    """A step that was taken, and its figures, which a GPU may still be computing."""

    step: int
    rate: float
    loss: Tensor
    gradient_norm: Tensor


_MODEL_SETTINGS = ("model", "data")  # parts of a recipe that a resumed run must share with the run so far


class Trainer:
    """Trains one model; goes on from `folder` if it holds a resume point.

    Args:
        recipe: What to do.
        stores: Folders of the training stores.
        folder: The run folder, made if needed.
        fabric: Its devices and processes; launched by the recipe if None.

    Raises:
        SettingError: The recipe does not fit the store, the computer, or the run in the folder.
        StateError: The resume point is damaged.
    """

    def __init__(self, recipe: Recipe, stores: list[Path], folder: Path, fabric: Fabric | None = None) -> None:
        self.recipe, self.folder = recipe, folder
        self.fabric = fabric or launch(recipe.run)
        folder.mkdir(parents=True, exist_ok=True)
        self.store = open_stores(stores, recipe)
        self.sampler = Sampler(self.store, recipe.data, recipe.run.batch_size, recipe.run.seed)
        self.steps = total_steps(recipe.run, self.sampler.steps_per_epoch)
        self.validate_every = recipe.run.validate_every or self.sampler.steps_per_epoch
        self.chosen = choose_samples(self.store, recipe.run.validate_per_dataset)
        with self.fabric.rank_zero_first():  # one process downloads the base
            self.model, self.base = start_model(recipe)
        self._setup()
        self.step, self.best = 0, -1.0
        if (folder / LAST).exists():
            self._resume()
        device = self.fabric.device if recipe.run.resident and self.fabric.device.type != "cpu" else None
        self._batches = BatchDataset(stores, recipe, self.fabric.global_rank, self.fabric.world_size, device)

    def _setup(self) -> None:
        recipe, fabric = self.recipe, self.fabric
        options = recipe.optimizer
        graphed = recipe.run.graphed and fabric.device.type == "cuda"
        config = recipe.model.config
        if graphed and (fabric.world_size > 1 or config.adapter_dropout or config.drop_path):
            raise SettingError("run.graphed needs one GPU, and model.settings without adapter_dropout and drop_path.")
        if fabric.world_size > 1 and recipe.run.sync_batch_norm:
            synchronize_batch_norm(self.model)
        self.model.image_encoder.checkpointing = recipe.run.checkpointing
        self.model = self.model.to(memory_format=torch.channels_last)
        optimizer = make_optimizer(self.model, options, fabric.device if graphed else None)
        compiled = recipe.run.compiled and fabric.device.type == "cuda"
        self._network: nn.Module = cast(nn.Module, torch.compile(self.model)) if compiled else self.model
        self.module, self.optimizer = fabric.setup(self._network, optimizer)
        self._graphed: Callable[[Tensor, Tensor], Figures] | None = None
        if graphed:
            self._graphed = GraphedStep(self._whole_step, recipe.run.batch_size, fabric.device)
        self.averaged = averaged_copy(self.model) if options.ema else self.model
        self._train_mode()

    def _train_mode(self) -> None:
        """Training mode for what is trained; frozen batch norms and dropouts stay as in prediction."""
        self.module.train()
        for part in self.model.modules():
            weights = list(part.parameters())
            if weights and not any(weight.requires_grad for weight in weights):
                part.eval()

    def run(self) -> Validation | None:
        """Train to the end and return the last validation.

        Raises:
            TrainingError: Memory ran out, or the loss or its gradient is not finite.
        """
        with explained(self.recipe, self.folder / LAST):
            return self._run()

    def _run(self) -> Validation | None:
        main = self.fabric.is_global_zero
        logs = self._open_logs() if main else None
        validation: Validation | None = None
        pin = self.fabric.device.type == "cuda" and not self.recipe.run.resident
        batches = iter(batch_loader(self._batches, self.recipe, self.step, self.steps, pin))
        began, first = time.monotonic(), self.step
        with ProgressBar("training", quiet=not main) as bar:

            def record(taken: _Taken) -> None:
                row = self._checked(taken)
                seconds = time.monotonic() - began
                if logs:
                    logs[0].add({**row, "seconds": round(seconds, 2)})
                    logs[0].flush()
                left = seconds / (taken.step - first) * (self.steps - taken.step)
                bar(Progress(taken.step, self.steps, f"loss {row['loss']:.3f}", left))

            waiting: _Taken | None = None
            while self.step < self.steps:
                taken = self._train_step(batches)
                self.step += 1
                if waiting:  # recorded only now, so that a GPU has the next step to go on with
                    record(waiting)
                waiting = taken
                due = self.step % self.validate_every == 0 or self.step == self.steps
                save = due or self.step % self.recipe.run.checkpoint_every == 0
                if save:
                    record(waiting)
                    waiting = None
                if due:
                    validation = self._validate(logs)
                if save:
                    self._save(LAST)
        for log in logs or ():
            log.close()
        return validation

    def _train_step(self, batches: Iterator[Batch]) -> _Taken:
        options = self.recipe.optimizer
        rate = learning_rate_at(self.step, self.steps, self.sampler.steps_per_epoch, options)
        set_rate(self.optimizer.param_groups, rate)
        figures = self._graphed(*self._batches.choose(self.step)) if self._graphed else self._step_in_parts(batches)
        if self.averaged is not self.model:
            update_average(self.averaged, self.model, self.step, options.ema)
        return _Taken(self.step + 1, rate, *figures)

    def _whole_step(self, positions: Tensor, draws: Tensor) -> Figures:
        """A step of one process in one part, which a CUDA graph can hold; returns loss and gradient norm."""
        batch = self._batches.make(positions, draws)
        with self.fabric.autocast():
            logits, predicted_iou = self._network(batch.images, batch.boxes_xyxy, batch.valid)
        loss = training_loss(logits, predicted_iou, batch.masks, batch.mask_valid, self.recipe.loss.iou_weight)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(
            parameters_of(self.optimizer.param_groups), self.recipe.optimizer.clip_norm or float("inf")
        )
        self.optimizer.optimizer.step()
        self.optimizer.optimizer.zero_grad(set_to_none=True)
        return loss.detach(), norm

    def _step_in_parts(self, batches: Iterator[Batch]) -> Figures:
        """A step on any devices and processes; returns loss and gradient norm."""
        recipe, fabric = self.recipe, self.fabric
        total = torch.zeros((), device=fabric.device)
        for part in range(recipe.run.accumulate):
            batch = next(batches).to(fabric.device)
            torch.manual_seed(dropout_seed(recipe.run.seed, self.step, part, fabric.global_rank))
            with fabric.no_backward_sync(self.module, enabled=part + 1 < recipe.run.accumulate):
                logits, predicted_iou = self.module(batch.images, batch.boxes_xyxy, batch.valid)
                loss = (
                    training_loss(logits, predicted_iou, batch.masks, batch.mask_valid, recipe.loss.iou_weight)
                    / recipe.run.accumulate
                )
                fabric.backward(loss)
            total += loss.detach()
        loss = _tensor(fabric.all_reduce(total, reduce_op="mean"))
        limit = recipe.optimizer.clip_norm or float("inf")
        norm = fabric.clip_gradients(self.module, self.optimizer, max_norm=limit, error_if_nonfinite=False)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss, _tensor(norm)

    def _checked(self, taken: _Taken) -> dict[str, float]:
        """The figures of a step, once they are computed."""
        loss, norm = float(taken.loss), float(taken.gradient_norm)
        self._check(loss, "loss", taken.step)
        scaler = getattr(self.fabric.strategy.precision, "scaler", None)
        if scaler is None:
            self._check(norm, "gradient", taken.step)
        elif scaler.get_scale() < 1.0:  # it halves at each overflow: by now no step has been taken for long
            self._check(float("inf"), "gradient", taken.step)
        return {"step": taken.step, "loss": loss, "learning_rate": taken.rate, "gradient_norm": norm}

    def _check(self, value: float, what: str, step: int) -> None:
        if np.isfinite(value):
            return
        cases = list(dict.fromkeys(self.store.case_of(int(i)) for i in self.sampler.batch(step - 1)))
        raise TrainingError(not_finite_text(what, step - 1, cases, self.recipe, self.folder / LAST))

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Low-res logits and predicted IoU of the weights that are exported."""
        batch = batch.to(self.fabric.device)
        with self.fabric.autocast():
            logits, iou = self.averaged(batch.images, batch.boxes_xyxy, batch.valid)
        return logits.float(), iou.float()

    def _validate(self, logs: tuple[CsvLog, CsvLog] | None) -> Validation | None:
        self.averaged.eval()
        rank, world = self.fabric.global_rank, self.fabric.world_size
        read = self._batches.read
        result, examples = validate(
            self._exported, self._forward, self.store, read, self.chosen, self.recipe, rank, world
        )
        self._train_mode()
        if result is None:  # no sample
            self._save(BEST)
            return None
        if logs:
            logs[1].add({"step": self.step, **result.means})
            logs[1].flush()
            write_json(self.folder / "validation.json", {"step": self.step, **asdict(result)})
            curve = read_log(self.folder / "train.csv"), read_log(self.folder / "validation.csv")
            write_learning_curve(self.folder / "learning_curve.png", *curve)
            write_overlays(self.folder / "overlays.png", examples)
            means = ", ".join(f"{kind} {100 * value:.2f}" for kind, value in result.means.items())
            logger.info("step %d: loss %.4f, validation DSC %s", self.step, curve[0][-1]["loss"], means)
        if result.means["score"] > self.best:
            self.best = result.means["score"]
            self._save(BEST)
        return result

    @property
    def _exported(self) -> DBSAM:
        assert isinstance(self.averaged, DBSAM)
        return self.averaged

    def _open_logs(self) -> tuple[CsvLog, CsvLog]:
        run = provenance(self.recipe, self.store, self.base)
        write_json(self.folder / "run.json", run)
        text = yaml.safe_dump(self.recipe.to_dict(), sort_keys=False, allow_unicode=True)
        (self.folder / "recipe.yaml").write_text(text, encoding="utf-8")
        columns = ("step", "loss", "learning_rate", "gradient_norm", "seconds")
        scores = ("step", "score", *validation_prompts(self.recipe.prompts))
        return (
            CsvLog(self.folder / "train.csv", columns, self.step),
            CsvLog(self.folder / "validation.csv", scores, self.step),
        )

    def _save(self, name: str) -> None:
        if self.fabric.is_global_zero:
            state: dict[str, Any] = {
                "step": self.step,
                "best": self.best,
                "recipe": self.recipe.to_dict(),
                "store": self.store.signature,
                "averaged": kept_weights(self._exported, self.base),
            }
            if name == LAST:
                state |= {
                    "model": kept_weights(self.model, self.base),
                    "optimizer": self.optimizer.state_dict(),
                    "precision": self.fabric.strategy.precision.state_dict(),
                }
            write_state(self.folder / name, state)
        self.fabric.barrier()

    def _resume(self) -> None:
        path = self.folder / LAST
        state = read_state(path)
        so_far, now = state["recipe"], self.recipe.to_dict()
        changed = changed_settings(so_far, now)
        if other := [name for name in changed if name.split(".")[0] in _MODEL_SETTINGS]:
            raise SettingError(
                f"{self.folder} holds a run with another {', '.join(other)}: name another output folder, or give the "
                f"recipe of that run ({self.folder / 'recipe.yaml'})."
            )
        if state["store"] != self.store.signature:
            raise SettingError(
                f"{self.folder} holds a run on another store: name another output folder, or that store."
            )
        if changed:
            logger.info("going on with other settings: %s", ", ".join(changed))
        try:
            self.model.load_state_dict(state["model"], strict=False)
            if self.averaged is not self.model:
                self.averaged.load_state_dict(state["averaged"], strict=False)
            self.optimizer.load_state_dict(state["optimizer"])
            move_rate(self.optimizer.param_groups, self.fabric.device)
        except (RuntimeError, ValueError, KeyError) as error:
            raise StateError(f"{path} does not fit its own recipe: {str(error).splitlines()[0]}") from error
        if state["precision"] and so_far["run"]["precision"] == now["run"]["precision"]:
            self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.step, self.best = int(state["step"]), float(state["best"])
        logger.info("going on from step %d of %d", self.step, self.steps)


def fit(recipe: Recipe, stores: list[Path], folder: Path, fabric: Fabric | None = None) -> Validation | None:
    """Train by a recipe, or go on with the run in `folder`; see `Trainer`."""
    return Trainer(recipe, stores, folder, fabric).run()


def recipe_of(folder: Path) -> Recipe:
    """The recipe of a run.

    Raises:
        SettingError: The folder holds no run.
    """
    path = folder / "recipe.yaml"
    if not path.is_file():
        raise SettingError(f"{folder} holds no training run: there is no {path.name} in it.")
    return recipe_from(yaml.safe_load(path.read_text(encoding="utf-8")))


def _tensor(value: object) -> Tensor:
    assert isinstance(value, Tensor)
    return value
