"""Does the same input give the same mask, whatever the run, the number of threads and the batch size?

    python benchmarks/repeatability.py

Prints the largest difference of a mask logit and of the predicted IoU from the first run, and how many voxels of the
mask differ, for each setting. Two runs of one setting must be equal to the last bit; settings add up sums in another
order, so that they may differ by rounding: `TOLERANCE` of a logit.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from timing import phantom, print_table

import dbsam
from dbsam.inference.predictor import ModelPredictor
from dbsam.inference.segmenter import VolumeSegmenter

TOLERANCE = 1e-3
"""Of a mask logit, in float32 on the CPU, between numbers of threads and batch sizes."""


@dataclass(frozen=True)
class Answer:
    """What one run gave: mask logits of single slices, their predicted IoU, and the mask of a volume."""

    logits: NDArray[np.float32]
    predicted_iou: NDArray[np.float32]
    mask_KJI: NDArray[np.uint8]


def answer(predictor: ModelPredictor, batch_size: int, slices: int = 8) -> Answer:
    """Segment a phantom, and decode its slices one by one after encoding them in batches."""
    geometry = dbsam.ImageGeometry.from_spacing((1.0, 1.0, 3.0), (96, 96, slices))
    volume = dbsam.Volume(phantom(geometry.shape_KJI), geometry)
    box = dbsam.OrientedBox.from_ijk((25, 25, 0), (70, 70, slices - 1), geometry)
    grey = ((volume.voxels.astype(np.float32) + 60) / 200 * 255).clip(0, 255).astype(np.uint8)
    box_xyxy = np.array([24.5, 24.5, 70.5, 70.5])
    region = predictor.region_for(box_xyxy, (96, 96), (1.0, 1.0))
    images = [np.stack([plane] * 3, -1) for plane in grey]
    batches = [images[n : n + batch_size] for n in range(0, len(images), batch_size)]
    embeddings = [e for batch in batches for e in predictor.encode(batch, [region] * len(batch))]
    decoded = [predictor.decode(embedding, box_xyxy[None]) for embedding in embeddings]
    result = VolumeSegmenter(predictor, batch_size=batch_size).segment(volume, box, axis="K")
    return Answer(
        np.concatenate([each.logits for each in decoded]),
        np.concatenate([each.predicted_iou for each in decoded]),
        result.mask_KJI,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="compact", help="name or file of weights")
    options = parser.parse_args()
    predictor = dbsam.load_predictor(options.model, device="cpu", precision="float32")
    torch.set_num_threads(1)
    first, rows = answer(predictor, 1), []
    for threads, batch_size in ((1, 1), (1, 1), (1, 2), (1, 4), (1, 8), (2, 1), (2, 8), (4, 1)):
        torch.set_num_threads(threads)
        found = answer(predictor, batch_size)
        logit, iou = (
            float(np.abs(getattr(found, name) - getattr(first, name)).max()) for name in ("logits", "predicted_iou")
        )
        voxels = int((found.mask_KJI != first.mask_KJI).sum())
        rows.append((str(threads), str(batch_size), f"{logit:.1e}", f"{iou:.1e}", str(voxels)))
    print_table(
        "Repeatability",
        [
            f"Weights {options.model}, float32, CPU; {int(first.mask_KJI.sum())} voxels in the mask. Compared with one "
            "thread and single slices."
        ],
        ["threads", "batch size", "logit", "predicted IoU", "voxels"],
        rows,
    )


if __name__ == "__main__":
    main()
