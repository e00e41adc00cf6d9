"""How one 3D prompt becomes a prompt on every slice: the box itself, or the object's last mask."""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from dbsam.geometry.grid import FloatArray
from dbsam.inference.decoding import SliceDecoder, SliceMask
from dbsam.inference.encoding import SliceEncoder
from dbsam.inference.eta import ProgressReporter
from dbsam.inference.tracking import Track, TrackingRule
from dbsam.inference.trust import Trust, trust_in
from dbsam.preprocess.prompts import PromptPlan, SlicePoint, widened
from dbsam.progress import CancelToken

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SliceWork:
    """What a strategy works with.

    Attributes:
        plan: The slices, their rectangles and clicks.
        encoder: Gives the embeddings.
        decoder: Gives the masks.
        progress: Is told of each slice.
        rule: How the object is followed.
        spacing_xy: Pixel spacing in mm.
        slice_distance_mm: Distance of neighbouring slices.
    """

    plan: PromptPlan
    encoder: SliceEncoder
    decoder: SliceDecoder
    progress: ProgressReporter
    rule: TrackingRule
    spacing_xy: tuple[float, float]
    slice_distance_mm: float

    def mask(
        self, index: int, box_xyxy: FloatArray, likely_next: Iterable[int], points: tuple[SlicePoint, ...] = ()
    ) -> SliceMask:
        """Returns the mask of a rectangle and clicks on slice `index`; `likely_next` may be encoded with it."""
        boxes = self.plan.boxes_xyxy
        ahead = ((other, boxes[other]) for other in likely_next)
        embedding = self.encoder.embedding(index, box_xyxy, boxes[index], ahead)
        return self.decoder.decode(index, box_xyxy, embedding, points)

    def track(self, start: SliceMask, last_index: int) -> Track:
        """Returns the object to be followed from a mask towards a slice."""
        return Track(start, last_index, self.rule, self.plan.window, self.spacing_xy, self.slice_distance_mm)

    def next_mask(self, track: Track, index: int, likely_next: Iterable[int]) -> SliceMask:
        """Returns the mask of the next slice along a track; empty where the object has left the prompt."""
        limit_xyxy = self.plan.boxes_xyxy[index]
        box_xyxy = track.box_within(limit_xyxy)
        if box_xyxy is None:
            return self.decoder.empty(index, limit_xyxy)
        return self.mask(index, box_xyxy, likely_next)


def segment_by_box(work: SliceWork, start: int, cancel: CancelToken) -> Iterator[SliceMask]:
    """Yields the mask of every slice of the plan, prompted by its own rectangle.

    Slices that the cache serves come first, the others in batches, each nearest to `start` first. In this order a
    volume that is larger than the cache still profits from what the cache holds.

    Raises:
        Cancelled: the token was cancelled.
    """
    plan, encoder, decoder, progress = work.plan, work.encoder, work.decoder, work.progress
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


def segment_by_tracking(work: SliceWork, start: int, start_is_sure: bool = False) -> Generator[SliceMask, None, Trust]:
    """Yields the masks of the slices that the object spans, followed from `start` in both directions in turn.

    Where `start` shows nothing that the model trusts, other slices are tried, spread over the plan. After some masks
    that aren't trusted, the best of them is the start; if all slices are empty, they are yielded empty.

    Then some slices are looked at alone. If the mask isn't trusted, these become starts of their own, and what is
    followed from one of them replaces it if that is trusted, and more: its slices are yielded again.

    Args:
        work: What to work with.
        start: The slice to begin with.
        start_is_sure: Whether the user chose it, so that no other may replace it where it shows something.

    Returns:
        What speaks for the masks.

    Raises:
        Cancelled: the token was cancelled.
    """
    plan, rule = work.plan, work.rule
    first = yield from _first(work, start)
    if first is None:
        return Trust(0.0)
    main: dict[int, SliceMask] = {}
    for found in _followed_from(first, work):
        main[found.index] = found
        yield found
    spanned = [index for index in sorted(main) if main[index].area_pixels]
    looked_at = {*_evenly(plan.indices, rule.looks), *_evenly(spanned, rule.looks_within)}
    looks = {index: work.mask(index, plan.boxes_xyxy[index], ()) for index in sorted(looked_at)}
    trust = trust_in(main, len(plan.indices), looks, first.index)
    if start_is_sure or trust.value >= rule.least_trust:
        return trust
    best, best_value = main, max(rule.start_advantage * trust.value, rule.least_trust)
    others = [look for look in looks.values() if look.area_pixels and look.index != first.index]
    for other in sorted(others, key=partial(_start_score, rule), reverse=True)[: rule.other_starts]:
        masks = {found.index: found for found in _followed_from(other, work)}
        rival = trust_in(masks, len(plan.indices), looks, other.index)
        if rival.value > best_value and _volume(masks) >= rule.least_share_of_volume * _volume(main):
            best, best_value, trust = masks, rival.value, rival
            logger.info("What is followed from slice %d is trusted more than from %d.", other.index, first.index)
    if best is not main:
        for index, former in main.items():
            yield best.get(index) or work.decoder.empty(index, former.box_xyxy)
        yield from (found for index, found in best.items() if index not in main)
    return trust


