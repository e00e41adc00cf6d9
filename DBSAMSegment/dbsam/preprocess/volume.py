"""Voxels and where they lie."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.grid import ImageGeometry, slice_axes


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels and where they lie.

    Attributes:
        voxels: (K, J, I) grey or (K, J, I, 3) colour, of any real type. Not copied; not to be changed while in use.
        geometry: The grid; its dimensions are the array's.
        identity: Tells volumes apart in the embedding cache; a hash of the voxels by default.
        spacing_known: False for a picture of which nobody knows how large a pixel is; it counts as 1 mm then.
        position_known: False where nobody knows where the grid lies, so that places in mm mean nothing on it.
    """

    voxels: NDArray[np.generic]
    geometry: ImageGeometry
    identity: str = ""
    spacing_known: bool = True
    position_known: bool = True

    def __post_init__(self) -> None:
        voxels = self.voxels
        if voxels.ndim not in (3, 4) or (voxels.ndim == 4 and voxels.shape[3] != 3):
            raise ValueError(
                f"A volume is (K, J, I), or (K, J, I, 3) in colour, not {voxels.shape}. "
                "Choose one component or time point, and leave out an alpha channel."
            )
        if voxels.shape[:3] != self.geometry.shape_KJI:
            raise ValueError(f"The voxels are {voxels.shape[:3]} (K, J, I), the geometry {self.geometry.shape_KJI}.")
        if not self.identity:
            object.__setattr__(self, "identity", _content_hash(voxels, self.geometry))

    @classmethod
    def from_image2d(cls, pixels: NDArray[np.generic], spacing_xy: Sequence[float] | None = None) -> Volume:
        """Returns a 2D image as a volume with one K-slice.

        Args:
            pixels: (H, W) grey or (H, W, 3) colour.
            spacing_xy: Pixel spacing along x (columns) and y (rows), in mm; None where it isn't known.

        Raises:
            ValueError: the array is of another shape.
        """
        if pixels.ndim not in (2, 3):
            raise ValueError(f"A 2D image is (H, W), or (H, W, 3) in colour, not {pixels.shape}.")
        height, width = pixels.shape[:2]
        geometry = ImageGeometry.from_spacing((*(spacing_xy or (1.0, 1.0)), 1.0), (width, height, 1))
        return cls(pixels[None], geometry, spacing_known=spacing_xy is not None)

    @property
    def is_colour(self) -> bool:
        """Whether voxels have red, green and blue."""
        return self.voxels.ndim == 4

    def slice_spacing_xy(self, axis: int) -> tuple[float, float]:
        """Pixel spacing of the slices along `axis`, in mm."""
        x_axis, y_axis = slice_axes(axis)
        spacing = self.geometry.spacing_mm
        return spacing[x_axis], spacing[y_axis]


def count_non_finite(voxels: NDArray[np.generic]) -> int:
    """Returns how many values are NaN or infinite; slices show them as the lower end of their window."""
    if not np.issubdtype(voxels.dtype, np.floating):
        return 0
    return sum(int(np.count_nonzero(~np.isfinite(plane))) for plane in voxels)


def slice_of(array_KJI: NDArray[np.generic], axis: int, index: int) -> NDArray[np.generic]:
    """Returns the slice [y, x(, channel)] of an array [k, j, i(, channel)] as a view; x and y as in `slice_axes`."""
    return np.moveaxis(array_KJI, 2 - axis, 0)[index]


def _content_hash(voxels: NDArray[np.generic], geometry: ImageGeometry) -> str:
    """Changes with voxels and grid: what a model sees of a slice depends on its pixels' spacing."""
    digest = hashlib.blake2b(f"{voxels.shape}{voxels.dtype.str}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(geometry.ijk_to_ras).data)
    for slab in voxels:
        digest.update(np.ascontiguousarray(slab).data)
    return digest.hexdigest()
