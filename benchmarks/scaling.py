"""How does the cost grow with the number of slices, of pixels and of boxes?

    python benchmarks/scaling.py

For each a power law is fitted to the medians: an exponent of 1 is linear, below 1 a fixed part weighs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from timing import interleaved, phantom, print_table
from torch import get_num_threads

import dbsam
from dbsam.inference.predictor import ModelPredictor
from dbsam.inference.segmenter import VolumeSegmenter


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="compact", help="name or file of weights")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slices", type=int, nargs="+", default=(5, 10, 20, 40, 80))
    parser.add_argument("--sides", type=int, nargs="+", default=(128, 256, 512, 1024, 2048))
    parser.add_argument("--boxes", type=int, nargs="+", default=(1, 2, 4, 8, 16, 32, 64))
    options = parser.parse_args()
    predictor = dbsam.load_predictor(options.model, device="cpu")
    questions: dict[str, dict[int, Callable[[], Any]]] = {
        "slices of 256×256 in an ROI": {n: _volume(predictor, n, 256) for n in options.slices},
        "pixels of one slice": {side**2: _volume(predictor, 1, side) for side in options.sides},
        "boxes on one slice, embedding at hand": _boxes(predictor, options.boxes),
    }
    rows = []
    for question, cases in questions.items():
        seconds = interleaved({str(n): case for n, case in cases.items()}, options.rounds)
        sizes = list(cases)
        times = [seconds[str(n)] for n in sizes]
        listed = ", ".join(f"{n}: {time * 1e3:.0f}" for n, time in zip(sizes, times, strict=True))
        per_unit = (times[-1] - times[0]) / (sizes[-1] - sizes[0])
        rows.append(
            (question, listed, f"{exponent(dict(zip(sizes, times, strict=True))):.2f}", f"{per_unit * 1e3:.3g}")
        )
    print_table(
        "Growth of the cost",
        [
            f"Weights {options.model}, {get_num_threads()} threads, float32, strategy box, a new cache each time; "
            f"medians of {options.rounds}, interleaved. The last column is the slope over all sizes."
        ],
        ["what grows", "size: ms", "exponent", "ms for one more"],
        rows,
    )


def exponent(seconds: Mapping[int, float]) -> float:
    """The power of the size that fits the times best."""
    return float(np.polyfit(np.log(list(seconds)), np.log(list(seconds.values())), 1)[0])


def _volume(predictor: ModelPredictor, slices: int, side: int) -> Callable[[], Any]:
    """Segmenting every slice of a volume in its middle half."""
    geometry = dbsam.ImageGeometry.from_spacing((1.0, 1.0, 2.5), (side, side, slices))
    voxels = phantom((slices, side, side))
    box = dbsam.OrientedBox.from_ijk((side // 4, side // 4, 0), (side * 3 // 4, side * 3 // 4, slices - 1), geometry)

    def segment() -> None:
        volume = dbsam.Volume(voxels, geometry)
        VolumeSegmenter(predictor).segment(volume, box, axis="K", strategy="box")

    return segment


def _boxes(predictor: ModelPredictor, counts: tuple[int, ...]) -> dict[int, Callable[[], Any]]:
    """Decoding boxes on one slice."""
    image = np.random.default_rng(0).integers(0, 255, (512, 512, 3), np.uint8)
    box = np.array([150.0, 160.0, 350.0, 340.0])
    embedding = predictor.encode([image], [predictor.region_for(box, (512, 512), (1.0, 1.0))])[0]
    shifts = np.random.default_rng(1).uniform(-10, 10, (max(counts), 4))
    return {n: partial(predictor.decode, embedding, box + shifts[:n]) for n in counts}


if __name__ == "__main__":
    main()
