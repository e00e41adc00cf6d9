"""Whether the slices of a DICOM series are one regular stack. ITK would read others, with wrong positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dbsam.geometry.plane_cut import FloatArray

_DISTANCE_TOLERANCE = 0.05  # of the slice distance; scanners round positions, a missing slice gives 1.0
_TOLERANCE = 1e-3  # of direction cosines, of pixel spacings, and of a distance that is none
_IN_SLICER = "load it in 3D Slicer, which {}, and save it as .nrrd."
_ONE_OF_THEM = "Move one stack into a folder of its own, or name a single file."


@dataclass(frozen=True)
class SlicePlace:
    """Where a slice lies.

    Attributes:
        file: Its file, for messages.
        origin_mm: (3,) centre of the first pixel.
        direction: (3, 3); columns are the unit vectors along I, J and the slice's normal.
        spacing_xy_mm: Pixel spacing along I and J.
    """

    file: str
    origin_mm: FloatArray
    direction: FloatArray
    spacing_xy_mm: tuple[float, float]


def check_stack(slices: Sequence[SlicePlace]) -> None:
    """Refuse what is no stack of parallel slices at equal distances, each straight above the other.

    Args:
        slices: At least two, in order of position.

    Raises:
        ValueError: They are not; the message says why, which slices, and what to do.
    """
    first = slices[0]
    for other in slices[1:]:
        files = f"\n  {first.file}\n  {other.file}\n"
        if np.abs(other.direction - first.direction).max() > _TOLERANCE:
            raise ValueError(f"slices have different orientations:{files}{_ONE_OF_THEM}")
        if not np.allclose(other.spacing_xy_mm, first.spacing_xy_mm, rtol=_TOLERANCE):
            spacings = " and ".join("{:g} x {:g}".format(*place.spacing_xy_mm) for place in (first, other))
            raise ValueError(f"slices have different pixel spacings, {spacings} mm:{files}{_ONE_OF_THEM}")
    shifts = np.diff([place.origin_mm for place in slices], axis=0)
    _check_distances([place.file for place in slices], shifts, first.direction[:, 2])


def _check_distances(files: Sequence[str], shifts: FloatArray, normal: FloatArray) -> None:
    steps = shifts @ normal
    usual = float(np.median(steps))
    across = np.linalg.norm(shifts - steps[:, None] * normal, axis=1)
    closest, worst = int(np.argmin(np.abs(steps))), int(np.argmax(np.abs(steps - usual)))
    if abs(steps[closest]) <= _TOLERANCE * np.abs(steps).max():
        raise ValueError(
            f"several images lie at one position (a cine, or a repeated acquisition):\n  {files[closest]}\n"
            f"  {files[closest + 1]}\n{_ONE_OF_THEM}"
        )
    if across.max() > _DISTANCE_TOLERANCE * abs(usual):
        raise ValueError(
            f"each slice is shifted by {across.max():.3f} mm against the one before (a tilted gantry); "
            + _IN_SLICER.format("straightens it")
        )
    if abs(steps[worst] - usual) > _DISTANCE_TOLERANCE * abs(usual):
        raise ValueError(
            f"slices are {usual:.3f} mm apart, but {steps[worst]:.3f} mm between\n  {files[worst]}\n"
            f"  {files[worst + 1]}\nSlices are missing or several stacks share the series; "
            + _IN_SLICER.format("resamples it")
        )
