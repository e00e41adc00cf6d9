"""What the files of a shard's cases were when it was made, so that a shard is made again when one of them changes.

It is kept beside the shards, in `STORE/inputs`: a store's own bytes depend on the data, not on when a file was written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from dbsam.weights.download import digest_of
from dbsam_training.data.case import Source

FOLDER = "inputs"
Inputs = Mapping[str, tuple[int, int, str]]
"""By path from the data set's folder: size in bytes, time of the last change in ns, and SHA-256."""


def record_of(store: Path, shard: str) -> Path:
    """The file that keeps the inputs of a shard."""
    return store / FOLDER / f"{shard}.json"


def describe(source: Source, cases: Iterable[str]) -> dict[str, tuple[int, int, str]]:
    """The files of some cases as they are now."""
    found = {}
    for name, path in _files(source, cases).items():
        facts = path.stat()
        found[name] = facts.st_size, facts.st_mtime_ns, digest_of(path, "sha256")
    return found


def have_changed(record: Path, source: Source, cases: Iterable[str], unknown: bool = True) -> bool:
    """Whether files were added, removed or changed since they were recorded.

    A file of the same size and time counts as the same; one that was written again, or copied, is compared by its
    digest.

    Args:
        record: From `record_of`.
        source: The data set.
        cases: Its cases.
        unknown: The answer where nothing was recorded.
    """
    try:
        before = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return unknown
    files = _files(source, cases)
    return before.keys() != files.keys() or any(_differs(files[name], *facts) for name, facts in before.items())


def _files(source: Source, cases: Iterable[str]) -> dict[str, Path]:
    every = [path for case in dict.fromkeys(cases) for path in source.files(case) if path.is_file()]
    return {Path(os.path.relpath(path.resolve(), source.folder.resolve())).as_posix(): path for path in every}


def _differs(path: Path, size: int, time_ns: int, digest: str) -> bool:
    facts = path.stat()
    if facts.st_size != size:
        return True
    return facts.st_mtime_ns != time_ns and digest_of(path, "sha256") != digest
