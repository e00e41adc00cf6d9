"""Images and label maps from files, as K,J,I arrays with their affine."""

from __future__ import annotations

import gzip
import logging
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dbsam.geometry.grid import LPS_FROM_RAS
from dbsam.io.itk_names import name_for_itk
from dbsam.io.nifti import NIFTI_ENDINGS, is_truncated

logger = logging.getLogger(__name__)

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp")
NIFTI_1_HEADER_BYTES, NIFTI_2_HEADER_BYTES = 348, 540
NIFTI_FLOATS = {16: "f4", 64: "f8"}


@dataclass(frozen=True, eq=False)
class ImageFile:
    """An array (K,J,I[,3]) with its (4,4) affine from IJK to RAS in mm.

    `spacing_known` is False for pictures, whose pixels count as 1 mm. `non_finite` counts the NaN and infinite values
    in the file, which the array may hold as zeros. `spacing_ijk_mm` is what the file states; the affine's columns have
    the same lengths but for rounding.
    """

    array_KJI: NDArray[Any]
    ijk_to_ras: NDArray[np.float64]
    spacing_known: bool
    spacing_ijk_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    non_finite: int = 0


def read_image(paths: Sequence[Path]) -> ImageFile:
    """Reads a grey or colour image; three files are the red, green and blue channel of one image.

    Raises:
        ValueError: the number of channels is neither one nor three, or the file has more than three dimensions.
        RuntimeError, OSError: unreadable file.
    """
    files = [_read(path, as_labels=False) for path in paths]
    if len(files) == 1:
        return files[0]
    shapes = {file.array_KJI.shape for file in files}
    if len(files) != 3 or len(shapes) != 1 or files[0].array_KJI.ndim != 3:
        raise ValueError(f"{len(files)} channel files of shapes {sorted(shapes)} don't make a colour image")
    colour = np.stack([file.array_KJI for file in files], axis=-1)
    return replace(files[0], array_KJI=colour, non_finite=sum(file.non_finite for file in files))


def read_labels(path: Path) -> ImageFile:
    """Reads a label map: (K,J,I) integers.

    Raises:
        ValueError: NaN, values that aren't whole numbers, negative ids, or differing colour channels.
        RuntimeError, OSError: unreadable file.
    """
    file = _read(path, as_labels=True)
    array = file.array_KJI
    if array.ndim == 4:
        if not (array == array[..., :1]).all():
            raise ValueError("the labels are a colour image; ids in one channel are needed")
        array = array[..., 0]
    if file.non_finite:
        raise ValueError(f"the labels hold {file.non_finite} NaN or infinite values")
    if np.issubdtype(array.dtype, np.floating):
        whole = np.rint(array)
        if np.abs(array - whole).max(initial=0) > 1e-3:
            raise ValueError(
                f"the labels hold the value {array[np.abs(array - whole) > 1e-3].flat[0]}, which is not a whole number"
            )
        array = whole.astype(np.int32)
    if array.min(initial=0) < 0:
        raise ValueError(f"the labels hold the negative id {array.min()}")
    return replace(file, array_KJI=array)


def _read(path: Path, as_labels: bool) -> ImageFile:
    if path.suffix.lower() in PICTURE_ENDINGS:
        return _read_picture(path, as_labels)
    return _read_with_simpleitk(path)


def _read_picture(path: Path, as_labels: bool) -> ImageFile:
    with Image.open(path) as picture:
        # A palette's indices are the ids of a label map, but the colours of an image.
        as_stored = picture.mode in ("L", "RGB", "I;16", "I;16B", "I", "F") or (
            picture.mode in ("P", "1") and as_labels
        )
        if not as_stored:
            array = np.array(picture.convert("L" if picture.mode in ("LA", "1") else "RGB"))
        else:
            array = np.array(picture)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8)
    return ImageFile(array[np.newaxis], LPS_FROM_RAS, spacing_known=False)


