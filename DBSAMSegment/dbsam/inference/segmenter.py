"""The engine: a volume and a 3D box to a mask on the volume's own grid."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.grid import ImageGeometry, OrientedBox, slice_axes
from dbsam.inference.decoding import SliceDecoder, SliceMask
from dbsam.inference.doubts import LIKELY_WRONG_BELOW, LONE_SLICE_LIKELY_WRONG_BELOW, Doubt, doubts_about
from dbsam.inference.embedding_cache import EmbeddingCache
from dbsam.inference.encoding import SliceEncoder
from dbsam.inference.eta import ProgressReporter
from dbsam.inference.predictor import SlicePredictor
from dbsam.inference.shared import SharedPredictor
from dbsam.inference.strategies import SliceWork, correct_by_clicks, segment_by_box, segment_by_tracking
from dbsam.inference.tracking import TrackingRule
from dbsam.inference.trust import Trust, trust_in
from dbsam.preprocess.intensity import IntensityRule, IntensityWindow, resolve_intensity, window_in_box
from dbsam.preprocess.prompts import PointPrompt, Prompt, PromptPlan, SliceBoxes, points_by_slice
from dbsam.preprocess.slices import SliceImages
from dbsam.preprocess.volume import Volume, slice_of
from dbsam.progress import Cancelled, CancelToken, Progress, ProgressCallback

__all__ = [
    "CancelToken",
    "Cancelled",
    "PointPrompt",
    "Progress",
    "SliceBoxes",
    "SliceReport",
    "TrackingRule",
    "Volume",
    "VolumeSegmentation",
    "VolumeSegmenter",
]

STRATEGIES = ("track", "box")
SPREADS = ("slice", "both", "ascending", "descending")

_WINDOWS_KEPT = 16

Extent = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]


@dataclass(frozen=True)
class SliceReport:
    """What is known of one slice's mask.

    Attributes:
        index: The slice.
        box_xyxy: Rectangle that prompted it, in continuous pixel coordinates.
        predicted_iou: The decoder's own estimate of the mask's IoU.
        touches_edge: Whether the mask reaches the edge of the rectangle or of the prompt's cut through the slice, so
            that the object may go on outside. The image's own border doesn't count.
        area_pixels: Number of pixels in the mask.
        clicks: How many clicks prompted it beside the rectangle.
    """

    index: int
    box_xyxy: tuple[float, float, float, float]
    predicted_iou: float
    touches_edge: bool
    area_pixels: int
    clicks: int = 0


SliceCallback = Callable[[SliceReport, NDArray[np.uint8]], None]


@dataclass(frozen=True, eq=False)
class VolumeSegmentation:
    """A mask and how it came about.

    Attributes:
        mask_KJI: uint8, 1 inside, over `extent_ijk` only; zero everywhere else.
        extent_ijk: First and last index, included, along I, J and K.
        geometry: The volume's grid.
        axis: 0, 1, 2 for slices along I, J, K.
        intensity: The range of values that was shown as 0..255, and why.
        slices: The slices that were looked at, ascending. Under "track" the others lie beyond the object's ends.
        strategy: "track" or "box".
        seconds: Time it took.
        cache_hits: How many image embeddings were there already.
        prompt: The box or rectangles.
        points: The clicks by which it was corrected, in their order.
        trust: What speaks for the mask as a whole; None after corrections, by which the user vouches for it.
        not_finite: How many voxels of the box are NaN or infinite.
    """

    mask_KJI: NDArray[np.uint8]
    extent_ijk: Extent
    geometry: ImageGeometry
    axis: int
    intensity: IntensityWindow
    slices: list[SliceReport]
    strategy: str
    seconds: float
    cache_hits: int
    prompt: Prompt
    points: tuple[PointPrompt, ...] = ()
    trust: Trust | None = None
    not_finite: int = 0

    @property
    def likely_wrong(self) -> bool:
        """Whether nothing was found, or little speaks for what was."""
        if self.trust is None:
            return False
        lone = self.trust.overlap is None
        return self.trust.value < (LONE_SLICE_LIKELY_WRONG_BELOW if lone else LIKELY_WRONG_BELOW)

    @property
    def doubts(self) -> tuple[Doubt, ...]:
        """What may be wrong, in words."""
        return doubts_about(self)

    def with_slices_of(self, redone: VolumeSegmentation, slices: range) -> VolumeSegmentation:
        """Returns this result with some of its slices replaced.

        Args:
            redone: Another result, along the same axis of the same grid.
            slices: Which slices are taken from it, also where it found nothing.

        Raises:
            ValueError: The two were computed along different axes or on different grids.
        """
        if self.axis != redone.axis or self.geometry.dimensions_ijk != redone.geometry.dimensions_ijk:
            raise ValueError(
                "The slices can't be replaced: the last result was computed along another axis or on another volume. "
                "Run the whole ROI again."
            )
        (i, j, k) = ((min(a, c), max(b, d)) for (a, b), (c, d) in zip(self.extent_ijk, redone.extent_ijk, strict=True))
        mask_KJI = _on_extent(self.mask_KJI, self.extent_ijk, (i, j, k))
        new_KJI = _on_extent(redone.mask_KJI, redone.extent_ijk, (i, j, k))
        first, last = (i, j, k)[self.axis]
        for index in set(slices).intersection(range(first, last + 1)):
            slice_of(mask_KJI, self.axis, index - first)[...] = slice_of(new_KJI, self.axis, index - first)
        reports = [one for one in self.slices if one.index not in slices]
        reports += [one for one in redone.slices if one.index in slices]
        return replace(
            self,
            mask_KJI=mask_KJI,
            extent_ijk=(i, j, k),
            slices=sorted(reports, key=lambda report: report.index),
            seconds=redone.seconds,
            cache_hits=redone.cache_hits,
            trust=None,
        )

    def labelmap_KJI(self) -> NDArray[np.uint8]:
        """Returns the mask on the volume's whole grid."""
        labelmap = np.zeros(self.geometry.shape_KJI, np.uint8)
        (i_first, i_last), (j_first, j_last), (k_first, k_last) = self.extent_ijk
        labelmap[k_first : k_last + 1, j_first : j_last + 1, i_first : i_last + 1] = self.mask_KJI
        return labelmap

    def on_slice(self, index: int, prompt: Prompt) -> VolumeSegmentation:
        """Returns what there is of it on one slice, to be corrected there and sent in no time.

        Args:
            index: The slice.
            prompt: What prompts this slice alone.
        """
        plan = PromptPlan(prompt, self.geometry, self.axis)
        x_axis, y_axis = slice_axes(self.axis)
        (x_first, x_last), (y_first, y_last) = self.extent_ijk[x_axis], self.extent_ijk[y_axis]
        first, last = self.extent_ijk[self.axis]
        whole = np.zeros(plan.slice_hw, np.uint8)
        if first <= index <= last:
            whole[y_first : y_last + 1, x_first : x_last + 1] = slice_of(self.mask_KJI, self.axis, index - first)
        return replace(
            self,
            mask_KJI=np.expand_dims(whole[plan.window.slices], 2 - self.axis),
            extent_ijk=plan.extent_ijk(),
            slices=[report for report in self.slices if report.index == index],
            prompt=prompt,
            points=tuple(one for one in self.points if index in points_by_slice([one], self.geometry, self.axis)),
        )


