"""Which frames of a DICOM series form a stack, and whether the stack is regular.

Highdicom 0.28 refuses most of what is refused here, but takes a gantry tilted by up to 2.5 degrees (13 mm over 300 mm)
for a straight stack, lets distances drift, and names no file; so this check is kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field

import numpy as np

from dbsam.geometry.plane_cut import FloatArray

_DISTANCE_TOLERANCE = 0.05  # of the slice distance; scanners round positions, a missing slice gives 1.0
_TOLERANCE = 1e-3  # of direction cosines, of pixel spacings, and of a distance that is none
_DRIFT_TOLERANCE = 0.25  # of a voxel, by which a slice may lie beside its place in the grid
_IN_SLICER = "load it in 3D Slicer, which {}, and save it as .nrrd."
_ONE_OF_THEM = "Move one stack into a folder of its own, or name a single file."


@dataclass(frozen=True, eq=False)
class SlicePlace:
    """Where a slice lies.

    Attributes:
        name: Its file, and its number where a file holds several, for messages.
        origin_mm: (3,) centre of the first pixel, in LPS.
        direction: (3, 3); columns are the directions of I (along a row), J (down a column) and the slice's normal.
        spacing_xy_mm: Pixel spacing along I and J.
        size_xy: Number of pixels along I and J.
        facts: What else tells stacks apart: echo time, time and such, by name.
    """

    name: str
    origin_mm: FloatArray
    direction: FloatArray
    spacing_xy_mm: tuple[float, float]
    size_xy: tuple[int, int] = (0, 0)
    facts: dict[str, Hashable] = field(default_factory=dict)


def sorted_along_normal(slices: Sequence[SlicePlace]) -> list[SlicePlace]:
    """The slices in order of position along the first one's normal; those at one position stay in their order."""
    normal = slices[0].direction[:, 2]
    return sorted(slices, key=lambda place: float(place.origin_mm @ normal))


def stack_frame(slices: Sequence[SlicePlace], lone_spacing_mm: float) -> FloatArray:
    """The (4, 4) affine from IJK to LPS of a checked, sorted stack.

    Args:
        slices: The slices.
        lone_spacing_mm: Extent along the normal of a stack of one slice.
    """
    first, last = slices[0], slices[-1]
    step = lone_spacing_mm
    if len(slices) > 1:
        step = float((last.origin_mm - first.origin_mm) @ first.direction[:, 2]) / (len(slices) - 1)
    ijk_to_lps = np.eye(4)
    ijk_to_lps[:3, :3] = first.direction * (*first.spacing_xy_mm, step)
    ijk_to_lps[:3, 3] = first.origin_mm
    return ijk_to_lps


def check_stack(slices: Sequence[SlicePlace]) -> None:
    """Refuse what is no stack of parallel slices at equal distances, each straight above the other.

    Args:
        slices: At least one, in order of position.

    Raises:
        ValueError: They are not; the message says why, which slices, and what to do.
    """
    if len(slices) < 2:
        return
    first = slices[0]
    for other in slices[1:]:
        if (difference := _difference(first, other)) is not None:
            raise ValueError(f"{difference}:\n  {first.name}\n  {other.name}\n{_ONE_OF_THEM}")
    origins = np.array([place.origin_mm for place in slices])
    _check_distances([place.name for place in slices], origins, first)


def split_into_stacks(slices: Sequence[SlicePlace]) -> list[tuple[str, list[SlicePlace]]]:
    """The stacks among slices, each with what tells it from the others.

    Slices of other orientation, pixel spacing or size are another stack; and so are those of another echo, time or the
    like, where several lie at one position. Where nothing tells these apart and every position is as often there, the
    first ones at each position are a stack, the second ones and so on.

    Returns:
        One stack, without description, where there is nothing to choose.
    """
    classes: list[list[SlicePlace]] = []
    for place in slices:
        same = next((group for group in classes if _difference(group[0], place) is None), None)
        if same is None:
            classes.append([place])
        else:
            same.append(place)
    stacks = []
    for group in classes:
        described = _describe_plane(group[0]) if len(classes) > 1 else ""
        for words, part in _split_by_facts(group):
            stacks.append((", ".join(filter(None, (described, words))), part))
    return stacks


def _difference(one: SlicePlace, other: SlicePlace) -> str | None:
    """Why two slices belong to no common stack, wherever they lie."""
    if np.abs(other.direction - one.direction).max() > _TOLERANCE:
        return "slices have different orientations"
    if other.size_xy != one.size_xy:
        sizes = " and ".join("{} x {}".format(*place.size_xy) for place in (one, other))
        return f"slices have different sizes, {sizes} pixels"
    if not np.allclose(other.spacing_xy_mm, one.spacing_xy_mm, rtol=_TOLERANCE):
        spacings = " and ".join("{:g} x {:g}".format(*place.spacing_xy_mm) for place in (one, other))
        return f"slices have different pixel spacings, {spacings} mm"
    return None


