"""Does a process that is asked again and again grow, or keep files open?

    python benchmarks/endurance.py --prompts 1000

Segments in one process, each time another box, so that embeddings are made and given up all the time; reads resident
memory and open files after each hundred and fits a line through the second half. Linux only.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from timing import phantom, print_table

import dbsam

CACHE_BYTES = 16 * 2**20
PERIOD = 100


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="compact", help="name or file of weights")
    parser.add_argument("--prompts", type=int, default=1000)
    options = parser.parse_args()
    predictor = dbsam.load_predictor(options.model, device="cpu")
    geometry = dbsam.ImageGeometry.from_spacing((1.0, 1.0, 3.0), (128, 128, 8))
    volume, cache = dbsam.Volume(phantom(geometry.shape_KJI), geometry), dbsam.EmbeddingCache(CACHE_BYTES)
    rng = np.random.default_rng(0)

    def prompt() -> None:
        low = [*rng.integers(20, 50, 2), rng.integers(0, 7)]
        high = [*rng.integers(70, 110, 2), low[2] + 1]
        dbsam.segment(volume, dbsam.OrientedBox.from_ijk(low, high, geometry), predictor, strategy="box", cache=cache)

    memory_mb, handles = measured(prompt, options.prompts)
    measurements = enumerate(zip(memory_mb, handles, strict=True))
    rows = [(str(n * PERIOD), f"{mb:.1f}", f"{count:.0f}") for n, (mb, count) in measurements]
    print_table(
        "Growth with use",
        [
            f"Weights {options.model}, {options.prompts} boxes of two slices, a cache of {CACHE_BYTES >> 20} MB. Slope "
            f"over the second half: {slope(memory_mb):+.3f} MB for {PERIOD} prompts, {slope(handles):+.3f} open files."
        ],
        ["prompts", "resident MB", "open files"],
        rows,
    )


def measured(prompt: Callable[[], None], prompts: int) -> tuple[list[float], list[float]]:
    """Resident memory in MB and number of open files, before and after each `PERIOD` prompts."""
    memory_mb, handles = [resident_mb()], [float(open_files())]
    for number in range(1, prompts + 1):
        prompt()
        if number % PERIOD == 0:
            memory_mb.append(resident_mb())
            handles.append(float(open_files()))
    return memory_mb, handles


def slope(values: list[float]) -> float:
    """Growth by one step, of the line through the second half: the first fills caches and pools."""
    half = values[len(values) // 2 :]
    return float(np.polyfit(range(len(half)), half, 1)[0])


def resident_mb() -> float:
    """Memory of this process that is in use."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def open_files() -> int:
    """How many files, pipes and sockets this process holds."""
    return len(os.listdir("/proc/self/fd"))


if __name__ == "__main__":
    main()
