"""The convex region in which a slice plane cuts a box, as half planes: exact, and cheap for hundreds of slices.

Coordinates are continuous IJK reordered to (x, y, n): in-plane x and y, then n along the slice axis.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# Relative to the box (half axes have length 1) or in pixels: far above rounding, far below anything visible.
TOLERANCE = 1e-9


class HalfPlanes(NamedTuple):
    """A convex region of a slice: the points p with normals @ p <= offsets. No half planes: the whole slice.

    Attributes:
        normals: (N, 2) unit vectors.
        offsets: (N,) in pixels; one of them is -inf where the region is empty.
    """

    normals: FloatArray
    offsets: FloatArray


class BoxInSlices:
    """A parallelepiped seen along one slice axis.

    Args:
        center_xyn: (3,) centre.
        half_axes_xyn: (3, 3); row m is half axis m.
        slice_count: number of slices of the volume.
    """

    def __init__(self, center_xyn: FloatArray, half_axes_xyn: FloatArray, slice_count: int) -> None:
        to_unit = np.linalg.inv(half_axes_xyn)  # (point - centre) @ to_unit is -1..1 along each half axis
        self._slice_count = slice_count
        self._center_xy, self._center_n = center_xyn[:2], float(center_xyn[2])
        self._half_axes_xy = half_axes_xyn[:, :2]
        self._reach_xy = np.abs(self._half_axes_xy).sum(axis=0)
        self._reach_n = float(np.abs(half_axes_xyn[:, 2]).sum())
        self._unit_per_xy, self._unit_per_n = to_unit[:2].T, to_unit[2]

    def slices(self) -> range:
        """The volume's slices that the box passes through, or the nearest one if it lies between two planes."""
        low, high = self._center_n - self._reach_n, self._center_n + self._reach_n
        first, last = int(np.ceil(low - TOLERANCE)), int(np.floor(high + TOLERANCE))
        if first <= last:
            return range(max(first, 0), min(last, self._slice_count - 1) + 1)
        if high <= -0.5 or low >= self._slice_count - 0.5:
            return range(0)
        nearest = int(np.clip(np.ceil(self._center_n - 0.5), 0, self._slice_count - 1))
        return range(nearest, nearest + 1)

    def footprint(self, index: int) -> HalfPlanes:
        """What one of `slices()` shows of the box: the plane's cut, or the projection if it lies between planes."""
        if abs(index - self._center_n) > self._reach_n + TOLERANCE:
            return self._projection()
        return self.cut(index)

    def cut(self, index: float) -> HalfPlanes:
        """The cut of the plane n = index through the box."""
        at_center = (index - self._center_n) * self._unit_per_n
        # Faces parallel to the slice limit n only; dividing by the length of their normal would blow up rounding.
        parallel = (np.abs(self._unit_per_xy) @ self._reach_xy) < TOLERANCE
        if (np.abs(at_center[parallel]) > 1 + TOLERANCE).any():
            return HalfPlanes(np.array([[1.0, 0.0]]), np.array([-np.inf]))
        normals, at_center = self._unit_per_xy[~parallel], at_center[~parallel]
        return self._half_planes(normals, 1 - at_center, 1 + at_center)

    def _projection(self) -> HalfPlanes:
        """The box's shadow along the slice axis, whose sides are parallel to the half axes' shadows."""
        sides = self._half_axes_xy[np.linalg.norm(self._half_axes_xy, axis=1) > TOLERANCE]
        normals = np.stack([-sides[:, 1], sides[:, 0]], axis=1)
        offsets = np.abs(normals @ self._half_axes_xy.T).sum(axis=1)
        return self._half_planes(normals, offsets, offsets)

    def _half_planes(self, normals: FloatArray, ahead: FloatArray, behind: FloatArray) -> HalfPlanes:
        """Strips around the centre: -behind <= normals @ (p - centre) <= ahead."""
        normals, offsets = np.concatenate([normals, -normals]), np.concatenate([ahead, behind])
        lengths = np.linalg.norm(normals, axis=1)
        normals = normals / lengths[:, None]
        return HalfPlanes(normals, offsets / lengths + normals @ self._center_xy)

    def enclosing_rectangle(self) -> FloatArray:
        """Corners (4, 2) of a rectangle with the whole box inside it, a pixel clear of it on every side."""
        signs = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        return self._center_xy + signs * (self._reach_xy + 1.0)


def clip_polygon(polygon: FloatArray, half_planes: HalfPlanes) -> FloatArray:
    """Cuts a convex counter-clockwise polygon (N, 2) by half planes (Sutherland and Hodgman, CACM 17, 1974).

    Returns:
        (M, 2) corners; M is 0 if no area is left.
    """
    nothing = np.empty((0, 2))
    for normal, offset in zip(*half_planes, strict=True):
        distance = polygon @ normal - offset
        inside = distance <= 0
        if inside.all():
            continue
        if not inside.any():
            return nothing
        following, next_distance = np.roll(polygon, -1, axis=0), np.roll(distance, -1)
        crosses = inside != (next_distance <= 0)
        fraction = distance / np.where(crosses, distance - next_distance, 1.0)
        crossings = polygon + fraction[:, None] * (following - polygon)
        polygon = np.stack([polygon, crossings], axis=1)[np.stack([inside, crosses], axis=1)]
    edges = np.roll(polygon, -1, axis=0) - polygon
    polygon = polygon[np.linalg.norm(edges, axis=1) > TOLERANCE]
    x, y = (polygon - polygon[:1]).T
    area = (x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2
    return polygon if area > TOLERANCE else nothing


def pixels_inside(half_planes: HalfPlanes, image_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """Returns the (height, width) mask of the pixel centres that lie in the half planes, borders included."""
    height, width = image_hw
    # A convex region meets each row in one interval, so that only two numbers per row are computed, not per pixel.
    rows = np.arange(height, dtype=float)
    first, last = np.full(height, -np.inf), np.full(height, np.inf)
    for (normal_x, normal_y), offset in zip(*half_planes, strict=True):
        room = offset + TOLERANCE - normal_y * rows
        if abs(normal_x) < TOLERANCE:
            last[room < 0] = -np.inf
        elif normal_x > 0:
            last = np.minimum(last, room / normal_x)
        else:
            first = np.maximum(first, room / normal_x)
    columns = np.arange(width, dtype=float)
    return (columns >= first[:, None]) & (columns <= last[:, None])
