"""The states of a run on disk: whole files, whenever the process is killed, that say where everything comes from."""

from __future__ import annotations

import datetime
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import dbsam
from dbsam.io.files import atomic_path
from dbsam.weights.metadata import DatasetCredit
from dbsam_training.store.format import TrainingStore

STATE_FORMAT = 2
LAST, BEST, RECIPE = "last.pt", "best.pt", "recipe.yaml"
STOP = "stop"
"""A file of this name asks a run to save itself after its present step and to end."""


class StateError(RuntimeError):
    """A state that cannot be resumed; the message says why."""


def write_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state in one step: `path` holds the whole new state or what it held before.

    Raises:
        OSError: The file cannot be written, such as on a full disk.
    """
    try:
        with atomic_path(path) as temporary:
            torch.save({"format": STATE_FORMAT, **state}, temporary)
    except RuntimeError as error:  # how torch.save reports a failed write
        raise OSError(f"Cannot write {path}: {str(error).splitlines()[0]}") from error


def read_state(path: Path) -> dict[str, Any]:
    """Read a state, on the CPU.

    Raises:
        StateError: The file is missing, damaged, or of another version.
    """
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise StateError(f"There is no state {path}.") from error
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise StateError(f"{path} is damaged or no training state ({str(error).splitlines()[0]}).") from error
    if not isinstance(state, dict) or state.get("format") != STATE_FORMAT:
        raise StateError(
            f"{path} is no training state of format {STATE_FORMAT}: a run of an earlier version is gone on with, and "
            "exported, by that version."
        )
    return state


def changed_settings(before: dict[str, Any], after: dict[str, Any], where: str = "") -> list[str]:
    """Dotted names of the settings that differ between two recipes."""
    found: list[str] = []
    for key in before.keys() | after.keys():
        name, old, new = f"{where}{key}", before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            found += changed_settings(old, new, f"{name}.")
        elif old != new:
            found.append(name)
    return sorted(found)


def provenance(store: TrainingStore, base: dict[str, Any] | None) -> dict[str, Any]:
    """What an export has to know about a run, beside its recipe."""
    return {
        "base": base,
        "datasets": [asdict(credit) for credit in credits_of(store)],
        "store": store.signature,
        "samples": {split: len(store.indices(split)) for split in ("train", "val")},
        "dbsam": dbsam.__version__,
        "torch": str(torch.__version__),
        "started": datetime.date.today().isoformat(),
    }


def credits_of(store: TrainingStore) -> list[DatasetCredit]:
    """The data sets from which a store's training samples come."""
    return [
        DatasetCredit(name, facts["licence"], facts["reference"], facts["cases"].get("train", 0))
        for name, facts in sorted(store.datasets.items())
        if facts["cases"].get("train")
    ]
