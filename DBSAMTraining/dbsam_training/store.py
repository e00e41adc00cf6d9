"""The training store: square patches of slices with one object each, as memory-mapped arrays."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

PATCH_SIZE = 256
HULL_POINTS = 32


@dataclass(frozen=True)
class Patch:
    """One object on one slice.

    Attributes:
        image: (256, 256, 3) uint8; grey slices hold the slice before, itself and the next.
        mask: (256, 256) uint8, 255 inside the object.
        hull_xy: (32, 2) points of the object's convex hull in patch pixels, NaN where the object has ended.
        prompt_xyxy: The rectangle of the whole 3D object, as a 3D box shows it on this slice, in patch pixels.
        slice_xyxy: Edges of the slice in patch pixels; the patch may reach beyond.
        pixel: Patch pixels for one 256th of the slice's longer side, the unit of the paper's box perturbation.
        dataset: Name of the data set.
        case: Name of the case.
        structure: Name of the structure.
        split: "train" or "val".
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    hull_xy: NDArray[np.float32]
    prompt_xyxy: NDArray[np.float32]
    slice_xyxy: NDArray[np.float32]
    pixel: float
    dataset: str
    case: str
    structure: str
    split: str


_ARRAYS = {
    "images": ((PATCH_SIZE, PATCH_SIZE, 3), np.uint8),
    "masks": ((PATCH_SIZE, PATCH_SIZE), np.uint8),
    "hulls": ((HULL_POINTS, 2), np.float32),
    "prompts": ((4,), np.float32),
    "slices": ((4,), np.float32),
    "pixels": ((), np.float32),
}


@dataclass(frozen=True)
class StoreEntry:
    """What is known of a patch beside its arrays."""

    dataset: str
    case: str
    structure: str
    split: str


class PatchStore:
    """Reads a store; arrays stay on disk until they are indexed."""

    def __init__(self, folder: Path) -> None:
        index = json.loads((folder / "index.json").read_text())
        self.entries = [StoreEntry(*row) for row in index["entries"]]
        count = len(self.entries)
        self.arrays: dict[str, NDArray[Any]] = {
            name: np.memmap(folder / f"{name}.bin", dtype=dtype, mode="r", shape=(count, *shape))
            for name, (shape, dtype) in _ARRAYS.items()
        }

    def __len__(self) -> int:
        return len(self.entries)

    def indices(self, split: str) -> NDArray[np.int64]:
        """Positions of a split's patches."""
        return np.array([i for i, entry in enumerate(self.entries) if entry.split == split], dtype=np.int64)

    def batch(self, indices: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
        """The arrays of some patches, copied into memory."""
        return {name: np.stack([array[i] for i in indices]) for name, array in self.arrays.items()}


def write_store(folder: Path, patches: Iterable[Patch]) -> int:
    """Write patches as they come, in bounded memory.

    Returns:
        The number of patches.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[tuple[Any, ...]] = []
    files = {name: (folder / f"{name}.bin").open("wb") for name in _ARRAYS}
    try:
        for patch in patches:
            values = (patch.image, patch.mask, patch.hull_xy, patch.prompt_xyxy, patch.slice_xyxy, patch.pixel)
            for (name, (shape, dtype)), value in zip(_ARRAYS.items(), values, strict=True):
                files[name].write(np.ascontiguousarray(np.broadcast_to(np.asarray(value, dtype), shape)).tobytes())
            entry = StoreEntry(patch.dataset, patch.case, patch.structure, patch.split)
            entries.append(tuple(asdict(entry).values()))
    finally:
        for file in files.values():
            file.close()
    (folder / "index.json").write_text(json.dumps({"entries": entries, "fields": [f.name for f in fields(StoreEntry)]}))
    return len(entries)


def hull_points(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Extreme pixel corners of a mask in 32 directions, (32, 2) as (x, y); NaN for an empty mask.

    Their bounds under a rotation are the rotated object's tight box to within a few percent, at a fixed small size.
    """
    rows, columns = np.nonzero(mask)
    if len(rows) == 0:
        return np.full((HULL_POINTS, 2), np.nan, np.float32)
    corners = [(columns + dx, rows + dy) for dx in (-0.5, 0.5) for dy in (-0.5, 0.5)]
    points = np.concatenate([np.stack(c, -1) for c in corners]).astype(np.float32)
    angles = np.arange(HULL_POINTS) * (2 * np.pi / HULL_POINTS)
    directions = np.stack([np.cos(angles), np.sin(angles)]).astype(np.float32)
    return points[(points @ directions).argmax(0)]


def iterate_batches(store: PatchStore, indices: NDArray[np.int64], size: int) -> Iterator[dict[str, NDArray[Any]]]:
    """All patches once, in order."""
    for start in range(0, len(indices), size):
        yield store.batch(indices[start : start + size])
