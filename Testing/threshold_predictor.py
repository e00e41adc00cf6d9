"""A stand-in for a network that segments, by a threshold inside the box, what anyone can derive by hand."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dbsam.inference.predictor import DecodedMasks
from dbsam.inference.tracking import parts_touching
from dbsam.preprocess.sampling import Region, box_region, resample_slice, slice_region


@dataclass(frozen=True)
class Crop:
    """The "embedding": the region's pixels."""

    image: NDArray[np.float32]
    region: Region

    @property
    def nbytes(self) -> int:
        return self.image.nbytes


@dataclass
class ThresholdPredictor:
    """Implements `dbsam.inference.predictor.SlicePredictor`.

    Attributes:
        sees: "box" encodes a square region round the box, like the compact model; "slice" the whole slice, like SAM.
        size: Side of the square input in pixels.
        threshold: Grey level from which the middle channel is inside.
        channels: What grey slices are made of.
        predicted_iou: What the "decoder" says of a mask.
        encoded: The batches so far: images and regions.
        decoded: The boxes so far.
        clicks: The labels of the clicks that were given with each call of `decode`.
        takes_points: Whether it says that it was trained with clicks.
        before_encode: Called at each batch.
        name: Part of the signature; another name stands for other weights.
        seconds_per_slice: How long a slice takes to encode.
        fail_at: Number of encoded slices after which `error` is raised.
        threads: Names of the threads that encoded.
    """

    sees: Literal["box", "slice"] = "box"
    size: int = 128
    threshold: float = 128.0
    channels: Literal["repeat", "neighbours"] = "repeat"
    predicted_iou: Callable[[NDArray[np.bool_]], float] = lambda mask: 0.9
    encoded: list[list[tuple[NDArray[np.uint8], Region]]] = field(default_factory=list)
    decoded: list[NDArray[np.float64]] = field(default_factory=list)
    clicks: list[list[int]] = field(default_factory=list)
    takes_points: bool = True
    before_encode: Callable[[], None] = lambda: None
    name: str = "threshold"
    seconds_per_slice: float = 0.0
    fail_at: int | None = None
    error: BaseException = field(default_factory=lambda: RuntimeError("the network failed"))
    threads: set[str] = field(default_factory=set)

    @property
    def signature(self) -> str:
        return f"{self.name}-{self.threshold}-{self.size}"

    @property
    def encoded_slices(self) -> int:
        return sum(len(batch) for batch in self.encoded)

    def region_for(
        self, box_xyxy: NDArray[np.floating], slice_hw: tuple[int, int], spacing_xy: tuple[float, float]
    ) -> Region:
        if self.sees == "slice":
            return slice_region(slice_hw, spacing_xy, square=True)
        return box_region(box_xyxy, spacing_xy, context=1.5)

    def reusable(self, region: Region, box_xyxy: NDArray[np.floating]) -> bool:
        if self.sees == "slice":
            return True
        x0, y0, x1, y1 = box_xyxy
        return region.contains(box_xyxy) and max((x1 - x0) / region.width, (y1 - y0) / region.height) >= 0.3

    def encode(self, images: Sequence[NDArray[np.uint8]], regions: Sequence[Region]) -> list[Crop]:
        self.before_encode()
        self.threads.add(threading.current_thread().name)
        batch: list[tuple[NDArray[np.uint8], Region]] = []
        self.encoded.append(batch)
        crops = []
        for image, region in zip(images, regions, strict=True):
            if self.fail_at is not None and self.encoded_slices >= self.fail_at:
                raise self.error
            time.sleep(self.seconds_per_slice)
            crops.append(Crop(resample_slice(image, region, self.size)[0], region))
            batch.append((image, region))
        return crops

    def decode(
        self,
        embedding: Crop,
        boxes_xyxy: NDArray[np.floating],
        points_xy: NDArray[np.floating] | None = None,
        point_labels: NDArray[np.integer] | None = None,
        mask_prompt: NDArray[np.float32] | None = None,
    ) -> DecodedMasks:
        """A click adds to the former mask, or takes from it, the whole bright part that it lies on."""
        boxes = embedding.region.boxes_to_input(boxes_xyxy, self.size)
        y, x = np.mgrid[: self.size, : self.size]
        bright = (embedding.image[..., 1] - self.threshold).astype(np.float32)
        logits, ious = [], []
        for n, (x0, y0, x1, y1) in enumerate(boxes):
            # As networks do, it may reach a little beyond the box.
            in_box = (x >= x0 - 1) & (x <= x1 + 1) & (y >= y0 - 1) & (y <= y1 + 1)
            logit = np.where(in_box, bright, np.float32(-255))
            if points_xy is not None and point_labels is not None:
                logit = logit if mask_prompt is None else mask_prompt[n].copy()
                clicks = np.rint(embedding.region.points_to_input(points_xy[n], self.size)).astype(int)
                for (column, row), label in zip(clicks, point_labels[n], strict=True):
                    part = parts_touching(bright > 0, (y == row) & (x == column))
                    logit[part] = bright[part] if label else -255
            logits.append(logit)
            ious.append(self.predicted_iou(logit > 0))
        self.decoded += list(np.asarray(boxes_xyxy, dtype=np.float64))
        self.clicks.append([] if point_labels is None else point_labels[0].tolist())
        return DecodedMasks(np.stack(logits), np.array(ious, np.float32))


class ThresholdSource:
    """Gives one predictor for every model, as the Slicer side's source of networks; counts what it is asked for."""

    def __init__(self, predictor: ThresholdPredictor | None = None) -> None:
        self.predictor = predictor or ThresholdPredictor("slice")
        self.asked: list[tuple[str, str]] = []
        self.cleared = 0

    def __call__(self, model: str, device: str, cancel: object) -> ThresholdPredictor:
        self.asked.append((model, device))
        return self.predictor

    def clear(self) -> None:
        self.cleared += 1
