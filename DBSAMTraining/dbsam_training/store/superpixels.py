"""Extra objects without annotation: coherent regions of training images, by Felzenszwalb and Huttenlocher's method.

They teach what most structures share, a region that differs from what surrounds it, on far more shapes and textures
than the annotated ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from dbsam.preprocess.intensity import resolve_intensity
from dbsam.preprocess.sampling import Region, resample_slice
from dbsam_training.data.case import Case, Structure
from dbsam_training.store.format import Sample
from dbsam_training.store.objects import PatchOptions, cut_slice_object, slice_image

DATASET_NAME = "superpixels"
WORKING_SIZE = 192
SMALLEST_SHARE, LARGEST_SHARE = 0.002, 0.2
LEAST_SOLIDITY = 0.75
LEAST_PIXELS = 30
LEAST_CONTRAST = 8.0


def cut_superpixels(
    names: Sequence[str], read: Callable[[str], Case | None], slices: int, per_slice: int, options: PatchOptions
) -> Iterator[Sample]:
    """Yields regions of random slices of random cases.

    Args:
        names: The cases.
        read: Reads a case; None for one that is left out.
        slices: How many slices are drawn.
        per_slice: Most regions of a slice.
        options: Intensity rule, room of a patch, and seed.
    """
    rng = np.random.default_rng(options.seed)
    kept: tuple[str, Case | None] | None = None
    for name in sorted(rng.choice(names, slices).tolist() if names else []):
        if kept is None or kept[0] != name:
            kept = name, read(name)
        case = kept[1]
        if case is None:
            continue
        axis = case.geometry.default_axis()
        index = int(rng.integers(case.geometry.dimensions_ijk[axis]))
        window = resolve_intensity(options.intensity, case.voxels_KJI)
        image = slice_image(case, axis, index, window)
        regions = _regions(image, float(np.exp(rng.uniform(np.log(40), np.log(600)))))
        for mask in [regions[i] for i in rng.permutation(len(regions))[:per_slice]]:
            structure = Structure("superpixel", "superpixel", _in_volume(mask, case, axis, index))
            yield cut_slice_object(case, structure, axis, index, window, options)


def _in_volume(mask: NDArray[np.bool_], case: Case, axis: int, index: int) -> NDArray[np.bool_]:
    volume = np.zeros(case.geometry.shape_KJI, bool)
    np.moveaxis(volume, 2 - axis, 0)[index] = mask
    return volume


def _regions(image: NDArray[np.uint8], scale: float) -> list[NDArray[np.bool_]]:
    """Compact regions whose mean differs from a ring round them, as masks on the slice's own grid."""
    from skimage.measure import regionprops  # scikit-image is needed for this alone
    from skimage.segmentation import felzenszwalb

    height, width = image.shape[:2]
    whole = Region(-0.5, -0.5, width - 0.5, height - 0.5)
    small, _ = resample_slice(image, whole, WORKING_SIZE)
    grey = bool((image[..., 0] == image[..., -1]).all())
    labels = felzenszwalb(
        small[..., 0] if grey else small, scale=scale, sigma=1.0, min_size=60, channel_axis=None if grey else -1
    )
    found = []
    for region in regionprops(labels + 1):
        share = region.area / WORKING_SIZE**2
        if not SMALLEST_SHARE < share < LARGEST_SHARE or region.solidity < LEAST_SOLIDITY:
            continue
        rows, columns = (
            slice(max(0, low - 4), high + 4) for low, high in zip(region.bbox[:2], region.bbox[2:], strict=True)
        )
        inside = labels[rows, columns] == region.label - 1
        part = small[rows, columns].mean(-1)
        if inside.all() or abs(part[inside].mean() - part[~inside].mean()) < LEAST_CONTRAST:
            continue
        cover = (labels == region.label - 1).astype(np.float32)
        ys = np.minimum((np.arange(height) + 0.5) * WORKING_SIZE / height, WORKING_SIZE - 1).astype(int)
        xs = np.minimum((np.arange(width) + 0.5) * WORKING_SIZE / width, WORKING_SIZE - 1).astype(int)
        mask = cover[np.ix_(ys, xs)] > 0.5
        if mask.sum() >= LEAST_PIXELS:
            found.append(mask)
    return found
