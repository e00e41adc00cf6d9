"""A predictor of one rule, bright inside the box, so that tests of everything around the network need no torch."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

import numpy as np

from dbsam.predictor import DecodedMasks
from dbsam.preprocessing import Region, resample_slice, slice_region


@dataclass(frozen=True)
class _Embedding:
    image: np.ndarray
    region: Region

    @property
    def nbytes(self) -> int:
        return self.image.nbytes


class ThresholdPredictor:
    """Says inside where the 0..255 slice image is above 127, over the box only."""

    channels = "repeat"

    def __init__(self, seconds_per_slice: float = 0.0, size: int = 128, signature: str = "threshold") -> None:
        self.signature = signature
        self.seconds_per_slice = seconds_per_slice
        self.size = size
        self.encoded = 0
        self.decoded = 0
        self.fail_at: int | None = None
        self.error: BaseException = RuntimeError("the network failed")
        self.threads: set[str] = set()

    def region_for(self, box_xyxy, slice_hw, spacing_xy) -> Region:
        return slice_region(slice_hw, spacing_xy, square=True)

    def reusable(self, region, box_xyxy) -> bool:
        return True

    def encode(self, images, regions):
        self.threads.add(threading.current_thread().name)
        result = []
        for image, region in zip(images, regions, strict=True):
            if self.fail_at is not None and self.encoded >= self.fail_at:
                raise self.error
            time.sleep(self.seconds_per_slice)
            pixels, _ = resample_slice(image, region, self.size)
            result.append(_Embedding(pixels[..., 0].astype(np.float32), region))
            self.encoded += 1
        return result

    def decode(self, embedding, boxes_xyxy) -> DecodedMasks:
        self.decoded += 1
        boxes = embedding.region.boxes_to_input(np.asarray(boxes_xyxy), self.size)
        y, x = np.indices((self.size, self.size))
        logits, iou = [], []
        for x0, y0, x1, y1 in boxes:
            inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
            logits.append(np.where(inside, (embedding.image - 127.5) / 10, -20.0))
            iou.append(0.9)
        return DecodedMasks(np.array(logits, np.float32), np.array(iou, np.float32))


class ThresholdSource:
    """Gives one predictor for every model; counts what it is asked for."""

    def __init__(self, predictor: ThresholdPredictor | None = None) -> None:
        self.predictor = predictor or ThresholdPredictor()
        self.asked: list[tuple[str, str]] = []
        self.cleared = 0

    def __call__(self, model, device, cancel):
        self.asked.append((model, device))
        return self.predictor

    def clear(self) -> None:
        self.cleared += 1
