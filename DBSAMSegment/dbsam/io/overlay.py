"""Pictures to check a segmentation by eye: contours and ROI box on the middle slices, drawn with numpy alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dbsam.geometry.grid import ImageGeometry, OrientedBox, slice_axes, slice_polygon
from dbsam.io.seg_nrrd import Segment
from dbsam.preprocess.sampling import Region, resample_slice, slice_region

if TYPE_CHECKING:
    from dbsam.inference.segmenter import Volume

PANEL_PIXELS = 384
_SUPERSAMPLING = 2  # drawn larger and averaged, so that lines have smooth edges
_CONTEXT = 1.6  # side of the panel over the longer side of the ROI
_GAP_PIXELS = 4
_FILL_OPACITY = 0.22
_BOX_RGB = (0.85, 0.97, 1.0)

# How a radiologist expects a slice: RAS directions that point right and down in the picture.
_PICTURE_AXES_RAS = {
    "axial": ((-1, 0, 0), (0, -1, 0)),
    "coronal": ((-1, 0, 0), (0, 0, -1)),
    "sagittal": ((0, -1, 0), (0, 0, -1)),
}


def render_overlay(
    volume: Volume,
    segments: Sequence[Segment],
    boxes: Sequence[OrientedBox],
    to_uint8: Callable[[NDArray[np.generic]], NDArray[np.uint8]],
) -> NDArray[np.uint8]:
    """Draw each segment's middle slices with the contours of all segments and the segment's own ROI box.

    Args:
        volume: The image.
        segments: What was segmented; a row of panels each.
        boxes: The ROI of each segment, in RAS.
        to_uint8: The intensity rule by which the network saw the image.

    Returns:
        (H, W, 3) picture: a row for each segment; axial, coronal and sagittal from left to right for a volume, in
        radiological orientation, or the slice itself for a 2D image.
    """
    geometry = volume.geometry
    planes: dict[int, str | None]
    if 1 in geometry.dimensions_ijk:
        planes = {geometry.default_axis(): None}
    else:
        planes = {geometry.axis_index(name): name for name in _PICTURE_AXES_RAS}
    rows = []
    for segment, box in zip(segments, boxes, strict=True):
        center = _center_ijk(segment, box, geometry)
        panels = []
        for axis, plane in planes.items():
            panel = _panel(volume, segments, box, axis, center[axis], to_uint8)
            panels.append(panel if plane is None else _as_radiologists_see_it(panel, geometry, axis, plane))
        rows.append(_join(panels, along=1))
    return _join(rows, along=0)


def _center_ijk(segment: Segment, box: OrientedBox, geometry: ImageGeometry) -> list[int]:
    """The voxel whose slices show the segment: the median along each axis, or the ROI's centre if it is empty."""
    inside = np.argwhere(segment.mask_KJI)
    if len(inside):
        center = np.median(inside, axis=0)[::-1] + segment.offset_ijk
    else:
        center = (geometry.ras_to_ijk @ [*box.center_ras, 1.0])[:3]
    last = np.array(geometry.dimensions_ijk) - 1
    return [int(index) for index in np.clip(np.rint(center), 0, last)]


def _panel(
    volume: Volume,
    segments: Sequence[Segment],
    box: OrientedBox,
    axis: int,
    index: int,
    to_uint8: Callable[[NDArray[np.generic]], NDArray[np.uint8]],
) -> NDArray[np.uint8]:
    geometry = volume.geometry
    polygon = slice_polygon(box, geometry, axis, index)
    region = _region(box, geometry, axis)
    size = PANEL_PIXELS * _SUPERSAMPLING
    grey, _ = resample_slice(to_uint8(np.take(volume.voxels, index, axis=2 - axis)), region, size)
    picture = np.repeat(grey[..., None], 3, axis=2) if grey.ndim == 2 else grey.copy()
    for number, segment in enumerate(segments):
        mask, _ = resample_slice(_slice_mask(segment, geometry, axis, index), region, size)
        inside, color = mask > 0.5, 255 * np.array(segment.color(number), np.float32)
        picture[inside] += _FILL_OPACITY * (color - picture[inside])
        picture[_outline(inside, 1.5 * _SUPERSAMPLING)] = color
    if len(polygon):
        scale = size / np.array([region.width, region.height])
        corners = (polygon - (region.x0, region.y0)) * scale - 0.5
        picture[_polygon_line(corners, size, 0.6 * _SUPERSAMPLING)] = 255 * np.array(_BOX_RGB, np.float32)
    averaged = picture.reshape(PANEL_PIXELS, _SUPERSAMPLING, PANEL_PIXELS, _SUPERSAMPLING, 3).mean(axis=(1, 3))
    return np.rint(averaged.clip(0, 255)).astype(np.uint8)


