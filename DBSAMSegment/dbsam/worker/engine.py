"""Computes the tasks that need a network, on one thread of the worker."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.bounds import index_bounds
from dbsam.inference.embedding_cache import EmbeddingCache
from dbsam.inference.segmenter import SliceCallback, SliceReport, VolumeSegmenter
from dbsam.preprocess.volume import Volume
from dbsam.progress import CancelToken, Progress, ProgressCallback
from dbsam.worker.networks import NetworkSource, free_gpu_memory
from dbsam.worker.protocol import CorrectTask, DecidedSlice, LoadTask, PrefetchTask, Segmented, SegmentTask

if TYPE_CHECKING:
    from dbsam.inference.predictor import SlicePredictor

SliceSink = Callable[[DecidedSlice], None]
VolumeGetter = Callable[[str, CancelToken], Volume]

LOADING = "Loading the model"
READING = "Reading the volume"


class Engine:
    """Keeps the last model's segmenter with its intensity statistics and its measured speed for the next prompt.

    Args:
        source: Gives predictors.
        cache: Keeps embeddings.
        volume_of: Gives a volume by its identity, and waits for it where it has to come.
    """

    def __init__(self, source: NetworkSource, cache: EmbeddingCache, volume_of: VolumeGetter) -> None:
        self._source = source
        self._cache = cache
        self._volume_of = volume_of
        self._segmenter: VolumeSegmenter | None = None

    def segment(
        self, task: SegmentTask, cancel: CancelToken, report: ProgressCallback, decided: SliceSink
    ) -> Segmented:
        """Segments all prompts of a task, and corrects the result by its clicks.

        Raises:
            Cancelled: The token was cancelled.
            ValueError: A box outside the volume, a constant image, or another input that can't be segmented; clicks for
                several structures, or for a model that doesn't take them.
        """
        segmenter, load_seconds = self._loaded(task.model, task.device, cancel, report)
        volume, wait_seconds = self._volume(task.volume, cancel, report)
        if task.points:
            if len(task.prompts) != 1:
                raise ValueError(f"Clicks correct one structure, and there are {len(task.prompts)}: choose one box.")
            segmenter.check_clicks(volume, task.points, task.spread)
        found = []
        count = len(task.prompts)
        for number, (prompt, name) in enumerate(zip(task.prompts, task.names, strict=True)):

            def tell(progress: Progress, number: int = number, name: str = name) -> None:
                stage = progress.stage if count == 1 else f"{name} ({number + 1} of {count}): {progress.stage}"
                left = progress.seconds_left
                if left is not None and progress.done:
                    left += (count - number - 1) * left * progress.total / max(1, progress.total - progress.done)
                done = progress.done + number * progress.total
                report(Progress(done, progress.total * count, stage, left))

            axis = volume.geometry.axis_index(getattr(prompt, "axis", task.options.get("axis", "auto")))
            found.append(
                segmenter.segment(
                    volume,
                    prompt,
                    progress=tell,
                    cancel=cancel,
                    on_slice=_sending(decided, number, axis) if task.with_slices else None,
                    **task.options,
                )
            )
        if task.points:
            first = found[0]
            sending = _sending(decided, 0, first.axis) if task.with_slices else None
            corrected = segmenter.correct(
                volume, first, task.points, spread=task.spread, progress=report, cancel=cancel, on_slice=sending
            )
            found = [replace(corrected, seconds=first.seconds + corrected.seconds, cache_hits=first.cache_hits)]
        return Segmented(tuple(found), _device(segmenter, task.device), load_seconds, wait_seconds)

    def correct(
        self, task: CorrectTask, cancel: CancelToken, report: ProgressCallback, decided: SliceSink
    ) -> Segmented:
        """Corrects a result by clicks.

        Raises:
            Cancelled: The token was cancelled.
            ValueError: See `VolumeSegmenter.correct`.
        """
        segmenter, load_seconds = self._loaded(task.model, task.device, cancel, report)
        volume, wait_seconds = self._volume(task.volume, cancel, report)
        corrected = segmenter.correct(
            volume,
            task.former,
            task.points,
            spread=task.spread,
            progress=report,
            cancel=cancel,
            on_slice=_sending(decided, 0, task.former.axis) if task.with_slices else None,
        )
        return Segmented((corrected,), _device(segmenter, task.device), load_seconds, wait_seconds)

    def prefetch(self, task: PrefetchTask, cancel: CancelToken, report: ProgressCallback) -> int:
        """Embeds the slices of a prompt, as far as the cache has room.

        Returns:
            Number of slices that were embedded.

        Raises:
            Cancelled: Other work came in between.
        """
        segmenter, _ = self._loaded(task.model, task.device, cancel, report)
        volume, _ = self._volume(task.volume, cancel, report)
        return segmenter.prefetch(volume, task.prompt, progress=report, cancel=cancel, **task.options)

    def load(self, task: LoadTask, cancel: CancelToken, report: ProgressCallback) -> float:
        """Loads a model where it isn't loaded; returns what that took in seconds."""
        return self._loaded(task.model, task.device, cancel, report)[1]

    def free_memory(self) -> None:
        """Lets go of everything that can be computed or loaded again."""
        self._segmenter = None
        self._cache.clear()
        self._source.clear()
        free_gpu_memory()

    def forget(self) -> None:
        """Lets go of what belongs to volumes; the model stays."""
        self._segmenter = None
        self._cache.clear()

    def _loaded(
        self, model: str, device: str, cancel: CancelToken, report: ProgressCallback
    ) -> tuple[VolumeSegmenter, float]:
        def tell(progress: Progress) -> None:
            report(Progress(progress.done, progress.total, f"{LOADING}: {progress.stage}", progress.seconds_left))

        report(Progress(0, 0, LOADING, None))
        started = time.perf_counter()
        predictor: SlicePredictor = self._source(model, device, cancel, tell)
        cancel.raise_if_cancelled()
        if self._segmenter is not None and self._segmenter.predictor is predictor:
            return self._segmenter, 0.0
        self._segmenter = VolumeSegmenter(predictor, self._cache, nearby=True)
        return self._segmenter, time.perf_counter() - started

    def _volume(self, identity: str, cancel: CancelToken, report: ProgressCallback) -> tuple[Volume, float]:
        report(Progress(0, 0, READING, None))
        started = time.perf_counter()
        return self._volume_of(identity, cancel), time.perf_counter() - started


def _device(segmenter: VolumeSegmenter, asked: str) -> str:
    return str(getattr(segmenter.predictor, "device", asked))


def _sending(decided: SliceSink, number: int, axis: int) -> SliceCallback:
    return lambda report, mask: decided(_decided(number, axis, report, mask))


def _decided(number: int, axis: int, report: SliceReport, mask: NDArray[np.uint8]) -> DecidedSlice:
    """The slice's mask without the empty rows and columns round it."""
    if not mask.any():
        return DecidedSlice(number, axis, report, (0, 0), np.zeros((0, 0), np.uint8))
    (top, left), (bottom, right) = (bound.tolist() for bound in index_bounds(mask))
    return DecidedSlice(number, axis, report, (top, left), mask[top : bottom + 1, left : right + 1])
