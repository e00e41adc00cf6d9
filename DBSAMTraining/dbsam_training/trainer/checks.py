"""What is checked before and during a run, in words that say what to change."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from dbsam_training.data.case import Source
from dbsam_training.data.licences import is_open
from dbsam_training.data.tasks import TaskRegistry
from dbsam_training.recipe import DataOptions, Recipe
from dbsam_training.schema import SettingError, closest
from dbsam_training.store.format import PATCH_SIZE, TrainingStore, read_store_facts
from dbsam_training.store.prepare import would_change
from dbsam_training.store.superpixels import DATASET_NAME as SUPERPIXELS
from dbsam_training.trainer.run_folder import BEST, LAST
from dbsam_training.trainer.validation import choose_samples

if TYPE_CHECKING:
    from dbsam_training.trainer.run import Run

logger = logging.getLogger(__name__)

_SHARED_OPTIONS = ("protocol", "neighbours", "slice_views")
"""Settings of a store without which a recipe would train on something else; the others only say how much there is."""


def open_stores(folders: Sequence[Path], recipe: Recipe) -> TrainingStore:
    """Open the stores of a run.

    Raises:
        StoreError: A folder is no store.
        SettingError: A store was made for another kind of recipe, holds data sets that `data.licence` excludes, or
            lacks data sets that `data.dataset_weights` names; or the model would be shown other pixels than it learns
            from.
    """
    _check_source_grid(recipe)
    _check_slice_view(recipe)
    for folder in folders:
        options = read_store_facts(folder)["options"]
        for name in _SHARED_OPTIONS:
            made, wanted = options.get(name), getattr(recipe.data, name)
            if made is not None and made != wanted:
                raise SettingError(
                    f"{folder} was prepared with data.{name} {made!r}, and the recipe {recipe.name} has {wanted!r}: "
                    f"prepare a store with this recipe, or train with --set data.{name}={str(made).lower()}."
                )
    store = TrainingStore(folders)
    if recipe.data.licence == "open":
        _check_licences(store)
    known = sorted({*store.datasets, *store.dataset_names, SUPERPIXELS})
    for name in recipe.data.dataset_weights:
        if name not in known:
            raise SettingError(f"data.dataset_weights names {name!r}, which is not in the store{closest(name, known)}.")
    if len(choose_samples(store, recipe.run.validate_per_dataset)) == 0:
        logger.warning("There is no validation sample: nothing tells which state is best, and %s is the last.", BEST)
    return store


def _check_source_grid(recipe: Recipe) -> None:
    """A system that sees whole slices must be shown them in use as training shows them."""
    config, protocol = recipe.model.config, recipe.data.protocol
    grid = PATCH_SIZE if protocol == "slices" else 0
    if config.input_region == "stretch" and config.source_grid != grid:
        raise SettingError(
            f"model.settings.source_grid is {config.source_grid}, and data.protocol {protocol!r} needs {grid}: the "
            f"model would be used on other pixels than it is trained on. Set it to {grid}."
        )


def _check_slice_view(recipe: Recipe) -> None:
    """A system that sees the whole slice beside a region is given both, by a ViT that knows something."""
    system, has_view = recipe.model.system, recipe.model.config.slice_view
    if has_view and not recipe.data.slice_views:
        raise SettingError(f"model.system {system} sees whole slices: set data.slice_views to true.")
    if has_view and not (recipe.model.slice_base or recipe.model.base):
        raise SettingError(f"model.system {system} stands on a trained ViT: set model.slice_base to medsam-lite.")
    if has_view and recipe.run.store_on_gpu:
        raise SettingError(f"model.system {system} reads slices from the disk: set run.store_on_gpu to false.")
    if recipe.model.slice_base and not has_view:
        raise SettingError(f"model.slice_base is for systems with a slice view, and {system} has none: take it out.")


def _check_licences(store: TrainingStore) -> None:
    closed = [f"{name} ({facts['licence']})" for name, facts in store.datasets.items() if not is_open(facts["licence"])]
    if closed:
        raise SettingError(
            f"The store holds {len(closed)} data sets whose licence is not in the list of open ones: "
            f"{', '.join(closed[:5])}{', ...' if len(closed) > 5 else ''}. Prepare a store with --licence open."
        )


def check_own_store(
    run_folder: Path, store: Path, sources: Sequence[Source], options: DataOptions, tasks: TaskRegistry | None
) -> None:
    """Refuse to replace the store of a run that has begun by one of other data.

    Raises:
        SettingError: The data have changed since.
    """
    if not (run_folder / LAST).is_file() or not (store / "store.json").is_file():
        return
    if changed := would_change(sources, store, options, tasks):
        raise SettingError(
            f"{run_folder} holds a run on other data: {', '.join(changed[:5])}{', ...' if len(changed) > 5 else ''} "
            "would change. Name another output folder, or give the data and settings of that run."
        )


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says why and what to change."""


