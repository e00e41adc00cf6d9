"""What an evaluation asks of a model or a baseline, and what it gets."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

from dbsam.geometry.grid import OrientedBox
from dbsam.preprocess.volume import Volume
from dbsam_training.evaluate.prompts import BoolArray, Click, FloatArray


class Found(NamedTuple):
    """An object that was found.

    Attributes:
        mask_KJI: (K,J,I).
        predicted_iou: the model's estimate by slice index, of slices with a mask; empty for what estimates nothing.
        warned: whether the engine says that it is likely wrong; None where it was not the engine that found it.
    """

    mask_KJI: BoolArray
    predicted_iou: Mapping[int, float] = {}
    warned: bool | None = None


class Segmenter(Protocol):
    """A model or baseline under evaluation."""

    @property
    def name(self) -> str:
        """What the report calls it."""

    @property
    def takes_clicks(self) -> bool:
        """Whether it is a `ClickSegmenter`."""

    def segment_slices(self, volume: Volume, axis: int, prompts: Sequence[Mapping[int, FloatArray]]) -> list[Found]:
        """Segments objects prompted by one box (x_min, y_min, x_max, y_max) per slice."""

    def segment_rois(self, volume: Volume, axis: int, boxes: Sequence[OrientedBox]) -> list[Found]:
        """Segments objects prompted by one 3D box each."""


class ClickSegmenter(Segmenter, Protocol):
    """A model that can be corrected by clicks."""

    def segment_clicks(
        self, volume: Volume, axis: int, box: OrientedBox, next_click: Callable[[BoolArray], Click | None], most: int
    ) -> Iterator[Found]:
        """Segments the object in a box, and corrects it by clicks.

        Args:
            volume: the image.
            axis: slice axis.
            box: the box.
            next_click: the click that corrects a mask; None where nothing is wrong.
            most: most clicks.

        Yields:
            What is found by the box alone, then after each click; nothing further once nothing is wrong.
        """
