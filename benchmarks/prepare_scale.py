"""Prepares synthetic slices by the paper's protocol and reads each once: memory, rate, and time as the count grows.

    python benchmarks/prepare_scale.py --images 10000 20000 40000 --folder /scratch

Every count runs in a process of its own, so that its peak memory is its own. A volume has 160 slices with two objects.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

SLICES = 160


def main() -> None:
    """Print one line a count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", nargs="+", type=int, default=[2000, 4000, 8000])
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--side", type=int, default=512, help="of a slice, in pixels (default: 512)")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.folder, options.one, options.side)))
        return
    for count in options.images:
        command = [sys.executable, __file__, "--folder", options.folder, "--one", str(count)]
        command += ["--side", str(options.side)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        wrote, read = found["images"] / found["prepare_s"], found["samples"] / found["read_s"]
        print(
            f"{found['images']} images: prepare {found['prepare_s']:.1f} s ({wrote:.0f} images/s, peak "
            f"{found['prepare_mib']:.0f} MiB), one pass of the loader {found['read_s']:.1f} s ({read:.0f} samples/s, "
            f"peak {found['read_mib']:.0f} MiB), {found['gib']:.2f} GiB on disk",
            flush=True,
        )


def measure(folder: Path, count: int, side: int) -> dict[str, float]:
    """Prepare `count` slices, read them, and remove everything again."""
    from dbsam_training.data.discover import find_sources
    from dbsam_training.recipe import DataOptions
    from dbsam_training.store.format import TrainingStore
    from dbsam_training.store.prepare import prepare

    work = folder / f"scale{count}"
    shutil.rmtree(work, ignore_errors=True)
    data = work / "volumes"
    data.mkdir(parents=True)
    _volume(data / "v0000.npz", side)
    for n in range(1, count // SLICES):
        os.link(data / "v0000.npz", data / f"v{n:04d}.npz")
    names = [f"v{n:04d}" for n in range(count // SLICES)]
    (data / "splits_final.json").write_text(json.dumps({"train": names, "val": []}))
    began = time.perf_counter()
    prepare(find_sources([data]), work / "store", DataOptions(protocol="slices"))
    prepared = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    store = TrainingStore(work / "store")
    total = 0
    order = np.random.default_rng(0).permutation(len(store))
    for start in range(0, len(order), 32):
        total += int(store.batch(order[start : start + 32])["images"][0, 0, 0, 0])
    read = time.perf_counter()
    size = sum(path.stat().st_size for path in (work / "store").rglob("*.bin"))
    shutil.rmtree(work)
    return {
        "images": len(names) * SLICES,
        "samples": len(store),
        "prepare_s": prepared - began,
        "prepare_mib": peak,
        "read_s": read - prepared,
        "read_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "gib": size / 2**30,
    }


def _volume(path: Path, side: int) -> None:
    rng = np.random.default_rng(0)
    labels = np.zeros((SLICES, side, side), np.uint8)
    labels[:, side // 4 : side // 2, side // 3 : 2 * side // 3] = 1
    labels[:, 2 * side // 3 : 4 * side // 5, side // 5 : side // 3] = 2
    images = (labels * 60 + rng.integers(20, 60, labels.shape)).astype(np.uint8)
    np.savez(path, imgs=images, gts=labels, spacing=np.array([0.8, 0.8, 3.0]))


if __name__ == "__main__":
    main()
