"""The boxes that a case names, however it names them, as ROIs, and its clicks."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dbsam.geometry.grid import ImageGeometry, OrientedBox, slice_axes, slice_boxes_xyxy
from dbsam.io.roi_markups import MarkupsRoi, read_points, read_roi, refuse_inside_out
from dbsam.preprocess.prompts import PointPrompt, PromptPlan, cut_off_note

if TYPE_CHECKING:
    from dbsam.cli.case import Case
    from dbsam.preprocess.volume import Volume

logger = logging.getLogger(__name__)

_MOST_LABELS = 255


def rois_of_files(case: Case) -> list[MarkupsRoi]:
    """The ROIs of the case's ROI files, read before the volume, which takes longer.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: One is damaged or holds no ROI, or an ROI is inside out.
    """
    rois = []
    for file in case.roi_files:
        if not file.exists():
            raise FileNotFoundError(f"{file}: no such ROI file.")
        rois += read_roi(file)
    for roi in rois:
        refuse_inside_out(roi)
    return rois


def refuse_places_in_mm(case: Case, volume: Volume) -> None:
    """Refuse places in mm on an image that doesn't say where it lies.

    Raises:
        ValueError: There are some.
    """
    if not volume.position_known and (
        case.roi_files or case.boxes_mm or case.point_files or case.include or case.exclude
    ):
        raise ValueError(
            f"{case.volume} doesn't say where it lies, so that places in mm, such as those of an ROI file, mean "
            "nothing on it: give voxels (--box-ijk, --include-ijk, --exclude-ijk), pixels (--box) or a mask "
            "(--box-from)."
        )


def rois_in_volume(case: Case, volume: Volume) -> list[MarkupsRoi]:
    """The boxes round the labels of the case's masks, and its boxes in numbers, which are named like Slicer's segments.

    Raises:
        FileNotFoundError: A mask is missing.
        ValueError: A mask has no label or another size, a rectangle is given for a volume or mm for a picture that has
            none, or a box is flat.
    """
    rois = [roi for file in case.mask_files for roi in _rois_of_mask(file, case.margin_mm, volume)]
    boxes = [
        *(OrientedBox.from_ijk(box[:3], box[3:], volume.geometry) for box in case.boxes_ijk),
        *_boxes_of_rectangles(case, volume),
        *_boxes_of_mm(case, volume),
    ]
    return rois + [MarkupsRoi(f"Segment_{number}", box) for number, box in enumerate(boxes, start=1)]


def clicks(case: Case, volume: Volume, structures: Sequence[str]) -> list[PointPrompt]:
    """The clicks, by files first, then those that include.

    Raises:
        FileNotFoundError: A point list is missing.
        ValueError: One is damaged, or there are several structures that they could correct.
    """
    points: list[PointPrompt] = []
    for file in case.point_files:
        if not file.exists():
            raise FileNotFoundError(f"{file}: no such point list.")
        points += read_points(file)
    for positions, include in ((case.include, True), (case.exclude, False)):
        points += [PointPrompt((x, y, z), include) for x, y, z in positions]
    for voxels, include in ((case.include_ijk, True), (case.exclude_ijk, False)):
        points += [PointPrompt.from_ijk(ijk, volume.geometry, include) for ijk in voxels]
    if points and len(structures) > 1:
        raise ValueError(
            f"Clicks correct one structure, and there are {len(structures)} ({', '.join(structures)}): segment the one "
            "they are for alone."
        )
    return points


def check_inside(roi: MarkupsRoi, volume: Volume, axis: int) -> None:
    """Refuse a box that holds no voxel, and warn of one that is cut off at the image.

    Raises:
        ValueError: It lies outside the volume or between voxels.
    """
    geometry = volume.geometry
    if not slice_boxes_xyxy(roi.box, geometry, axis):
        if volume.spacing_known:
            place = f"{np.round(roi.box.center_ras, 1).tolist()} mm RAS"
        else:
            place = f"pixel {np.round((geometry.ras_to_ijk @ [*roi.box.center_ras, 1.0])[:2], 1).tolist()}"
        raise ValueError(
            f"The box of {roi.name!r} (centre {place}) lies outside the volume of {geometry.dimensions_ijk} voxels. "
            "Was it drawn on another image, or saved under a transform?"
        )
    try:
        PromptPlan(roi.box, geometry, axis)
    except ValueError as error:
        raise ValueError(f"{roi.name!r}: {error}") from error
    if note := cut_off_note(roi.box, geometry):
        logger.warning("%s: %s", roi.name, note)


def _boxes_of_rectangles(case: Case, volume: Volume) -> Iterator[OrientedBox]:
    sizes = volume.geometry.dimensions_ijk
    if case.boxes_xyxy and 1 not in sizes:
        raise ValueError(
            f"{case.volume} is no 2D image but a volume of {sizes} voxels: give a box of voxels (--box-ijk I0 J0 K0 I1 "
            "J1 K1) or an ROI file."
        )
    for x0, y0, x1, y1 in case.boxes_xyxy:
        low, high = [0, 0, 0], [0, 0, 0]
        for axis, start, end in zip(slice_axes(volume.geometry.default_axis()), (x0, y0), (x1, y1), strict=True):
            low[axis], high[axis] = start, end
        yield OrientedBox.from_ijk(low, high, volume.geometry)


def _boxes_of_mm(case: Case, volume: Volume) -> Iterator[OrientedBox]:
    if case.boxes_mm and not volume.spacing_known:
        raise ValueError(
            f"{case.volume} doesn't say how large its pixels are, so that a box in mm has no place: give it in pixels "
            "(--box X0 Y0 X1 Y1)."
        )
    for box in case.boxes_mm:
        yield OrientedBox.from_corners_ras(box[:3], box[3:])


def _rois_of_mask(path: Path, margin_mm: float, volume: Volume) -> list[MarkupsRoi]:
    """A box round each label of a mask, along the mask's own axes."""
    from scipy.ndimage import find_objects

    from dbsam.io.images import read_labels

    mask = read_labels(path)
    labels_KJI, geometry = mask.voxels, mask.geometry
    if not all((mask.spacing_known, mask.position_known, volume.spacing_known, volume.position_known)):
        # One of the two doesn't say where it lies: pixel by pixel, if at all.
        if labels_KJI.shape != volume.geometry.shape_KJI:
            raise ValueError(
                f"{path}: a mask of {geometry.dimensions_ijk} pixels for an image of {volume.geometry.dimensions_ijk}: "
                "they don't lie on each other."
            )
        geometry = volume.geometry
    values, numbered = np.unique(labels_KJI, return_inverse=True)
    if len(values) > _MOST_LABELS + 1:
        raise ValueError(
            f"{path}: {len(values)} values from {values[0]} to {values[-1]}, so this is no mask of up to "
            f"{_MOST_LABELS} labels from 1 on. Is it an image?"
        )
    if values[-1] == 0:
        raise ValueError(f"{path}: the mask is empty, so there is nothing to put a box round.")
    stem = path.name.partition(".")[0]
    parts = find_objects(numbered.reshape(labels_KJI.shape) + 1)
    boxes = [(value, _box_round(part, geometry)) for value, part in zip(values, parts, strict=True) if value]
    return [MarkupsRoi(stem if len(boxes) == 1 else f"{stem}_{value}", box.grown(margin_mm)) for value, box in boxes]


def _box_round(part_KJI: tuple[slice, slice, slice], geometry: ImageGeometry) -> OrientedBox:
    low, high = ([getattr(part, end) for part in reversed(part_KJI)] for end in ("start", "stop"))
    return OrientedBox.from_ijk(low, [index - 1 for index in high], geometry)
