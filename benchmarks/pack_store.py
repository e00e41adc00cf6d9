"""A training store as one small file, for the way to a computer with a GPU: images as WebP, a twentieth of their size.

The file is a zip archive of the store's files, in which `greys.webp` and `images.webp` stand for `greys.bin` and
`images.bin`: WebP images one after another, each of which tells its length in its header (RIFF). Images lose detail,
masks and boxes do not.

    python benchmarks/pack_store.py pack STORE --output store.zip --split train
    python benchmarks/pack_store.py unpack store.zip --output STORE
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import io
import json
import lzma
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dbsam.cli.terminal import ProgressBar
from dbsam.progress import Progress
from dbsam_training.data.json_files import write_json
from dbsam_training.store.format import (
    ALL_ARRAYS,
    IMAGE_ARRAYS,
    SHARD_FILE,
    SHARDS,
    StoreError,
    StoreShard,
    read_store_facts,
)

_RIFF_HEADER = 8
Report = Callable[[Progress], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack or unpack; returns 0 on success, 2 where a file or folder is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack", help="write a store as one small file")
    packing.add_argument("source", type=Path, metavar="STORE")
    packing.add_argument("--quality", type=int, default=75, help="of WebP, 1 to 100 (default: 75)")
    packing.add_argument("--split", default="all", choices=("train", "val", "all"))
    unpacking = commands.add_parser("unpack", help="make the store of a packed file")
    unpacking.add_argument("source", type=Path, metavar="FILE")
    for command in (packing, unpacking):
        command.add_argument("--output", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        with ProgressBar(options.command) as bar:
            if options.command == "pack":
                pack(options.source, options.output, options.quality, options.split, bar)
            else:
                unpack(options.source, options.output, bar)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def pack(store: Path, file: Path, quality: int, split: str = "all", progress: Report | None = None) -> None:
    """Write a store as one file, in one step.

    Args:
        store: The store.
        file: What to write.
        quality: Of WebP, 1 to 100.
        split: "train" or "val" to leave out the other's samples, or "all".
        progress: Called after each shard.

    Raises:
        StoreError: `store` is none, or one of its files is missing or damaged.
        ValueError: The quality is out of range.
    """
    if not 1 <= quality <= 100:
        raise ValueError(f"The quality must be from 1 to 100, not {quality}.")
    facts = read_store_facts(store)
    shards = {name: StoreShard(store / SHARDS / name) for name in facts[SHARDS]}
    kept = [name for name, shard in shards.items() if split in ("all", shard.facts["split"])]
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive, ThreadPoolExecutor() as threads:
            archive.writestr("store.json", json.dumps(facts | {SHARDS: kept}))
            for done, name in enumerate(kept, 1):
                shard = shards[name]
                archive.writestr(f"{name}/{SHARD_FILE}", json.dumps(shard.facts), zipfile.ZIP_LZMA)
                for array in sorted(ALL_ARRAYS.keys() - IMAGE_ARRAYS.keys()):
                    archive.write(shard.folder / f"{array}.bin", f"{name}/{array}.bin", zipfile.ZIP_LZMA)
                for array in IMAGE_ARRAYS:
                    encoded = threads.map(lambda image: _encode(image, quality), shard.read(array))
                    archive.writestr(f"{name}/{array}.webp", b"".join(encoded))
                if progress:
                    progress(Progress(done, len(kept), name, None))
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


def unpack(file: Path, store: Path, progress: Report | None = None) -> None:
    """Make the store of a packed file, with digests of its own.

    Args:
        file: From `pack`.
        store: A folder that doesn't exist yet; it appears when it is complete.
        progress: Called after each shard.

    Raises:
        StoreError: The folder exists, or the file isn't a packed store or is damaged.
    """
    if store.exists():
        raise StoreError(f"{store} exists already: name another folder, or remove it.")
    temporary = store.with_name(f".{store.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(file) as archive, ThreadPoolExecutor() as threads:
            facts: dict[str, Any] = json.loads(archive.read("store.json"))
            for done, name in enumerate(facts[SHARDS], 1):
                if Path(name).name != name:
                    raise StoreError(f"{file} holds a shard with the name {name!r}, which is no folder's.")
                _unpack_shard(archive, name, temporary / SHARDS / name, threads)
                if progress:
                    progress(Progress(done, len(facts[SHARDS]), name, None))
        write_json(temporary / "store.json", facts)
        os.replace(temporary, store)
    except StoreError:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EROFS, errno.EACCES):  # no fault of the file's
            raise
        raise StoreError(f"{file} is no packed training store, or damaged: {error}") from error
    except (zipfile.BadZipFile, lzma.LZMAError, EOFError, RuntimeError, KeyError, ValueError) as error:
        raise StoreError(f"{file} is no packed training store, or damaged: {error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _unpack_shard(archive: zipfile.ZipFile, name: str, folder: Path, threads: ThreadPoolExecutor) -> None:
    folder.mkdir(parents=True)
    shard: dict[str, Any] = json.loads(archive.read(f"{name}/{SHARD_FILE}"))
    for array, (shape, _) in ALL_ARRAYS.items():
        if array in IMAGE_ARRAYS:
            images = threads.map(lambda data, channels=shape[2]: _decode(data, channels), _split(archive, name, array))
            content = b"".join(image.tobytes() for image in images)
        else:
            content = archive.read(f"{name}/{array}.bin")
        (folder / f"{array}.bin").write_bytes(content)
        shard["sha256"][array] = hashlib.sha256(content).hexdigest()
    write_json(folder / SHARD_FILE, shard)


def _encode(image: NDArray[np.uint8], quality: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "WEBP", quality=quality, method=5)
    return buffer.getvalue()


def _decode(data: bytes, channels: int) -> NDArray[np.uint8]:
    pixels = np.asarray(Image.open(io.BytesIO(data), formats=["WEBP"]).convert("RGB"))
    return np.ascontiguousarray(pixels if channels == 3 else pixels[..., 1:2])


def _split(archive: zipfile.ZipFile, name: str, array: str) -> Iterator[bytes]:
    with archive.open(f"{name}/{array}.webp") as file:
        while header := file.read(_RIFF_HEADER):
            yield header + file.read(int.from_bytes(header[4:], "little"))


if __name__ == "__main__":
    sys.exit(main())
