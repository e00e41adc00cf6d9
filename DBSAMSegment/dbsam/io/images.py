"""Image files in and out: the only place that knows SimpleITK.

Files hold physical coordinates in LPS; everything that leaves this module is in RAS. Arrays are [k, j, i].
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from dbsam.geometry.grid import LPS_FROM_RAS, ImageGeometry
from dbsam.io import png
from dbsam.io.dicom import SlicePlace, check_stack
from dbsam.io.files import atomic_path
from dbsam.io.itk_names import name_for_itk
from dbsam.io.nifti import NIFTI_ENDINGS, is_truncated
from dbsam.preprocess.volume import Volume

LABELMAP_ENDINGS = (".nrrd", ".nii.gz", ".nii", ".mha", ".png", ".tif", ".tiff")
"""Labelmap files that are written: one file each, without loss, with the volume's geometry (2D formats: none)."""

_FLAT_ENDINGS = (".png", ".tif", ".tiff")
_PICTURE_ENDINGS = (*_FLAT_ENDINGS, ".jpg", ".jpeg")
_LARGEST_COSINE = 1e-4  # of axes at right angles: files round directions, which moves no voxel by 0.1 mm
_POSITION = "0020|0032"


class ImageFileError(ValueError):
    """A file or folder that cannot be read as one image; the message names it and says what to do."""


@dataclass(frozen=True)
class DicomSeries:
    """One series in a DICOM folder.

    Attributes:
        uid: SeriesInstanceUID.
        description: Modality and SeriesDescription, as far as the files tell.
        files: Its files, in order of slice position.
    """

    uid: str
    description: str
    files: tuple[str, ...]


def read_volume(path: str | os.PathLike[str], series_uid: str | None = None) -> Volume:
    """Read a volume or a 2D image.

    Args:
        path: NRRD, NIfTI, MetaImage, PNG, JPEG, TIFF, a DICOM file or a DICOM folder. A 2D image becomes a volume of
            one K-slice. Colour images keep red, green, blue; an alpha channel is dropped.
        series_uid: SeriesInstanceUID, or the start of it, where a DICOM folder holds several series.

    Returns:
        The voxels, (K, J, I) or (K, J, I, 3), with their geometry in RAS.

    Raises:
        FileNotFoundError: Nothing is there.
        ImageFileError: Not an image, several series to choose from, missing slices, more than three dimensions.
    """
    location = Path(path)
    if not location.exists():
        raise FileNotFoundError(f"{path}: no such file or folder.")
    if location.is_dir():
        image = _read_series(_choose_series(location, series_uid))
    else:
        image = _read_file(location)
    image = _three_dimensional(image, location)
    voxels = _grey_or_rgb(sitk.GetArrayFromImage(image), image.GetNumberOfComponentsPerPixel(), location)
    is_picture = location.suffix.lower() in _PICTURE_ENDINGS  # what resolution they state is that of a print
    return Volume(voxels, geometry_of(image), spacing_known=not is_picture)


def read_labelmap(path: str | os.PathLike[str]) -> tuple[NDArray[np.generic], ImageGeometry]:
    """Read a labelmap: (K, J, I) integers and their grid.

    Raises:
        FileNotFoundError: Nothing is there.
        ImageFileError: Not an image of integers with one value a voxel.
    """
    location = Path(path)
    if not location.exists():
        raise FileNotFoundError(f"{path}: no such file.")
    image = _three_dimensional(_read_file(location), location)
    labels = sitk.GetArrayFromImage(image)
    if labels.ndim != 3:
        raise ImageFileError(f"{path}: {labels.shape[-1]} values a voxel; a labelmap has one.")
    rounded = np.rint(labels)
    if not np.array_equal(rounded, labels):
        raise ImageFileError(f"{path}: values are not whole numbers, so this is no labelmap.")
    return rounded.astype(np.int32), geometry_of(image)


def write_labelmap(path: str | os.PathLike[str], labelmap_KJI: NDArray[np.generic], geometry: ImageGeometry) -> None:
    """Write a labelmap in the geometry of its volume, atomically and compressed.

    Args:
        path: Ends in one of `LABELMAP_ENDINGS`. PNG and TIFF take one K-slice and have no geometry.
        labelmap_KJI: Label values of the full grid.
        geometry: The volume's grid.

    Raises:
        ValueError: The format cannot hold it, see `check_labelmap`, or array and grid differ in size.
        OSError: The file cannot be written, or not whole; a former one stays.
    """
    check_labelmap(path, geometry)
    if labelmap_KJI.shape != geometry.shape_KJI:
        raise ValueError(f"The labelmap has shape {labelmap_KJI.shape} (K, J, I), its grid {geometry.shape_KJI}.")
    if labelmap_ending(path) in _FLAT_ENDINGS:
        image = sitk.GetImageFromArray(labelmap_KJI[0])
    else:
        image = sitk.GetImageFromArray(labelmap_KJI)
        _set_geometry(image, geometry)
    _write(path, image)