def _first(work: SliceWork, start: int) -> Generator[SliceMask, None, SliceMask | None]:
    """The mask to begin with; where all slices are empty, yields them and returns None."""
    plan, progress, rule = work.plan, work.progress, work.rule
    tried: list[SliceMask] = []
    candidates: list[SliceMask] = []
    for index in _spread(plan.indices, start):
        tried.append(work.mask(index, plan.boxes_xyxy[index], plan.nearest_first(index)[1:]))
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
        return None
    first = max(candidates, key=partial(_start_score, rule))
    if first.index != start:
        logger.info("Slice %d shows no object clearly; it is followed from slice %d.", start, first.index)
    return first


def _volume(masks: Mapping[int, SliceMask]) -> int:
    return sum(found.area_pixels for found in masks.values())


def _start_score(rule: TrackingRule, found: SliceMask) -> float:
    return float(found.predicted_iou * found.area_pixels**rule.start_area_power)


def _evenly(indices: Sequence[int], count: int) -> list[int]:
    """So many slices, each in the middle of an equal part; fewer where there are no more."""
    return sorted({indices[int((n + 0.5) / count * len(indices))] for n in range(count)})


def _followed_from(first: SliceMask, work: SliceWork) -> Iterator[SliceMask]:
    plan = work.plan
    yield first
    after = deque(index for index in plan.indices if index > first.index)
    before = deque(index for index in reversed(plan.indices) if index < first.index)
    directions = deque(
        (work.track(first, last), upcoming) for last, upcoming in ((plan.indices[-1], after), (plan.indices[0], before))
    )
    work.progress.advance(1, to_encode=len(after) + len(before))
    yield from _follow(directions, work, followed=1)


def _follow(directions: deque[tuple[Track, deque[int]]], work: SliceWork, followed: int) -> Iterator[SliceMask]:
    """Yields the masks along tracks, a slice of each in turn."""
    remaining = sum(len(upcoming) for _, upcoming in directions)
    while directions:
        track, upcoming = directions.popleft()
        if track.ended or not upcoming:
            yield from track.finish()
            continue
        yield from track.follow(work.next_mask(track, upcoming.popleft(), upcoming))
        followed += 1
        done = 1 + (len(upcoming) if track.ended else 0)
        remaining -= done
        work.progress.advance(done, to_encode=round(remaining * min(1.0, work.encoder.encoded / followed)))
        directions.append((track, upcoming))


def correct_by_clicks(
    work: SliceWork, former_boxes_xyxy: Mapping[int, FloatArray], clicked: Sequence[int], spread: str
) -> Iterator[SliceMask]:
    """Yields the masks of clicked slices, then those of the slices over which they spread, empty where the object ends.

    Args:
        work: Its plan holds all clicks.
        former_boxes_xyxy: The rectangles that prompted the slices before.
        clicked: Slices with new clicks, ascending.
        spread: "slice", "both", "ascending" or "descending".

    Raises:
        Cancelled: the token was cancelled.
    """
    plan = work.plan
    corrected = {}
    for index in clicked:
        points = plan.points[index]
        box_xyxy = widened(former_boxes_xyxy.get(index, plan.boxes_xyxy[index]), points, plan.slice_hw)
        corrected[index] = work.mask(index, box_xyxy, (), points)
        yield corrected[index]
        work.progress.advance(1, to_encode=0, to_decode=0)
    directions: deque[tuple[Track, deque[int]]] = deque()
    for index, found in corrected.items():
        for upcoming in _to_spread_over(plan, index, clicked, spread):
            if upcoming and found.area_pixels:
                end = plan.indices[-1 if upcoming[0] > index else 0]
                directions.append((work.track(found, end), upcoming))
    spread_over = [upcoming for _, upcoming in directions]
    yield from _follow(directions, work, followed=len(clicked))
    for index in itertools.chain(*spread_over):
        yield work.decoder.empty(index, plan.boxes_xyxy[index])


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
