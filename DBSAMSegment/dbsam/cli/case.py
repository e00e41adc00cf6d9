"""One case from files to files: a volume and its ROIs in, a segmentation or labelmap, an overlay and a report out."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from dbsam.cli.case_boxes import check_inside, clicks, refuse_places_in_mm, rois_in_volume, rois_of_files
from dbsam.io.files import check_place
from dbsam.io.seg_nrrd import Segment, combine_segments, write_segmentation
from dbsam.preprocess.volume import count_non_finite

if TYPE_CHECKING:
    from dbsam.inference.predictor import SlicePredictor
    from dbsam.inference.segmenter import Volume, VolumeSegmentation
    from dbsam.io.image_file import Choice
    from dbsam.progress import CancelToken, ProgressCallback

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Case:
    """What to segment, how, and where to write it.

    Attributes:
        volume: Image file or DICOM folder.
        output: `.seg.nrrd` for a Slicer segmentation, `.dcm` for a DICOM one (of a DICOM volume), or a labelmap in
            which the n-th segment has the value n.
        roi_files: Slicer ROI files; every ROI becomes a segment.
        boxes_ijk: Boxes of voxels i0, j0, k0, i1, j1, k1, both ends included; a segment each, after the ROIs.
        boxes_xyxy: Rectangles x0, y0, x1, y1 on a 2D image, both ends included; a segment each, after the boxes.
        boxes_mm: Boxes between two corners r0, a0, s0, r1, a1, s1 in mm RAS; a segment each, after the rectangles.
        mask_files: Labelmaps; a segment for the box round each label, after the ROIs.
        margin_mm: How far these boxes reach beyond the label on every side.
        point_files: Slicer point lists, see `read_points`: clicks that correct the one structure.
        include: Clicks where the structure is, in RAS mm.
        exclude: Clicks where it isn't.
        include_ijk: Clicks as voxel indices.
        exclude_ijk: Clicks as voxel indices.
        spread: How far clicks reach, see `VolumeSegmenter.correct`.
        axis: Slicing axis, see `ImageGeometry.axis_index`.
        strategy: "track" or "box".
        intensity: Name of an intensity rule, or (level, width).
        overlay: Picture to write, if any.
        series_uid: Which series of a DICOM folder.
        stack: Which of several stacks, times, echoes, frames or pages, from 1.
        component: Which of several values a voxel, from 1; "rgb" takes them as a colour.
        slice_spacing_mm: Distance of the slices of a DICOM series that have no position.
    """

    volume: Path
    output: Path
    roi_files: tuple[Path, ...] = ()
    boxes_ijk: tuple[tuple[int, ...], ...] = ()
    boxes_xyxy: tuple[tuple[int, ...], ...] = ()
    boxes_mm: tuple[tuple[float, ...], ...] = ()
    mask_files: tuple[Path, ...] = ()
    margin_mm: float = 0.0
    point_files: tuple[Path, ...] = ()
    include: tuple[tuple[float, ...], ...] = ()
    exclude: tuple[tuple[float, ...], ...] = ()
    include_ijk: tuple[tuple[float, ...], ...] = ()
    exclude_ijk: tuple[tuple[float, ...], ...] = ()
    spread: str = "both"
    axis: str = "auto"
    strategy: str = "track"
    intensity: str | tuple[float, float] = "auto"
    overlay: Path | None = None
    series_uid: str | None = None
    stack: int | None = None
    component: int | Literal["rgb"] | None = None
    slice_spacing_mm: float | None = None

    @property
    def inputs(self) -> tuple[Path, ...]:
        """The files and folders that are read."""
        return self.volume, *self.roi_files, *self.mask_files, *self.point_files

    def check_names(self) -> None:
        """Refuse outputs that could not be written after the work was done.

        Raises:
            ValueError: There is no prompt, a margin without masks or below 0, a file name has an ending that nothing is
                written to, or an output would overwrite an input.
        """
        from dbsam.io.images import labelmap_ending, refuse_overwriting

        if not (self.roi_files or self.mask_files or self.boxes_ijk or self.boxes_xyxy or self.boxes_mm):
            raise ValueError("Nothing says where the structure is: give an ROI file, a box or a mask.")
        if not 0 <= self.margin_mm < math.inf or (self.margin_mm and not self.mask_files):
            raise ValueError(f"A margin of {self.margin_mm:g} mm: it is 0 or more, and for the boxes round a mask.")
        if not (_is_segmentation(self.output) or _is_dicom_seg(self.output)):
            labelmap_ending(self.output)
        if self.overlay is not None and self.overlay.suffix.lower() != ".png":
            raise ValueError(f"{self.overlay}: the overlay is a .png picture.")
        refuse_overwriting([path for path in (self.output, self.overlay) if path is not None], self.inputs)


def run_case(
    case: Case,
    get_predictor: Callable[[], SlicePredictor],
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    model: str = "DB-SAM",
) -> dict[str, Any]:
    """Segment one case and write its files.

    Args:
        case: What to do.
        get_predictor: Returns the model; called once the inputs have been read, so that a wrong path is told first.
        progress: Called with each step.
        cancel: Ends the work; nothing is written then.
        model: The model's name or path: a DICOM segmentation names what made it.

    Returns:
        A report of JSON-ready values: files, seconds, and for each segment its size, intensity window and slices.

    Raises:
        ValueError: An input or setting is wrong; the message says which and what to do.
        OSError: An input is missing, or an output cannot be written.
        Cancelled: `cancel` was cancelled.
    """
    from dbsam.inference.segmenter import VolumeSegmenter
    from dbsam.io.dicom_seg import source_frames, write_dicom_seg
    from dbsam.io.images import check_labelmap, write_labelmap, write_png
    from dbsam.io.overlay import render_overlay

    started = time.monotonic()
    case.check_names()
    for path in filter(None, (case.output, case.overlay)):
        check_place(path)
    rois = rois_of_files(case)
    volume = _read_volume(case)
    if _is_dicom_seg(case.output):
        source_frames(case.volume, _choice(case))
    elif not _is_segmentation(case.output):
        check_labelmap(case.output, volume.geometry)
    refuse_places_in_mm(case, volume)
    rois += rois_in_volume(case, volume)
    points = clicks(case, volume, [roi.name for roi in rois])
    axis = volume.geometry.axis_index(case.axis)
    for roi in rois:
        check_inside(roi, volume, axis)
    if non_finite := count_non_finite(volume.voxels):
        logger.warning(
            "%s: %d values are NaN or infinite; they are shown as the lower end of the window.", case.volume, non_finite
        )
    segmenter = VolumeSegmenter(get_predictor())
    if points:
        segmenter.check_clicks(volume, points, case.spread)
    results, segments = [], []
    for roi in rois:
        result = segmenter.segment(
            volume,
            roi.box,
            axis=axis,
            strategy=case.strategy,
            intensity=case.intensity,
            progress=_naming(progress, roi.name) if len(rois) > 1 else progress,
            cancel=cancel,
        )
        if points:
            result = segmenter.correct(volume, result, points, spread=case.spread, progress=progress, cancel=cancel)
        segments.append(Segment.from_result(roi.name, result, roi.color_rgb))
        results.append(result)
        _warn(roi.name, result)
    if _is_segmentation(case.output):
        write_segmentation(case.output, segments, volume.geometry)
    elif _is_dicom_seg(case.output):
        write_dicom_seg(case.output, segments, volume.geometry, case.volume, _choice(case), Path(model).stem)
    else:
        _warn_of_overlap(segments, volume)
        write_labelmap(case.output, combine_segments(segments, volume.geometry), volume.geometry)
    if case.overlay is not None:
        boxes = [roi.box for roi in rois]
        write_png(case.overlay, render_overlay(volume, segments, boxes, results[0].intensity.apply))
    return {
        "volume": str(case.volume),
        "output": str(case.output),
        "overlay": str(case.overlay) if case.overlay else None,
        "seconds": round(time.monotonic() - started, 3),
        "non_finite": non_finite,
        "segments": [
            _segment_report(label, segment, result, _has_volume(volume))
            for label, (segment, result) in enumerate(zip(segments, results, strict=True), start=1)
        ],
    }


def _is_segmentation(path: Path) -> bool:
    return path.name.lower().endswith(".seg.nrrd")


def _is_dicom_seg(path: Path) -> bool:
    return path.name.lower().endswith(".dcm")


def _choice(case: Case) -> Choice:
    from dbsam.io.image_file import Choice

    return Choice(case.stack, case.component, case.series_uid, case.slice_spacing_mm)


def _read_volume(case: Case) -> Volume:
    from dbsam.io.image_file import ImageFileError
    from dbsam.io.images import LABELMAP_ENDINGS, read_volume
    from dbsam.io.pictures import PICTURE_ENDINGS

    try:
        return read_volume(
            case.volume, case.series_uid, stack=case.stack, component=case.component,
            slice_spacing_mm=case.slice_spacing_mm,
        )  # fmt: skip
    except ImageFileError as error:
        names = sorted(entry.name for entry in case.volume.iterdir()) if case.volume.is_dir() else []
        if images := [name for name in names if name.lower().endswith((*LABELMAP_ENDINGS, *PICTURE_ENDINGS))]:
            raise ImageFileError(
                f"{error} It holds {len(images)} image files, such as {images[0]}: many are done by `dbsam batch`."
            ) from error
        raise


def _naming(progress: ProgressCallback | None, name: str) -> ProgressCallback | None:
    if progress is None:
        return None
    return lambda step: progress(replace(step, stage=f"{name}: {step.stage}"))


def _warn(name: str, result: VolumeSegmentation) -> None:
    for doubt in result.doubts:
        logger.warning("%s: %s.", name, doubt.text)
    window = result.intensity
    logger.info("%s: intensity %g to %g, %s.", name, window.low, window.high, window.reason)


def _warn_of_overlap(segments: Sequence[Segment], volume: Volume) -> None:
    depth = np.zeros(volume.geometry.shape_KJI, np.uint16)
    for segment in segments:
        depth[segment.slices_KJI(volume.geometry)] += segment.mask_KJI != 0
    overlap = int((depth > 1).sum())
    if overlap:
        logger.warning(
            "%d voxels belong to several segments; in a labelmap the later one wins. A .seg.nrrd keeps both.", overlap
        )


def _has_volume(volume: Volume) -> bool:
    """Whether voxels have a size: a lone image without position has no thickness, whatever its pixels' spacing."""
    return volume.spacing_known and (volume.position_known or 1 not in volume.geometry.dimensions_ijk)


