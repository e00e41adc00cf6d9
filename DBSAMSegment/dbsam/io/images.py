"""Image files in and out, of every format: volumes, labelmaps and pictures.

Files hold physical coordinates in LPS or RAS; everything that leaves this module is in RAS. Arrays are [k, j, i].
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.grid import LPS_FROM_RAS, ImageGeometry
from dbsam.io import dicom, itk_files, nifti, npz, pictures
from dbsam.io.files import atomic_path
from dbsam.io.image_file import Choice, ImageFile, ImageFileError
from dbsam.io.nifti import NIFTI_ENDINGS
from dbsam.io.seg_nrrd import write_colour_nrrd
from dbsam.preprocess.volume import Volume

if TYPE_CHECKING:
    import SimpleITK as sitk

LABELMAP_ENDINGS = (".nrrd", ".nii.gz", ".nii", ".mha", ".npz", ".png", ".tif", ".tiff")
"""Labelmap files that are written: one file each, without loss, with the volume's geometry (2D formats: none)."""

_FLAT_ENDINGS = (".png", ".tif", ".tiff")
_FLAT_TYPES = (np.uint8, np.uint16)
_LABEL_TYPES = (np.uint8, np.uint16, np.int16, np.uint32, np.int32, np.int8)
_LARGEST_COSINE = 1e-4  # of axes at right angles: files round directions, which moves no voxel by 0.1 mm
_LARGEST_FRACTION = 1e-3  # of labels that were stored as scaled numbers


def read_volume(
    path: str | os.PathLike[str],
    series_uid: str | None = None,
    *,
    stack: int | None = None,
    component: int | Literal["rgb"] | None = None,
    slice_spacing_mm: float | None = None,
) -> Volume:
    """Read a volume or a 2D image.

    Args:
        path: NRRD, NIfTI 1 or 2, MetaImage, PNG, JPEG, TIFF, BMP, GIF, WebP, `.npz` in MedSAM's form, a DICOM file or a
            DICOM folder. A 2D image becomes a volume of one K-slice, turned as its orientation says. Colour images keep
            red, green, blue; an alpha channel is dropped.
        series_uid: SeriesInstanceUID, or the start of it, where a DICOM folder holds several series.
        stack: Number, from 1, of one of several stacks, times, echoes, frames or pages; the error that asks for one
            lists them.
        component: Number, from 1, of one of several values a voxel, or "rgb" where three are a colour and the file does
            not say so.
        slice_spacing_mm: Distance of the slices of a DICOM series that have no position, which lie in the order of
            their numbers then.

    Returns:
        The voxels, (K, J, I) or (K, J, I, 3), with their geometry in RAS.

    Raises:
        FileNotFoundError: Nothing is there.
        ImageFileError: No image, a damaged one, one whose place cannot be known, or several and none is chosen.
        MemoryError: It does not fit into memory.
    """
    image = read_image(path, Choice(stack, component, series_uid, slice_spacing_mm))
    return Volume(image.voxels, image.geometry, spacing_known=image.spacing_known, position_known=image.position_known)


def read_labelmap(path: str | os.PathLike[str]) -> tuple[NDArray[np.integer[Any]], ImageGeometry]:
    """Read a labelmap: (K, J, I) whole numbers of 0 and above, and their grid.

    Raises:
        FileNotFoundError: Nothing is there.
        ImageFileError: Not an image of whole numbers with one value a voxel.
    """
    image = read_labels(path)
    return image.voxels, image.geometry


