"""Image grids, oriented boxes, and the exact cut of a slice plane through such a box.

Physical coordinates are RAS in mm. Continuous IJK puts voxel centres at integers: voxel i spans [i-0.5, i+0.5].
A slice along `axis` (0=I, 1=J, 2=K) has the two other axes, in ascending order, as its x and y; slice images are
indexed [y, x] and volumes [k, j, i].
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dbsam.geometry.plane_cut import TOLERANCE, BoxInSlices, FloatArray, clip_polygon

_SMALLEST_HALF_AXIS_MM = 1e-6
LPS_FROM_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""The affine between the coordinates of Slicer and NIfTI and those of DICOM and ITK; its own inverse."""

_ANATOMICAL_DIRECTIONS = ("sagittal", "coronal", "axial")  # slicing along R, A, S
_VOXEL_AXES = {name: axis for names in ("ijk", "012") for axis, name in enumerate(names)}

AXIS_NAMES = ("auto", *reversed(_ANATOMICAL_DIRECTIONS), *_VOXEL_AXES)
"""What `ImageGeometry.axis_index` takes as text, in lower case."""


@dataclass(frozen=True, eq=False)
class ImageGeometry:
    """Where the voxels of a volume lie: the affine from continuous IJK to RAS and the grid's size.

    Attributes:
        ijk_to_ras: (4, 4) affine in mm; it may hold any rotation, flip, anisotropic spacing and shear.
        dimensions_ijk: number of voxels along I, J and K.
    """

    ijk_to_ras: FloatArray
    dimensions_ijk: tuple[int, int, int]

    def __post_init__(self) -> None:
        matrix = _affine_matrix(self.ijk_to_ras, "ijk_to_ras")
        lengths = np.linalg.norm(matrix[:3, :3], axis=0)
        if lengths.min() == 0 or abs(np.linalg.det(matrix[:3, :3] / lengths)) < TOLERANCE:
            raise ValueError(
                f"The columns of ijk_to_ras span no volume: {matrix[:3, :3].tolist()}. "
                "Check the image's spacing and direction."
            )
        dimensions = tuple(int(n) for n in self.dimensions_ijk)
        if len(dimensions) != 3 or min(dimensions) < 1:
            raise ValueError(f"dimensions_ijk must be three positive numbers, not {self.dimensions_ijk}.")
        object.__setattr__(self, "ijk_to_ras", matrix)
        object.__setattr__(self, "dimensions_ijk", dimensions)

    @classmethod
    def from_spacing(cls, spacing_mm: Sequence[float], dimensions_ijk: tuple[int, int, int]) -> ImageGeometry:
        """Returns a grid whose axes are R, A, S and whose first voxel's centre is the origin.

        Args:
            spacing_mm: distance of neighbouring voxel centres along I, J, K, in mm.
            dimensions_ijk: number of voxels along I, J, K.
        """
        return cls(np.diag([*spacing_mm, 1.0]), dimensions_ijk)

    @property
    def shape_KJI(self) -> tuple[int, int, int]:
        """Shape of the array that holds the voxels."""
        size_i, size_j, size_k = self.dimensions_ijk
        return size_k, size_j, size_i

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of neighbouring voxel centres along I, J, K, in mm."""
        along_i, along_j, along_k = np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)
        return float(along_i), float(along_j), float(along_k)

    @property
    def ras_to_ijk(self) -> FloatArray:
        """(4, 4) affine from RAS in mm to continuous IJK."""
        return np.asarray(np.linalg.inv(self.ijk_to_ras), dtype=np.float64)

    def slice_hw(self, axis: int) -> tuple[int, int]:
        """Returns (height, width) in pixels of the slices along `axis`."""
        x_axis, y_axis = slice_axes(axis)
        return self.dimensions_ijk[y_axis], self.dimensions_ijk[x_axis]

    def default_axis(self) -> int:
        """Returns the IJK axis along which the volume was most likely acquired.

        That is the only axis with a single voxel (a 2D image), else the axis whose spacing is clearly (1 %) larger
        than the others, else the one nearest to S: axial slices.
        """
        single = [axis for axis in range(3) if self.dimensions_ijk[axis] == 1]
        if len(single) == 1:
            return single[0]
        spacing = self.spacing_mm
        largest = int(np.argmax(spacing))
        if all(spacing[largest] > 1.01 * spacing[axis] for axis in slice_axes(largest)):
            return largest
        return self.axis_index("axial")

    def axis_index(self, name: str | int) -> int:
        """Returns the IJK axis (0, 1, 2) that a name stands for.

        Args:
            name: "auto" (see `default_axis`); "I", "J", "K" or 0, 1, 2, also as text; or "axial", "coronal", "sagittal"
                for the axis nearest to S, A, R. The three anatomical names always give three different axes. Case is
                ignored.

        Raises:
            ValueError: the name is none of these.
        """
        if isinstance(name, (int, np.integer)) and not isinstance(name, bool) and 0 <= name <= 2:
            return int(name)
        lowered = name.lower() if isinstance(name, str) else ""
        if lowered == "auto":
            return self.default_axis()
        if lowered in _VOXEL_AXES:
            return _VOXEL_AXES[lowered]
        if lowered not in _ANATOMICAL_DIRECTIONS:
            raise ValueError(f"Unknown slice axis {name!r}: use auto, axial, coronal, sagittal, I, J, K, 0, 1 or 2.")
        alignment = np.abs(self.ijk_to_ras[:3, :3]) / np.asarray(self.spacing_mm)  # [anatomical, IJK]
        # Rounding keeps a volume tilted by exactly 45 degrees from being decided by the last bit.
        axes_of_ras = max(
            itertools.permutations(range(3)),
            key=lambda axes: round(float(sum(alignment[direction, axis] for direction, axis in enumerate(axes))), 9),
        )
        return axes_of_ras[_ANATOMICAL_DIRECTIONS.index(lowered)]


@dataclass(frozen=True, eq=False)
class OrientedBox:
    """A box with any orientation, or, after a shearing transform, a parallelepiped.

    Attributes:
        center_ras: (3,) centre, in mm.
        half_axes_ras: (3, 3); row n is the vector from the centre to the middle of a face, in mm. The rows need not
            be orthogonal but must span a volume.
    """

    center_ras: FloatArray
    half_axes_ras: FloatArray

    def __post_init__(self) -> None:
        center = _read_only(self.center_ras, (3,), "center_ras")
        half_axes = _read_only(self.half_axes_ras, (3, 3), "half_axes_ras")
        lengths = np.linalg.norm(half_axes, axis=1)
        if lengths.min() < _SMALLEST_HALF_AXIS_MM:
            raise ValueError(
                f"The box is flat: its edges are {(2 * lengths).tolist()} mm long. Give it a size along every axis."
            )
        if abs(np.linalg.det(half_axes / lengths[:, None])) < TOLERANCE:
            raise ValueError(f"The box is flat: its half axes {half_axes.tolist()} lie in one plane.")
        object.__setattr__(self, "center_ras", center)
        object.__setattr__(self, "half_axes_ras", half_axes)

    @classmethod
    def from_ijk(cls, ijk_min: Sequence[int], ijk_max: Sequence[int], geometry: ImageGeometry) -> OrientedBox:
        """Returns the box around the voxels `ijk_min` to `ijk_max`, both included, with their full extent.

        Raises:
            ValueError: `ijk_max` is below `ijk_min`.
        """
        low, high = np.asarray(ijk_min, float), np.asarray(ijk_max, float)
        if low.shape != (3,) or high.shape != (3,) or (high < low).any():
            raise ValueError(f"A voxel box needs three indices min <= max, not {ijk_min} to {ijk_max}.")
        to_ras = geometry.ijk_to_ras
        center = to_ras[:3, :3] @ ((low + high) / 2) + to_ras[:3, 3]
        return cls(center, to_ras[:3, :3].T * ((high - low + 1) / 2)[:, None])

    @classmethod
    def from_corners_ras(cls, corner: Sequence[float], opposite: Sequence[float]) -> OrientedBox:
        """Returns the box along R, A and S between two opposite corners (3,), in mm, in any order.

        Raises:
            ValueError: it is flat, or the corners are not three finite numbers each.
        """
        one, other = _read_only(corner, (3,), "a corner"), _read_only(opposite, (3,), "a corner")
        return cls((one + other) / 2, np.diag(np.abs(other - one) / 2))

    def grown(self, margin_mm: float) -> OrientedBox:
        """Returns the box with each face moved outwards by `margin_mm` along its half axis."""
        lengths = np.linalg.norm(self.half_axes_ras, axis=1, keepdims=True)
        return OrientedBox(self.center_ras, self.half_axes_ras * (1 + margin_mm / lengths))

    def corners_ras(self) -> FloatArray:
        """Returns the (8, 3) corners in mm; the last half axis changes sign fastest, starting from minus."""
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=3)))
        return self.center_ras + signs @ self.half_axes_ras

    def contains_ras(self, points: ArrayLike) -> NDArray[np.bool_]:
        """Returns for each of `points` (..., 3), in mm, whether it lies in the box, faces included: (...)."""
        in_box = (np.asarray(points, float) - self.center_ras) @ np.linalg.inv(self.half_axes_ras)
        return np.asarray((np.abs(in_box) <= 1 + TOLERANCE).all(axis=-1))

    def transformed(self, matrix: ArrayLike) -> OrientedBox:
        """Returns the box moved by a (4, 4) affine from RAS to RAS, shear and scaling included."""
        affine = _affine_matrix(matrix, "matrix")
        return OrientedBox(affine[:3, :3] @ self.center_ras + affine[:3, 3], self.half_axes_ras @ affine[:3, :3].T)


def slice_axes(axis: int) -> tuple[int, int]:
    """Returns the IJK axes that are x and y of the slices along `axis`: the two others, in ascending order."""
    if axis not in (0, 1, 2):
        raise ValueError(f"The slice axis must be 0 (I), 1 (J) or 2 (K), not {axis!r}.")
    x_axis, y_axis = (other for other in range(3) if other != axis)
    return x_axis, y_axis


def box_in_slices(box: OrientedBox, geometry: ImageGeometry, axis: int) -> BoxInSlices:
    """Returns how a box is cut by the slices of a volume: which ones, and which of their pixels lie inside.

    Args:
        box: the box, in RAS.
        geometry: the volume's grid.
        axis: 0, 1, 2 for slices along I, J, K.
    """
    order = [*slice_axes(axis), axis]
    to_ijk = geometry.ras_to_ijk
    center_ijk = to_ijk[:3, :3] @ box.center_ras + to_ijk[:3, 3]
    half_axes_ijk = box.half_axes_ras @ to_ijk[:3, :3].T
    return BoxInSlices(center_ijk[order], half_axes_ijk[:, order], geometry.dimensions_ijk[axis])


def voxels_beyond(box: OrientedBox, geometry: ImageGeometry) -> FloatArray:
    """Returns how far a box reaches beyond a volume: (3, 2) voxels before the first and after the last of I, J, K.

    Zero where it does not, and along an axis with a single voxel, beyond which every box of a picture reaches.
    """
    corners = box.corners_ras() @ geometry.ras_to_ijk[:3, :3].T + geometry.ras_to_ijk[:3, 3]
    sizes = np.array(geometry.dimensions_ijk)
    beyond = np.stack([-0.5 - corners.min(axis=0), corners.max(axis=0) - (sizes - 0.5)], axis=1)
    return np.where((beyond > TOLERANCE) & (sizes > 1)[:, None], beyond, 0.0)


def slice_polygon(box: OrientedBox, geometry: ImageGeometry, axis: int, index: float) -> FloatArray:
    """Returns the convex polygon in which a slice plane cuts a box, not clipped to the volume.

    Args:
        box: the box, in RAS.
        geometry: the volume's grid.
        axis: 0, 1, 2 for slices along I, J, K.
        index: position of the plane in continuous IJK.

    Returns:
        (N, 2) corners x, y in continuous pixel coordinates, 3 <= N <= 6, counter-clockwise where x points right and y
        up; N is 0 where the plane misses the box or only touches an edge or corner.
    """
    in_slices = box_in_slices(box, geometry, axis)
    return clip_polygon(in_slices.enclosing_rectangle(), in_slices.cut(index))


def slice_boxes_xyxy(
    box: OrientedBox, geometry: ImageGeometry, axis: int, wanted: Container[int] | None = None
) -> dict[int, FloatArray]:
    """Returns the bounding rectangle of the box's cut for every slice of the volume that it passes through.

    A box thinner than the slice distance that lies between two slice planes is projected onto the nearer one, so that
    it yields one slice. What lies outside the volume is cut off before the rectangle is taken.

    Args:
        box: the box, in RAS.
        geometry: the volume's grid.
        axis: 0, 1, 2 for slices along I, J, K.
        wanted: the only slices to be cut; None cuts all.

    Returns:
        slice index -> (4,) x_min, y_min, x_max, y_max in continuous pixel coordinates; empty when the box lies outside
        the volume.
    """
    height, width = geometry.slice_hw(axis)
    image_corners = np.array([[-0.5, -0.5], [width - 0.5, -0.5], [width - 0.5, height - 0.5], [-0.5, height - 0.5]])
    in_slices = box_in_slices(box, geometry, axis)
    boxes = {}
    for index in in_slices.slices():
        if wanted is not None and index not in wanted:
            continue
        polygon = clip_polygon(image_corners, in_slices.footprint(index))
        if len(polygon):
            boxes[index] = np.concatenate([polygon.min(axis=0), polygon.max(axis=0)])
    return boxes


def interpolate_boxes(key_boxes: Mapping[int, ArrayLike]) -> dict[int, FloatArray]:
    """Returns a rectangle for every slice from the first to the last key slice, linear in between.

    Args:
        key_boxes: slice index -> x_min, y_min, x_max, y_max in continuous pixel coordinates, as drawn by the user.

    Raises:
        ValueError: an index is no whole number, or a rectangle has not four numbers or no area.
    """
    if not key_boxes:
        return {}
    keys = sorted(key_boxes)
    if odd := [key for key in keys if key != int(key)]:
        raise ValueError(f"{odd[0]} is no index of a slice: give a whole number.")
    corners = np.stack([_read_only(key_boxes[key], (4,), f"the box of slice {key}") for key in keys])
    for key, (x_min, y_min, x_max, y_max) in zip(keys, corners, strict=True):
        if x_max <= x_min or y_max <= y_min:
            raise ValueError(
                f"The box of slice {key} has no area: x {x_min} to {x_max}, y {y_min} to {y_max}. Draw it again."
            )
    indices = np.arange(keys[0], keys[-1] + 1)
    columns = [np.interp(indices, keys, corners[:, n]) for n in range(4)]
    return {int(index): xyxy for index, xyxy in zip(indices, np.stack(columns, axis=1), strict=True)}


def _affine_matrix(matrix: ArrayLike, name: str) -> FloatArray:
    affine = _read_only(matrix, (4, 4), name)
    if not np.allclose(affine[3], [0, 0, 0, 1], atol=1e-12):
        raise ValueError(f"{name} must be affine: its last row is {affine[3].tolist()}, not 0 0 0 1.")
    return affine


def _read_only(values: ArrayLike, shape: tuple[int, ...], name: str) -> FloatArray:
    array = np.array(values, dtype=np.float64)
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"{name} must be {shape} finite numbers, not {array.tolist()}.")
    array.flags.writeable = False
    return array