def _describe_plane(place: SlicePlace) -> str:
    plane = ("sagittal", "coronal", "axial")[int(np.argmax(np.abs(place.direction[:, 2])))]
    width, height = place.size_xy
    return f"{plane}, {width} x {height} pixels of {place.spacing_xy_mm[0]:g} x {place.spacing_xy_mm[1]:g} mm"


def _split_by_facts(slices: list[SlicePlace]) -> list[tuple[str, list[SlicePlace]]]:
    counts = _counts(slices)
    most = max(counts.values())
    if most == 1:
        return [("", slices)]
    for name in {name: None for place in slices for name in place.facts}:
        parts = _grouped(slices, name)
        fewer = max(max(_counts(part).values()) for part in parts.values()) < most
        if 1 < len(parts) <= most and fewer:
            return [
                (", ".join(filter(None, (f"{name} {value}", words))), stack)
                for value, part in parts.items()
                for words, stack in _split_by_facts(part)
            ]
    if len(set(counts.values())) > 1:  # a slice too many, not a stack
        return [("", slices)]
    seen: Counter[Hashable] = Counter()
    turns: list[list[SlicePlace]] = [[] for _ in range(most)]
    keys = _position_keys(slices)
    for place, key in zip(slices, keys, strict=True):
        turns[seen[key]].append(place)
        seen[key] += 1
    return [(f"number {turn} at each position", stack) for turn, stack in enumerate(turns, start=1)]


def _grouped(slices: Sequence[SlicePlace], fact: str) -> dict[Hashable, list[SlicePlace]]:
    groups: dict[Hashable, list[SlicePlace]] = {}
    for place in slices:
        groups.setdefault(place.facts.get(fact), []).append(place)
    return groups


def _counts(slices: Sequence[SlicePlace]) -> Counter[int]:
    return Counter(_position_keys(slices))


def _position_keys(slices: Sequence[SlicePlace]) -> list[int]:
    """The same number for slices at the same position along the normal."""
    depths = np.array([place.origin_mm for place in slices]) @ slices[0].direction[:, 2]
    order = np.argsort(depths, kind="stable")
    steps = np.diff(depths[order])
    # Positions differ where the step is no rounding beside the usual ones.
    apart = steps > max(_TOLERANCE * float(steps.max(initial=0.0)), 1e-6)
    keys = np.empty(len(slices), int)
    keys[order] = np.concatenate([[0], np.cumsum(apart)])
    return [int(key) for key in keys]


def _check_distances(names: Sequence[str], origins: FloatArray, first: SlicePlace) -> None:
    shifts, normal = np.diff(origins, axis=0), first.direction[:, 2]
    steps = shifts @ normal
    usual = float(np.median(steps))
    across = np.linalg.norm(shifts - steps[:, None] * normal, axis=1)
    closest, worst = int(np.argmin(np.abs(steps))), int(np.argmax(np.abs(steps - usual)))
    if abs(steps[closest]) <= max(_TOLERANCE * np.abs(steps).max(), 1e-6):
        raise ValueError(
            f"several images lie at one position (a cine, a repeated acquisition or a slice that is there twice):\n"
            f"  {names[closest]}\n  {names[closest + 1]}\n{_ONE_OF_THEM}"
        )
    beside = origins - origins[0]
    drift = np.linalg.norm(beside - (beside @ normal)[:, None] * normal, axis=1).max()
    if across.max() > _DISTANCE_TOLERANCE * abs(usual) or drift > _DRIFT_TOLERANCE * min(first.spacing_xy_mm):
        raise ValueError(
            f"each slice is shifted by {across.max():.3f} mm against the one before (a tilted gantry), {drift:.3f} mm "
            f"in all; {_IN_SLICER.format('straightens it')}"
        )
    expected = np.arange(len(names)) * (steps.sum() / len(steps))
    strays = np.abs(beside @ normal - expected)
    if abs(steps[worst] - usual) > _DISTANCE_TOLERANCE * abs(usual) or strays.max() > _DRIFT_TOLERANCE * abs(usual):
        raise ValueError(
            f"slices are {usual:.3f} mm apart, but {steps[worst]:.3f} mm between\n  {names[worst]}\n"
            f"  {names[worst + 1]}\nSlices are missing or several stacks share the series; "
            + _IN_SLICER.format("resamples it")
        )