def read_image(path: str | os.PathLike[str], choice: Choice | None = None, as_labels: bool = False) -> ImageFile:
    """Read an image of any format, see `read_volume`.

    Args:
        path: File or DICOM folder.
        choice: Which one, where there are several.
        as_labels: Keep the indices of a picture's palette instead of its colours.

    Raises:
        FileNotFoundError: Nothing is there.
        ImageFileError: See `read_volume`.
        MemoryError: It does not fit into memory.
    """
    location, choice = Path(path), choice or Choice()
    if not location.exists():
        raise FileNotFoundError(f"{path}: no such file or folder.")
    if location.is_dir():
        return dicom.read_dicom(location, choice)
    if (choice.series_uid, choice.slice_spacing_mm) != (None, None) and not dicom.is_dicom(location):
        raise ImageFileError(f"{path}: a series or a slice spacing is chosen, but this is no DICOM folder.")
    if location.stat().st_size == 0:
        raise ImageFileError(f"{path}: empty: it holds no byte. Copy or download it again.")
    try:
        if dicom.has_magic(location):
            image = dicom.read_dicom(location, choice)
        elif pictures.is_picture(location):
            image = pictures.read_picture(location, choice, as_labels)
        elif itk_files.is_nrrd(location):
            image = itk_files.read_nrrd(location, choice)
        elif npz.is_npz(location):
            image = npz.read_npz(location, choice, as_labels)
        elif nifti.is_nifti(location):
            image = nifti.read_nifti(location, choice)
        elif dicom.is_dicom(location):
            image = dicom.read_dicom(location, choice)
        elif itk_files.is_metaimage(location):
            image = itk_files.read_metaimage(location, choice)
        else:
            raise ImageFileError(
                f"{path}: not an image that can be read (NRRD, NIfTI, MetaImage, DICOM, PNG, JPEG, TIFF, BMP, GIF, "
                "WebP, npz)."
            )
    except MemoryError as error:
        if str(path) in str(error):
            raise
        raise MemoryError(f"{path}: too large for this computer's memory. {error}") from error
    _refuse_no_numbers(location, image)
    return image


def read_labels(path: str | os.PathLike[str]) -> ImageFile:
    """Read a labelmap: (K, J, I) integers of 0 and above, with its frame.

    Raises:
        FileNotFoundError: Nothing is there.
        ImageFileError: See `read_labelmap`.
    """
    image = read_image(path, as_labels=True)
    labels = image.voxels
    if labels.ndim == 4:
        if not (labels == labels[..., :1]).all():
            raise ImageFileError(f"{path}: a colour image, whose values are no labels; one value a voxel is needed.")
        labels = labels[..., 0]
    if image.non_finite:
        raise ImageFileError(f"{path}: {image.non_finite} NaN or infinite labels.")
    if np.issubdtype(labels.dtype, np.floating):
        whole = np.rint(labels)
        if np.abs(labels - whole).max(initial=0) > _LARGEST_FRACTION:
            value = labels[np.abs(labels - whole) > _LARGEST_FRACTION].flat[0]
            raise ImageFileError(f"{path}: a label is {value}, which is not a whole number: this is no labelmap.")
        labels = whole
    if labels.size and not 0 <= int(labels.min()) <= int(labels.max()) < 2**31:
        raise ImageFileError(f"{path}: labels go from {labels.min()} to {labels.max()}; a label is 0 or more.")
    return replace(image, voxels=labels.astype(np.int32))


def input_files(path: str | os.PathLike[str]) -> list[Path]:
    """The files that an input is made of: also the voxels of a detached header; of a DICOM folder itself alone."""
    location = Path(path)
    if location.name.lower().endswith(nifti.PAIR_ENDINGS):
        stem = location.name[: -len(next(end for end in nifti.PAIR_ENDINGS if location.name.lower().endswith(end)))]
        ends = {f"{stem}{ending}".lower() for ending in nifti.PAIR_ENDINGS}
        return sorted(entry for entry in location.parent.iterdir() if entry.name.lower() in ends)
    if location.is_file() and (itk_files.is_nrrd(location) or itk_files.is_metaimage(location)):
        return [location, *itk_files.data_files(location)]
    return [location]


