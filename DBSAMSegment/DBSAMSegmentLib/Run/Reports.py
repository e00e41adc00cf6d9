"""What a run reports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..Mrml.Requests import RunRequest

if TYPE_CHECKING:
    from dbsam.inference.segmenter import SliceReport, VolumeSegmentation

    from ..Write.SegmentWriter import WrittenSegment


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


def warningsOf(result: VolumeSegmentation, clipped: bool, heldBack: int) -> list[str]:
    """What a user should look at: what the library doubts, and what of the mask isn't in the segment."""
    warnings = [doubt.text for doubt in result.doubts]
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
            warningsOf(result, one.clipped, one.heldBack),
        )
        for one, name, result in zip(written, names, results, strict=True)
    ]
    seconds = sum(result.seconds for result in results)
    return RunReport(segments, request.model, request.strategy, seconds, sum(one.cache_hits for one in results))
