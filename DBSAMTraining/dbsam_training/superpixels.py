"""Extra objects without annotation: coherent regions of training images, found by Felzenszwalb and Huttenlocher's method.

They teach what most structures share, a region that differs from what surrounds it, on far more shapes and textures than the
annotated ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from dbsam.intensity import resolve_intensity
from dbsam.preprocessing import Region, resample_slice
from numpy.typing import NDArray
from skimage.measure import regionprops
from skimage.segmentation import felzenszwalb

from dbsam_training.nnunet import Case, CaseError, RawDataset, Structure
from dbsam_training.patches import PatchOptions, cut_slice_object, slice_image
from dbsam_training.store import Patch

DATASET_NAME = "superpixels"
WORKING_SIZE = 192
SMALLEST_SHARE, LARGEST_SHARE = 0.002, 0.2
LEAST_SOLIDITY = 0.75
LEAST_PIXELS = 30
LEAST_CONTRAST = 8.0


def cut_superpixels(dataset: RawDataset, per_dataset: int, per_slice: int, seed: int) -> Iterator[Patch]:
    """Yields up to `per_slice` regions of up to `per_dataset` random slices of the training cases."""
    rng = np.random.default_rng(seed)
    names = dataset.list_cases("train")
    if not names:
        return
    cases: dict[str, Case] = {}
    for name in rng.choice(names, per_dataset):
        if name not in cases:
            try:
                cases = {name: dataset.read_case(name)}
            except CaseError:
                continue  # the annotated patches of this data set report it
        case = cases[name]
        axis = case.geometry.default_axis()
        index = int(rng.integers(case.geometry.dimensions_ijk[axis]))
        window = resolve_intensity("auto", case.voxels_KJI)
        image = slice_image(case, axis, index, window)
        regions = _regions(image, float(np.exp(rng.uniform(np.log(40), np.log(600)))))
        for mask in [regions[i] for i in rng.permutation(len(regions))[:per_slice]]:
            structure = Structure("superpixel", "superpixel", _in_volume(mask, case, axis, index))
            patch = cut_slice_object(dataset, case, structure, axis, index, window, "train", PatchOptions())
            yield replace(patch, dataset=DATASET_NAME, case=f"{dataset.info.name}/{case.name}")


def _in_volume(mask: NDArray[np.bool_], case: Case, axis: int, index: int) -> NDArray[np.bool_]:
    volume = np.zeros(case.geometry.shape_KJI, bool)
    np.moveaxis(volume, 2 - axis, 0)[index] = mask
    return volume


def _regions(image: NDArray[np.uint8], scale: float) -> list[NDArray[np.bool_]]:
    """Compact regions whose mean differs from a ring round them, as masks on the slice's own grid."""
    height, width = image.shape[:2]
    whole = Region(-0.5, -0.5, width - 0.5, height - 0.5)
    small, _ = resample_slice(image, whole, WORKING_SIZE)
    grey = image.shape[2] == 3 and bool((image[..., 0] == image[..., 2]).all())
    labels = felzenszwalb(small[..., 1] if grey else small, scale=scale, sigma=1.0, min_size=60, channel_axis=None if grey else -1)
    found = []
    for region in regionprops(labels + 1):
        share = region.area / WORKING_SIZE**2
        if not SMALLEST_SHARE < share < LARGEST_SHARE or region.solidity < LEAST_SOLIDITY:
            continue
        rows, columns = (slice(max(0, low - 4), high + 4) for low, high in zip(region.bbox[:2], region.bbox[2:], strict=True))
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