def refuse_overwriting(outputs: Sequence[Path], inputs: Sequence[Path]) -> None:
    """Refuse outputs that would destroy an input, or part of one, or each other.

    Raises:
        ValueError: One would.
    """
    read = {file.resolve() for path in inputs for file in input_files(path)}
    for number, output in enumerate(outputs):
        if output.resolve() in {*read, *(other.resolve() for other in outputs[:number])}:
            raise ValueError(f"{output}: an output would overwrite an input or another output.")
        try:
            is_image = dicom.holds_image(output)
        except ImageFileError:
            is_image = True
        if is_image:
            raise ValueError(f"{output}: a DICOM image, which is not overwritten; name another file.")


def write_labelmap(path: str | os.PathLike[str], labelmap_KJI: NDArray[np.generic], geometry: ImageGeometry) -> None:
    """Write a labelmap in the geometry of its volume, atomically and compressed.

    Args:
        path: Ends in one of `LABELMAP_ENDINGS`. PNG and TIFF take one K-slice and have no geometry.
        labelmap_KJI: Label values of the full grid, or a mask of booleans. A type that the format lacks becomes the
            smallest one that holds the values.
        geometry: The volume's grid.

    Raises:
        ValueError: The format cannot hold it, see `check_labelmap`, array and grid differ in size, or a label is no
            whole number.
        OSError: The file cannot be written, or not whole; a former one stays.
    """
    check_labelmap(path, geometry)
    if labelmap_KJI.shape != geometry.shape_KJI:
        raise ValueError(f"The labelmap has shape {labelmap_KJI.shape} (K, J, I), its grid {geometry.shape_KJI}.")
    ending = labelmap_ending(path)
    labelmap_KJI = _storable(labelmap_KJI, _FLAT_TYPES if ending in _FLAT_ENDINGS else _LABEL_TYPES)
    if ending == ".npz":
        npz.write_npz(Path(path), labelmap_KJI, geometry)
    elif ending in NIFTI_ENDINGS:
        _write_nifti(path, labelmap_KJI, geometry)
    else:
        _write_with_itk(path, labelmap_KJI[0] if ending in _FLAT_ENDINGS else labelmap_KJI, geometry)


def _storable(labels: NDArray[Any], types: tuple[type[np.integer[Any]], ...]) -> NDArray[np.integer[Any]]:
    """The labels in one of the types: their own, else the first that holds all values."""
    if labels.dtype in types:
        return labels
    if not np.array_equal(labels, np.rint(labels)):
        value = labels[labels != np.rint(labels)].flat[0]
        raise ValueError(f"a label is {value}, which is not a whole number.")
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    holding = [one for one in types if np.iinfo(one).min <= low and high <= np.iinfo(one).max]
    if not holding:
        raise ValueError(f"labels go from {low} to {high}, more than {types[-1].__name__} holds.")
    return labels.astype(holding[0])


def write_volume(path: str | os.PathLike[str], voxels_KJI: NDArray[np.generic], geometry: ImageGeometry) -> None:
    """Write a grey (K, J, I) or colour (K, J, I, 3) volume, atomically, in the lossless format of the ending.

    Raises:
        ValueError: The volume is sheared, and the format is NIfTI; or it is in colour, and the format MetaImage.
        OSError: The file cannot be written, or not whole; a former one stays.
    """
    _refuse_shear(path, geometry)
    name = str(path).lower()
    if name.endswith(NIFTI_ENDINGS):
        _write_nifti(path, voxels_KJI, geometry)
    elif voxels_KJI.ndim == 4 and name.endswith(".nrrd"):
        write_colour_nrrd(path, voxels_KJI, geometry)
    elif voxels_KJI.ndim == 4 and name.endswith(itk_files.METAIMAGE_ENDINGS):
        raise ValueError(f"{path}: MetaImage does not say that three values are a colour; use .nrrd.")
    else:
        _write_with_itk(path, voxels_KJI, geometry)


def write_png(path: str | os.PathLike[str], image: NDArray[np.uint8]) -> None:
    """Write a grey (H, W) or colour (H, W, 3) picture, atomically."""
    if not str(path).lower().endswith(".png"):
        raise ValueError(f"{path}: pictures are written as .png.")
    _write_with_itk(path, image, None)


