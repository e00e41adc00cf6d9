"""Dice similarity coefficient (DSC) and normalised surface distance (NSD), 2D and 3D.

NSD is the surface Dice at a tolerance of Nikolov et al. (2018), "Deep learning to achieve clinically applicable
segmentation of head and neck anatomy for radiotherapy", arXiv 1809.04430. The areas of surface elements come from the
tables of the authors' package `surface-distance`; the rest is computed here, because the package sorts its surface
elements in Python, which takes most of its time, and relies on names that NumPy 2 has removed. Results agree with the
package to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from surface_distance import lookup_tables  # type: ignore[import-untyped]

from dbsam.geometry.bounds import index_bounds

BoolArray = NDArray[np.bool_]

TOLERANCE_MM = 1.0
GRID_WITHOUT_SPACING = 256


@dataclass(frozen=True)
class Scores:
    """DSC and NSD of one object, both in 0..1."""

    dsc: float
    nsd: float


def score_masks(
    truth_KJI: BoolArray, prediction_KJI: BoolArray, spacing_ijk_mm: tuple[float, float, float] | None
) -> Scores:
    """Scores one object as the paper does.

    Args:
        truth_KJI: (K,J,I) mask; K = 1 is a 2D image and scored as one.
        prediction_KJI: mask of the same shape.
        spacing_ijk_mm: voxel spacing along I, J, K. None if a pixel of this 2D image has no physical size: NSD is then
            computed with a tolerance of one pixel on masks scaled to a longer side of 256.

    Raises:
        ValueError: the shapes differ, or a volume comes without spacing.
    """
    if truth_KJI.shape != prediction_KJI.shape or truth_KJI.ndim != 3:
        raise ValueError(
            f"Two masks of the same K,J,I shape are needed, not {truth_KJI.shape} and {prediction_KJI.shape}."
        )
    flat = truth_KJI.shape[0] == 1
    if spacing_ijk_mm is not None:
        spacing_kji = spacing_ijk_mm[::-1]
        if flat:
            nsd = surface_dice(truth_KJI[0], prediction_KJI[0], spacing_kji[1:], TOLERANCE_MM)
        else:
            nsd = surface_dice(truth_KJI, prediction_KJI, spacing_kji, TOLERANCE_MM)
    elif flat:
        truth, prediction = (scale_mask(mask[0], GRID_WITHOUT_SPACING) for mask in (truth_KJI, prediction_KJI))
        nsd = surface_dice(truth, prediction, (1.0, 1.0), 1.0)
    else:
        raise ValueError("NSD of a volume needs its spacing.")
    return Scores(dice(truth_KJI, prediction_KJI), nsd)


def dice(truth: BoolArray, prediction: BoolArray) -> float:
    """Dice similarity coefficient in 0..1 of two masks of any equal shape; 1 if both are empty."""
    total = int(np.count_nonzero(truth)) + int(np.count_nonzero(prediction))
    return 2.0 * int(np.count_nonzero(truth & prediction)) / total if total else 1.0


def surface_dice(truth: BoolArray, prediction: BoolArray, spacing_mm: tuple[float, ...], tolerance_mm: float) -> float:
    """Share of both surfaces that lies within a tolerance of the other surface, in 0..1.

    Args:
        truth: (y,x) or (z,y,x) mask.
        prediction: mask of the same shape.
        spacing_mm: in the order of the array's axes.
        tolerance_mm: largest distance between surfaces that counts as agreement.

    Returns:
        NSD; 1 if both masks are empty, 0 if one of them is.

    Raises:
        ValueError: shapes and spacing don't fit, or a mask is neither 2D nor 3D.
    """
    if truth.shape != prediction.shape or len(spacing_mm) != truth.ndim or truth.ndim not in (2, 3):
        raise ValueError(
            "Two masks of the same 2D or 3D shape and one spacing per axis are needed, "
            f"not {truth.shape}, {prediction.shape} and {spacing_mm}."
        )
    if not truth.any() or not prediction.any():
        return float(truth.any() == prediction.any())
    crop = _bounding_box(truth | prediction)
    if truth.ndim == 2:
        kernel = lookup_tables.ENCODE_NEIGHBOURHOOD_2D_KERNEL
    else:
        kernel = lookup_tables.ENCODE_NEIGHBOURHOOD_3D_KERNEL
    areas = _area_table(tuple(float(s) for s in spacing_mm))
    codes = [_neighbour_codes(mask[crop], kernel) for mask in (truth, prediction)]
    borders = [(code != 0) & (code != kernel.sum()) for code in codes]
    agreeing = total = 0.0
    for own, other in ((0, 1), (1, 0)):
        distance_mm = ndimage.distance_transform_edt(~borders[other], sampling=spacing_mm)[borders[own]]
        area = areas[codes[own][borders[own]]]
        agreeing += float(area[distance_mm <= tolerance_mm].sum())
        total += float(area.sum())
    return agreeing / total


def scale_mask(mask: BoolArray, longer_side: int) -> BoolArray:
    """Scales a 2D mask to a longer side of so many pixels, taking the nearest pixel at each new pixel's centre."""
    factor = longer_side / max(mask.shape)
    sizes = [max(1, round(size * factor)) for size in mask.shape]
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(np.intp) for old, new in zip(mask.shape, sizes, strict=True)
    )
    return mask[np.ix_(rows, columns)]


def _bounding_box(mask: BoolArray) -> tuple[slice, ...]:
    return tuple(slice(first, last + 1) for first, last in zip(*index_bounds(mask), strict=True))


def _neighbour_codes(mask: BoolArray, kernel: NDArray[np.int64]) -> NDArray[np.intp]:
    """Code of the 2x2(x2) voxels round each voxel corner, the corners of the array's own border included."""
    padded = np.pad(mask, 1).astype(np.uint8)
    codes = np.zeros([size + 1 for size in mask.shape], dtype=np.intp)
    for offset in np.ndindex(*kernel.shape):
        window = tuple(slice(start, start + size) for start, size in zip(offset, codes.shape, strict=True))
        codes += int(kernel[offset]) * padded[window]
    return codes


@lru_cache(maxsize=256)
def _area_table(spacing_mm: tuple[float, ...]) -> NDArray[np.float64]:
    """Length (2D, mm) or area (3D, mm²) of the surface inside a 2x2(x2) neighbourhood, by its code."""
    if len(spacing_mm) == 2:
        return np.asarray(lookup_tables.create_table_neighbour_code_to_contour_length(spacing_mm))
    return np.asarray(lookup_tables.create_table_neighbour_code_to_surface_area(spacing_mm))
