"""Image files in and out: the only place that knows SimpleITK.

Files hold physical coordinates in LPS; everything that leaves this module is in RAS. Arrays are [k, j, i].
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from dbsam.geometry import ImageGeometry
from dbsam.image import Volume
from dbsam.segmentation import LPS_FROM_RAS, atomic_path

LABELMAP_ENDINGS = (".nrrd", ".nii.gz", ".nii", ".mha", ".png", ".tif", ".tiff")
"""Labelmap files that are written: one file each, without loss, with the volume's geometry (2D formats: none)."""

_FLAT_ENDINGS = (".png", ".tif", ".tiff")
_SLICE_DISTANCE_TOLERANCE = 0.05  # of the slice distance; scanners round positions, a missing slice gives 1.0


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
    return Volume(voxels, geometry_of(image))


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
        ValueError: The ending is none of these, or array and grid differ in size.
    """
    ending = labelmap_ending(path)
    if labelmap_KJI.shape != geometry.shape_KJI:
        raise ValueError(f"The labelmap has shape {labelmap_KJI.shape} (K, J, I), its grid {geometry.shape_KJI}.")
    if ending in _FLAT_ENDINGS:
        if labelmap_KJI.shape[0] != 1:
            raise ValueError(f"{path}: {ending} holds a single slice, not {labelmap_KJI.shape[0]}; use .nrrd.")
        image = sitk.GetImageFromArray(labelmap_KJI[0])
    else:
        image = sitk.GetImageFromArray(labelmap_KJI)
        _set_geometry(image, geometry)
    _write(path, image)


def write_volume(path: str | os.PathLike[str], voxels_KJI: NDArray[np.generic], geometry: ImageGeometry) -> None:
    """Write a grey (K, J, I) or colour (K, J, I, 3) volume, atomically; the format follows the ending."""
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
    with atomic_path(path) as temporary:
        sitk.WriteImage(image, str(temporary), useCompression=True)


def _read_file(path: Path) -> sitk.Image:
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise ImageFileError(
            f"{path}: not an image that can be read (NRRD, NIfTI, MHA, DICOM, PNG, JPEG, TIFF): {_last_line(error)}"
        ) from error


def _choose_series(folder: Path, series_uid: str | None) -> DicomSeries:
    every = list_series(folder)
    if not every:
        raise ImageFileError(f"{folder}: no DICOM images in this folder; name the folder that holds the .dcm files.")
    chosen = [series for series in every if series_uid is None or series.uid.startswith(series_uid)]
    if len(chosen) == 1:
        return chosen[0]
    listing = "\n".join(f"  {series.uid}  {len(series.files):4d} files  {series.description}" for series in every)
    problem = "several series" if chosen else f"no series {series_uid}"
    raise ImageFileError(f"{folder}: {problem}. Choose one by its UID, or the start of it (--series):\n{listing}")


def _read_series(series: DicomSeries) -> sitk.Image:
    _check_slice_distances(series)
    try:
        return sitk.ReadImage(list(series.files)) if len(series.files) > 1 else sitk.ReadImage(series.files[0])
    except RuntimeError as error:
        raise ImageFileError(f"DICOM series {series.uid} cannot be read as one volume: {_last_line(error)}") from error


def _check_slice_distances(series: DicomSeries) -> None:
    """Refuse what ITK would read with wrong positions: missing slices, stacks that overlap, a tilted gantry."""
    headers = [_header(file) for file in series.files]
    if len(headers) < 3 or any(header.GetDimension() != 3 for header in headers):
        return
    normal = np.reshape(headers[0].GetDirection(), (3, 3))[:, 2]
    shifts = np.diff([header.GetOrigin() for header in headers], axis=0)
    steps = shifts @ normal
    usual = float(np.median(steps))
    across = np.linalg.norm(shifts - steps[:, None] * normal, axis=1)
    if across.max() > _SLICE_DISTANCE_TOLERANCE * abs(usual):
        raise ImageFileError(
            f"DICOM series {series.uid}: each slice is shifted by {across.max():.3f} mm against the one before (a "
            "tilted gantry); load it in 3D Slicer, which straightens it, and save it as .nrrd."
        )
    worst = int(np.argmax(np.abs(steps - usual)))
    if abs(steps[worst] - usual) > _SLICE_DISTANCE_TOLERANCE * abs(usual):
        raise ImageFileError(
            f"DICOM series {series.uid}: slices are {usual:.3f} mm apart, but {steps[worst]:.3f} mm between\n"
            f"  {series.files[worst]}\n  {series.files[worst + 1]}\n"
            "Slices are missing or several stacks share the series; load it in 3D Slicer, which resamples it, and save "
            "it as .nrrd."
        )


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
    if color.dtype == np.uint16:
        return (color // 257).astype(np.uint8)
    if color.dtype != np.uint8:
        raise ImageFileError(f"{path}: colour values of type {color.dtype}; save them as 8-bit RGB.")
    return color


def _last_line(error: RuntimeError) -> str:
    """What ITK complains about, without its stack of source files."""
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else "unknown reason."
