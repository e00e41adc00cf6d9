"""The state of a run on disk: always a whole file, whenever the process is killed."""

from __future__ import annotations

import csv
import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from dbsam.io.files import atomic_path

STATE_FORMAT = 1
LAST, BEST = "last.pt", "best.pt"


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
        raise StateError(f"{path} is no training state of format {STATE_FORMAT}.")
    return state


class CsvLog:
    """A CSV table with a column `step`, to which rows are appended as training goes.

    Args:
        path: The file.
        columns: Its columns, "step" first.
        last_step: Rows beyond this step are removed: a resumed run writes them again.
    """

    def __init__(self, path: Path, columns: Iterable[str], last_step: int) -> None:
        self.path, self._columns = path, list(columns)
        kept = [row for row in read_log(path) if row["step"] <= last_step]
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows({**row, "step": int(row["step"])} for row in kept)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, self._columns, restval="", lineterminator="\n")

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row."""
        self._writer.writerow(row)

    def flush(self) -> None:
        """Hand the rows to the operating system, so that a killed process does not lose them."""
        self._file.flush()

    def close(self) -> None:
        """Finish the file."""
        self._file.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """Rows of a `CsvLog`; a last row that a killed process left unfinished is left out."""
    if not path.is_file():
        return []
    rows: list[dict[str, float]] = []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        for row in reader:
            try:
                rows.append({key: float(value) for key, value in row.items() if value != ""})
            except (TypeError, ValueError):
                break
    return [row for row in rows if "step" in row]


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