def write_volume(path: str | os.PathLike[str], voxels_KJI: NDArray[np.generic], geometry: ImageGeometry) -> None:
    """Write a grey (K, J, I) or colour (K, J, I, 3) volume, atomically, in the lossless format of the ending.

    Raises:
        ValueError: The volume is sheared, and the format is NIfTI.
        OSError: The file cannot be written, or not whole; a former one stays.
    """
    _refuse_shear(path, geometry)
    image = sitk.GetImageFromArray(voxels_KJI, isVector=voxels_KJI.ndim == 4)
    _set_geometry(image, geometry)
    _write(path, image)


def write_png(path: str | os.PathLike[str], image: NDArray[np.uint8]) -> None:
    """Write a grey (H, W) or colour (H, W, 3) picture, atomically."""
    if not str(path).lower().endswith(".png"):
        raise ValueError(f"{path}: pictures are written as .png.")
    _write(path, sitk.GetImageFromArray(image, isVector=image.ndim == 3))


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


def _refuse_shear(path: str | os.PathLike[str], geometry: ImageGeometry) -> None:
    axes = geometry.ijk_to_ras[:3, :3] / geometry.spacing_mm
    cosine = float(np.abs(axes.T @ axes - np.eye(3)).max())
    if str(path).lower().endswith(NIFTI_ENDINGS) and cosine > _LARGEST_COSINE:
        degrees = math.degrees(math.acos(min(1.0, cosine)))
        raise ValueError(
            f"{path}: the volume is sheared (two of its axes are {degrees:.2f} degrees apart), which would be lost in "
            "NIfTI; use .nrrd."
        )


def list_series(folder: str | os.PathLike[str]) -> list[DicomSeries]:
    """The image series in a DICOM folder (its subfolders are not searched), largest first."""
    found = []
    for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder)):
        files = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)
        found.append(DicomSeries(uid, _describe(files[0]), tuple(files)))
    return sorted(found, key=lambda series: -len(series.files))


def geometry_of(image: sitk.Image) -> ImageGeometry:
    """The RAS geometry of a SimpleITK image of three dimensions."""
    ijk_to_lps = np.eye(4)
    ijk_to_lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    ijk_to_lps[:3, 3] = image.GetOrigin()
    size_i, size_j, size_k = image.GetSize()
    return ImageGeometry(LPS_FROM_RAS @ ijk_to_lps, (size_i, size_j, size_k))


