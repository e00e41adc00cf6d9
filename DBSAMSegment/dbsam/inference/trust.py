"""What speaks for a mask as a whole, whatever model gave it: three figures that need no truth."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dbsam.inference.decoding import SliceMask

_DISAGREES_BELOW = 0.5  # overlap of a look with the mask


@dataclass(frozen=True)
class Trust:
    """How likely it is that the right object was found, and all of it.

    Attributes:
        confidence: Mean predicted IoU of the slices that aren't empty.
        overlap: Mean overlap (DSC) of neighbouring slices: an object seldom jumps. None where there is one slice only.
        agreement: Mean overlap of the mask with looks: what the model shows on other slices of its extent when it is
            given the whole rectangle there and knows nothing of this mask. None where there was no look.
        disagreeing: The slices on which a look shows something else.
    """

    confidence: float
    overlap: float | None = None
    agreement: float | None = None
    disagreeing: tuple[int, ...] = ()

    @property
    def value(self) -> float:
        """From 0 to 1, the mean of what is known."""
        known = [part for part in (self.confidence, self.overlap, self.agreement) if part is not None]
        return sum(known) / len(known)


def trust_in(
    masks: Mapping[int, SliceMask], slice_count: int, looks: Mapping[int, SliceMask] | None = None, start: int = -1
) -> Trust:
    """Returns what speaks for the masks of some slices.

    Args:
        masks: The slices that were looked at.
        slice_count: How many there might have been.
        looks: Masks of single slices that don't depend on these; None where none were taken.
        start: The slice that the masks were followed from, whose look isn't independent of them.
    """
    found = [index for index in sorted(masks) if masks[index].area_pixels]
    if not found:
        return Trust(0.0)
    confidence = float(np.mean([masks[index].predicted_iou for index in found]))
    overlaps = [dice(masks[one].mask, masks[other].mask) for one, other in pairwise(found)]
    overlap = None if slice_count == 1 else float(np.mean(overlaps or [0.0]))
    if looks is None or not looks.keys() - {start}:
        return Trust(confidence, overlap)
    agreements = {
        index: dice(masks[index].mask, look.mask)
        for index, look in looks.items()
        if index != start and index in masks and found[0] <= index <= found[-1]
    }
    disagreeing = tuple(index for index in sorted(agreements) if agreements[index] < _DISAGREES_BELOW)
    return Trust(confidence, overlap, float(np.mean(list(agreements.values()) or [0.0])), disagreeing)


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    """Returns the overlap (DSC) of two masks of one shape; 1 where both are empty."""
    total = np.count_nonzero(one) + np.count_nonzero(other)
    return 2 * np.count_nonzero(one & other) / total if total else 1.0
