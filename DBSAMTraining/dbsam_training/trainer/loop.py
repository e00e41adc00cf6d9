"""The training loop: one recipe, some stores, one run folder.

    dbsam-train fit --config compact.yaml --store STORE --output RUN
    torchrun --nproc-per-node 4 -m dbsam_training.train fit --config paper.yaml --store STORE --output RUN

Every random choice is a function of the recipe's seed, the step and the sample's place in the batch: a run that was
killed goes on from its last resume point with the same losses, and the same batch on more processes gives the same
weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from lightning_fabric import Fabric
from torch import Tensor

from dbsam_training.batches.clicks import correction
from dbsam_training.batches.sampling import dropout_seed, learning_rate_at
from dbsam_training.recipe import Recipe
from dbsam_training.trainer.callbacks import Callback, default_callbacks
from dbsam_training.trainer.checks import explained
from dbsam_training.trainer.distributed import launch
from dbsam_training.trainer.ema import update_ema
from dbsam_training.trainer.log import RunLog
from dbsam_training.trainer.losses import training_loss
from dbsam_training.trainer.run import Run
from dbsam_training.trainer.run_folder import BEST, LAST
from dbsam_training.trainer.validation import Validation, validate


def train(
    recipe: Recipe,
    stores: Sequence[Path],
    folder: Path,
    fabric: Fabric | None = None,
    callbacks: Sequence[Callback] | None = None,
) -> Validation | None:
    """Train by a recipe, or go on with the run in a folder.

    Args:
        recipe: What to do.
        stores: Folders of the training stores.
        folder: The run folder, made if needed; a resume point in it is gone on from.
        fabric: Its devices and processes; launched by the recipe if None.
        callbacks: Told of what happens, in the first process; progress bar, learning curve and overlays if None.

    Returns:
        The last validation; None if there was none.

    Raises:
        SettingError: The recipe does not fit the store, the computer, or the run in the folder.
        StateError: The resume point is damaged.
        TrainingError: Memory ran out, or the loss or its gradient is not finite.
    """
    run = Run(recipe, stores, folder, fabric or launch(recipe.run))
    fabric, optimizer, parts = run.fabric, run.optimizer, recipe.run.gradient_accumulation_steps
    told = (default_callbacks() if callbacks is None else callbacks) if fabric.is_global_zero else ()
    validation: Validation | None = None
    with explained(recipe, folder / LAST), RunLog(run, told) as log:
        batches = iter(run.batches())
        for step in range(run.step, run.steps):
            lr = learning_rate_at(step, run.steps, run.sampler.steps_per_epoch, recipe.optimizer)
            for group in optimizer.param_groups:
                group["lr"] = lr * group["factor"]

            total = torch.zeros((), device=fabric.device)
            for part in range(parts):
                batch = next(batches).to(fabric.device)
                torch.manual_seed(dropout_seed(recipe.run.seed, step, part, fabric.global_rank))
                clicks, rounds = correction(batch, recipe, step)
                masks, valid = (truth.repeat(1 + rounds, 1, 1) for truth in (batch.masks, batch.mask_valid))
                with fabric.no_backward_sync(run.network, enabled=part + 1 < parts):
                    prompts = batch.images, batch.boxes_xyxy, batch.valid
                    logits, predicted_iou = run.network(*prompts, clicks, rounds, batch.seen)
                    loss = training_loss(logits, predicted_iou, masks, valid, recipe.loss.iou_weight)
                    fabric.backward(loss / parts)
                total += loss.detach() / parts

            limit = recipe.optimizer.max_grad_norm or float("inf")
            norm = fabric.clip_gradients(run.network, optimizer, max_norm=limit, error_if_nonfinite=False)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if recipe.optimizer.ema:
                update_ema(run.exported, run.model, step, recipe.optimizer.ema)
            run.step = step + 1
            log.add(run.step, lr, cast(Tensor, fabric.all_reduce(total, reduce_op="mean")), cast(Tensor, norm))

            validates = run.step % run.validate_every == 0 or run.step == run.steps
            stops = run.asked_to_stop()
            saves = validates or stops or run.step % recipe.run.checkpoint_every == 0
            if saves:
                log.flush()
            if validates:
                validation, examples = validate(run)
                log.add_validation(validation, examples)
                if validation is None or validation.score > run.best:
                    run.best = run.best if validation is None else validation.score
                    run.save(BEST)
            if saves:
                run.save(LAST)
            if stops:
                break
    return validation
