"""The library in two calls: load a predictor once, segment as often as needed.

Many volumes, by one load of the model: pass the same predictor to each call, or write a table for `dbsam batch`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from dbsam.geometry.grid import OrientedBox
from dbsam.inference.predictor import DeviceError
from dbsam.io.roi_markups import MarkupsRoi, read_roi, refuse_inside_out
from dbsam.preprocess.prompts import SliceBoxes, cut_off_note
from dbsam.preprocess.volume import Volume

if TYPE_CHECKING:
    from dbsam.inference.embedding_cache import EmbeddingCache
    from dbsam.inference.predictor import ModelPredictor, SlicePredictor
    from dbsam.inference.segmenter import PointPrompt, VolumeSegmentation
    from dbsam.preprocess.intensity import IntensityRule
    from dbsam.progress import CancelToken, ProgressCallback

logger = logging.getLogger(__name__)


def load_predictor(
    model: str | os.PathLike[str] = "compact",
    device: str = "auto",
    *,
    base: str | os.PathLike[str] | None = None,
    precision: str = "auto",
    compiled: bool = False,
    download: bool = True,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> ModelPredictor:
    """Load a network for `segment`.

    Args:
        model: "compact", "medsam-lite", "sam", "medsam", another name of `dbsam weights list`, or a weights file.
        device: "auto", "cpu", "cuda", "cuda:N" or "mps".
        base: Weights that a checkpoint of trained parts alone stands on, by name or path; by default what it names.
        precision: "float32", "bfloat16", "float16", or "auto": bfloat16 on NVIDIA GPUs from Ampere on, else float32.
        compiled: Whether the image encoder is compiled, see `ModelPredictor`; pays for hundreds of slices.
        download: Whether missing weights are fetched from their official address.
        progress: Called while weights are downloaded or verified.
        cancel: Ends that.

    Raises:
        CheckpointError: The weights are unknown, missing, damaged or of another architecture.
        DownloadError: The download failed.
        DeviceError: This computer has no such device.
        ValueError: There is no such precision.
    """
    from dbsam.inference.calibration import Calibration
    from dbsam.inference.device import choose_precision
    from dbsam.inference.predictor import ModelPredictor
    from dbsam.weights.load import load_model
    from dbsam.weights.metadata import CheckpointError

    name = model if isinstance(model, str) else Path(model)
    base_name = base if base is None or isinstance(base, str) else Path(base)
    try:
        loaded = load_model(name, device, base_name, download, progress, cancel)
    except ValueError as error:
        raise DeviceError(str(error)) from error
    logger.info("%s %s. %s", loaded.info.name, loaded.info.version, loaded.device_note)
    try:
        calibration = Calibration.from_metrics(loaded.info.metrics)
    except ValueError as error:
        raise CheckpointError(f"{loaded.info.name}: {error} Export or download the weights again.") from error
    precision = choose_precision(precision, loaded.device)
    return ModelPredictor(loaded.model, loaded.signature, precision, compiled, calibration)


def segment(
    volume: Volume | str | os.PathLike[str],
    roi: OrientedBox | MarkupsRoi | SliceBoxes | str | os.PathLike[str],
    model: SlicePredictor | str | os.PathLike[str] = "compact",
    *,
    device: str = "auto",
    axis: str | int = "auto",
    strategy: str = "track",
    intensity: str | IntensityRule | Sequence[float] = "auto",
    points: Sequence[PointPrompt] = (),
    spread: str = "both",
    cache: EmbeddingCache | None = None,
    series_uid: str | None = None,
    stack: int | None = None,
    component: int | Literal["rgb"] | None = None,
    slice_spacing_mm: float | None = None,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> VolumeSegmentation:
    """Segment the structure in a box.

    Args:
        volume: A volume, or a file or DICOM folder to read it from.
        roi: An oriented box (`OrientedBox.from_ijk` for voxels, `OrientedBox.from_corners_ras` for mm), an ROI, a
            Slicer ROI file (`.mrk.json`) that holds one, or rectangles on slices. What reaches beyond the image is cut
            off with a warning.
        model: What `load_predictor` returned, or a name or weights file for it.
        device: Where a model given by name or file computes.
        axis: "auto" (largest spacing, else axial), "I", "J", "K", "axial", "coronal", "sagittal", or 0, 1, 2.
        strategy: "track" follows the structure from the middle slice outwards; "box" uses the box on every slice.
        intensity: "auto", a rule's name such as "ct-lung" or "percentile", or (level, width).
        points: Clicks that correct what the box gave: see `read_points`, `PointPrompt` and `VolumeSegmenter.correct`.
        spread: How far they do: "slice", "both" sides, "ascending" or "descending".
        cache: Image embeddings to reuse and add to; pass the same one with every ROI on a volume.
        series_uid: Which series of a folder, see `read_volume`; this and the next three are for files and folders.
        stack: Which of several stacks, times, echoes, frames or pages of a file.
        component: Which of several values a voxel.
        slice_spacing_mm: Distance of slices that have no position.
        progress: Called with each step.
        cancel: Ends the work from another thread.

    Returns:
        The mask in the volume's own grid, with a report on each slice.

    Raises:
        TypeError: An array as volume or bare numbers as box, which don't say where the voxels lie and what is counted;
            or a part is chosen of a volume that has been read already.
        ImageFileError: The file is no usable image, or holds several and none is chosen.
        ValueError: The ROI file holds no or several ROIs, the ROI is inside out, the box or a point lies outside the
            volume, a name is unknown, or there are points and the model wasn't trained with clicks.
        CheckpointError: The model's weights cannot be used.
        Cancelled: `cancel` was cancelled.
    """
    from dbsam.inference.segmenter import VolumeSegmenter

    _refuse_other_types(volume, roi, model)
    chosen = {
        "series_uid": series_uid, "stack": stack, "component": component, "slice_spacing_mm": slice_spacing_mm,
    }  # fmt: skip
    if isinstance(volume, (str, os.PathLike)):
        from dbsam.io.images import read_volume

        volume = read_volume(volume, **chosen)  # type: ignore[arg-type]
    elif any(value is not None for value in chosen.values()):
        raise TypeError(f"{', '.join(chosen)} choose a part of a file: give them to dbsam.read_volume.")
    prompt = _single_roi(roi) if isinstance(roi, (str, os.PathLike)) else roi
    if isinstance(prompt, MarkupsRoi) and not volume.position_known:
        raise ValueError(
            "The volume doesn't say where it lies, so that an ROI in mm means nothing on it: give "
            "dbsam.OrientedBox.from_ijk(..., volume.geometry)."
        )
    if isinstance(prompt, MarkupsRoi):
        refuse_inside_out(prompt)
        prompt = prompt.box
    if note := cut_off_note(prompt, volume.geometry):
        logger.warning("%s", note)
    if isinstance(model, (str, os.PathLike)):
        model = load_predictor(model, device, progress=progress, cancel=cancel)
    segmenter = VolumeSegmenter(model, cache)
    if points:
        segmenter.check_clicks(volume, points, spread)
    result = segmenter.segment(
        volume, prompt, axis=axis, strategy=strategy, intensity=intensity, progress=progress, cancel=cancel
    )
    if not points:
        return result
    return segmenter.correct(volume, result, points, spread=spread, progress=progress, cancel=cancel)


def _refuse_other_types(volume: object, roi: object, model: object) -> None:
    """Refuse what would have to be guessed at.

    Raises:
        TypeError: One of them is something else than `segment` takes.
    """
    if not isinstance(volume, (Volume, str, os.PathLike)):
        raise TypeError(
            f"{_kind(volume)} is no volume, because it doesn't say where its voxels lie: give a file or a folder, or "
            "dbsam.Volume(voxels_KJI, dbsam.ImageGeometry(...)), for a 2D picture dbsam.Volume.from_image2d(pixels). "
            "Several volumes take a call each."
        )
    if not isinstance(roi, (OrientedBox, MarkupsRoi, SliceBoxes, str, os.PathLike)):
        raise TypeError(
            f"{_kind(roi)} is no box, because it doesn't say what its numbers count: give "
            "dbsam.OrientedBox.from_ijk((i0, j0, k0), (i1, j1, k1), volume.geometry) for voxels, both ends included, "
            "dbsam.OrientedBox.from_corners_ras(corner, opposite) for mm, dbsam.SliceBoxes for rectangles on slices, "
            "or an ROI file. Several boxes take a call each."
        )
    if not isinstance(model, (str, os.PathLike)) and not hasattr(model, "region_for"):
        raise TypeError(f"{_kind(model)} is no predictor: give what dbsam.load_predictor returns, or a name or file.")


def _kind(value: object) -> str:
    shape = getattr(value, "shape", None)
    return f"{type(value).__module__}.{type(value).__qualname__}{f' of shape {tuple(shape)}' if shape else ''}"


def _single_roi(path: str | os.PathLike[str]) -> MarkupsRoi:
    rois = read_roi(Path(path))
    if len(rois) > 1:
        names = ", ".join(roi.name for roi in rois)
        raise ValueError(f"{path} holds several ROIs ({names}): choose one of read_roi's list.")
    return rois[0]
