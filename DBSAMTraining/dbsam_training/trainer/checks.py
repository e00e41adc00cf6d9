"""What is checked before a run starts, so that it does not train for hours on something else than was meant."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

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

logger = logging.getLogger(__name__)

_SHARED_OPTIONS = ("protocol", "neighbours")
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
