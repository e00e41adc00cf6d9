"""Boxes that a user corrected on some slices, as text in the module's parameter node."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)


@dataclass
class RoiKeyBoxes:
    """Corrected boxes of one ROI.

    Attributes:
        axis: 0, 1, 2 for slices along I, J, K of the volume.
        boxes: slice index -> x_min, y_min, x_max, y_max in continuous pixel coordinates.
    """

    axis: int = 0
    boxes: dict[int, list[float]] = field(default_factory=dict)

    def along(self, axis: int) -> dict[int, list[float]]:
        """The boxes for slices along `axis`; none if they were drawn along another."""
        return self.boxes if axis == self.axis else {}


def encodeKeyBoxes(entries: Sequence[RoiKeyBoxes]) -> str:
    """Text for the parameter node: one entry per selected ROI, in order; empty if no box was corrected."""
    if not any(entry.boxes for entry in entries):
        return ""
    return json.dumps([{"axis": entry.axis, "boxes": entry.boxes} for entry in entries])


def decodeKeyBoxes(text: str, count: int) -> list[RoiKeyBoxes]:
    """The corrected boxes of `count` ROIs; none for text of an unknown form, which is logged."""
    entries: list[RoiKeyBoxes] = []
    if text:
        try:
            for entry in json.loads(text):
                boxes = {int(index): [float(value) for value in box] for index, box in entry["boxes"].items()}
                if any(len(box) != 4 for box in boxes.values()):
                    raise ValueError("a box needs four numbers")
                entries.append(RoiKeyBoxes(int(entry["axis"]), boxes))
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("The corrected boxes in the scene could not be read (%s): %s", error, text)
            entries = []
    entries = entries[:count]
    return entries + [RoiKeyBoxes() for _ in range(count - len(entries))]
