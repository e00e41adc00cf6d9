"""A trained model under evaluation, behind the extension's own engine."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from dbsam.geometry.grid import OrientedBox, slice_boxes_xyxy
from dbsam.inference.embedding_cache import EmbeddingCache
from dbsam.inference.predictor import SlicePredictor
from dbsam.inference.segmenter import VolumeSegmenter
from dbsam.preprocess.intensity import resolve_intensity
from dbsam.preprocess.sampling import Region, logits_to_slice
from dbsam.preprocess.slices import SliceImages
from dbsam.preprocess.volume import Volume
from dbsam_training.evaluate.prompts import BoolArray, FloatArray, pixels_in_box, slice_stack

CACHE_BYTES = 1 << 30


class ModelSegmenter:
    """A model under evaluation.

    Args:
        name: what the report calls it.
        predictor: the model.
        strategy: how the engine takes a 3D box through the slices, "track" or "box".
        batch_size: slices per pass through the image encoder.
    """

    def __init__(self, name: str, predictor: SlicePredictor, strategy: str = "track", batch_size: int = 8) -> None:
        self.name = name
        self._predictor = predictor
        self._strategy = strategy
        self._batch_size = batch_size

    def segment_slices(self, volume: Volume, axis: int, prompts: Sequence[Mapping[int, FloatArray]]) -> list[BoolArray]:
        """Segments objects with one box per slice, each box in the region that the model chooses for it.

        As in the engine, nothing is set outside the box. Slices are encoded in batches; a region that serves several
        boxes, such as the whole slice, is encoded once.
        """
        predictor, geometry = self._predictor, volume.geometry
        slice_hw, spacing_xy = geometry.slice_hw(axis), volume.slice_spacing_xy(axis)
        window = resolve_intensity("auto", volume.voxels)
        images = SliceImages(volume, axis, window, predictor.channels)
        masks = [np.zeros(geometry.shape_KJI, bool) for _ in prompts]
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
                for (number, box_xyxy), logits in zip(targets, decoded.logits, strict=True):
                    on_slice, pixels = logits_to_slice(logits, region, slice_hw)
                    found = np.zeros(slice_hw, bool)
                    found[pixels] = on_slice > 0
                    in_box = pixels_in_box(box_xyxy, slice_hw)
                    slice_stack(masks[number], axis)[index][in_box] = found[in_box]
        return masks

    def segment_rois(self, volume: Volume, axis: int, boxes: Sequence[OrientedBox]) -> list[BoolArray]:
        """Segments the object in each 3D box with the engine, as the extension and the command line do."""
        cache = EmbeddingCache(CACHE_BYTES)
        masks = []
        for box in boxes:
            if not self._sees_whole_slices(volume, axis, box):
                cache.clear()  # a figure must not depend on which object came before
            segmenter = VolumeSegmenter(self._predictor, cache, batch_size=self._batch_size)
            found = segmenter.segment(volume, box, axis=axis, strategy=self._strategy)
            masks.append(found.labelmap_KJI() > 0)
        return masks

    def _sees_whole_slices(self, volume: Volume, axis: int, box: OrientedBox) -> bool:
        slice_hw, spacing_xy = volume.geometry.slice_hw(axis), volume.slice_spacing_xy(axis)
        box_xyxy = next(iter(slice_boxes_xyxy(box, volume.geometry, axis).values()))
        pixel = np.array([-0.5, -0.5, 0.5, 0.5])
        regions = {self._predictor.region_for(prompt, slice_hw, spacing_xy) for prompt in (box_xyxy, pixel)}
        return len(regions) == 1