class VolumeSegmenter:
    """Segments volumes with one model. Its methods may be called from several threads.

    Args:
        predictor: The model.
        cache: Keeps image embeddings for the next prompt; one of its own by default.
        batch_size: The most slices that are encoded at once. On slow computers they are encoded one by one, so that
            a cancellation is noticed soon.
        tracking: How the strategy "track" follows an object.
        nearby: Whether an embedding that an earlier prompt left of another region of a slice serves where it can: a
            moved box is answered sooner then, but not as it would be alone.
    """

    def __init__(
        self,
        predictor: SlicePredictor,
        cache: EmbeddingCache | None = None,
        *,
        batch_size: int = 8,
        tracking: TrackingRule | None = None,
        nearby: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"The batch size must be at least 1, not {batch_size}.")
        self.predictor = predictor
        self.cache = EmbeddingCache() if cache is None else cache
        self.tracking = TrackingRule() if tracking is None else tracking
        self._shared = SharedPredictor(predictor, self.cache, batch_size, nearby)
        self._windows: OrderedDict[tuple[str, str], IntensityWindow] = OrderedDict()
        self._windows_lock = threading.Lock()

    def segment(
        self,
        volume: Volume,
        prompt: Prompt,
        *,
        axis: str | int = "auto",
        strategy: str = "track",
        intensity: str | IntensityRule | Sequence[float] = "auto",
        start_slice: int | None = None,
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
        on_slice: SliceCallback | None = None,
    ) -> VolumeSegmentation:
        """Segments the object in a box. No voxel whose centre lies outside the box is set.

        Args:
            volume: The volume.
            prompt: An oriented box, or rectangles on slices.
            axis: Slices along which axis; see `ImageGeometry.axis_index`. Rectangles have an axis of their own.
            strategy: "track" follows the object from the start slice outwards; "box" prompts every slice with the
                prompt's rectangle.
            intensity: See `resolve_intensity`.
            start_slice: Where tracking begins, and which slices are computed first; the middle one by default.
            progress: Is told of each slice, in the calling thread.
            cancel: Ends the work from another thread.
            on_slice: Gets each slice's report and mask (H, W), uint8, as soon as it is decided, in the calling thread.

        Returns:
            The mask, with a report on each slice.

        Raises:
            ValueError: the prompt lies outside the volume or holds no voxel; an unknown axis, strategy or intensity
                rule; a start slice outside the prompt; an image that can't be shown (see `resolve_intensity`).
            Cancelled: the token was cancelled. Embeddings computed until then stay in the cache.
        """
        started = time.perf_counter()
        cancel = CancelToken() if cancel is None else cancel
        if strategy not in STRATEGIES:
            raise ValueError(f"Unknown strategy {strategy!r}: use {' or '.join(STRATEGIES)}.")
        plan = PromptPlan(prompt, volume.geometry, _axis_of(prompt, volume.geometry, axis))
        start = plan.start_slice(start_slice)
        cancel.raise_if_cancelled()
        values = _values_in(volume, prompt, plan)
        window = self._window(volume, intensity, values)
        work = self._work(volume, plan, window, "segmenting", progress, cancel)
        extent = plan.extent_ijk()
        mask_KJI = np.zeros([last - first + 1 for first, last in reversed(extent)], np.uint8)
        reports: dict[int, SliceReport] = {}

        def take(slice_mask: SliceMask) -> None:
            reports[slice_mask.index] = _take(slice_mask, plan, mask_KJI, on_slice)

        if strategy == "box":
            masks = {}
            for slice_mask in segment_by_box(work, start, cancel):
                masks[slice_mask.index] = slice_mask
                take(slice_mask)
            trust = trust_in(masks, len(plan.indices))
        else:
            sure = start_slice is not None or not isinstance(prompt, OrientedBox)
            trust = _take_all(segment_by_tracking(work, start, sure), take)
        cancel.raise_if_cancelled()
        return VolumeSegmentation(
            mask_KJI=mask_KJI,
            extent_ijk=extent,
            geometry=volume.geometry,
            axis=plan.axis,
            intensity=window,
            slices=sorted(reports.values(), key=lambda report: report.index),
            strategy=strategy,
            seconds=time.perf_counter() - started,
            cache_hits=work.encoder.hits,
            prompt=prompt,
            trust=trust,
            not_finite=int(np.count_nonzero(~np.isfinite(values))),
        )

    def correct(
        self,
        volume: Volume,
        former: VolumeSegmentation,
        points: Sequence[PointPrompt],
        *,
        spread: str = "slice",
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
        on_slice: SliceCallback | None = None,
    ) -> VolumeSegmentation:
        """Corrects a result by clicks, each on the slice that holds it.

        On a clicked slice the model sees the rectangle that had prompted it, widened by include points beside it, all
        clicks on this slice, those of `former` first, and its own former mask. From there the object is followed anew
        as far as `spread` says: up to the next slice with clicks, whose own clicks know better; between two that are
        both followed, half way. Slices that aren't reached stay as they were. A click on a slice that the prompt
        doesn't cover carries the prompt on up to there if it includes, and is passed over if it excludes.

        Args:
            volume: The volume that was segmented.
            former: The result to correct, of this volume; it isn't changed.
            points: The new clicks.
            spread: "slice" corrects the clicked slices alone; "both" goes on to both sides, "ascending" and
                "descending" towards larger or smaller slice indices only.
            progress: Is told of each slice, in the calling thread.
            cancel: Ends the work from another thread.
            on_slice: Gets the report and mask (H, W), uint8, of each slice that is done anew, in the calling thread.

        Returns:
            The corrected result; `seconds` and `cache_hits` are those of the correction.

        Raises:
            ValueError: the model doesn't take clicks; there is no click; a click lies outside the volume; an unknown
                spread; the result is of another grid.
            Cancelled: the token was cancelled.
        """
        started = time.perf_counter()
        cancel = CancelToken() if cancel is None else cancel
        self.check_clicks(volume, points, spread)
        if former.geometry.dimensions_ijk != volume.geometry.dimensions_ijk:
            raise ValueError(
                f"The result is of a volume of {former.geometry.dimensions_ijk} voxels, this one has "
                f"{volume.geometry.dimensions_ijk}."
            )
        cancel.raise_if_cancelled()
        all_points = (*former.points, *points)
        plan = PromptPlan(former.prompt, volume.geometry, former.axis, all_points)
        new = points_by_slice(points, volume.geometry, former.axis).keys() & plan.boxes_xyxy.keys()
        work = self._work(volume, plan, former.intensity, "correcting", progress, cancel)
        extent = plan.extent_ijk()
        mask_KJI = _on_extent(former.mask_KJI, former.extent_ijk, extent)
        reports = {report.index: report for report in former.slices}
        former_boxes_xyxy = {index: np.array(report.box_xyxy) for index, report in reports.items()}
        found = correct_by_clicks(work, former_boxes_xyxy, sorted(new), spread)
        for slice_mask in found:
            reports[slice_mask.index] = _take(slice_mask, plan, mask_KJI, on_slice)
        cancel.raise_if_cancelled()
        return replace(
            former,
            mask_KJI=mask_KJI,
            extent_ijk=extent,
            slices=sorted(reports.values(), key=lambda report: report.index),
            seconds=time.perf_counter() - started,
            cache_hits=work.encoder.hits,
            points=all_points,
            trust=None,
        )

    def check_clicks(self, volume: Volume, points: Sequence[PointPrompt], spread: str) -> None:
        """Refuses what `correct` would refuse, before the box is segmented.

        Raises:
            ValueError: as there.
        """
        if spread not in SPREADS:
            raise ValueError(f"Unknown spread {spread!r}: use {', '.join(SPREADS)}.")
        if not self.predictor.takes_points:
            raise ValueError(
                "This model wasn't trained with clicks. Correct the box instead, or choose a model that was."
            )
        if not points:
            raise ValueError("There is no click to correct by.")
        points_by_slice(points, volume.geometry, 0)

    def prefetch(
        self,
        volume: Volume,
        prompt: Prompt | None = None,
        *,
        axis: str | int = "auto",
        slice_indices: Iterable[int] | None = None,
        intensity: str | IntensityRule | Sequence[float] = "auto",
        progress: ProgressCallback | None = None,
        cancel: CancelToken | None = None,
    ) -> int:
        """Computes image embeddings ahead of a prompt, in idle time, as far as the cache has room for them.

        Args:
            volume: The volume.
            prompt: What is likely to be segmented; None for whole slices.
            axis: As in `segment`.
            slice_indices: Slices in the order in which they are wanted; by default all of the prompt or the volume,
                from the middle outwards.
            intensity: As in `segment`.
            progress: Is told of each batch, in the calling thread.
            cancel: Ends the work from another thread.

        Returns:
            How many embeddings were computed.

        Raises:
            ValueError: as in `segment`; slices that the volume doesn't have.
            Cancelled: the token was cancelled. Embeddings computed until then stay in the cache.
        """
        cancel = CancelToken() if cancel is None else cancel
        geometry = volume.geometry
        axis_index = geometry.axis_index(axis) if prompt is None else _axis_of(prompt, geometry, axis)
        if prompt is None:
            height, width = geometry.slice_hw(axis_index)
            whole = np.array([-0.5, -0.5, width - 0.5, height - 0.5])
            boxes = dict.fromkeys(range(geometry.dimensions_ijk[axis_index]), whole)
            window = self._window(volume, intensity)
        else:
            plan = PromptPlan(prompt, geometry, axis_index)
            boxes = plan.boxes_xyxy
            window = self._window(volume, intensity, _values_in(volume, prompt, plan))
        middle = list(boxes)[len(boxes) // 2]
        wanted = sorted(boxes, key=lambda n: (abs(n - middle), n)) if slice_indices is None else list(slice_indices)
        missing = [index for index in wanted if index not in boxes]
        if missing:
            raise ValueError(f"Slices {missing} can't be prefetched: there are slices {min(boxes)} to {max(boxes)}.")
        encoder = self._encoder(volume, axis_index, window, cancel)
        waiting = [index for index in wanted if not encoder.holds(index, boxes[index])]
        present = len(wanted) - len(waiting)
        reporter = ProgressReporter(progress, self._shared.cost, len(waiting), "preparing slices")
        while waiting:
            capacity = encoder.cache_capacity
            room = 1 if capacity is None else capacity - present - encoder.encoded
            if room < 1:
                break
            batch = waiting[: min(encoder.batch_size, room)]
            encoder.encode([(index, encoder.region_for(boxes[index])) for index in batch])
            del waiting[: len(batch)]
            reporter.advance(len(batch), to_encode=len(waiting), to_decode=0)
        return encoder.encoded

    def _encoder(self, volume: Volume, axis: int, window: IntensityWindow, cancel: CancelToken) -> SliceEncoder:
        return SliceEncoder(self._shared, SliceImages(volume, axis, window, self.predictor.channels), cancel)

    def _work(
        self,
        volume: Volume,
        plan: PromptPlan,
        window: IntensityWindow,
        stage: str,
        progress: ProgressCallback | None,
        cancel: CancelToken,
    ) -> SliceWork:
        encoder = self._encoder(volume, plan.axis, window, cancel)
        return SliceWork(
            plan,
            encoder,
            SliceDecoder(self._shared, plan, encoder.key, cancel),
            ProgressReporter(progress, self._shared.cost, len(plan.indices), stage),
            self.tracking,
            volume.slice_spacing_xy(plan.axis),
            volume.geometry.spacing_mm[plan.axis],
        )

    def _window(
        self,
        volume: Volume,
        rule: str | IntensityRule | Sequence[float],
        values: NDArray[np.generic] | None = None,
    ) -> IntensityWindow:
        """The range of values of a volume, whose statistics are taken once, or for what a box holds of it."""
        key = (volume.identity, repr(rule))
        with self._windows_lock:
            if key not in self._windows:
                self._windows[key] = resolve_intensity(rule, volume.voxels)
                if len(self._windows) > _WINDOWS_KEPT:
                    self._windows.popitem(last=False)
            window = self._windows[key]
        return window if values is None else window_in_box(window, values)


def _axis_of(prompt: Prompt, geometry: ImageGeometry, axis: str | int) -> int:
    if isinstance(prompt, OrientedBox):
        return geometry.axis_index(axis)
    drawn_on = geometry.axis_index(prompt.axis)
    if axis != "auto" and geometry.axis_index(axis) != drawn_on:
        raise ValueError(
            f"The rectangles were drawn on slices along {'IJK'[drawn_on]}; they can't be used along {axis!r}."
        )
    return drawn_on


def _values_in(volume: Volume, prompt: Prompt, plan: PromptPlan) -> NDArray[np.generic]:
    """The voxels in a box, (N,), or (N, 3) in colour: a slice of a box is shown as the whole box is."""
    if isinstance(prompt, SliceBoxes) and prompt.clip is not None:
        plan = PromptPlan(prompt.clip, volume.geometry, plan.axis)
    cut = plan.window.slices
    return np.concatenate(
        [slice_of(volume.voxels, plan.axis, index)[cut][plan.inside(index)] for index in plan.indices]
    )


def _take_all(found: Generator[SliceMask, None, Trust], take: Callable[[SliceMask], None]) -> Trust:
    while True:
        try:
            take(next(found))
        except StopIteration as end:
            return cast("Trust", end.value)


def _take(
    found: SliceMask, plan: PromptPlan, mask_KJI: NDArray[np.uint8], on_slice: SliceCallback | None
) -> SliceReport:
    """Writes a slice's mask over the plan's extent, and tells of it."""
    slice_of(mask_KJI, plan.axis, found.index - plan.indices[0])[...] = found.mask
    x_min, y_min, x_max, y_max = (float(edge) for edge in found.box_xyxy)
    report = SliceReport(
        index=found.index,
        box_xyxy=(x_min, y_min, x_max, y_max),
        predicted_iou=found.predicted_iou,
        touches_edge=found.touches_edge,
        area_pixels=found.area_pixels,
        clicks=found.clicks,
    )
    if on_slice is not None:
        whole = np.zeros(plan.slice_hw, np.uint8)
        whole[plan.window.slices] = found.mask
        on_slice(report, whole)
    return report


def _on_extent(mask_KJI: NDArray[np.uint8], extent: Extent, larger: Extent) -> NDArray[np.uint8]:
    """A copy of a mask on an extent that holds its own."""
    copy = np.zeros([last - first + 1 for first, last in reversed(larger)], np.uint8)
    inner = tuple(
        slice(first - start, last - start + 1)
        for (first, last), (start, _) in zip(reversed(extent), reversed(larger), strict=True)
    )
    copy[inner] = mask_KJI
    return copy
