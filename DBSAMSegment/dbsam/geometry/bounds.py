"""The tight box of a mask."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.plane_cut import FloatArray


def index_bounds(mask: NDArray[np.generic]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """First and last index of what is not zero, both included, along each of the array's own axes.

    Raises:
        ValueError: The mask is empty.
    """
    inside = mask.astype(bool, copy=False)
    first, last = [], []
    for axis in range(mask.ndim):
        seen = np.flatnonzero(inside.any(axis=tuple(other for other in range(inside.ndim) if other != axis)))
        if not len(seen):
            raise ValueError("An empty mask has no box.")
        first.append(seen[0])
        last.append(seen[-1])
    return np.array(first), np.array(last)


def mask_box_xyxy(mask: NDArray[np.generic]) -> FloatArray:
    """Edges (4,) x_min, y_min, x_max, y_max of the box round a slice's mask [y, x], in continuous pixel coordinates.

    Raises:
        ValueError: The mask is empty.
    """
    first, last = index_bounds(mask)
    return np.concatenate([first[::-1] - 0.5, last[::-1] + 0.5])
