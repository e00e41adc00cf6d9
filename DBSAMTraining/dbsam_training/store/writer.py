"""Writes the shards of a training store."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from dbsam.io.files import naming_what_is_written
from dbsam_training.data.json_files import write_json
from dbsam_training.store.format import (
    ALL_ARRAYS,
    HULL_POINTS,
    IMAGE_ARRAYS,
    SAMPLE_ARRAYS,
    SHARD_FILE,
    SHARDS,
    VIEW_ARRAYS,
    Sample,
)


class ShardWriter:
    """Writes one shard as its samples come, in bounded memory; the shard exists only after `close`.

    Args:
        folder: The store.
        name: Name of the shard.
        facts: What else to write into part.json: data set and split, at least.
    """

    def __init__(self, folder: Path, name: str, facts: Mapping[str, Any]) -> None:
        self.target = folder / SHARDS / name
        # A name of its own, because a worker that was taken for dead may still be writing the same shard.
        self.work = folder / SHARDS / f".{name}.{uuid4().hex}.tmp"
        self.work.mkdir(parents=True)
        self._facts = dict(facts)
        self._files: dict[str, BinaryIO] = {}
        try:
            for array in (*ALL_ARRAYS, *VIEW_ARRAYS):
                self._files[array] = (self.work / f"{array}.bin").open("wb")
        except OSError:
            self.discard()
            raise
        self._digests = {array: hashlib.sha256() for array in self._files}
        self._names: dict[str, dict[str, int]] = {"cases": {}, "structures": {}}
        self._counts = dict.fromkeys((*IMAGE_ARRAYS, "samples"), 0)
        self._last: NDArray[np.uint8] | None = None
        self._row = 0
        self._views: dict[bytes, int] = {}

    def add(self, sample: Sample) -> None:
        """Write one sample; an image that is the very same array as the last sample's is shared."""
        if sample.image is not self._last:
            array = "greys" if sample.image.shape[2] == 1 else "images"
            assert sample.image.shape == IMAGE_ARRAYS[array][0], f"an image is {sample.image.shape}"
            self._write(array, sample.image, np.uint8)
            row, self._last = self._counts[array], sample.image
            self._row = -1 - row if array == "greys" else row
            self._counts[array] += 1
        values: dict[str, NDArray[Any]] = {
            "masks": np.packbits(sample.mask, axis=1),
            "hulls": hull_points(sample.mask),
            "prompts": sample.prompt_xyxy,
            "slices": sample.slice_xyxy,
            "pixels": np.asarray(sample.pixel),
            "rows": np.asarray(self._row),
            "cases": self._code("cases", sample.case),
            "structures": self._code("structures", sample.structure),
        }
        for array, (shape, kind) in SAMPLE_ARRAYS.items():
            assert values[array].shape == shape, f"{array} is {values[array].shape}, not {shape}"
            self._write(array, values[array], kind)
        if sample.view is not None:
            self._write("view_rows", np.asarray(self._view_row(*sample.view)), np.int32)
        self._counts["samples"] += 1

    def _view_row(self, view: NDArray[np.uint8], shape_hw: tuple[int, int]) -> int:
        """Where a whole slice lies, which is written once."""
        digest = hashlib.sha256(view.tobytes() + repr(shape_hw).encode()).digest()
        if digest not in self._views:
            self._views[digest] = len(self._views)
            self._write("views", view, np.uint8)
            self._write("view_shapes", np.array(shape_hw), np.int32)
        return self._views[digest]

    def close(self, facts: Mapping[str, Any]) -> int:
        """Finish the shard, with more facts for part.json; returns its number of samples. An error leaves nothing."""
        try:
            return self._close(facts)
        except BaseException:
            self.discard()
            raise

    def _close(self, facts: Mapping[str, Any]) -> int:
        with naming_what_is_written(self.target):
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
                file.close()
        if self._views:
            self._counts["views"] = len(self._views)
        else:
            for array in VIEW_ARRAYS:
                del self._digests[array]
                (self.work / f"{array}.bin").unlink()
        content = (
            self._facts
            | dict(facts)
            | {
                "counts": self._counts,
                "cases": list(self._names["cases"]),
                "structures": list(self._names["structures"]),
                "sha256": {array: digest.hexdigest() for array, digest in self._digests.items()},
            }
        )
        write_json(self.work / SHARD_FILE, content)
        try:
            os.replace(self.work, self.target)
        except OSError:
            if not (self.target / SHARD_FILE).is_file():
                raise
            shutil.rmtree(self.work)  # another process has finished the same shard meanwhile
        return self._counts["samples"]

    def discard(self) -> None:
        """Leave nothing behind."""
        for file in self._files.values():
            with suppress(OSError):  # on a full disk the rest of the buffer cannot be written
                file.close()
        shutil.rmtree(self.work, ignore_errors=True)

    def _write(self, array: str, values: NDArray[Any], kind: type) -> None:
        data = np.ascontiguousarray(values, kind).data
        with naming_what_is_written(self.target):
            self._files[array].write(data)
        self._digests[array].update(data)

    def _code(self, column: str, name: str) -> NDArray[np.int64]:
        codes = self._names[column]
        return np.asarray(codes.setdefault(name, len(codes)))


def hull_points(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Extreme pixel corners of a mask in 32 directions, (32, 2) as (x, y); NaN for an empty mask.

    Their bounds under a rotation are the rotated object's tight box to within a few percent, at a fixed small size.
    """
    rows = np.flatnonzero(mask.any(1))
    if len(rows) == 0:
        return np.full((HULL_POINTS, 2), np.nan, np.float32)
    # Only the first and last pixel of a row can be extreme.
    first = mask[rows].argmax(1)
    last = mask.shape[1] - 1 - mask[rows, ::-1].argmax(1)
    columns, rows = np.concatenate([first - 0.5, last + 0.5]), np.concatenate([rows, rows])
    points = np.concatenate([np.stack([columns, rows + dy], -1) for dy in (-0.5, 0.5)]).astype(np.float32)
    angles = np.arange(HULL_POINTS) * (2 * np.pi / HULL_POINTS)
    directions = np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    return points[(points @ directions).argmax(0)]
