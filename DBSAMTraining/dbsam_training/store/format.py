"""The training store: images of 256x256 and one mask an object, in flat files read row by row.

A store is a folder of shards. A shard is written whole or not at all, with the digest of each of its files, so that an
interrupted `prepare` goes on where it stopped. Grey images of one channel and bit-packed masks keep it small; several
samples may share an image.

    STORE/store.json                    protocol, options and data sets
    STORE/parts/SHARD/part.json          data set, split, cases, structures, digests
    STORE/parts/SHARD/greys.bin ...      arrays without header, one row an image or a sample
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dbsam_training.data.json_files import read_json

PATCH_SIZE = 256
HULL_POINTS = 32
FORMAT_VERSION = 3
SHARDS, SHARD_FILE = "parts", "part.json"
"""Names on disk, and the key in store.json; they stay, so that stores made before are still read."""

IMAGE_ARRAYS: Mapping[str, tuple[tuple[int, ...], type]] = {
    "images": ((PATCH_SIZE, PATCH_SIZE, 3), np.uint8),
    "greys": ((PATCH_SIZE, PATCH_SIZE, 1), np.uint8),
}
SAMPLE_ARRAYS: Mapping[str, tuple[tuple[int, ...], type]] = {
    "masks": ((PATCH_SIZE, PATCH_SIZE // 8), np.uint8),
    "hulls": ((HULL_POINTS, 2), np.float32),
    "prompts": ((4,), np.float32),
    "slices": ((4,), np.float32),
    "pixels": ((), np.float32),
    "rows": ((), np.int32),  # row in images, or -1 - row in greys
    "cases": ((), np.int32),
    "structures": ((), np.int32),
}
VIEW_ARRAYS: Mapping[str, tuple[tuple[int, ...], type]] = {
    "views": ((PATCH_SIZE, PATCH_SIZE, 3), np.uint8),
    "view_shapes": ((2,), np.int32),  # rows and columns that the slice fills, from the upper left
    "view_rows": ((), np.int32),  # of a sample, in views
}
"""Whole slices, in stores with `data.slice_views`; several samples share one."""
MAP_SHAPE = (256, 64, 64)
"""Of what a frozen ViT makes of a view (`dbsam.modeling.slice_view`)."""
ALL_ARRAYS = {**IMAGE_ARRAYS, **SAMPLE_ARRAYS}
_WITH_VIEWS = {**ALL_ARRAYS, **VIEW_ARRAYS}
_LARGE = ("images", "greys", "masks", "views")
"""Stay on disk; the others are a few hundred bytes a sample."""


class StoreError(ValueError):
    """A store that cannot be used; the message says what is wrong with it."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One object on one slice.

    Attributes:
        image: (256, 256, C) uint8; C is 1 for a grey image, else 3: colour, or the slice before, itself and the next.
        mask: (256, 256) bool.
        prompt_xyxy: The rectangle of the whole 3D object, as a 3D box shows it on this slice, in pixels of the image.
        slice_xyxy: Edges of the slice in pixels of the image, which may reach beyond.
        view: (256, 256, 3) uint8, the whole slice with its longer side over the square, and the rows and columns that
            it fills; None without.
        pixel: Pixels of the image for one 256th of the slice's longer side, the unit of the paper's box perturbation.
        case: Name of the case.
        structure: Name of the structure.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    prompt_xyxy: NDArray[np.floating]
    slice_xyxy: NDArray[np.floating]
    pixel: float
    case: str
    structure: str
    view: tuple[NDArray[np.uint8], tuple[int, int]] | None = None


