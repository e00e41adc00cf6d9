"""The convex region in which a slice plane cuts a box, as half planes: exact, and cheap for hundreds of slices.

Coordinates are continuous IJK reordered to (x, y, n): in-plane x and y, then n along the slice axis.
"""

from __future__ import annotations

import math
from itertools import pairwise
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
        unit_per_xy, unit_per_n = to_unit[:2].T, to_unit[2]
        # Faces parallel to the slice limit n only; dividing by the length of their normal would blow up rounding.
        parallel = (np.abs(unit_per_xy) @ self._reach_xy) < TOLERANCE
        self._parallel_per_n = unit_per_n[parallel]
        self._strips = _Strips(unit_per_xy[~parallel], self._center_xy)
        self._unit_per_n = unit_per_n[~parallel]

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

    def inside(self, index: int, rows: range, columns: range) -> NDArray[np.bool_]:
        """Returns which pixel centres of a slice lie in the box: (len(rows), len(columns)), indexed [y, x].

        On the one slice of a box between two planes these are the pixels of its projection.

        Raises:
            ValueError: the volume has no slice `index`.
        """
        if not 0 <= index < self._slice_count:
            raise ValueError(f"Slice {index} is outside the volume (0 to {self._slice_count - 1}).")
        if index not in self.slices():
            return np.zeros((len(rows), len(columns)), dtype=bool)
        return _pixels_inside(self.footprint(index), rows, columns)

    def cut(self, index: float) -> HalfPlanes:
        """The cut of the plane n = index through the box."""
        ahead = index - self._center_n
        if (np.abs(ahead * self._parallel_per_n) > 1 + TOLERANCE).any():
            return HalfPlanes(np.array([[1.0, 0.0]]), np.array([-np.inf]))
        at_center = ahead * self._unit_per_n
        return self._strips.half_planes(1 - at_center, 1 + at_center)

    def _projection(self) -> HalfPlanes:
        """The box's shadow along the slice axis, whose sides are parallel to the half axes' shadows."""
        sides = self._half_axes_xy[np.linalg.norm(self._half_axes_xy, axis=1) > TOLERANCE]
        normals = np.stack([-sides[:, 1], sides[:, 0]], axis=1)
        offsets = np.abs(normals @ self._half_axes_xy.T).sum(axis=1)
        return _Strips(normals, self._center_xy).half_planes(offsets, offsets)

    def enclosing_rectangle(self) -> FloatArray:
        """Corners (4, 2) of a rectangle with the whole box inside it, a pixel clear of it on every side."""
        signs = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
        return self._center_xy + signs * (self._reach_xy + 1.0)


class _Strips:
    """Strips around a point, -behind <= normals @ (p - center) <= ahead, whose directions are the same on all slices.

    Args:
        normals: (N, 2) normals of any length.
        center_xy: (2,) the point.
    """

    def __init__(self, normals: FloatArray, center_xy: FloatArray) -> None:
        lengths = np.linalg.norm(normals, axis=1)
        self._lengths = np.concatenate([lengths, lengths])
        self._normals = np.concatenate([normals, -normals]) / self._lengths[:, None]
        self._at_center = self._normals @ center_xy

    def half_planes(self, ahead: FloatArray, behind: FloatArray) -> HalfPlanes:
        """The strips of these (N,) half widths, in units of each normal's length."""
        return HalfPlanes(self._normals, np.concatenate([ahead, behind]) / self._lengths + self._at_center)


def clip_polygon(polygon: FloatArray, half_planes: HalfPlanes) -> FloatArray:
    """Cuts a convex counter-clockwise polygon (N, 2) by half planes (Sutherland and Hodgman, CACM 17, 1974).

    Returns:
        (M, 2) corners; M is 0 if no area is left.
    """
    # Plain numbers: for polygons this small, they are ten times as fast as arrays.
    corners: list[list[float]] = polygon.tolist()
    for (normal_x, normal_y), offset in zip(half_planes.normals.tolist(), half_planes.offsets.tolist(), strict=True):
        distances = [x * normal_x + y * normal_y - offset for x, y in corners]
        corners = _clip_by_line(corners, distances)
    closed = corners + corners[:1]
    corners = [corner for corner, following in pairwise(closed) if math.dist(corner, following) > TOLERANCE]
    return np.array(corners) if _area(corners) > TOLERANCE else np.empty((0, 2))


def _clip_by_line(corners: list[list[float]], distances: list[float]) -> list[list[float]]:
    """What is left of a polygon where the signed distances of its corners from a line aren't positive."""
    if all(distance <= 0 for distance in distances):
        return corners
    if all(distance > 0 for distance in distances):
        return []
    left = []
    signed = list(zip(corners, distances, strict=True))
    for ((x, y), distance), ((next_x, next_y), next_distance) in pairwise(signed + signed[:1]):
        if distance <= 0:
            left.append([x, y])
        if (distance <= 0) != (next_distance <= 0):
            fraction = distance / (distance - next_distance)
            left.append([x + fraction * (next_x - x), y + fraction * (next_y - y)])
    return left


def _area(corners: list[list[float]]) -> float:
    """The area of a counter-clockwise polygon by the shoelace formula, from its first corner for precision."""
    from_first = [(x - corners[0][0], y - corners[0][1]) for x, y in corners]
    return sum(x * next_y - next_x * y for (x, y), (next_x, next_y) in pairwise(from_first + from_first[:1])) / 2


def _pixels_inside(half_planes: HalfPlanes, rows: range, columns: range) -> NDArray[np.bool_]:
    """Returns the mask of the pixel centres of these rows and columns in the half planes, borders included."""
    # A convex region meets each row in one interval, so that only two numbers per row are computed, not per pixel.
    y = np.arange(rows.start, rows.stop, dtype=float)
    x = np.arange(columns.start, columns.stop, dtype=float)
    first, last = np.full(len(y), -np.inf), np.full(len(y), np.inf)
    for (normal_x, normal_y), offset in zip(*half_planes, strict=True):
        room = offset + TOLERANCE - normal_y * y
        if abs(normal_x) < TOLERANCE:
            last[room < 0] = -np.inf
        elif normal_x > 0:
            last = np.minimum(last, room / normal_x)
        else:
            first = np.maximum(first, room / normal_x)
    return (x >= first[:, None]) & (x <= last[:, None])
