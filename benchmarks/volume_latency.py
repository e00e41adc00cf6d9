"""How long does one wait for a volume: first mask, first run, moved ROI, the other axis?

    python benchmarks/volume_latency.py

A volume of 512x512x100 int16 with noise around an ellipsoid, and an ROI of 200x200x60 voxels on it. The strategy "box"
looks at all slices whatever the weights find; "track" ends where the object ends, so its times depend on the weights.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence

import numpy as np
from timing import alone, peak_memory_mb, phantom, print_table
from torch import get_num_threads

import dbsam
from dbsam.inference.segmenter import VolumeSegmenter

STEPS = ("first run", "moved ROI", "other axis")


def main() -> None:
    """Print the table, or with --alone do the steps once and print the peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="compact", help="name or file of weights")
    parser.add_argument("--size", type=int, nargs=3, default=(512, 512, 100), metavar=("I", "J", "K"))
    parser.add_argument("--roi", type=int, nargs=3, default=(200, 200, 60), metavar=("I", "J", "K"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", choices=("box", "track"))
    options = parser.parse_args()
    if options.alone:
        _steps(options.model, options.alone, options.size, options.roi)
        print(json.dumps(peak_memory_mb()))
        return
    rounds: dict[str, list[dict[str, tuple[float, float, int, int]]]] = {"box": [], "track": []}
    for _ in range(options.rounds):
        for strategy, found in rounds.items():
            found.append(_steps(options.model, strategy, options.size, options.roi))
    same = ["--model", options.model, "--size", *map(str, options.size), "--roi", *map(str, options.roi)]
    rows = []
    for strategy, found in rounds.items():
        memory = alone(__file__, [*same, "--alone", strategy])
        for step in STEPS:
            first, total = (statistics.median(one[step][n] for one in found) for n in range(2))
            slices, hits = found[0][step][2:]
            row = f"{first:.2f} s", f"{total:.2f} s", str(slices), f"{total / slices * 1e3:.0f} ms", str(hits)
            rows.append((strategy, step, *row, f"{memory:.0f} MB" if step == STEPS[0] else ""))
    size, roi = ("×".join(map(str, numbers)) for numbers in (options.size, options.roi))
    print_table(
        "A volume and an ROI",
        [
            f"{size} voxels, int16; ROI of {roi} voxels; weights {options.model}; {get_num_threads()} threads, "
            f"float32; medians of {options.rounds}. The first run takes the volume's digest and intensity range "
            "too. Memory is the peak of a process that does the three steps, with the volume."
        ],
        ["strategy", "step", "first mask", "all masks", "slices", "per slice", "embeddings reused", "peak memory"],
        rows,
    )


class _Arrivals:
    """Notes when each mask arrives."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, *_: object) -> None:
        self.times.append(time.perf_counter())


def _steps(
    model: str, strategy: str, size: Sequence[int], roi: Sequence[int]
) -> dict[str, tuple[float, float, int, int]]:
    """Seconds to the first mask and in all, slices looked at and embeddings reused, of each step with a new cache."""
    voxels = phantom(tuple(reversed(size)))
    geometry = dbsam.ImageGeometry.from_spacing((1.0, 1.0, 2.5), tuple(size))
    segmenter = VolumeSegmenter(dbsam.load_predictor(model, device="cpu"), nearby=True)
    low = [(whole - part) // 2 for whole, part in zip(size, roi, strict=True)]
    # By a tenth of its size in the slice and none along it: what dragging the ROI on a slice view does.
    moved = [low[0] + roi[0] // 10, low[1] - roi[1] // 10, low[2]]
    volume = None
    found = {}
    for step, corner, axis in zip(STEPS, (low, moved, low), ("K", "K", "J"), strict=True):
        began = time.perf_counter()
        if volume is None:
            volume = dbsam.Volume(voxels, geometry)
        box = dbsam.OrientedBox.from_ijk(corner, np.add(corner, roi) - 1, geometry)
        arrivals = _Arrivals()
        result = segmenter.segment(volume, box, axis=axis, strategy=strategy, on_slice=arrivals)
        total = time.perf_counter() - began
        found[step] = (arrivals.times[0] - began, total, len(result.slices), result.cache_hits)
    return found


if __name__ == "__main__":
    main()
