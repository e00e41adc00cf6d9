"""How one 3D prompt becomes a prompt on every slice: the box itself, or the object's last mask."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

from dbsam.geometry.grid import FloatArray
from dbsam.inference.decoding import SliceDecoder, SliceMask
from dbsam.inference.encoding import SliceEncoder
from dbsam.inference.eta import ProgressReporter
from dbsam.inference.tracking import Track, TrackingRule
from dbsam.preprocess.prompts import PromptPlan
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
    followed, remaining = 1, len(after) + len(before)
    progress.advance(1, to_encode=remaining)
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


class _Steps:
    """Single slices of a plan."""

    def __init__(self, plan: PromptPlan, encoder: SliceEncoder, decoder: SliceDecoder) -> None:
        self._plan, self._encoder, self._decoder = plan, encoder, decoder

    def mask(self, index: int, box_xyxy: FloatArray, likely_next: Iterable[int]) -> SliceMask:
        boxes = self._plan.boxes_xyxy
        ahead = ((other, boxes[other]) for other in likely_next)
        embedding = self._encoder.embedding(index, box_xyxy, boxes[index], ahead)
        return self._decoder.decode(index, box_xyxy, embedding)

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
