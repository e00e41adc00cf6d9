"""Where a user would click on a mask: the one rule by which models are trained and evaluated."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def place_of_click(
    truth: NDArray[np.bool_],
    mask: NDArray[np.bool_],
    spacing: Sequence[float] | None = None,
    rng: np.random.Generator | None = None,
) -> tuple[int, ...] | None:
    """The place of the next click on a mask of a slice or volume: inside the largest connected part that is wrong.

    What is missing and what is too much are different parts, also where they touch. Parts are connected through edges
    (of a slice) or faces (of a volume) and counted in pixels or voxels; of two that are equal a missing one goes
    first, then the first in the array's order.

    Args:
        truth: What the mask should be.
        mask: The mask to correct.
        spacing: Distance of neighbours along each axis of the array, in mm; the same along all if None.
        rng: Draws a place among those at least half as deep inside the part as its middle, the deepest; None for that.

    Returns:
        Its index in the array, or None where nothing is wrong.
    """
    missing, missing_count = ndimage.label(truth & ~mask)
    extra, extra_count = ndimage.label(mask & ~truth)
    if missing_count + extra_count == 0:
        return None
    parts = np.where(extra > 0, extra + missing_count, missing)
    number = int(np.bincount(parts.ravel())[1:].argmax()) + 1
    crop = ndimage.find_objects(parts)[number - 1]
    whole = (slice(1, -1),) * parts.ndim
    depth = ndimage.distance_transform_edt(np.pad(parts[crop] == number, 1), spacing)[whole]
    places = np.argwhere(depth >= 0.5 * depth.max()) if rng is not None else np.argwhere(depth == depth.max())
    place = places[0 if rng is None else rng.integers(len(places))]
    return tuple(int(at) + side.start for at, side in zip(place, crop, strict=True))
