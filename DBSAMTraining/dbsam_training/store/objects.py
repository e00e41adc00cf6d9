"""Cuts cases into patches, one object on one slice, with the room its loosest prompt needs (protocol "objects")."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.bounds import mask_box_xyxy
from dbsam.geometry.grid import slice_axes
from dbsam.preprocess.intensity import IntensityWindow, resolve_intensity
from dbsam.preprocess.sampling import Region, resample_slice, slice_region
from dbsam_training.data.case import Case, Source, Structure
from dbsam_training.store.format import PATCH_SIZE, Sample

LONGEST_SHIFT = 20.0 / 256.0
"""The paper moves a box's sides outwards by up to 20 pixels on a 256 grid: this share of the slice's longer side."""
ISOTROPIC_RATIO = 1.6
"""Volumes whose spacings differ by less are cut along all three axes, as their users will."""


@dataclass(frozen=True)
class PatchOptions:
    """What to cut.

    Attributes:
        most: Most patches of one data set and split, spread evenly over its structures.
        intensity: Rule that maps voxels to 0..255.
        room: Side of a patch over the loosest prompt's longer side.
        beyond: Slices beyond each end of a 3D object that become examples of an empty mask.
        neighbours: Whether a grey slice keeps the slices before and after it as channels.
        slice_views: Whether each sample keeps its whole slice as well.
        seed: Seed of the choice.
    """

    most: int = 900
    intensity: str = "auto"
    room: float = 1.7
    beyond: int = 2
    neighbours: bool = False
    slice_views: bool = False
    seed: int = 0


@dataclass(frozen=True)
class _Candidate:
    case: str
    structure: str
    group: str
    axis: int
    index: int


def cut_objects(
    source: Source, names: Sequence[str], read: Callable[[str], Case | None], options: PatchOptions
) -> Iterator[Sample]:
    """Yields the patches of some cases of a data set.

    Args:
        source: The data set.
        names: Its cases.
        read: Reads a case; None for one that is left out.
        options: What to cut.
    """
    candidates: list[_Candidate] = []
    for name in names:
        case = read(name)
        if case is not None:
            for structure in source.structures(case):
                candidates += _candidates(case, structure, options)
    by_case: dict[str, dict[str, list[_Candidate]]] = {}
    for candidate in _choose(candidates, options):
        by_case.setdefault(candidate.case, {}).setdefault(candidate.structure, []).append(candidate)
    for name, by_structure in by_case.items():
        case = read(name)
        assert case is not None, f"{name} could be read a moment ago"
        window = resolve_intensity(options.intensity, case.voxels_KJI)
        for structure in source.structures(case):
            for candidate in by_structure.get(structure.name, []):
                yield cut_slice_object(case, structure, candidate.axis, candidate.index, window, options)


def _axes(case: Case) -> tuple[int, ...]:
    spacing = case.geometry.spacing_mm
    if case.dimension == 2 or max(spacing) > ISOTROPIC_RATIO * min(spacing):
        return (case.geometry.default_axis(),)
    return (0, 1, 2)


def _span(mask_KJI: NDArray[np.bool_], axis: int) -> NDArray[np.int64]:
    other = tuple(a for a in range(3) if a != 2 - axis)
    return np.flatnonzero(mask_KJI.any(axis=other))


def _candidates(case: Case, structure: Structure, options: PatchOptions) -> list[_Candidate]:
    found = []
    for axis in _axes(case):
        present = _span(structure.mask_KJI, axis)
        indices = [int(i) for i in present]
        if case.dimension == 3:
            size = case.geometry.dimensions_ijk[axis]
            ends = [
                *range(present[0] - options.beyond, present[0]),
                *range(present[-1] + 1, present[-1] + 1 + options.beyond),
            ]
            indices += [int(i) for i in ends if 0 <= i < size]
        found += [_Candidate(case.name, structure.name, structure.class_name, axis, i) for i in indices]
    return found


def _choose(candidates: list[_Candidate], options: PatchOptions) -> list[_Candidate]:
    if len(candidates) <= options.most:
        return candidates
    rng = np.random.default_rng(options.seed)
    groups: dict[str, list[_Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.group, []).append(candidate)
    queues = [[group[i] for i in rng.permutation(len(group))] for group in groups.values()]
    chosen: list[_Candidate] = []
    while len(chosen) < options.most:
        for queue in queues:
            if queue:
                chosen.append(queue.pop())
    return chosen[: options.most]


def slice_image(
    case: Case, axis: int, index: int, window: IntensityWindow, neighbours: bool = False
) -> NDArray[np.uint8]:
    """The (H, W, C) image of a slice: colour as it is; grey alone, or as the slice before, itself and the next."""
    size = case.geometry.dimensions_ijk[axis]
    if case.voxels_KJI.ndim == 4 or not neighbours:
        return np.atleast_3d(np.asarray(window.apply(np.take(case.voxels_KJI, index, axis=2 - axis)), np.uint8))
    near = [int(np.clip(index + d, 0, size - 1)) for d in (-1, 0, 1)]
    return np.stack([window.apply(np.take(case.voxels_KJI, i, axis=2 - axis)) for i in near], axis=-1)


def cut_slice_object(
    case: Case, structure: Structure, axis: int, index: int, window: IntensityWindow, options: PatchOptions
) -> Sample:
    """Cuts the patch of one object on one slice, which the object may not reach."""
    image = slice_image(case, axis, index, window, options.neighbours)
    mask = np.take(structure.mask_KJI, index, axis=2 - axis)
    x_axis, y_axis = slice_axes(axis)
    spacing = case.geometry.spacing_mm
    ratio = spacing[y_axis] / spacing[x_axis]
    prompt = _loose_prompt(structure.mask_KJI, axis, index)
    shift = LONGEST_SHIFT * max(mask.shape[0] * ratio, mask.shape[1])
    x0, y0, x1, y1 = prompt
    side = max(x1 - x0, (y1 - y0) * ratio) + 2 * shift
    half = side * options.room / 2
    centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2
    region = Region(centre_x - half, centre_y - half / ratio, centre_x + half, centre_y + half / ratio)
    patch, _ = resample_slice(image, region, PATCH_SIZE)
    cover, _ = resample_slice(mask.astype(np.float32), region, PATCH_SIZE)
    boxes = np.array([prompt, [-0.5, -0.5, mask.shape[1] - 0.5, mask.shape[0] - 0.5]])
    prompt_xyxy, slice_xyxy = region.boxes_to_input(boxes, PATCH_SIZE).astype(np.float32)
    return Sample(
        image=np.clip(np.rint(patch), 0, 255).astype(np.uint8),
        mask=cover >= 0.5,
        prompt_xyxy=prompt_xyxy,
        slice_xyxy=slice_xyxy,
        pixel=shift / 20.0 * PATCH_SIZE / region.width,
        case=case.name,
        structure=structure.class_name,
        view=_view(image, (spacing[x_axis], spacing[y_axis])) if options.slice_views else None,
    )


def _view(image: NDArray[np.uint8], spacing_xy: tuple[float, float]) -> tuple[NDArray[np.uint8], tuple[int, int]]:
    """The whole slice as LiteMedSAM sees it, and the rows and columns that it fills."""
    shown, valid = resample_slice(image, slice_region(image.shape[:2], spacing_xy, square=True), PATCH_SIZE)
    filled = int(valid[:, 0].sum()), int(valid[0].sum())
    return np.broadcast_to(np.rint(shown).clip(0, 255).astype(np.uint8), (PATCH_SIZE, PATCH_SIZE, 3)), filled


def _loose_prompt(mask_KJI: NDArray[np.bool_], axis: int, index: int) -> NDArray[np.float64]:
    """The whole object's rectangle, as a 3D box shows it on this slice."""
    mask: NDArray[np.bool_] = np.any(mask_KJI, axis=2 - axis)
    return mask_box_xyxy(mask)
