"""What a batch has done, one line for each case, and by what it notices that a case is to be done again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dbsam.cli.case import Case
from dbsam.io.files import naming_what_is_written

logger = logging.getLogger(__name__)

Record = Mapping[str, Any]


class BatchRecords:
    """The newest record of each output, kept in a file of JSON lines to which each new record is appended.

    A line that can't be read, such as the last of a computer that lost its power, is left out with a warning.

    Args:
        path: The file; it and its folder come with the first record.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._newest = {record["output"]: record for record in _read(path)}

    def get(self, output: str) -> Record:
        """Returns the record of an output; empty where there is none."""
        return self._newest.get(output, {})

    def add(self, output: str, record: Record) -> None:
        """Keeps a record, on disk before this returns.

        Raises:
            OSError: It cannot be written; a part of it may stay, which is left out when the file is read again.
        """
        line = json.dumps({"output": output, **record}).encode() + b"\n"
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with naming_what_is_written(self._path), self._path.open("a+b") as file:
            if file.tell():  # at the end, as always when appending
                file.seek(-1, os.SEEK_END)
                line = line if file.read(1) == b"\n" else b"\n" + line
            file.write(line)
        self._newest[output] = record


def _read(path: Path) -> Iterator[Record]:
    if not path.exists():
        return
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            record = json.loads(line)
            if not isinstance(record["output"], str):
                raise TypeError("its output is no path")
        except (ValueError, KeyError, TypeError) as error:
            logger.warning("%s, line %d is damaged (%s): its case is done again.", path, number, error)
        else:
            yield record


State = list[tuple[str, int, int]]
"""Name, size and time of change of each file that belongs to an input."""

# Lie beside the slices in a DICOM folder and are none: what a batch writes, its manifest and records, ROIs.
_NO_SLICES = (".nrrd", ".nii.gz", ".nii", ".mha", ".npz", ".png", ".tif", ".tiff", ".csv", ".json", ".jsonl")


def name_of(path: Path, folder: Path) -> str:
    """A path relative to a (resolved) folder if it lies in it, else whole: the same from every working folder."""
    place = path.resolve()
    return place.relative_to(folder).as_posix() if place.is_relative_to(folder) else str(place)


def fingerprint(case: Case, folder: Path, inputs: dict[str, State], model: list[Any]) -> str:
    """Changes with anything that changes the result.

    Args:
        case: The row.
        folder: Resolved folder of the manifest.
        inputs: See `states_of_inputs`.
        model: See `state_of_model`.
    """
    row = {key: _named(value, folder) for key, value in asdict(case).items()}
    content = {"case": row, "inputs": inputs, "model": model}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def states_of_inputs(case: Case, folder: Path) -> dict[str, State]:
    """The state of the volume and of each file that says where the structure is."""
    return {name_of(path, folder): _state_of(path, (case.output, case.overlay)) for path in case.inputs}


def state_of_model(model: str, precision: str, weights: Path | None) -> list[Any]:
    """The model's file and precision, or its name where there is no file yet."""
    return [precision, str(weights.resolve()) if weights else model, _state_of(weights) if weights else []]


def _named(value: Any, folder: Path) -> Any:
    if isinstance(value, tuple):
        return [_named(item, folder) for item in value]
    return name_of(value, folder) if isinstance(value, Path) else value


def _state_of(path: Path, outputs: Sequence[Path | None] = ()) -> State:
    """The state of a file and the files that it refers to, or of the slices in a DICOM folder."""
    if path.is_dir():
        files = [entry for entry in sorted(path.iterdir()) if not entry.name.lower().endswith(_NO_SLICES)]
        written = {output.resolve() for output in outputs if output is not None}
        files = [file for file in files if file.resolve() not in written]
    else:
        from dbsam.io.images import input_files

        files = input_files(path)
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
