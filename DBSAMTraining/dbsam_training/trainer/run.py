"""A training run: what its steps work on, made anew or from the resume point in its folder."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import DataLoader

from dbsam_training.batches.augment import Batch
from dbsam_training.batches.loader import BatchDataset, batch_loader
from dbsam_training.batches.sampling import Sampler, total_steps
from dbsam_training.recipe import Recipe
from dbsam_training.schema import SettingError
from dbsam_training.trainer.checks import open_stores
from dbsam_training.trainer.distributed import synchronize_batch_norm
from dbsam_training.trainer.ema import ema_copy
from dbsam_training.trainer.init import init_model, kept_weights
from dbsam_training.trainer.optimizer import make_optimizer
from dbsam_training.trainer.run_folder import (
    LAST,
    RECIPE,
    STOP,
    StateError,
    changed_settings,
    provenance,
    read_state,
    write_state,
)
from dbsam_training.trainer.slice_maps import fill_slice_maps

logger = logging.getLogger(__name__)

_MODEL_SETTINGS = ("model", "data")
"""Parts of a recipe that a resumed run must share with the run so far."""


class Run:
    """What the training loop works on.

    Args:
        recipe: What to do.
        stores: Folders of the training stores.
        folder: The run folder, made if needed; a resume point in it is gone on from.
        fabric: Devices and processes.

    Attributes:
        store: The stores as one.
        sampler: Which sample is seen at which step.
        model: What is trained.
        network: The same for the training step: compiled, distributed, in the recipe's precision.
        exported: The weights that are validated and exported: their running average, or the model itself.
        step: Steps taken.
        steps: Steps of the whole run.
        best: The best validation score so far; -1 before the first.

    Raises:
        SettingError: The recipe does not fit the store, the computer, or the run in the folder.
        StateError: The resume point is damaged.
    """

    def __init__(self, recipe: Recipe, stores: Sequence[Path], folder: Path, fabric: Fabric) -> None:
        self.recipe, self.folder, self.fabric = recipe, folder, fabric
        folder.mkdir(parents=True, exist_ok=True)
        (folder / STOP).unlink(missing_ok=True)  # left by a run that was killed
        self.store = open_stores(stores, recipe)
        self.sampler = Sampler(self.store, recipe.data, recipe.run.batch_size, recipe.run.seed)
        self.steps = total_steps(recipe.run, self.sampler.steps_per_epoch)
        self.validate_every = recipe.run.validate_every or self.sampler.steps_per_epoch
        with fabric.rank_zero_first():  # one process downloads the base
            self.model, base = init_model(recipe)
        self.provenance = provenance(self.store, base)
        if fabric.world_size > 1 and recipe.run.sync_batch_norm:
            synchronize_batch_norm(self.model)
        self.model.image_encoder.checkpointing = recipe.run.checkpointing
        self.model = self.model.to(memory_format=torch.channels_last)
        optimizer = make_optimizer(self.model, recipe.optimizer)
        compiled = recipe.run.compiled and fabric.device.type == "cuda"
        network = cast(nn.Module, torch.compile(self.model)) if compiled else self.model
        self.network, self.optimizer = fabric.setup(network, optimizer)
        self.exported = ema_copy(self.model) if recipe.optimizer.ema else self.model
        self.train_mode()
        self.step, self.best = 0, -1.0
        if (folder / LAST).exists():
            self._resume()
        device = fabric.device if recipe.run.store_on_gpu and fabric.device.type != "cpu" else None
        maps: str | None = None
        if self.model.slice_encoder is not None:
            with fabric.rank_zero_first():
                maps = fill_slice_maps(self.store, self.model, fabric.device)
        self.dataset = BatchDataset(stores, recipe, fabric.global_rank, fabric.world_size, device, maps)

    def batches(self) -> DataLoader[Batch]:
        """This process's batches of the steps to come, one for each gradient accumulation step."""
        pin = self.fabric.device.type == "cuda" and not self.recipe.run.store_on_gpu
        return batch_loader(self.dataset, self.recipe, self.step, self.steps, pin)

    def train_mode(self) -> None:
        """Training mode for what is trained; frozen batch norms and dropouts stay as in prediction."""
        self.network.train()
        for part in self.model.modules():
            weights = list(part.parameters())
            if weights and not any(weight.requires_grad for weight in weights):
                part.eval()

    def predict(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Low-res logits and predicted IoU of the weights that are exported."""
        batch = batch.to(self.fabric.device)
        with self.fabric.autocast():
            logits, iou = self.exported(batch.images, batch.boxes_xyxy, batch.valid, seen=batch.seen)
        return logits.float(), iou.float()

    def asked_to_stop(self) -> bool:
        """Whether the file `STOP` asks the run to end, which is taken away; runs of several processes don't look."""
        path = self.folder / STOP
        if self.fabric.world_size > 1 or not path.is_file():
            return False
        path.unlink(missing_ok=True)
        return True

    def save(self, name: str) -> None:
        """Write the state `LAST`, to go on from, or `BEST`, to export; in the first process, while the others wait."""
        if self.fabric.is_global_zero:
            state: dict[str, Any] = {
                "step": self.step,
                "best": self.best,
                "recipe": self.recipe.to_dict(),
                "store": self.store.signature,
                "provenance": self.provenance,
                "exported": kept_weights(self.exported, self.provenance["base"]),
            }
            if name == LAST:
                state |= {
                    "model": kept_weights(self.model, self.provenance["base"]),
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
                f"recipe of that run ({self.folder / RECIPE})."
            )
        if state["store"] != self.store.signature:
            raise SettingError(
                f"{self.folder} holds a run on another store: name another output folder, or that store."
            )
        then, base = state["provenance"]["base"], self.provenance["base"]
        options = self.recipe.model
        for digest, name in (("weights_sha256", options.base), ("slice_sha256", options.slice_base)):
            if then is not None and base is not None and then.get(digest) != base[digest]:
                raise SettingError(
                    f"{self.folder} holds a run on other weights than {name!r} names now: their SHA-256 was "
                    f"{then.get(digest)} and is {base[digest]}. Bring the former weights back, or name another output "
                    "folder."
                )
        if changed:
            logger.info("going on with other settings: %s", ", ".join(changed))
        try:
            self.model.load_state_dict(state["model"], strict=False)
            if self.exported is not self.model:
                self.exported.load_state_dict(state["exported"], strict=False)
            self.optimizer.load_state_dict(state["optimizer"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise StateError(f"{path} does not fit its own recipe: {str(error).splitlines()[0]}") from error
        if state["precision"] and so_far["run"]["precision"] == now["run"]["precision"]:
            self.fabric.strategy.precision.load_state_dict(state["precision"])
        self.step, self.best = int(state["step"]), float(state["best"])
        logger.info("going on from step %d of %d", self.step, self.steps)