def _set_geometry(image: sitk.Image, geometry: ImageGeometry) -> None:
    ijk_to_lps = LPS_FROM_RAS @ geometry.ijk_to_ras
    spacing = np.asarray(geometry.spacing_mm)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((ijk_to_lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(ijk_to_lps[:3, 3].tolist())


def _write(path: str | os.PathLike[str], image: sitk.Image) -> None:
    """Write a file and read it back, because ITK's writers of NIfTI, PNG and TIFF do not tell when a disk is full."""
    with atomic_path(path) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
        except RuntimeError as error:
            raise OSError(f"{path}: cannot be written ({_last_line(error)}).") from error
        if not _holds(temporary, image):
            raise OSError(f"{path}: cannot be written whole. Is the disk full, or the size of files limited?")


def _holds(path: Path, image: sitk.Image) -> bool:
    try:
        found = _read_file(path)
    except ImageFileError:
        return False
    # Zeros for NaN and infinity, because ITK's reader of NIfTI gives zeros for them.
    # It also drops a last axis of one slice.
    there, wanted = (
        np.nan_to_num(sitk.GetArrayViewFromImage(each).squeeze(), nan=0, posinf=0, neginf=0) for each in (found, image)
    )
    return np.array_equal(there, wanted)


def _read_file(path: Path) -> sitk.Image:
    if path.name.lower().endswith(NIFTI_ENDINGS) and is_truncated(path):
        raise ImageFileError(f"{path}: damaged: it does not hold all its voxels. Copy or download it again.")
    try:
        if png.is_grey_with_alpha(path):
            return _read_grey_with_alpha(path)
        with name_for_itk(path) as found:
            return sitk.ReadImage(str(found))
    except RuntimeError as error:
        if "orthonormal" in str(error):
            raise ImageFileError(
                f"{path}: sheared: its axes are not at right angles, which is not read from NIfTI. Save it as .nrrd, "
                "or resample it, for instance by nibabel.processing.resample_to_output."
            ) from error
        raise ImageFileError(
            f"{path}: not an image that can be read (NRRD, NIfTI, MHA, DICOM, PNG, JPEG, TIFF): {_last_line(error)}"
        ) from error


def _choose_series(folder: Path, series_uid: str | None) -> DicomSeries:
    every = list_series(folder)
    if not every:
        raise ImageFileError(f"{folder}: no DICOM images in this folder; name the folder that holds the .dcm files.")
    exact = [series for series in every if series.uid == series_uid]
    chosen = exact or [series for series in every if series.uid.startswith(series_uid or "")]
    if len(chosen) == 1:
        return chosen[0]
    listing = "\n".join(f"  {series.uid}  {len(series.files):4d} files  {series.description}" for series in every)
    problem = "several series" if chosen else f"no series {series_uid}"
    raise ImageFileError(f"{folder}: {problem}. Choose one by its UID, or the start of it (--series):\n{listing}")


def _read_series(series: DicomSeries) -> sitk.Image:
    _check_stack(series)
    try:
        return sitk.ReadImage(list(series.files)) if len(series.files) > 1 else sitk.ReadImage(series.files[0])
    except RuntimeError as error:
        raise ImageFileError(f"DICOM series {series.uid} cannot be read as one volume: {_last_line(error)}") from error


def _check_stack(series: DicomSeries) -> None:
    """Refuse what ITK would read with wrong positions; images without any position are taken as they come."""
    headers = [_header(file) for file in series.files]
    placed = any(header.HasMetaDataKey(_POSITION) or any(header.GetOrigin()) for header in headers)
    if len(headers) < 2 or not placed or any(header.GetDimension() != 3 for header in headers):
        return
    places = [
        SlicePlace(
            file, np.array(header.GetOrigin()), np.reshape(header.GetDirection(), (3, 3)), header.GetSpacing()[:2]
        )
        for file, header in zip(series.files, headers, strict=True)
    ]
    try:
        check_stack(places)
    except ValueError as error:
        raise ImageFileError(f"DICOM series {series.uid}: {error}") from error


def _header(file: str) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(file)
    try:
        reader.ReadImageInformation()
    except RuntimeError as error:
        raise ImageFileError(f"{file}: not a DICOM image that can be read: {_last_line(error)}") from error
    return reader


def _describe(file: str) -> str:
    header = _header(file)
    tags = ("0008|0060", "0008|103e")  # Modality, SeriesDescription
    return " ".join(header.GetMetaData(tag).strip() for tag in tags if header.HasMetaDataKey(tag))


def _three_dimensional(image: sitk.Image, path: Path) -> sitk.Image:
    dimension = image.GetDimension()
    if dimension == 2:
        return sitk.JoinSeries([image])
    if dimension == 3:
        return image
    extra = image.GetSize()[3:]
    if any(size != 1 for size in extra):
        raise ImageFileError(
            f"{path}: {dimension} dimensions with sizes {image.GetSize()}; save one frame as a volume of its own."
        )
    return sitk.Extract(image, [*image.GetSize()[:3], *[0] * len(extra)])


def _grey_or_rgb(array: NDArray[np.generic], components: int, path: Path) -> NDArray[np.generic]:
    if np.iscomplexobj(array):
        raise ImageFileError(f"{path}: complex values; save the magnitude as a volume.")
    if components == 1:
        return array
    if components == 2:  # grey with alpha
        return np.ascontiguousarray(array[..., 0])
    if components not in (3, 4):
        raise ImageFileError(f"{path}: {components} values a voxel; grey (1) and colour (3) images can be segmented.")
    color = np.ascontiguousarray(array[..., :3])
    if color.dtype not in (np.uint8, np.uint16):
        raise ImageFileError(f"{path}: colour values of type {color.dtype}; save them as 8-bit RGB.")
    return color


def _last_line(error: RuntimeError) -> str:
    """What ITK complains about, without its stack of source files."""
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "unknown reason."


def _read_grey_with_alpha(path: Path) -> sitk.Image:
    with tempfile.TemporaryDirectory(prefix="dbsam-") as folder:
        disguised = Path(folder) / "grey.png"
        disguised.write_bytes(png.disguise(path.read_bytes()))
        return sitk.GetImageFromArray(png.grey_of(sitk.GetArrayFromImage(sitk.ReadImage(str(disguised)))))
