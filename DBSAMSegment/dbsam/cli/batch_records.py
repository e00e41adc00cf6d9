"""What a batch has done, one line for each case, so that a long one costs no more at its end than at its start."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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
        """Keeps a record, on disk before this returns."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+b") as file:
            if file.tell():  # at the end, as always when appending
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(json.dumps({"output": output, **record}).encode() + b"\n")
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
