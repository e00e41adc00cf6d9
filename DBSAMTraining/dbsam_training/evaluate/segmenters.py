"""What can be evaluated, by name: trained models, behind the extension's own engine, and baselines."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dbsam.geometry.grid import OrientedBox, slice_boxes_xyxy
from dbsam.inference.embedding_cache import EmbeddingCache
from dbsam.inference.predictor import SlicePredictor
from dbsam.inference.segmenter import VolumeSegmentation, VolumeSegmenter
from dbsam.preprocess.intensity import resolve_intensity
from dbsam.preprocess.prompts import PointPrompt
from dbsam.preprocess.sampling import Region, logits_to_slice
from dbsam.preprocess.slices import SliceImages
from dbsam.preprocess.volume import Volume
from dbsam_training.evaluate.baselines import BASELINES
from dbsam_training.evaluate.found import Found, Segmenter
from dbsam_training.evaluate.prompts import BoolArray, Click, FloatArray, pixels_in_box, slice_stack

CACHE_BYTES = 1 << 30


@dataclass(frozen=True)
class EvaluatedWeights:
    """Which weights were evaluated.

    Attributes:
        sha256: Digest of their tensors.
        calibrated: Whether they carry the curve that corrects their own estimates already.
    """

    sha256: str
    calibrated: bool


class ModelSegmenter:
    """A model under evaluation.

    Args:
        name: what the report calls it.
        predictor: the model.
        strategy: how the engine takes a 3D box through the slices, "track" or "box".
        batch_size: slices per pass through the image encoder.
        weights: digest and calibration of its file.
    """

    def __init__(
        self,
        name: str,
        predictor: SlicePredictor,
        strategy: str = "track",
        batch_size: int = 8,
        weights: EvaluatedWeights | None = None,
    ) -> None:
        self.name = name
        self.weights = weights
        self._predictor = predictor
        self._strategy = strategy
        self._batch_size = batch_size

    def segment_slices(self, volume: Volume, axis: int, prompts: Sequence[Mapping[int, FloatArray]]) -> list[Found]:
        """Segments objects with one box per slice, each box in the region that the model chooses for it.

        As in the engine, nothing is set outside the box. Slices are encoded in batches; a region that serves several
        boxes, such as the whole slice, is encoded once.
        """
        predictor, geometry = self._predictor, volume.geometry
        slice_hw, spacing_xy = geometry.slice_hw(axis), volume.slice_spacing_xy(axis)
        window = resolve_intensity("auto", volume.voxels)
        images = SliceImages(volume, axis, window, predictor.channels)
        masks = [np.zeros(geometry.shape_KJI, bool) for _ in prompts]
        estimates: list[dict[int, float]] = [{} for _ in prompts]
        wanted: dict[tuple[int, Region], list[tuple[int, FloatArray]]] = {}
        for number, boxes in enumerate(prompts):
            for index, box_xyxy in boxes.items():
                region = predictor.region_for(box_xyxy, slice_hw, spacing_xy)
                wanted.setdefault((index, region), []).append((number, box_xyxy))
        jobs = iter(sorted(wanted.items(), key=lambda job: job[0][0]))
        while batch := list(itertools.islice(jobs, self._batch_size)):
            embeddings = predictor.encode(
                [images.image(index) for (index, _), _ in batch], [region for (_, region), _ in batch]
            )
            for ((index, region), targets), embedding in zip(batch, embeddings, strict=True):
                decoded = predictor.decode(embedding, np.stack([box_xyxy for _, box_xyxy in targets]))
                judged = zip(targets, decoded.logits, decoded.predicted_iou.tolist(), strict=True)
                for (number, box_xyxy), logits, predicted_iou in judged:
                    on_slice, pixels = logits_to_slice(logits, region, slice_hw)
                    found = np.zeros(slice_hw, bool)
                    found[pixels] = on_slice > 0
                    in_box = pixels_in_box(box_xyxy, slice_hw)
                    slice_stack(masks[number], axis)[index][in_box] = found[in_box]
                    if found[in_box].any():
                        estimates[number][index] = predicted_iou
        return [Found(mask, of) for mask, of in zip(masks, estimates, strict=True)]

    def segment_rois(self, volume: Volume, axis: int, boxes: Sequence[OrientedBox]) -> list[Found]:
        """Segments the object in each 3D box with the engine, as the extension and the command line do."""
        cache = EmbeddingCache(CACHE_BYTES)
        masks = []
        for box in boxes:
            if not self._sees_whole_slices(volume, axis, box):
                cache.clear()  # a figure must not depend on which object came before
            segmenter = VolumeSegmenter(self._predictor, cache, batch_size=self._batch_size)
            masks.append(_found(segmenter.segment(volume, box, axis=axis, strategy=self._strategy)))
        return masks

    @property
    def takes_clicks(self) -> bool:
        """Whether the model was trained with clicks."""
        return self._predictor.takes_points

    def segment_clicks(
        self, volume: Volume, axis: int, box: OrientedBox, next_click: Callable[[BoolArray], Click | None], most: int
    ) -> Iterator[Found]:
        """See `ClickSegmenter`; each click is followed from its slice to both sides."""
        segmenter = VolumeSegmenter(self._predictor, EmbeddingCache(CACHE_BYTES), batch_size=self._batch_size)
        result = segmenter.segment(volume, box, axis=axis, strategy=self._strategy)
        yield _found(result)
        for _ in range(most):
            click = next_click(result.labelmap_KJI() > 0)
            if click is None:
                return
            point = PointPrompt.from_ijk(click.ijk, volume.geometry, click.include)
            result = segmenter.correct(volume, result, [point], spread="both")
            yield _found(result)

    def _sees_whole_slices(self, volume: Volume, axis: int, box: OrientedBox) -> bool:
        slice_hw, spacing_xy = volume.geometry.slice_hw(axis), volume.slice_spacing_xy(axis)
        box_xyxy = next(iter(slice_boxes_xyxy(box, volume.geometry, axis).values()))
        pixel = np.array([-0.5, -0.5, 0.5, 0.5])
        regions = {self._predictor.region_for(prompt, slice_hw, spacing_xy) for prompt in (box_xyxy, pixel)}
        return len(regions) == 1


def _found(result: VolumeSegmentation) -> Found:
    estimates = {report.index: report.predicted_iou for report in result.slices if report.area_pixels}
    return Found(result.labelmap_KJI() > 0, estimates, result.likely_wrong)


def load_segmenters(
    names: Sequence[str], device: str = "auto", strategy: str = "track", batch_size: int = 8
) -> list[Segmenter]:
    """Loads what is to be evaluated.

    Args:
        names: of baselines or registered weights, or paths of weights files. A file is called by its name without
            ending, with its folder's where two files would be called the same.
        device: for the models.
        strategy: see `ModelSegmenter`.
        batch_size: see `ModelSegmenter`.

    Raises:
        ValueError: a name is unknown or given twice, or its weights can't be used.
        DownloadError: weights couldn't be fetched.
    """
    repeated = [name for name in set(names) if names.count(name) > 1]
    if repeated:
        raise ValueError(f"{', '.join(sorted(repeated))}: given twice.")
    stems = [Path(name).stem if Path(name).suffix else name for name in names]
    segmenters: list[Segmenter] = []
    for name, stem in zip(names, stems, strict=True):
        if name in BASELINES:
            segmenters.append(BASELINES[name]())
            continue
        label = stem if stems.count(stem) == 1 else f"{Path(name).resolve().parent.name}/{stem}"
        segmenters.append(_load_model(name, label, device, strategy, batch_size))
    return segmenters


def _load_model(name: str, label: str, device: str, strategy: str, batch_size: int) -> Segmenter:
    from dbsam.api import load_predictor  # baselines alone need no torch
    from dbsam.weights.load import locate, weights_info
    from dbsam.weights.metadata import CheckpointError

    try:
        predictor = load_predictor(name, device)
    except CheckpointError as error:
        raise ValueError(f"{error} The baselines are {', '.join(BASELINES)}.") from error
    path = locate(name)
    assert path is not None, f"{name} was loaded a moment ago"
    weights = EvaluatedWeights(weights_info(path).tensors_sha256, predictor.calibration is not None)
    return ModelSegmenter(label, predictor, strategy, batch_size, weights)