@contextmanager
def explained(recipe: Recipe, checkpoint: Path) -> Iterator[None]:
    """Turn an out-of-memory error into a `TrainingError`.

    Args:
        recipe: What is being run.
        checkpoint: The resume point, which such an error leaves as it was.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(out_of_memory_text(recipe, checkpoint, error)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, CUDA, MPS or PyTorch's CPU allocator means that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def out_of_memory_text(recipe: Recipe, checkpoint: Path, error: BaseException) -> str:
    """What happened and which settings need less memory, the cheapest first."""
    run = recipe.run
    ways = []
    if run.precision == "32-true":
        ways.append("run.precision: bf16-mixed")
    parts = 2 * run.gradient_accumulation_steps
    ways.append(f"run.gradient_accumulation_steps: {parts} (same batch of {run.batch_size}, in smaller parts)")
    if not run.checkpointing:
        ways.append("run.checkpointing: true (a third slower)")
    ways.append("a smaller run.batch_size")
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"Memory ran out ({first}). Change one of: {'; '.join(ways)}. {_intact(checkpoint)}"


def not_finite_text(what: str, step: int, cases: list[str], recipe: Recipe, checkpoint: Path) -> str:
    """What to change when the loss or its gradient is NaN or infinite."""
    ways = [f"a lower optimizer.learning_rate than {recipe.optimizer.learning_rate:g}"]
    if recipe.run.precision == "16-mixed":
        ways.insert(0, "run.precision: bf16-mixed or 32-true (16 bits overflow at 65504)")
    if recipe.optimizer.max_grad_norm == 0:
        ways.append("optimizer.max_grad_norm: 1.0")
    shown = ", ".join(cases[:8]) + (", ..." if len(cases) > 8 else "")
    return (
        f"The {what} is not finite at step {step}, on samples of {shown}. Change one of: {'; '.join(ways)}; or leave "
        f"out those cases if they look wrong. {_intact(checkpoint)}"
    )


def check_finite(run: Run, row: Mapping[str, float]) -> None:
    """Refuse to go on from a step whose loss or gradient is NaN or infinite.

    Args:
        run: The run.
        row: The step's figures.

    Raises:
        TrainingError: One is not finite. Where losses are scaled for 16 bits, gradients may overflow now and then; only
            many in a row are an error.
    """
    scaler = getattr(run.fabric.strategy.precision, "scaler", None)
    # It halves at each overflow: below 1, no step has been taken for long.
    gradient_is_finite = np.isfinite(row["gradient_norm"]) if scaler is None else scaler.get_scale() >= 1.0
    if np.isfinite(row["loss"]) and gradient_is_finite:
        return
    what, step = "gradient" if np.isfinite(row["loss"]) else "loss", int(row["step"]) - 1
    cases = list(dict.fromkeys(run.store.case_of(int(i)) for i in run.sampler.batch(step)))
    raise TrainingError(not_finite_text(what, step, cases, run.recipe, run.folder / LAST))


def _intact(checkpoint: Path) -> str:
    if checkpoint.is_file():
        return f"The last good state is in {checkpoint}; the same command goes on from it."
    return "No resume point had been written yet."
