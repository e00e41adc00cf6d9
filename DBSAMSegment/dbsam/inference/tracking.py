"""Following an object from slice to slice: where to look next, what still belongs to it, and when it has ended."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dbsam.geometry.bounds import mask_box_xyxy
from dbsam.geometry.grid import FloatArray
from dbsam.inference.decoding import SliceMask
from dbsam.preprocess.prompts import Window


@dataclass(frozen=True)
class TrackingRule:
    """How an object is followed.

    The margin round the last mask is the largest of three, since the object may widen with the distance between
    slices, with its own size, and by what pixels can show.

    Attributes:
        margin_slice_distances: Margin as a multiple of the slice distance; 1 allows for surfaces at 45 degrees.
        margin_share: Margin as a share of the last mask's longer side.
        margin_pixels: Margin in pixels.
        least_predicted_iou: Below it, a slice counts as weak.
        least_share_of_start_iou: Replaces `least_predicted_iou` by this share of the start slice's predicted IoU where
            that is lower: some models, such as MedSAM, were trained without teaching them to judge their masks.
        start_attempts: How many untrusted masks are looked at before the best of them becomes the start.
        start_area_power: The best is that with the largest product of predicted IoU and area to this power: on images
            unlike those it was trained on, a model may trust small masks at an object's end more than good large ones.
        least_area_share: Below this share of the last good slice's area, a slice counts as weak.
        patience: The object ends at this many weak or empty slices in a row.
        near_share: Over this share of the way from the start slice to the prompt's last, the object is expected.
        least_trust: A mask that is trusted less (see `Trust`) is followed anew from other starts, and gives way to one
            that is trusted that much: among masks that are all likely wrong, none is better.
        looks: How many slices, evenly spread over the prompt, the model looks at alone, with the whole rectangle, to
            see whether they agree with the mask.
        looks_within: How many more, evenly spread over what was found, which may be a small part of the prompt.
        other_starts: From how many of these, those with the best start's score, the object is followed anew.
        start_advantage: What is followed from the middle gives way only to a mask that is trusted this many times as
            much: the middle of a box is most likely to show the object.
        least_share_of_volume: Nor does it give way to a smaller share of its volume: a speck is consistent, too.
        near_iou_share: There a slice counts as weak only below this share of the least predicted IoU: on images unlike
            those it was trained on, a model trusts good masks little.
    """

    margin_slice_distances: float = 1.0
    margin_share: float = 0.1
    margin_pixels: float = 2.0
    least_predicted_iou: float = 0.4
    least_share_of_start_iou: float = 0.5
    start_attempts: int = 5
    start_area_power: float = 0.5
    least_area_share: float = 0.25
    patience: int = 2
    near_share: float = 0.5
    near_iou_share: float = 0.5
    least_trust: float = 0.65
    looks: int = 5
    looks_within: int = 3
    other_starts: int = 3
    start_advantage: float = 1.1
    least_share_of_volume: float = 0.5

    def __post_init__(self) -> None:
        if self.patience < 1:
            raise ValueError(f"The patience of tracking must be at least one slice, not {self.patience}.")
        if self.start_attempts < 1:
            raise ValueError(f"Tracking needs at least one attempt to start, not {self.start_attempts}.")


class Track:
    """An object followed in one direction.

    Args:
        start: The mask to start from.
        last_index: The prompt's last slice in this direction.
        rule: How to follow.
        window: The pixels that masks are given on.
        spacing_xy: Pixel spacing in mm.
        slice_distance_mm: Distance of neighbouring slices.

    Attributes:
        ended: Whether the object has ended, so that further slices hold nothing of it.
    """

    def __init__(
        self,
        start: SliceMask,
        last_index: int,
        rule: TrackingRule,
        window: Window,
        spacing_xy: tuple[float, float],
        slice_distance_mm: float,
    ) -> None:
        self._last, self._last_area = start, start.area_pixels
        self._rule, self._window = rule, window
        self._start_index, self._near = start.index, rule.near_share * abs(last_index - start.index)
        self._least_iou = min(rule.least_predicted_iou, rule.least_share_of_start_iou * start.predicted_iou)
        self._spacing_xy, self._slice_distance_mm = np.asarray(spacing_xy), slice_distance_mm
        self._undecided: list[SliceMask] = []
        self.ended = False

    def box_within(self, limit_xyxy: FloatArray) -> FloatArray | None:
        """Returns the rectangle for the next slice, or None where the object has left the prompt.

        Args:
            limit_xyxy: The prompt's rectangle on that slice.
        """
        box = self._last_box()
        margin = self._margin_xy(box)
        low = np.maximum(box[:2] - margin, limit_xyxy[:2])
        high = np.minimum(box[2:] + margin, limit_xyxy[2:])
        return np.concatenate([low, high]) if (high > low).all() else None

    def follow(self, found: SliceMask) -> list[SliceMask]:
        """Takes the next slice's mask and returns those slices, in order, that are decided by now.

        Parts that lie away from the last mask are dropped. A weak slice is decided by those after it: the object may
        go on, or have ended.
        """
        reach_xy = np.ceil(self._margin_xy(self._last_box())).astype(int)
        mask = parts_touching(found.mask, grown(self._last.mask, reach_xy[1], reach_xy[0]))
        found = replace(found, mask=mask, touches_edge=found.touches_edge and bool(mask.any()))
        self._undecided.append(found)
        if self._is_trusted(found) and not self._collapsed(found):
            self._last, self._last_area = found, found.area_pixels
            return self.finish()
        if len(self._undecided) < self._rule.patience:
            return []
        self.ended = True
        return self._ending()

    def finish(self) -> list[SliceMask]:
        """Returns the slices that are still undecided, as they are: the object hasn't ended before the prompt has."""
        decided, self._undecided = self._undecided, []
        return decided

    def _ending(self) -> list[SliceMask]:
        """The weak slices after the object's end: emptied, save a small last section, as rounded objects have."""
        decided = self.finish()
        first_is_last_section = self._is_trusted(decided[0]) and not any(weak.mask.any() for weak in decided[1:])
        kept = 1 if first_is_last_section else 0
        return decided[:kept] + [
            replace(weak, mask=np.zeros_like(weak.mask), touches_edge=False) for weak in decided[kept:]
        ]

    def _is_trusted(self, found: SliceMask) -> bool:
        near = abs(found.index - self._start_index) <= self._near
        least_iou = self._least_iou * (self._rule.near_iou_share if near else 1.0)
        return found.area_pixels > 0 and found.predicted_iou >= least_iou

    def _collapsed(self, found: SliceMask) -> bool:
        return found.area_pixels < self._rule.least_area_share * self._last_area

    def _last_box(self) -> FloatArray:
        """The tight rectangle (4,) of the last mask, in continuous pixel coordinates of the slice."""
        return mask_box_xyxy(self._last.mask) + np.tile([self._window.x_first, self._window.y_first], 2)

    def _margin_xy(self, box_xyxy: FloatArray) -> FloatArray:
        """Margin along x and y in pixels, wider by every slice that was weak."""
        rule = self._rule
        size_mm = ((box_xyxy[2:] - box_xyxy[:2]) * self._spacing_xy).max()
        slices = len(self._undecided) + 1
        margin_mm = max(rule.margin_slice_distances * self._slice_distance_mm * slices, rule.margin_share * size_mm)
        return np.maximum(margin_mm / self._spacing_xy, rule.margin_pixels)


def grown(mask: NDArray[np.bool_], reach_y: int, reach_x: int) -> NDArray[np.bool_]:
    """Returns a mask (H, W) dilated by a rectangle that reaches so many pixels along y and x."""
    return np.asarray(ndimage.maximum_filter(mask, (2 * reach_y + 1, 2 * reach_x + 1), mode="constant"))


def parts_touching(mask: NDArray[np.bool_], anchor: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Returns the 8-connected parts of a mask (H, W) that overlap an anchor (H, W), without the others."""
    if not (mask & ~anchor).any():
        return mask
    return np.asarray(ndimage.binary_propagation(mask & anchor, np.ones((3, 3), bool), mask))