def _segment_report(label: int, segment: Segment, result: VolumeSegmentation, has_volume: bool) -> dict[str, Any]:
    voxels = int(np.count_nonzero(segment.mask_KJI))
    voxel_mm3 = float(abs(np.linalg.det(result.geometry.ijk_to_ras[:3, :3])))
    return {
        "name": segment.name,
        "label": label,
        "voxels": voxels,
        "volume_ml": round(voxels * voxel_mm3 / 1000, 3) if has_volume else None,
        "axis": "IJK"[result.axis],
        "strategy": result.strategy,
        "intensity": {
            "name": result.intensity.name,
            "low": result.intensity.low,
            "high": result.intensity.high,
            "reason": result.intensity.reason,
        },
        "seconds": round(result.seconds, 3),
        "trust": None if result.trust is None else round(result.trust.value, 3),
        "doubts": [{"text": doubt.text, "slices": list(doubt.slices)} for doubt in result.doubts],
        "slices": [
            {
                "index": report.index,
                "box_xyxy": [round(float(edge), 2) for edge in report.box_xyxy],
                "predicted_iou": round(float(report.predicted_iou), 4),
                "touches_edge": bool(report.touches_edge),
                "area_pixels": int(report.area_pixels),
                "clicks": report.clicks,
            }
            for report in result.slices
        ],
    }