def _region(box: OrientedBox, geometry: ImageGeometry, axis: int) -> Region:
    """A physically square part of the slices along `axis` round the box, as far inside the slice as it fits."""
    x_axis, y_axis = slice_axes(axis)
    spacing = np.array([geometry.spacing_mm[x_axis], geometry.spacing_mm[y_axis]])
    height, width = geometry.slice_hw(axis)
    corners = box.corners_ras() @ geometry.ras_to_ijk[:3, :3].T + geometry.ras_to_ijk[:3, 3]
    low, high = corners[:, [x_axis, y_axis]].min(axis=0), corners[:, [x_axis, y_axis]].max(axis=0)
    whole = slice_region((height, width), (spacing[0], spacing[1]), square=True)
    side_mm = max(_CONTEXT * float(((high - low) * spacing).max()), 16 * float(spacing.min()))
    extent = min(side_mm, whole.width * spacing[0]) / spacing
    slice_size = np.array([width, height])
    start = (low + high - extent) / 2
    # Moved into the slice where that is large enough, centred on the slice where it isn't.
    fits = extent <= slice_size
    start = np.where(fits, np.clip(start, -0.5, slice_size - 0.5 - extent), (slice_size - 1 - extent) / 2)
    return Region(float(start[0]), float(start[1]), float(start[0] + extent[0]), float(start[1] + extent[1]))


def _slice_mask(segment: Segment, geometry: ImageGeometry, axis: int, index: int) -> NDArray[np.float32]:
    """(H, W) mask of one slice of the full grid, from the part of the grid that the segment covers."""
    mask = np.zeros(geometry.slice_hw(axis), np.float32)
    within = index - segment.offset_ijk[axis]
    if 0 <= within < segment.mask_KJI.shape[2 - axis]:
        part = [limits for n, limits in enumerate(segment.slices_KJI(geometry)) if n != 2 - axis]
        mask[part[0], part[1]] = np.take(segment.mask_KJI, within, axis=2 - axis) != 0
    return mask


def _outline(inside: NDArray[np.bool_], width: float) -> NDArray[np.bool_]:
    """Pixels of `inside` that lie less than `width` from its border (or the picture's)."""
    reach = int(np.ceil(width))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    return inside & ~ndimage.binary_erosion(inside, x * x + y * y <= width * width)


def _polygon_line(corners: NDArray[np.float64], size: int, half_width: float) -> NDArray[np.bool_]:
    """(size, size) pixels within `half_width` of the closed line through `corners` (N, 2) x, y."""
    y, x = np.mgrid[:size, :size].astype(np.float32)
    on_line = np.zeros((size, size), bool)
    for start, end in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        along = end - start
        length = float(np.linalg.norm(along))
        direction = along / max(length, 1e-9)
        position = np.clip((x - start[0]) * direction[0] + (y - start[1]) * direction[1], 0, length)
        distance_x, distance_y = x - start[0] - position * direction[0], y - start[1] - position * direction[1]
        on_line |= distance_x**2 + distance_y**2 <= half_width**2
    return on_line


def _as_radiologists_see_it(
    panel: NDArray[np.uint8], geometry: ImageGeometry, axis: int, plane: str
) -> NDArray[np.uint8]:
    directions = geometry.ijk_to_ras[:3, :3] / geometry.spacing_mm
    x_ras, y_ras = (directions[:, n] for n in slice_axes(axis))
    right, down = (np.array(direction, float) for direction in _PICTURE_AXES_RAS[plane])
    if abs(x_ras @ down) + abs(y_ras @ right) > abs(x_ras @ right) + abs(y_ras @ down):
        panel, x_ras, y_ras = panel.swapaxes(0, 1), y_ras, x_ras
    if x_ras @ right < 0:
        panel = panel[:, ::-1]
    if y_ras @ down < 0:
        panel = panel[::-1]
    return panel


def _join(pictures: Sequence[NDArray[np.uint8]], along: int) -> NDArray[np.uint8]:
    """Pictures side by side (1) or below each other (0), with dark gaps."""
    shape = list(pictures[0].shape)
    shape[along] = _GAP_PIXELS
    gap = np.full(shape, 24, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)][1:]
    return np.ascontiguousarray(np.concatenate(parts, axis=along))
