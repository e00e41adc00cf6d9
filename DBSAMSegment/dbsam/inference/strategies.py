"""How one 3D prompt becomes a prompt on every slice: the box itself, or the object's last mask."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence

from dbsam.geometry.grid import FloatArray
from dbsam.inference.decoding import SliceDecoder, SliceMask
from dbsam.inference.encoding import SliceEncoder
from dbsam.inference.eta import ProgressReporter
from dbsam.inference.tracking import Track, TrackingRule
from dbsam.preprocess.prompts import PromptPlan, SlicePoint, widened
from dbsam.progress import CancelToken

logger = logging.getLogger(__name__)


def segment_by_box(
    plan: PromptPlan,
    start: int,
    encoder: SliceEncoder,
    decoder: SliceDecoder,
    progress: ProgressReporter,
    cancel: CancelToken,
) -> Iterator[SliceMask]:
    """Yields the mask of every slice of the plan, prompted by its own rectangle.

    Slices that the cache serves come first, the others in batches, each nearest to `start` first. In this order a
    volume that is larger than the cache still profits from what the cache holds.

    Raises:
        Cancelled: the token was cancelled.
    """
    waiting: deque[int] = deque()
    order = plan.nearest_first(start)
    for index in order:
        cancel.raise_if_cancelled()
        embedding = encoder.cached(index, plan.boxes_xyxy[index])
        if embedding is None:
            waiting.append(index)
            continue
        yield decoder.decode(index, plan.boxes_xyxy[index], embedding)
        progress.advance(1, to_encode=len(waiting))
    while waiting:
        batch = [waiting.popleft() for _ in range(min(encoder.batch_size, len(waiting)))]
        embeddings = encoder.encode([(index, encoder.region_for(plan.boxes_xyxy[index])) for index in batch])
        for index, embedding in zip(batch, embeddings, strict=True):
            yield decoder.decode(index, plan.boxes_xyxy[index], embedding)
            progress.advance(1, to_encode=len(waiting))


def segment_by_tracking(
    plan: PromptPlan,
    start: int,
    encoder: SliceEncoder,
    decoder: SliceDecoder,
    progress: ProgressReporter,
    rule: TrackingRule,
    spacing_xy: tuple[float, float],
    slice_distance_mm: float,
) -> Iterator[SliceMask]:
    """Yields the masks of the slices that the object spans, followed from `start` in both directions in turn.

    Where `start` shows nothing that the model trusts, other slices are tried, spread over the plan. After some masks
    that aren't trusted, the best of them is the start; if all slices are empty, they are yielded empty.

    Args:
        plan: The slices and their rectangles.
        start: The slice to begin with.
        encoder: Gives the embeddings.
        decoder: Gives the masks.
        progress: Is told of each slice.
        rule: How the object is followed.
        spacing_xy: Pixel spacing in mm.
        slice_distance_mm: Distance of neighbouring slices.

    Raises:
        Cancelled: the token was cancelled.
    """
    steps = _Steps(plan, encoder, decoder)
    tried: list[SliceMask] = []
    candidates: list[SliceMask] = []
    for index in _spread(plan.indices, start):
        tried.append(steps.mask(index, plan.boxes_xyxy[index], plan.nearest_first(index)[1:]))
        progress.advance(0, to_encode=len(plan.indices) - len(tried))
        candidates = [found for found in tried if found.area_pixels > 0]
        if len(candidates) == rule.start_attempts:
            break
        if candidates and candidates[-1].predicted_iou >= rule.least_predicted_iou:
            break
    if not candidates:
        logger.info("Nothing was found on any of the %d slices of the box.", len(tried))
        yield from tried
        progress.advance(len(tried), to_encode=0)
        return
    first = max(candidates, key=lambda found: found.predicted_iou * found.area_pixels**rule.start_area_power)
    if first.index != start:
        logger.info("Slice %d shows no object clearly; it is followed from slice %d.", start, first.index)
    yield first
    after = deque(index for index in plan.indices if index > first.index)
    before = deque(index for index in reversed(plan.indices) if index < first.index)
    directions = deque(
        (Track(first, last, rule, plan.window, spacing_xy, slice_distance_mm), upcoming)
        for last, upcoming in ((plan.indices[-1], after), (plan.indices[0], before))
    )
    progress.advance(1, to_encode=len(after) + len(before))
    yield from _follow(directions, steps, progress, encoder, followed=1)


def _follow(
    directions: deque[tuple[Track, deque[int]]],
    steps: _Steps,
    progress: ProgressReporter,
    encoder: SliceEncoder,
    followed: int,
) -> Iterator[SliceMask]:
    """Yields the masks along tracks, a slice of each in turn."""
    remaining = sum(len(upcoming) for _, upcoming in directions)
    while directions:
        track, upcoming = directions.popleft()
        if track.ended or not upcoming:
            yield from track.finish()
            continue
        yield from track.follow(steps.next_mask(track, upcoming.popleft(), upcoming))
        followed += 1
        done = 1 + (len(upcoming) if track.ended else 0)
        remaining -= done
        progress.advance(done, to_encode=round(remaining * min(1.0, encoder.encoded / followed)))
        directions.append((track, upcoming))


def correct_by_clicks(
    plan: PromptPlan,
    former_boxes_xyxy: Mapping[int, FloatArray],
    clicked: Sequence[int],
    spread: str,
    encoder: SliceEncoder,
    decoder: SliceDecoder,
    progress: ProgressReporter,
    rule: TrackingRule,
    spacing_xy: tuple[float, float],
    slice_distance_mm: float,
) -> Iterator[SliceMask]:
    """Yields the masks of clicked slices, then those of the slices over which they spread, empty where the object ends.

    Args:
        plan: The slices, their rectangles and clicks.
        former_boxes_xyxy: The rectangles that prompted the slices before.
        clicked: Slices with new clicks, ascending.
        spread: "slice", "both", "ascending" or "descending".
        encoder: Gives the embeddings.
        decoder: Gives the masks.
        progress: Is told of each slice.
        rule: How the object is followed.
        spacing_xy: Pixel spacing in mm.
        slice_distance_mm: Distance of neighbouring slices.

    Raises:
        Cancelled: the token was cancelled.
    """
    steps = _Steps(plan, encoder, decoder)
    corrected = {}
    for index in clicked:
        points = plan.points[index]
        box_xyxy = widened(former_boxes_xyxy.get(index, plan.boxes_xyxy[index]), points, plan.slice_hw)
        corrected[index] = steps.mask(index, box_xyxy, (), points)
        yield corrected[index]
        progress.advance(1, to_encode=0, to_decode=0)
    directions: deque[tuple[Track, deque[int]]] = deque()
    for index, found in corrected.items():
        for upcoming in _to_spread_over(plan, index, clicked, spread):
            if upcoming and found.area_pixels:
                end = plan.indices[-1 if upcoming[0] > index else 0]
                track = Track(found, end, rule, plan.window, spacing_xy, slice_distance_mm)
                directions.append((track, upcoming))
    spread_over = [upcoming for _, upcoming in directions]
    yield from _follow(directions, steps, progress, encoder, followed=len(clicked))
    for index in itertools.chain(*spread_over):
        yield decoder.empty(index, plan.boxes_xyxy[index])


def _to_spread_over(plan: PromptPlan, index: int, clicked: Sequence[int], spread: str) -> Iterator[deque[int]]:
    """The slices above and below a clicked one that its mask decides, nearest first.

    Slices that were clicked before keep what they have. Half of the way towards another new one belongs to that, where
    both are followed towards each other.
    """
    for step, name in ((1, "ascending"), (-1, "descending")):
        ahead: deque[int] = deque()
        if spread in ("both", name):
            other = index
            while (other := other + step) in plan.boxes_xyxy and other not in plan.points:
                ahead.append(other)
            if spread == "both" and other in clicked:
                ahead = deque(list(ahead)[: (len(ahead) + (step > 0)) // 2])
        yield ahead


class _Steps:
    """Single slices of a plan."""

    def __init__(self, plan: PromptPlan, encoder: SliceEncoder, decoder: SliceDecoder) -> None:
        self._plan, self._encoder, self._decoder = plan, encoder, decoder

    def mask(
        self, index: int, box_xyxy: FloatArray, likely_next: Iterable[int], points: tuple[SlicePoint, ...] = ()
    ) -> SliceMask:
        boxes = self._plan.boxes_xyxy
        ahead = ((other, boxes[other]) for other in likely_next)
        embedding = self._encoder.embedding(index, box_xyxy, boxes[index], ahead)
        return self._decoder.decode(index, box_xyxy, embedding, points)

    def next_mask(self, track: Track, index: int, likely_next: Iterable[int]) -> SliceMask:
        limit_xyxy = self._plan.boxes_xyxy[index]
        box_xyxy = track.box_within(limit_xyxy)
        if box_xyxy is None:
            return self._decoder.empty(index, limit_xyxy)
        return self.mask(index, box_xyxy, likely_next)


def _spread(indices: Sequence[int], start: int) -> Iterator[int]:
    """Yields `start`, then all other slices so that gaps are halved, since an object off the middle may be thick."""
    yield start
    gaps = deque([(0, indices.index(start) - 1), (indices.index(start) + 1, len(indices) - 1)])
    while gaps:
        first, last = gaps.popleft()
        if first <= last:
            middle = (first + last) // 2
            yield indices[middle]
            gaps += [(first, middle - 1), (middle + 1, last)]