def _read_with_simpleitk(path: Path) -> ImageFile:
    import SimpleITK as sitk  # slow to import, and pictures don't need it

    if path.name.lower().endswith(NIFTI_ENDINGS) and is_truncated(path):
        raise ValueError(f"{path.name} is damaged: it does not hold all its voxels")
    with name_for_itk(path) as name:
        try:
            image = sitk.ReadImage(str(name))
        except RuntimeError as error:
            if "orthonormal" not in str(error):
                raise
            logger.warning("%s has axes that aren't perpendicular; the nearest perpendicular ones are used.", path)
            with _environment("ITK_NIFTI_SFORM_PERMISSIVE", "ON"):
                image = sitk.ReadImage(str(name))
    dimension = image.GetDimension()
    array = sitk.GetArrayFromImage(image)
    if dimension == 4 and image.GetSize()[3] == 1:
        array, dimension = array[0], 3
    if dimension > 3:
        raise ValueError(
            f"{path.name} has {dimension} dimensions, sizes {image.GetSize()}; one volume per file is needed"
        )
    spacing = np.ones(3)
    spacing[:dimension] = image.GetSpacing()[:dimension]
    directions = np.eye(3)
    directions[:dimension, :dimension] = np.reshape(image.GetDirection(), (image.GetDimension(),) * 2)[
        :dimension, :dimension
    ]
    origin = np.zeros(3)
    origin[:dimension] = image.GetOrigin()[:dimension]
    components = image.GetNumberOfComponentsPerPixel()
    if components not in (1, 3, 4):
        raise ValueError(f"{path.name} has {components} values per voxel; grey (1) or colour (3) is needed")
    array = array[..., :3] if components == 4 else array
    array = array[np.newaxis] if dimension == 2 else array
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = origin
    non_finite = _non_finite_in_nifti(path) if path.name.endswith(NIFTI_ENDINGS) else _non_finite(array)
    spacing_known = path.suffix.lower() not in (".tif", ".tiff")
    along_i, along_j, along_k = spacing.tolist()
    return ImageFile(array, LPS_FROM_RAS @ affine, spacing_known, (along_i, along_j, along_k), non_finite)


def same_grid(one: NDArray[np.float64], other: NDArray[np.float64], shape_KJI: Sequence[int]) -> bool:
    """Whether two affines from IJK put the corners of a grid at the same places, to a tenth of the smallest voxel."""
    k, j, i = (size - 1 for size in shape_KJI[:3])
    corners = np.array([(a, b, c, 1) for a in (0, i) for b in (0, j) for c in (0, k)], float).T
    apart = np.linalg.norm(((one - other) @ corners)[:3], axis=0).max()
    return bool(apart <= 0.1 * np.linalg.norm(one[:3, :3], axis=0).min())


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _non_finite(array: NDArray[Any]) -> int:
    return int(np.count_nonzero(~np.isfinite(array))) if np.issubdtype(array.dtype, np.floating) else 0


def _non_finite_in_nifti(path: Path) -> int:
    """Counts NaN and infinite values in a NIfTI file itself, because ITK's reader replaces them by zeros."""
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        header = file.read(NIFTI_2_HEADER_BYTES)
        order = "<" if int.from_bytes(header[:4], "little") in (NIFTI_1_HEADER_BYTES, NIFTI_2_HEADER_BYTES) else ">"
        (size,) = struct.unpack_from(f"{order}i", header, 0)
        type_at, offset_at, offset_type = (70, 108, "f") if size == NIFTI_1_HEADER_BYTES else (12, 168, "q")
        (data_type,) = struct.unpack_from(f"{order}h", header, type_at)
        (offset,) = struct.unpack_from(f"{order}{offset_type}", header, offset_at)
        if data_type not in NIFTI_FLOATS:
            return 0
        file.seek(int(offset))
        values = file.read()
    item = np.dtype(f"{order}{NIFTI_FLOATS[data_type]}")
    return _non_finite(np.frombuffer(values[: len(values) // item.itemsize * item.itemsize], item))