class TrainingStore:
    """Reads one store or several as one; images and masks stay on disk until they are asked for.

    Attributes:
        facts: Content of the first store.json.
        datasets: What is known of each data set: licence, reference, modality, dimension, cases.
        dataset_names: Names of the data sets, indexed by `dataset`.
        structure_names: Names of the structures, indexed by `structure`.
        dataset: (N,) data set of each sample.
        structure: (N,) structure of each sample.
        is_train: (N,) whether a sample is for training, else validation.
        shards: What it is made of.
        seen: (N,) whether the object is on the slice; else its mask is empty.

    Raises:
        StoreError: A folder is no store, or one of another version, or a file has another size than it should.
    """

    def __init__(self, folders: Path | Sequence[Path]) -> None:
        self.folders = [Path(f) for f in ([folders] if isinstance(folders, (str, Path)) else folders)]
        contents = [read_store_facts(folder) for folder in self.folders]
        self.facts: dict[str, Any] = contents[0]
        self.datasets: dict[str, dict[str, Any]] = {}
        self.shards: list[StoreShard] = []
        for folder, content in zip(self.folders, contents, strict=True):
            self.datasets |= content["datasets"]
            self.shards += [StoreShard(folder / SHARDS / name) for name in content[SHARDS]]
        self.shards = [shard for shard in self.shards if shard.samples]
        if not self.shards:
            raise StoreError(f"{', '.join(map(str, self.folders))} holds no sample.")
        self._ends = np.cumsum([shard.samples for shard in self.shards])
        self.dataset_names = list(dict.fromkeys(shard.facts["dataset"] for shard in self.shards))
        self.structure_names = list(dict.fromkeys(n for shard in self.shards for n in shard.facts["structures"]))
        self.dataset = self._column(
            [np.full(p.samples, self.dataset_names.index(p.facts["dataset"])) for p in self.shards]
        )
        codes = {name: code for code, name in enumerate(self.structure_names)}
        self.structure = self._column(
            [np.array([codes[n] for n in p.facts["structures"]])[p.arrays["structures"]] for p in self.shards]
        )
        self.is_train = self._column([np.full(p.samples, p.facts["split"] == "train") for p in self.shards])
        self.seen = self._column([~np.isnan(p.arrays["hulls"][:, 0, 0]) for p in self.shards])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def signature(self) -> str:
        """Digest of everything in the store; two stores of one signature give the same training."""
        digests = [shard.facts["sha256"] for shard in self.shards]
        return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()

    def indices(self, split: str) -> NDArray[np.int64]:
        """Positions of a split's samples, "train" or "val"."""
        return np.flatnonzero(self.is_train == (split == "train")).astype(np.int64)

    def case_of(self, index: int) -> str:
        """Name of the case of a sample."""
        shard, row = self._locate(index)
        return str(shard.facts["cases"][shard.arrays["cases"][row]])

    def batch(self, indices: Sequence[int] | NDArray[np.int64], maps: str | None = None) -> dict[str, NDArray[Any]]:
        """The arrays of some samples, copied into memory.

        Args:
            indices: Positions of the samples.
            maps: Name of the files of the slices' features (`trainer.slice_maps`), to return "maps" as well.

        Returns:
            "images" (B, 256, 256, 3) uint8; "masks" (B, 256, 256) uint8, 255 inside; "hulls" (B, 32, 2), NaN where the
            object is not on the slice; "prompts" (B, 4); "slices" (B, 4); "pixels" (B,).
        """
        columns: dict[str, list[NDArray[Any]]] = {}
        for index in indices:
            shard, row = self._locate(int(index))
            at = int(shard.arrays["rows"][row])
            image = shard.row("images", at) if at >= 0 else shard.row("greys", -1 - at)
            values = {"images": np.broadcast_to(image, (PATCH_SIZE, PATCH_SIZE, 3))}
            values["masks"] = np.unpackbits(shard.row("masks", row), axis=1) * np.uint8(255)
            values |= {name: shard.arrays[name][row] for name in ("hulls", "prompts", "slices", "pixels")}
            if maps is not None:
                values["maps"] = shard.map(maps, int(shard.arrays["view_rows"][row]))
            for name, value in values.items():
                columns.setdefault(name, []).append(value)
        return {name: np.stack(values) for name, values in columns.items()}

    def load(self) -> dict[str, NDArray[Any]]:
        """Everything but names, in memory: images and greys, masks still bit-packed, `rows` counted over all shards."""
        loaded = {name: np.concatenate([shard.read(name) for shard in self.shards]) for name in ALL_ARRAYS}
        images = np.cumsum([0, *(int(shard.facts["counts"]["images"]) for shard in self.shards)])
        greys = np.cumsum([0, *(int(shard.facts["counts"]["greys"]) for shard in self.shards)])
        sizes = [shard.samples for shard in self.shards]
        rows = loaded["rows"]
        rows += np.where(rows >= 0, np.repeat(images[:-1], sizes), -np.repeat(greys[:-1], sizes)).astype(np.int32)
        return loaded

    def verify(self) -> None:
        """Compare every file with its digest.

        Raises:
            StoreError: A file was changed or is damaged.
        """
        for shard in self.shards:
            shard.verify()

    def _locate(self, index: int) -> tuple[StoreShard, int]:
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.shards[number], index - (int(self._ends[number - 1]) if number else 0)

    @staticmethod
    def _column(pieces: list[NDArray[Any]]) -> NDArray[Any]:
        return np.concatenate(pieces)


