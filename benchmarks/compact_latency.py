"""What does a user of the compact model wait for: a fresh 512x512 slice from pixels to mask, and another box on it?

Run `python benchmarks/compact_latency.py`.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from timing import alone, flops_of, interleaved, matrix_rate, peak_memory_mb, print_table

import dbsam

SIDE = 512


def main() -> None:
    """Print the table, or with --alone segment one slice and print the peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="compact")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--alone", action="store_true")
    options = parser.parse_args()
    image = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    box = np.array([[150.0, 160.0, 350.0, 340.0]])
    other = box + 10.0
    if options.alone:
        volume = dbsam.Volume(image[None, ..., 0], dbsam.ImageGeometry.from_spacing((1, 1, 1), (SIDE, SIDE, 1)))
        prompt = dbsam.OrientedBox.from_ijk((150, 160, 0), (350, 340, 0), volume.geometry)
        dbsam.segment(volume, prompt, options.model, device="cpu")
        print(json.dumps(peak_memory_mb()))
        return
    predictor = dbsam.load_predictor(options.model, device="cpu")
    region = predictor.region_for(box[0], (SIDE, SIDE), (1.0, 1.0))
    embedding = predictor.encode([image], [region])[0]
    cases = {
        "fresh slice": lambda: predictor.decode(predictor.encode([image], [region])[0], box),
        "another box": lambda: predictor.decode(embedding, other),
    }
    rate = matrix_rate(torch.float32)
    seconds = interleaved(cases, options.rounds)
    flops = {name: flops_of(case) for name, case in cases.items()}
    rows = [
        (name, f"{took:.3f} s", f"{flops[name] / 1e9:.2f}", f"{flops[name] / took / rate:.0%}")
        for name, took in seconds.items()
    ]
    memory = alone(__file__, ["--alone", "--model", options.model])
    print_table(
        "Compact model, one slice",
        [
            f"{SIDE}x{SIDE} pixels, {torch.get_num_threads()} threads, float32; medians of {options.rounds}. This "
            f"machine multiplies matrices at {rate / 1e9:.0f} GFLOP/s. Peak memory of a process that reads the weights "
            f"and segments one slice: {memory:.0f} MB."
        ],
        ["", "time", "GFLOP", "of the machine's matrix rate"],
        rows,
    )


if __name__ == "__main__":
    main()
