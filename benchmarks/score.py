"""Compares a segmentation with the truth: DSC and, for a volume, NSD at 1 mm, of each label.

python benchmarks/score.py output/segmentation.seg.nrrd Resources/Sample/phantom_truth.nrrd
"""

from __future__ import annotations

import argparse

import numpy as np

from dbsam.io.images import read_labelmap
from dbsam_training.evaluate.metrics import dice, surface_dice


def main() -> None:
    """Print one line for each label of the truth."""
    parser = argparse.ArgumentParser(description="DSC and NSD of a segmentation against the truth.")
    parser.add_argument("segmentation", help="labelmap, or .seg.nrrd without overlaps")
    parser.add_argument("truth", help="labelmap on the same grid")
    arguments = parser.parse_args()
    predicted, geometry = read_labelmap(arguments.segmentation)
    truth, truth_geometry = read_labelmap(arguments.truth)
    if predicted.shape != truth.shape or not np.allclose(geometry.ijk_to_ras, truth_geometry.ijk_to_ras, atol=1e-3):
        parser.error(f"{arguments.segmentation} and {arguments.truth} lie on different grids")
    for label in np.unique(truth[truth != 0]):
        masks = truth == label, predicted == label
        line = f"label {label}: DSC {dice(*masks):.3f}"
        if truth.shape[0] > 1:
            line += f", NSD at 1 mm {surface_dice(*masks, geometry.spacing_mm[::-1], 1.0):.3f}"
        print(line)


if __name__ == "__main__":
    main()
