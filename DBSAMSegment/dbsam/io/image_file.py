"""What every reader of images gives back, and how one of several images in a file is chosen."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.grid import ImageGeometry
from dbsam.preprocess.volume import count_non_finite

_COLOUR_TYPES = (np.dtype(np.uint8), np.dtype(np.uint16))
_WHOLE = (np.int16, np.int32, np.int64)
_MOST_LISTED = 20


class ImageFileError(ValueError):
    """A file or folder that cannot be read as one image; the message names it and says what to do."""


@dataclass(frozen=True)
class Choice:
    """Which image of a file is meant, where it holds several.

    Attributes:
        stack: Number, from 1, of one of several stacks, times, echoes, frames or pages; None where there is one.
        component: Number, from 1, of one of several values a voxel; "rgb" takes three (or four, with alpha) as colour;
            None where there is one, or where the file says that they are a colour.
        series_uid: SeriesInstanceUID, or the start of it, of one of several DICOM series in a folder.
        slice_spacing_mm: Distance of the slices of a DICOM series that have no position: they lie in the order of their
            numbers then. None where they say so themselves.
    """

    stack: int | None = None
    component: int | Literal["rgb"] | None = None
    series_uid: str | None = None
    slice_spacing_mm: float | None = None


@dataclass(frozen=True, eq=False)
class ImageFile:
    """The content of an image file.

    Attributes:
        voxels: (K, J, I) grey or (K, J, I, 3) red, green, blue; NaN and infinite values as the file holds them.
        ijk_to_ras: (4, 4) affine to RAS in mm.
        spacing_known: False where the file does not say how large a pixel is; it counts as 1 mm then.
        position_known: False where the file does not say where its grid lies; the affine's axes are taken for left,
            posterior, superior from 0 then.
        stated_spacing_mm: Spacing along I, J, K in the file's own numbers; None where it follows from the affine alone.
    """

    voxels: NDArray[Any]
    ijk_to_ras: NDArray[np.float64]
    spacing_known: bool = True
    position_known: bool = True
    stated_spacing_mm: tuple[float, float, float] | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Spacing along I, J, K as the file states it; the affine's columns have the same lengths but for rounding."""
        return self.stated_spacing_mm or self.geometry.spacing_mm

    @property
    def geometry(self) -> ImageGeometry:
        """The grid.

        Raises:
            ValueError: The affine is not finite or spans no volume.
        """
        size_k, size_j, size_i = self.voxels.shape[:3]
        return ImageGeometry(self.ijk_to_ras, (size_i, size_j, size_k))

    @property
    def non_finite(self) -> int:
        """How many values are NaN or infinite."""
        return count_non_finite(self.voxels)


def chosen_stack(path: Path, count: int, stack: int | None, what: str, listing: Sequence[str] = ()) -> int:
    """The index, from 0, of the chosen one of `count` images.

    Args:
        path: The file, for messages.
        count: How many it holds.
        stack: What the user chose.
        what: Why they are several, as the subject of "choose one": "4 time points".
        listing: A line on each.

    Raises:
        ImageFileError: There are several and none is chosen, or there is no such one.
    """
    if stack is None and count == 1:
        return 0
    if stack is not None and 1 <= stack <= count:
        return stack - 1
    shown = [f"\n  --stack {number}  {line}" for number, line in enumerate(listing[:_MOST_LISTED], start=1)]
    if len(listing) > _MOST_LISTED:
        shown.append(f"\n  and {len(listing) - _MOST_LISTED} more")
    if stack is not None:
        raise ImageFileError(f"{path}: there is no stack {stack}: it holds {what}, 1 to {count}.{''.join(shown)}")
    raise ImageFileError(
        f"{path}: holds {what}, of which one can be segmented. Choose it by --stack N (in Python read_volume(path, "
        f"stack=N)), 1 to {count}.{''.join(shown)}"
    )


def chosen_component(
    path: Path, voxels: NDArray[Any], component: int | str | None, is_colour: bool, what: str = "values a voxel"
) -> NDArray[Any]:
    """Grey or colour of an array (..., C) with several values a voxel.

    Args:
        path: The file, for messages.
        voxels: The array.
        component: What the user chose.
        is_colour: Whether the file says that the values are red, green, blue (and alpha).
        what: What they are, for messages.

    Returns:
        (...) for one component, (..., 3) for a colour, without alpha.

    Raises:
        ImageFileError: Nothing says which is meant, there is no such one, or a colour has other than 8 or 16 bits.
    """
    count = voxels.shape[-1]
    if isinstance(component, int):
        if not 1 <= component <= count:
            raise ImageFileError(f"{path}: there is no component {component}: it holds {count} {what}, 1 to {count}.")
        return np.ascontiguousarray(voxels[..., component - 1])
    if not (is_colour or component == "rgb"):
        as_colour = ", or --component rgb if they are red, green, blue" if count in (3, 4) else ""
        raise ImageFileError(
            f"{path}: holds {count} {what}, and nothing says that they are a colour. Choose one by --component N (in "
            f"Python read_volume(path, component=N)), 1 to {count}{as_colour}."
        )
    if count not in (3, 4):
        raise ImageFileError(f"{path}: {count} {what} are no colour; choose one by --component N, 1 to {count}.")
    if voxels.dtype.newbyteorder("=") not in _COLOUR_TYPES:
        raise ImageFileError(f"{path}: colour values of type {voxels.dtype}; save them as 8-bit RGB.")
    return np.ascontiguousarray(voxels[..., :3])


def refuse_component(path: Path, component: int | str | None) -> None:
    """Refuse a component of an image with one value a voxel, unless it is the first.

    Raises:
        ImageFileError: It is another.
    """
    if component not in (None, 1):
        raise ImageFileError(f"{path}: there is no component {component}: it holds one value a voxel.")


def native(array: NDArray[Any]) -> NDArray[Any]:
    """The array in this computer's byte order."""
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def rescaled(stored: NDArray[Any], slope: float, intercept: float) -> NDArray[Any]:
    """`stored * slope + intercept`, in whole numbers where all three are whole, else in 64-bit floats."""
    if slope == 1 and intercept == 0:
        return native(stored)
    if np.issubdtype(stored.dtype, np.integer) and float(slope).is_integer() and float(intercept).is_integer():
        ends = [int(end) * int(slope) + int(intercept) for end in (stored.min(), stored.max())]
        fitting = [kind for kind in _WHOLE if all(np.iinfo(kind).min <= end <= np.iinfo(kind).max for end in ends)]
        if fitting:
            whole = stored.astype(np.int64)
            whole *= int(slope)
            whole += int(intercept)
            return whole.astype(fitting[0])
    values = stored.astype(np.float64)
    values *= slope
    values += intercept
    return values


def refuse_what_fits_no_memory(path: Path, needed: int) -> None:
    """Refuse voxels that this computer cannot hold, which the system would answer by ending the process.

    Raises:
        MemoryError: They are more bytes than it has memory.
    """
    if not hasattr(os, "sysconf"):  # Windows says so by itself
        return
    present = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > present:
        raise MemoryError(
            f"{path}: its voxels take {needed / 2**30:.1f} GiB, this computer has {present / 2**30:.1f} GiB of memory. "
            "Crop or resample the volume."
        )
