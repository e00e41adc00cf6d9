"""What a run reports."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ..Mrml.Requests import RunRequest

if TYPE_CHECKING:
    from dbsam.inference.segmenter import SliceReport, VolumeSegmentation

    from ..Write.SegmentWriter import WrittenSegment


# A mask that changes its area by more than this factor from one slice to the next is worth a look.
_JUMP_FACTOR = 2.5
_SMALLEST_AREA_PIXELS = 25


@dataclass
class SegmentReport:
    """What a run did to one segment.

    Attributes:
        segmentId: its ID in the segmentation.
        name: its name when it was written.
        axis: 0, 1, 2 for slices along I, J, K of the volume.
        slices: one per slice, with the box, predicted IoU, area, and whether the mask touches the box's edge.
        intensity: the range of values that the network saw, and why.
        voxels: number of the mask's voxels, in the volume's grid.
        warnings: what is worth a look, in words.
    """

    segmentId: str
    name: str
    axis: int
    slices: list[SliceReport]
    intensity: Any
    voxels: int
    warnings: list[str] = field(default_factory=list)


@dataclass
class RunReport:
    """What a run did.

    Attributes:
        segments: one per ROI, in their order.
        model: name or path of the model.
        strategy: "track" or "box".
        seconds: time of the computation.
        cacheHits: slices whose image embedding was there already.
        frame: index of the frame of a sequence; None for a single volume.
        error: why a case of a batch was not segmented; "" when it was.
        case: name of a batch's case.
    """

    segments: list[SegmentReport]
    model: str
    strategy: str
    seconds: float
    cacheHits: int
    frame: int | None = None
    error: str = ""
    case: str = ""

    @property
    def warnings(self) -> list[str]:
        """The warnings of all segments, each with the segment's name."""
        return [f"{segment.name}: {warning}" for segment in self.segments for warning in segment.warnings]


def mergedResult(former: VolumeSegmentation, redone: VolumeSegmentation, slices: range) -> VolumeSegmentation:
    """The former result with some of its slices replaced.

    Raises:
        ValueError: the two were computed along different axes or on different grids.
    """
    from dataclasses import replace

    if former.axis != redone.axis or former.geometry.dimensions_ijk != redone.geometry.dimensions_ijk:
        raise ValueError(
            "The slices can't be replaced: the last result was computed along another axis or on another volume. Run"
            " the whole ROI again."
        )
    extent = tuple((min(a, c), max(b, d)) for (a, b), (c, d) in zip(former.extent_ijk, redone.extent_ijk, strict=True))
    shape = tuple(last - first + 1 for first, last in reversed(extent))
    mask = np.zeros(shape, np.uint8)
    kept = [slice(None)] * 3
    for result, isRedone in ((former, False), (redone, True)):
        (i0, i1), (j0, j1), (k0, k1) = (
            (first - start, last - start) for (first, last), (start, _) in zip(result.extent_ijk, extent, strict=True)
        )
        part = np.zeros(shape, np.uint8)
        part[k0 : k1 + 1, j0 : j1 + 1, i0 : i1 + 1] = result.mask_KJI
        indices = np.arange(extent[result.axis][0], extent[result.axis][1] + 1)
        chosen = np.isin(indices, slices) == isRedone
        kept[2 - result.axis] = chosen
        mask[tuple(kept)] = part[tuple(kept)]
        kept[2 - result.axis] = slice(None)
    reports = {one.index: one for one in former.slices if one.index not in slices}
    reports.update({one.index: one for one in redone.slices if one.index in slices})
    return replace(
        former,
        mask_KJI=mask,
        extent_ijk=extent,
        slices=[reports[index] for index in sorted(reports)],
        seconds=redone.seconds,
        cache_hits=redone.cache_hits,
    )


def warningsOf(slices: Sequence[SliceReport], clipped: bool, heldBack: int = 0) -> list[str]:
    """What a user should look at: masks cut off by the box, jumps between slices, missing parts."""
    warnings = []
    touching = [one.index for one in slices if one.touches_edge]
    if touching:
        warnings.append(f"the mask touches the edge of the box on {_spans(touching)}; a larger box may be needed")
    jumps = []
    for former, one in itertools.pairwise(slices):
        small, large = sorted((former.area_pixels, one.area_pixels))
        if large > _SMALLEST_AREA_PIXELS and large > _JUMP_FACTOR * max(small, 1) and small > 0:
            jumps.append(one.index)
    if jumps:
        warnings.append(f"the area jumps at {_spans(jumps)}")
    if not any(one.area_pixels for one in slices):
        warnings.append("nothing was found in the box")
    if clipped:
        warnings.append(
            "part of the mask lies outside the segmentation's geometry and was left out; set the geometry from the"
            " volume in the Segment Editor to keep it"
        )
    if heldBack:
        warnings.append(
            f"{heldBack} voxels of the mask aren't in the segment: the Segment Editor's masking keeps them out, or"
            " another segment took them over"
        )
    return warnings


def _spans(indices: Sequence[int]) -> str:
    """Slice 3; slices 3-5, 9."""
    spans: list[list[int]] = []
    for index in sorted(indices):
        if spans and index == spans[-1][1] + 1:
            spans[-1][1] = index
        else:
            spans.append([index, index])
    text = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in spans)
    return f"slice {text}" if len(indices) == 1 else f"slices {text}"


def reportOf(
    request: RunRequest,
    results: Sequence[VolumeSegmentation],
    written: Sequence[WrittenSegment],
    names: Sequence[str],
) -> RunReport:
    """The report of a run.

    Args:
        request: what was asked for.
        results: one per prompt.
        written: per prompt what became of its segment.
        names: the segments' names.
    """
    segments = [
        SegmentReport(
            one.segmentId,
            name,
            result.axis,
            list(result.slices),
            result.intensity,
            int((result.mask_KJI != 0).sum()),
            warningsOf(result.slices, one.clipped, one.heldBack),
        )
        for one, name, result in zip(written, names, results, strict=True)
    ]
    seconds = sum(result.seconds for result in results)
    return RunReport(segments, request.model, request.strategy, seconds, sum(one.cache_hits for one in results))
