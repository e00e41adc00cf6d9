"""What is likely wrong with a mask, in words for the user, with the slices to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from dbsam.inference.trust import dice
from dbsam.preprocess.volume import slice_of

if TYPE_CHECKING:
    from dbsam.inference.segmenter import VolumeSegmentation

LIKELY_WRONG_BELOW = 0.65
"""Trust below which a mask is likely wrong; measured by `benchmarks/box_looseness.py`."""
LOW_CONFIDENCE = 0.5
"""A slice whose predicted IoU is lower is named."""
LONE_SLICE_LIKELY_WRONG_BELOW = 0.4
"""The same for an image of one slice, for which its predicted IoU alone speaks."""
_JUMPS_BELOW = 0.5  # overlap of neighbouring slices


@dataclass(frozen=True)
class Doubt:
    """Something to look at.

    Attributes:
        text: What may be wrong, in words that go on after the structure's name and a colon.
        slices: Where; empty if it is the whole mask.
    """

    text: str
    slices: tuple[int, ...] = ()


def doubts_about(result: VolumeSegmentation) -> tuple[Doubt, ...]:
    """Returns what may be wrong with a result, the whole mask's first."""
    found = [report for report in result.slices if report.area_pixels]
    doubts = []
    if not found:
        doubts.append(Doubt("nothing was found in the box"))
    elif result.likely_wrong:
        doubts.append(_about_the_whole(result))
    if unsure := tuple(report.index for report in found if report.predicted_iou < LOW_CONFIDENCE):
        doubts.append(Doubt(f"low confidence on {slices_in_words(unsure)}", unsure))
    if jumps := _jumps(result, [report.index for report in found]):
        doubts.append(Doubt(f"the mask jumps at {slices_in_words(jumps)}", jumps))
    if touching := tuple(report.index for report in found if report.touches_edge):
        words = f"the mask touches the edge of the box on {slices_in_words(touching)}; a larger box may be needed"
        doubts.append(Doubt(words, touching))
    if result.not_finite:
        doubts.append(
            Doubt(f"{result.not_finite:,} voxels of the box are no numbers (NaN or infinite); they were shown black")
        )
    return tuple(doubts)


def _about_the_whole(result: VolumeSegmentation) -> Doubt:
    trust = result.trust
    assert trust is not None
    reasons = [f"the model's own estimate is {trust.confidence:.2f}"]
    if trust.overlap is not None:
        reasons.append(f"neighbouring slices overlap by {trust.overlap:.2f}")
    if trust.agreement is not None:
        reasons.append(f"slices looked at alone agree by {trust.agreement:.2f}")
    words = f"the mask is likely wrong ({', '.join(reasons)})"
    if trust.disagreeing:
        words += f"; {slices_in_words(trust.disagreeing)} alone show something else"
    return Doubt(f"{words}. Draw the box closer, or a rectangle on one of these slices", trust.disagreeing)


def _jumps(result: VolumeSegmentation, found: Sequence[int]) -> tuple[int, ...]:
    """Slices that hardly overlap the one before, save the object's first and last sections, which are small."""
    jumps = []
    first = result.extent_ijk[result.axis][0]
    for before, index in pairwise(found[1:-1]):
        one, other = (slice_of(result.mask_KJI, result.axis, n - first).astype(bool) for n in (before, index))
        if dice(one, other) < _JUMPS_BELOW:
            jumps.append(index)
    return tuple(jumps)


def slices_in_words(indices: Sequence[int]) -> str:
    """Ascending indices in few words: slices 3, 5 to 8, 11."""
    return f"slice{'s' if len(indices) > 1 else ''} {index_ranges(indices)}"


def index_ranges(indices: Sequence[int]) -> str:
    """Ascending indices in few words: 3, 5 to 8, 11."""
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and index == ranges[-1][-1] + 1:
            ranges[-1][1:] = [index]
        else:
            ranges.append([index])
    return ", ".join(" to ".join(map(str, ends)) for ends in ranges)
