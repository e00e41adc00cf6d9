"""Boxes and clicks made from true masks, the same ones every time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.bounds import index_bounds, mask_box_xyxy
from dbsam.geometry.grid import ImageGeometry, OrientedBox
from dbsam.preprocess.prompts import Window
from dbsam_training.batches.click_rule import place_of_click

BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
Scalar = TypeVar("Scalar", bound=np.generic)

PAPER_LOOSENESS_PX = 20.0
PAPER_GRID = 256
ROI_LOOSENESS_VOXELS = 3
JITTER_VOXELS, JITTER_SLICES = 2.0, 1.0


class Click(NamedTuple):
    """A click on a voxel (i, j, k), which belongs to the object or doesn't."""

    ijk: tuple[int, int, int]
    include: bool


def paper_boxes(mask_KJI: BoolArray, axis: int, seed_name: str) -> dict[int, FloatArray]:
    """The paper's prompt: on every slice with object its tight box, each side moved outwards by 0 to 20 pixels.

    The distance is uniform, counted on the paper's 256x256 grid and so scaled to the slice's own size; boxes are cut
    off at the slice's border.

    Args:
        mask_KJI: true mask of one object.
        axis: slice axis, 0, 1, 2 for I, J, K.
        seed_name: identifies the object; the same name, slice and mask give the same box.

    Returns:
        slice index -> (4,) x_min, y_min, x_max, y_max in continuous pixel coordinates.
    """
    slices = slice_stack(mask_KJI, axis)
    height, width = slices.shape[1:]
    scale_xyxy = np.array([width, height, width, height]) / PAPER_GRID
    boxes = {}
    for index in np.flatnonzero(slices.any(axis=(1, 2))).tolist():
        loose = _generator(f"{seed_name}/{index}").uniform(0, PAPER_LOOSENESS_PX, 4)
        box = mask_box_xyxy(slices[index]) + loose * scale_xyxy * [-1, -1, 1, 1]
        boxes[index] = np.clip(box, -0.5, [width - 0.5, height - 0.5, width - 0.5, height - 0.5])
    return boxes


def roi_box(
    mask_KJI: BoolArray,
    geometry: ImageGeometry,
    axis: int,
    looseness: int = ROI_LOOSENESS_VOXELS,
    jitter_name: str = "",
) -> OrientedBox:
    """One 3D box round an object, cut off at the volume.

    Args:
        mask_KJI: true mask of one object, not empty.
        geometry: the mask's grid.
        axis: slice axis, 0, 1, 2 for I, J, K.
        looseness: voxels between object and box on each side in plane; along the slice axis a third of it, at least
            one slice.
        jitter_name: moves each side by up to `JITTER_VOXELS` in plane and `JITTER_SLICES` along the slice axis, never
            into the object; the same name gives the same box. Empty for none.
    """
    low, high = (bound[::-1] for bound in index_bounds(mask_KJI))
    loose = np.full((2, 3), looseness, float)
    loose[:, axis] = max(1, round(looseness / 3))
    if jitter_name:
        most = np.full(3, JITTER_VOXELS)
        most[axis] = JITTER_SLICES
        loose = np.maximum(loose + _generator(jitter_name).uniform(-1, 1, (2, 3)) * most, 0)
    last = np.array(geometry.dimensions_ijk) - 1
    return OrientedBox.from_ijk(
        np.maximum(low - loose[0], 0).tolist(), np.minimum(high + loose[1], last).tolist(), geometry
    )


def next_click(truth_KJI: BoolArray, mask_KJI: BoolArray, spacing_ijk_mm: Sequence[float]) -> Click | None:
    """The click that a user would give next, the same for every model, see `place_of_click`; None if nothing is wrong.

    Args:
        truth_KJI: the true mask.
        mask_KJI: what was found.
        spacing_ijk_mm: voxel spacing.
    """
    place = place_of_click(truth_KJI, mask_KJI, tuple(spacing_ijk_mm)[::-1])
    if place is None:
        return None
    k, j, i = place
    return Click((i, j, k), bool(truth_KJI[place]))


def _generator(name: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big"))


def pixels_in_box(box_xyxy: FloatArray, slice_hw: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of the pixels whose centres lie in a box of a slice."""
    height, width = slice_hw[:2]
    return Window.of_centres_in(box_xyxy).within(Window(0, 0, width - 1, height - 1))


def slice_stack(array_KJI: NDArray[Scalar], axis: int) -> NDArray[Scalar]:
    """View of a volume (K,J,I[,3]) as slice images along an axis: (slice, y, x[,3])."""
    return np.moveaxis(array_KJI, 2 - axis, 0)
