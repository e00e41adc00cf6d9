"""A rule that needs no network, for self-tests: inside are the box's pixels that are brighter than half.

A click adds the whole bright part that it lies on, or takes it away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dbsam.inference.predictor import DecodedMasks
from dbsam.inference.tracking import parts_touching
from dbsam.preprocess.sampling import Region, resample_slice, slice_region
from dbsam.progress import CancelToken, ProgressCallback

_SIZE = 128


@dataclass(frozen=True)
class ResampledSlice:
    """The "embedding": the slice's pixels, 128 x 128."""

    pixels: NDArray[np.float32]
    region: Region

    @property
    def nbytes(self) -> int:
        """Memory of the pixels, in bytes."""
        return self.pixels.nbytes


class BrightInsideBox:
    """Implements `dbsam.inference.predictor.SlicePredictor`."""

    signature = "bright-inside-box"
    channels: Literal["repeat", "neighbours"] = "repeat"
    takes_points = True

    def region_for(
        self, box_xyxy: NDArray[np.floating], slice_hw: tuple[int, int], spacing_xy: tuple[float, float]
    ) -> Region:
        """The whole slice."""
        return slice_region(slice_hw, spacing_xy, square=True)

    def reusable(self, region: Region, box_xyxy: NDArray[np.floating]) -> bool:
        """A whole slice serves every box."""
        return True

    def encode(self, images: Sequence[NDArray[np.uint8]], regions: Sequence[Region]) -> list[ResampledSlice]:
        """The slices, resampled."""
        return [
            ResampledSlice(resample_slice(image, region, _SIZE)[0][..., 0], region)
            for image, region in zip(images, regions, strict=True)
        ]

    def decode(
        self,
        embedding: ResampledSlice,
        boxes_xyxy: NDArray[np.floating],
        points_xy: NDArray[np.floating] | None = None,
        point_labels: NDArray[np.integer] | None = None,
        mask_prompt: NDArray[np.float32] | None = None,
    ) -> DecodedMasks:
        """Logits that are positive in bright pixels of the box, and in those of clicks."""
        y, x = np.indices(embedding.pixels.shape)
        bright = embedding.pixels / 10 - 12.75
        logits = []
        for number, (x0, y0, x1, y1) in enumerate(embedding.region.boxes_to_input(np.asarray(boxes_xyxy), _SIZE)):
            inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
            logit = np.where(inside, bright, -20.0)
            if points_xy is not None and point_labels is not None:
                clicks = np.rint(embedding.region.points_to_input(points_xy[number], _SIZE))
                for (column, row), label in zip(clicks, point_labels[number], strict=True):
                    part = parts_touching(bright > 0, (y == row) & (x == column))
                    logit[part] = bright[part] if label else -20.0
            logits.append(logit)
        return DecodedMasks(np.array(logits, np.float32), np.full(len(logits), 0.9, np.float32))


class BrightInsideBoxSource:
    """Gives the rule for every model; a `dbsam.worker.networks.NetworkSource`."""

    def __init__(self) -> None:
        self._predictor = BrightInsideBox()

    def __call__(self, model: str, device: str, cancel: CancelToken, progress: ProgressCallback) -> BrightInsideBox:
        """The same predictor each time."""
        return self._predictor

    def clear(self) -> None:
        """Nothing to free."""