def labelmap_ending(path: str | os.PathLike[str]) -> str:
    """The ending of `path` if a labelmap can be written there.

    Raises:
        ValueError: It can't.
    """
    name = str(path).lower()
    for ending in LABELMAP_ENDINGS:
        if name.endswith(ending):
            return ending
    raise ValueError(f"{path}: unknown ending; write .seg.nrrd or one of {', '.join(LABELMAP_ENDINGS)}.")


def check_labelmap(path: str | os.PathLike[str], geometry: ImageGeometry) -> None:
    """Refuse a path whose format cannot hold a labelmap of this grid.

    Raises:
        ValueError: The ending is unknown, of a picture where there are several slices, or of NIfTI where axes are not
            at right angles.
    """
    ending, slices = labelmap_ending(path), geometry.shape_KJI[0]
    if ending in _FLAT_ENDINGS and slices != 1:
        raise ValueError(f"{path}: {ending} holds a single slice, not {slices}; use .nrrd.")
    _refuse_shear(path, geometry)


def _refuse_no_numbers(path: Path, image: ImageFile) -> None:
    kind = image.voxels.dtype
    if not (np.issubdtype(kind, np.integer) or np.issubdtype(kind, np.floating)):
        raise ImageFileError(f"{path}: values of type {kind}, which are no grey values.")
    try:
        _ = image.geometry
    except ValueError as error:
        raise ImageFileError(f"{path}: its position cannot be used: {error}") from error


def _refuse_shear(path: str | os.PathLike[str], geometry: ImageGeometry) -> None:
    axes = geometry.ijk_to_ras[:3, :3] / geometry.spacing_mm
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if str(path).lower().endswith(NIFTI_ENDINGS) and cosine > _LARGEST_COSINE:
        degrees = math.degrees(math.acos(min(1.0, cosine)))
        raise ValueError(
            f"{path}: the volume is sheared (two of its axes are {degrees:.2f} degrees apart), which would be lost in "
            "NIfTI; use .nrrd."
        )


def _write_nifti(path: str | os.PathLike[str], voxels_KJI: NDArray[Any], geometry: ImageGeometry) -> None:
    """Write a file and read it back, because a disk may be full without a word."""
    with atomic_path(path) as temporary:
        nifti.write_nifti(temporary, voxels_KJI, geometry)
        _check_written(path, temporary, voxels_KJI)


def _write_with_itk(path: str | os.PathLike[str], array: NDArray[Any], geometry: ImageGeometry | None) -> None:
    """Write a file and read it back, because ITK's writers of PNG and TIFF do not tell when a disk is full."""
    import SimpleITK as sitk

    flat = array.ndim == 2 or geometry is None
    image = sitk.GetImageFromArray(array, isVector=array.ndim == (3 if flat else 4))
    if geometry is not None and not flat:
        _set_geometry(image, geometry)
    with atomic_path(path) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
        except RuntimeError as error:
            raise OSError(f"{path}: cannot be written ({itk_files.last_line(str(error))}).") from error
        _check_written(path, temporary, array)


def _check_written(path: str | os.PathLike[str], temporary: Path, array: NDArray[Any]) -> None:
    try:
        found = read_image(temporary).voxels.squeeze()
    except (ImageFileError, MemoryError):
        found = None
    wanted = array.squeeze()
    if found is None or not np.array_equal(found, wanted, equal_nan=np.issubdtype(wanted.dtype, np.floating)):
        raise OSError(f"{path}: cannot be written whole. Is the disk full, or the size of files limited?")


def _set_geometry(image: sitk.Image, geometry: ImageGeometry) -> None:
    ijk_to_lps = LPS_FROM_RAS @ geometry.ijk_to_ras
    spacing = np.asarray(geometry.spacing_mm)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((ijk_to_lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(ijk_to_lps[:3, 3].tolist())
