"""What a run, a preview or a redo is asked to compute; no MRML node is in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from dbsam.geometry.grid import ImageGeometry, OrientedBox
    from dbsam.inference.segmenter import PointPrompt, SliceBoxes

    from .Geometry import VolumeSnapshot

KeyBoxes = Mapping[int, Sequence[float]]


@dataclass(frozen=True)
class RunPrompt:
    """One structure of a run: its box or key boxes, and the segment that it goes to ("": a new one)."""

    name: str
    prompt: OrientedBox | SliceBoxes
    segmentId: str = ""
    color_rgb: tuple[float, float, float] | None = None


@dataclass(frozen=True)
class RunRequest:
    """All that the worker needs; no MRML node is in it.

    Clicks, `points` in the volume's own RAS, are for a single prompt; `spread` is how far they reach.
    """

    snapshot: VolumeSnapshot
    prompts: tuple[RunPrompt, ...]
    model: str = "compact"
    device: str = "auto"
    axis: str | int = "auto"
    strategy: str = "track"
    intensity: Any = "auto"
    points: tuple[PointPrompt, ...] = ()
    spread: str = "both"


def withKeyBoxes(
    box: OrientedBox, geometry: ImageGeometry, axis: int, keyBoxes: KeyBoxes, slices: range | None = None
) -> SliceBoxes:
    """The prompt of an ROI whose box was corrected on some slices.

    The ROI's own cut stays at its first and last slice; in between, boxes are interpolated from one key slice to the
    next.

    Args:
        box: the ROI in the volume's RAS.
        geometry: the volume's grid.
        axis: 0, 1, 2 for slices along I, J, K.
        keyBoxes: slice index -> x_min, y_min, x_max, y_max in continuous pixel coordinates.
        slices: limits the prompt to these slices.

    Raises:
        ValueError: the ROI lies outside the volume.
    """
    from dbsam.geometry.grid import interpolate_boxes, slice_boxes_xyxy
    from dbsam.inference.segmenter import SliceBoxes

    own = slice_boxes_xyxy(box, geometry, axis)
    if not own:
        raise ValueError("The ROI lies outside the volume: move it onto the structure.")
    keys = {min(own): own[min(own)], max(own): own[max(own)]}
    keys.update({index: np.asarray(xyxy, float) for index, xyxy in keyBoxes.items()})
    if slices is not None:
        keys = {index: xyxy for index, xyxy in interpolate_boxes(keys).items() if index in slices}
    return SliceBoxes(axis, keys)


def slicesFrom(index: int, box: OrientedBox, geometry: ImageGeometry, axis: int) -> range:
    """The slices that "redo from here" computes again: from one slice outwards, away from the ROI's middle."""
    from dbsam.geometry.grid import slice_boxes_xyxy

    own = sorted(slice_boxes_xyxy(box, geometry, axis))
    if not own:
        raise ValueError("The ROI lies outside the volume: move it onto the structure.")
    if index >= (own[0] + own[-1]) / 2:
        return range(index, max(own[-1], index) + 1)
    return range(min(own[0], index), index + 1)


def onOneSlice(request: RunRequest, index: int) -> RunRequest | None:
    """The first prompt of a request on one slice alone, with the clicks there.

    None if its box doesn't cut this slice, and no click carries it on up to there.
    """
    from dbsam.geometry.grid import interpolate_boxes, slice_boxes_xyxy
    from dbsam.inference.segmenter import SliceBoxes

    first, geometry = request.prompts[0], request.snapshot.geometry
    axis = geometry.axis_index(request.axis)
    points = tuple(point for point in request.points if sliceOf(point, geometry, axis) == index)
    if isinstance(first.prompt, SliceBoxes):
        boxes, clip = interpolate_boxes(first.prompt.key_boxes), first.prompt.clip
    else:
        boxes, clip = slice_boxes_xyxy(first.prompt, geometry, axis, {index}), first.prompt
    if index not in boxes:
        if not any(point.include for point in points):
            return None
        if not isinstance(first.prompt, SliceBoxes):
            boxes = slice_boxes_xyxy(first.prompt, geometry, axis)
        if not boxes:
            return None
        boxes, clip = {index: boxes[min(boxes, key=lambda other: abs(other - index))]}, None
    prompt = replace(first, prompt=SliceBoxes(axis, {index: boxes[index]}, clip))
    return replace(request, prompts=(prompt,), axis=axis, strategy="box", points=points, spread="slice")


def sliceOf(point: PointPrompt, geometry: ImageGeometry, axis: int) -> int:
    """The slice that a click belongs to: the nearest.

    Raises:
        ValueError: it lies outside the volume.
    """
    from dbsam.preprocess.prompts import points_by_slice

    (index,) = points_by_slice([point], geometry, axis)
    return index


def sliceCount(request: RunRequest) -> int:
    """How many slices the prompts of a request cover."""
    from dbsam.geometry.grid import slice_boxes_xyxy
    from dbsam.inference.segmenter import SliceBoxes

    axis = request.snapshot.geometry.axis_index(request.axis)
    count = 0
    for one in request.prompts:
        if isinstance(one.prompt, SliceBoxes):
            count += max(one.prompt.key_boxes) - min(one.prompt.key_boxes) + 1
        else:
            count += len(slice_boxes_xyxy(one.prompt, request.snapshot.geometry, axis))
    return count
