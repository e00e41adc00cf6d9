"""Cuts cases into whole slices of 256x256, the paper's protocol (protocol "slices")."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.bounds import mask_box_xyxy
from dbsam.preprocess.intensity import resolve_intensity
from dbsam.preprocess.sampling import resample_slice, slice_region, to_source_grid
from dbsam_training.data.case import Case, structure_ids
from dbsam_training.data.dataset_info import DatasetInfo
from dbsam_training.store.format import PATCH_SIZE, Sample

_EDGES = np.array([-0.5, -0.5, PATCH_SIZE - 0.5, PATCH_SIZE - 0.5], np.float32)


def cut_slices(info: DatasetInfo, case: Case, intensity: str) -> Iterator[Sample]:
    """Yields one sample for each object on each axial slice; those of one slice share its image.

    The slice is stretched to the square, as in the paper. An object that vanishes on the 256 grid is left out.

    Args:
        info: Structures of the data set.
        case: The case; a 2D image is one slice.
        intensity: Rule that maps voxels to 0..255, from the statistics of the whole image.

    Raises:
        ValueError: The intensity rule does not fit the image.
    """
    axis = 2 if case.dimension == 2 else case.geometry.axis_index("axial")
    window = resolve_intensity(intensity, case.voxels_KJI)
    objects = structure_ids(info, case)
    images = np.moveaxis(case.voxels_KJI, 2 - axis, 0)
    labels = np.moveaxis(case.labels_KJI, 2 - axis, 0)
    rectangles = [_rectangle(labels, ids) for _, ids in objects]
    for image, ids_here in zip(images, labels, strict=True):
        if not ids_here.any():
            continue
        height, width = ids_here.shape
        region = slice_region((height, width), (1.0, 1.0), square=False)
        grey = np.atleast_3d(window.apply(image))
        here = [(n, np.isin(ids_here, ids)) for n, (_, ids) in enumerate(objects)]
        shown = [(n, inside) for n, inside in here if inside.any()]
        square = to_source_grid(grey, region, PATCH_SIZE)
        covers = resample_slice(np.dstack([inside for _, inside in shown]).astype(np.float32), region, PATCH_SIZE)[0]
        for (n, _), cover in zip(shown, np.moveaxis(covers, 2, 0), strict=True):
            mask = cover >= 0.5
            if mask.any():
                prompt = region.boxes_to_input(rectangles[n], PATCH_SIZE)[0].astype(np.float32)
                yield Sample(square, mask, prompt, _EDGES, 1.0, case.name, objects[n][0])


def _rectangle(labels: NDArray[np.integer], ids: tuple[int, ...]) -> NDArray[np.float64]:
    """Edges (4,) of an object's projection along the slice axis; labels are (slice, y, x)."""
    seen = np.zeros(labels.shape[1:], bool)
    for ids_here in labels:
        seen |= np.isin(ids_here, ids)
    return mask_box_xyxy(seen)
