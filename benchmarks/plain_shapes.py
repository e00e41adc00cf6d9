"""How well are plain shapes found, which have no texture and look like no organ?

    python benchmarks/plain_shapes.py compact OTHER.safetensors

Blocks and ellipsoids of random sizes in slices of 32 to 128 pixels, brighter or darker than what surrounds them,
without noise or with a little, in an ROI that is two voxels or a fifth looser: what a user may try first.
"""

from __future__ import annotations

import argparse
from collections import defaultdict

import numpy as np
from numpy.typing import NDArray
from timing import print_table

import dbsam
from dbsam.geometry.grid import ImageGeometry, OrientedBox
from dbsam_training.evaluate.metrics import dice

COUNT = 24
SLICES = 12


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", help="names or weights files")
    options = parser.parse_args()
    rows = []
    for name in options.models:
        predictor = dbsam.load_predictor(name, "cpu")
        scores: dict[str, list[float]] = defaultdict(list)
        for seed in range(COUNT):
            kind, truth, volume, box = case(seed)
            found = dbsam.segment(volume, box, predictor, axis="K").labelmap_KJI() > 0
            scores[kind].append(dice(truth, found))
        kinds = sorted(scores)
        means = [float(np.mean(scores[kind])) for kind in kinds]
        worst = min(score for one in scores.values() for score in one)
        rows.append((name, *(f"{value:.3f}" for value in means), f"{worst:.2f}"))
    print_table("Plain shapes", [f"{COUNT} shapes, mean DSC by kind."], ["model", *kinds, "worst"], rows)


def case(seed: int) -> tuple[str, NDArray[np.bool_], dbsam.Volume, OrientedBox]:
    """Kind, mask, volume and loose box of a shape."""
    rng = np.random.default_rng(seed)
    size = int(rng.choice([32, 64, 128]))
    half = np.array([SLICES * 0.33, *(rng.uniform(0.12, 0.3, 2) * size)])
    centre = np.array([SLICES / 2, *(rng.uniform(0.4, 0.6, 2) * size)])
    away = (np.indices((SLICES, size, size)) - centre[:, None, None, None]) / half[:, None, None, None]
    is_block, is_bright = seed % 2 == 1, seed % 4 < 2
    truth: NDArray[np.bool_] = (np.abs(away) < 1).all(0) if is_block else (away**2).sum(0) < 1
    inside = np.argwhere(truth)
    low, high = inside.min(0) - 0.5, inside.max(0) + 0.5
    margin = np.full(3, 2.0) if seed % 3 else 0.2 * (high - low)
    margin[0] = 1.0
    low, high = (low - margin)[::-1], (high + margin)[::-1]
    voxels = np.where(truth, 300, -500) * (1 if is_bright else -1) + rng.normal(0, (0, 20, 80)[seed % 3], truth.shape)
    volume = dbsam.Volume(voxels.astype(np.int16), ImageGeometry.from_spacing((1, 1, 1), truth.shape[::-1]))
    kind = f"{'bright' if is_bright else 'dark'} {'block' if is_block else 'ellipsoid'}"
    return kind, truth, volume, OrientedBox((low + high) / 2, np.diag((high - low) / 2))


if __name__ == "__main__":
    main()
