"""Compares ways to keep training images: size, time to write, and time to read in random order.

    python benchmarks/storage.py --store STORE --images 1000

Takes images of a prepared store, so that the data are real. Needs zarr beside the project's own packages; npz files are
MedSAM's way.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from dbsam_training.store.format import TrainingStore


def main() -> None:
    """Print one line a way."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    store = TrainingStore(options.store)
    chosen = np.random.default_rng(0).permutation(len(store))[: options.images]
    images = store.batch(chosen)["images"]
    order = np.random.default_rng(1).permutation(len(images))
    ways: dict[str, tuple[Callable[[Path, Any], None], Callable[[Path], Callable[[int], Any]]]] = {
        "flat file, a row at a time": (_write_flat, _open_flat),
        "npy files": (_write_npy, _open_npy),
        "npz files, compressed": (_write_npz, _open_npz),
        "zarr, one image a chunk, zstd": (_write_zarr, _open_zarr),
    }
    for name, (write, open_for_reading) in ways.items():
        folder = Path(tempfile.mkdtemp())
        began = time.perf_counter()
        write(folder, images)
        written = time.perf_counter()
        read = open_for_reading(folder)
        for n in order:
            assert np.asarray(read(int(n))).shape == images.shape[1:]
        done = time.perf_counter()
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        rates = len(images) / (written - began), len(images) / (done - written)
        print(f"{name}: {size / images.nbytes:.2f} of the raw size, writes {rates[0]:.0f}/s, reads {rates[1]:.0f}/s")
        shutil.rmtree(folder)


def _write_flat(folder: Path, images: Any) -> None:
    with (folder / "images.bin").open("wb") as file:
        for image in images:
            file.write(image.tobytes())


def _open_flat(folder: Path) -> Callable[[int], Any]:
    size = 256 * 256 * 3
    return lambda n: np.fromfile(folder / "images.bin", np.uint8, size, offset=n * size).reshape(256, 256, 3)


def _write_npy(folder: Path, images: Any) -> None:
    for n, image in enumerate(images):
        np.save(folder / f"{n}.npy", image)


def _open_npy(folder: Path) -> Callable[[int], Any]:
    return lambda n: np.load(folder / f"{n}.npy")


def _write_npz(folder: Path, images: Any) -> None:
    for n, image in enumerate(images):
        np.savez_compressed(folder / f"{n}.npz", img=image)


def _open_npz(folder: Path) -> Callable[[int], Any]:
    return lambda n: np.load(folder / f"{n}.npz")["img"]


def _write_zarr(folder: Path, images: Any) -> None:
    import zarr

    array = zarr.create_array(str(folder / "a"), shape=images.shape, chunks=(1, *images.shape[1:]), dtype="uint8")
    for n, image in enumerate(images):
        array[n] = image


def _open_zarr(folder: Path) -> Callable[[int], Any]:
    import zarr

    array = zarr.open_array(str(folder / "a"), mode="r")
    return lambda n: array[n]


if __name__ == "__main__":
    main()
