"""What does a user of the compact model wait for: a fresh 512x512 slice from pixels to mask, and another box on it?

Run `python benchmarks/compact_latency.py`. "Engine" is what a user gets: the volume's digest, its intensity range, the
slice's rectangle, the network, and the mask on the volume's grid. "Predictor" is the network with its crop alone.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from timing import alone, flops_of, interleaved, matrix_rate, peak_memory_mb, phantom, print_table

import dbsam
from dbsam.inference.predictor import ModelPredictor
from dbsam.inference.segmenter import VolumeSegmentation, VolumeSegmenter

SIDE = 512


def main() -> None:
    """Print the table, or with --alone segment one slice and print the peak memory."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="compact")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--alone", action="store_true")
    options = parser.parse_args()
    predictor = dbsam.load_predictor(options.model, device="cpu")
    engine = _Engine(predictor)
    if options.alone:
        engine.fresh()
        print(json.dumps(peak_memory_mb()))
        return
    image = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    box = np.array([[150.0, 160.0, 350.0, 340.0]])
    other = box + 10.0
    region = predictor.region_for(box[0], (SIDE, SIDE), (1.0, 1.0))
    embedding = predictor.encode([image], [region])[0]
    cases = {
        "engine, fresh slice": engine.fresh,
        "engine, another box": engine.another_box,
        "predictor, fresh slice": lambda: predictor.decode(predictor.encode([image], [region])[0], box),
        "predictor, another box": lambda: predictor.decode(embedding, other),
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


class _Engine:
    """Segments one slice of int16 with a new cache, then other boxes on it."""

    def __init__(self, predictor: ModelPredictor) -> None:
        self._predictor = predictor
        self._voxels = phantom((1, SIDE, SIDE))
        self._geometry = dbsam.ImageGeometry.from_spacing((1, 1, 1), (SIDE, SIDE, 1))
        self._shift = 0
        self.fresh()

    def fresh(self) -> None:
        """From pixels that were never seen to a mask."""
        self._volume = dbsam.Volume(self._voxels, self._geometry)
        self._segmenter = VolumeSegmenter(self._predictor, nearby=True)
        self._segment(0)

    def another_box(self) -> None:
        """Another box on the slice that `fresh` embedded."""
        self._shift = (self._shift + 1) % 10
        if self._segment(1 + self._shift).cache_hits != 1:
            raise RuntimeError("The embedding was not kept: this would time a fresh slice.")

    def _segment(self, shift: int) -> VolumeSegmentation:
        corners = (150 + shift, 160, 0), (350 + shift, 340 - shift, 0)
        box = dbsam.OrientedBox.from_ijk(*corners, self._geometry)
        return self._segmenter.segment(self._volume, box, axis="K")


if __name__ == "__main__":
    main()