class StoreShard:
    """One shard of a store, opened for reading.

    Attributes:
        folder: Where it is.
        facts: Content of part.json.
        samples: Their number.
        views: Number of whole slices in it.
        arrays: The small arrays, by name.

    Raises:
        StoreError: A file is missing, or has another size than it should.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.facts: dict[str, Any] = read_json(folder / SHARD_FILE, StoreError, "Prepare the store again.")
        counts = self.facts["counts"]
        self.samples = int(counts["samples"])
        self.arrays: dict[str, NDArray[Any]] = {}
        self.views = int(counts.get("views", 0))
        counts = counts | {"view_shapes": self.views}
        for name, (shape, kind) in (_WITH_VIEWS if self.views else ALL_ARRAYS).items():
            rows = int(counts.get(name, self.samples))
            file = folder / f"{name}.bin"
            wanted = rows * int(np.prod(shape)) * np.dtype(kind).itemsize
            if not file.is_file() or file.stat().st_size != wanted:
                size = file.stat().st_size if file.is_file() else 0
                raise StoreError(f"{file} has {size} bytes instead of {wanted}: remove {folder} and prepare again.")
            if name not in _LARGE:
                self.arrays[name] = np.fromfile(file, kind).reshape(rows, *shape)

    def row(self, name: str, row: int) -> NDArray[Any]:
        """One row of a large array, read from its file.

        Memory maps are no faster here, hold a file handle each, and count every page as memory of this process.
        """
        return self._row(f"{name}.bin", row, *_WITH_VIEWS[name])

    def map(self, file_name: str, row: int) -> NDArray[np.float16]:
        """The features of one whole slice, MAP_SHAPE."""
        return self._row(file_name, row, MAP_SHAPE, np.float16)

    def _row(self, file_name: str, row: int, shape: tuple[int, ...], kind: type) -> NDArray[Any]:
        count = int(np.prod(shape))
        offset = row * count * np.dtype(kind).itemsize
        return np.fromfile(self.folder / file_name, kind, count, offset=offset).reshape(shape)

    def read(self, name: str) -> NDArray[Any]:
        """One array, whole."""
        shape, kind = ALL_ARRAYS[name]
        return np.fromfile(self.folder / f"{name}.bin", kind).reshape(-1, *shape)

    def verify(self) -> None:
        """Compare the shard's files with their digests, see `TrainingStore.verify`."""
        for name, wanted in self.facts["sha256"].items():
            with (self.folder / f"{name}.bin").open("rb") as file:
                found = _digest(file)
            if found != wanted:
                raise StoreError(f"{self.folder / name}.bin is damaged: remove {self.folder} and prepare again.")


def _digest(file: BinaryIO) -> str:
    state = hashlib.sha256()  # hashlib.file_digest needs Python 3.11
    while block := file.read(1 << 20):
        state.update(block)
    return state.hexdigest()


def read_store_facts(folder: Path) -> dict[str, Any]:
    """Content of a store's store.json.

    Raises:
        StoreError: There is none that this version reads.
    """
    path = folder / "store.json"
    if not path.is_file():
        raise StoreError(f"{folder} is no finished training store, as it has no {path.name}: run dbsam-train prepare.")
    content: dict[str, Any] = read_json(path, StoreError, "Run dbsam-train prepare again.")
    if content.get("format") != FORMAT_VERSION:
        raise StoreError(
            f"{folder} is a store of format {content.get('format')}, and this version reads {FORMAT_VERSION}: prepare "
            "it again."
        )
    return content
