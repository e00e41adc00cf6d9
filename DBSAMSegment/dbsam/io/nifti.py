"""NIfTI 1 and 2, read and written by nibabel.

Nibabel checks neither a compressed file's checksum nor its length, takes lengths for millimetres, and replaces zero and
negative spacings in silence; all of that is looked after here.
"""

from __future__ import annotations

import gzip
import logging
import math
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.grid import LPS_FROM_RAS, ImageGeometry
from dbsam.io.image_file import (
    Choice,
    ImageFile,
    ImageFileError,
    chosen_component,
    chosen_stack,
    native,
    refuse_component,
    refuse_what_fits_no_memory,
    rescaled,
)

logger = logging.getLogger(__name__)

NIFTI_ENDINGS = (".nii", ".nii.gz")
PAIR_ENDINGS = (".hdr", ".img", ".hdr.gz", ".img.gz")

_HEADER_BYTES = {348: 1, 540: 2}  # version of NIfTI by the length of its header
_GZIP_MAGIC = b"\x1f\x8b"
_MM_PER_UNIT = {0: 1.0, 1: 1000.0, 2: 1.0, 3: 0.001}  # unknown (taken for mm), metre, mm, micron
_AGAIN = "Copy or download it again."
_RGB_VECTOR, _RGBA_VECTOR = 2003, 2004
_CHUNK = 1 << 20
_ROUNDING = 1e-5  # of spacings in 32 bits


def is_nifti(path: Path) -> bool:
    """Whether the file begins like NIfTI or Analyze, compressed or not, or is named so."""
    if path.name.lower().endswith((*NIFTI_ENDINGS, *PAIR_ENDINGS)):
        return True
    try:
        with _opened(path) as file:
            return _version(file.read(4)) is not None
    except (OSError, EOFError, zlib.error):
        return False


def read_nifti(path: Path, choice: Choice) -> ImageFile:
    """Read a NIfTI file: `.nii`, `.nii.gz`, or a pair of `.hdr` and `.img`.

    The position is the sform's where it has a code, else the qform's, as in nibabel and FreeSurfer; a file with neither
    is placed as 3D Slicer places it. Values are scaled as the header says.

    Raises:
        ImageFileError: It is damaged, has no usable position, or holds several images and none is chosen.
        MemoryError: It does not fit into memory.
    """
    try:
        return _read(path, choice)
    except EOFError as error:
        raise ImageFileError(
            f"{path}: damaged: it does not hold all its voxels: its compressed data ends early. {_AGAIN}"
        ) from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise ImageFileError(f"{path}: damaged: its compressed data cannot be unpacked ({error}). {_AGAIN}") from error


def _read(path: Path, choice: Choice) -> ImageFile:
    header_path, voxel_path = _pair_of(path)
    with ExitStack() as files:
        header_file = files.enter_context(_opened(header_path))
        header = _header(header_path, header_file)
        if _is_pair(header) != (header_path != voxel_path):
            other = "a pair of .hdr and .img" if _is_pair(header) else "a single .nii file"
            raise ImageFileError(f"{path}: its header is that of {other}; rename it, or save it again as .nii.gz.")
        ijk_to_ras = _frame(path, header)
        voxel_file = header_file if header_path == voxel_path else files.enter_context(_opened(voxel_path))
        voxels = _voxels(voxel_path, voxel_file, header, choice)
    stated = np.array(header["pixdim"][1:4], np.float64) * _MM_PER_UNIT[int(header["xyzt_units"]) & 7]
    fits = np.allclose(stated, np.linalg.norm(ijk_to_ras[:3, :3], axis=0), rtol=_ROUNDING)
    i, j, k = stated.tolist()
    return ImageFile(np.ascontiguousarray(voxels), ijk_to_ras, stated_spacing_mm=(i, j, k) if fits else None)


def _pair_of(path: Path) -> tuple[Path, Path]:
    """The files of header and voxels."""
    name = path.name.lower()
    ending = next((ending for ending in PAIR_ENDINGS if name.endswith(ending)), None)
    if ending is None:
        return path, path
    stem = path.name[: -len(ending)]
    found = {file.name.lower(): file for file in path.parent.iterdir() if file.name.lower().startswith(stem.lower())}
    pair = []
    for kind in (".hdr", ".img"):
        there = [found[key] for key in (f"{stem}{kind}".lower(), f"{stem}{kind}.gz".lower()) if key in found]
        if not there:
            raise ImageFileError(f"{path}: its other half {stem}{kind} is not beside it.")
        pair.append(there[0])
    return pair[0], pair[1]


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """The file's content, decompressed if it is compressed, whatever its name says."""
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP_MAGIC
        file.seek(0)
        if not compressed:
            yield file
            return
        with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
            yield unpacked  # type: ignore[misc]


def _version(start: bytes) -> int | None:
    return _HEADER_BYTES.get(int.from_bytes(start, "little")) or _HEADER_BYTES.get(int.from_bytes(start, "big"))


def _header(path: Path, file: BinaryIO) -> Any:
    """The header as stored, without nibabel's silent corrections."""
    import nibabel
    from nibabel.spatialimages import HeaderDataError
    from nibabel.wrapstruct import WrapStructError

    start = file.read(4)
    if not start:
        raise ImageFileError(f"{path}: empty: it holds no byte. {_AGAIN}")
    version = _version(start)
    if version is None:
        raise ImageFileError(f"{path}: not a NIfTI file, or damaged: it does not begin with a header of NIfTI 1 or 2.")
    kind = nibabel.Nifti1Header if version == 1 else nibabel.Nifti2Header
    length = kind.template_dtype.itemsize
    content = start + file.read(length - 4)
    if len(content) < length:
        raise ImageFileError(f"{path}: damaged: it does not hold all its header. {_AGAIN}")
    try:
        header = kind(content, check=False)
        magic = bytes(header["magic"].item())
        if version == 1 and not magic.strip(b"\0"):
            raise ImageFileError(
                f"{path}: an Analyze 7.5 file, which does not say which side is left. Save it as NIfTI or .nrrd with "
                "the program that knows."
            )
        if magic[:3] not in ((b"n+1", b"ni1") if version == 1 else (b"n+2", b"ni2")):
            raise ImageFileError(f"{path}: damaged: its header of NIfTI {version} has the magic {magic!r}.")
        header.get_data_dtype()
        header.get_data_shape()
        header.get_slope_inter()
    except (HeaderDataError, WrapStructError, KeyError, ValueError) as error:
        if isinstance(error, ImageFileError):
            raise
        raise ImageFileError(f"{path}: its header of NIfTI {version} cannot be used: {error}") from error
    return header


def _is_pair(header: Any) -> bool:
    return bytes(header["magic"].item())[:2] == b"ni"


def _voxels(path: Path, file: BinaryIO, header: Any, choice: Choice) -> NDArray[Any]:
    """(K, J, I[, 3]) voxels of one image of the file, after its length and checksum have been looked at."""
    stored_type, shape = header.get_data_dtype(), header.get_data_shape()
    if not shape or min(shape) < 1:
        raise ImageFileError(f"{path}: its header states the sizes {shape}; each must be at least 1.")
    if not np.isfinite(header["vox_offset"]):
        raise ImageFileError(f"{path}: damaged: its voxels are said to begin at byte {header['vox_offset']}. {_AGAIN}")
    start = int(header["vox_offset"])
    if _is_pair(header):
        start = max(start, 0)
    elif start < header.template_dtype.itemsize:
        raise ImageFileError(f"{path}: damaged: its voxels are said to begin within its header, at byte {start}.")
    count = math.prod(shape)
    end = start + count * stored_type.itemsize
    _check_length(path, file, end)
    refuse_what_fits_no_memory(path, count * stored_type.itemsize)
    file.seek(start)
    stored = np.empty(count, stored_type)
    target = stored.view(np.uint8)
    filled = 0
    while filled < len(target):
        got = file.readinto(target[filled : filled + 64 * _CHUNK].data)  # type: ignore[attr-defined]
        if not got:
            raise ImageFileError(f"{path}: damaged: it does not hold all its voxels. {_AGAIN}")
        filled += got
    beyond = sum(map(len, iter(lambda: file.read(_CHUNK), b"")))  # reads to the checksum at the end
    if beyond:
        raise ImageFileError(
            f"{path}: damaged: it holds {beyond} bytes more than the voxels that its header states, {shape}."
        )
    array = stored.reshape(shape, order="F")
    slope, intercept = header.get_slope_inter()
    grey = _chosen(path, array, header, choice)
    if np.iscomplexobj(grey):
        raise ImageFileError(f"{path}: complex values; save the magnitude as a volume.")
    if grey.ndim == 3 and stored_type.fields is None:
        grey = rescaled(grey, 1.0 if slope is None else slope, 0.0 if intercept is None else intercept)
    return native(np.moveaxis(grey, (0, 1, 2), (2, 1, 0)))


def _check_length(path: Path, file: BinaryIO, end: int) -> None:
    """Compare an uncompressed file's length with its header's; a compressed one is counted while it is read."""
    if isinstance(file, gzip.GzipFile):
        return
    length = path.stat().st_size
    if length < end:
        raise ImageFileError(
            f"{path}: damaged: it does not hold all its voxels: {length} bytes instead of {end}. Copy or download it "
            "again."
        )


def _chosen(path: Path, array: NDArray[Any], header: Any, choice: Choice) -> NDArray[Any]:
    """(I, J, K[, 3]) of an array (I, J, K, time, component)."""
    if any(size > 1 for size in array.shape[5:]):
        raise ImageFileError(f"{path}: {array.ndim} dimensions, sizes {array.shape}; save one image as a volume.")
    sizes = array.shape
    array = array.reshape([*sizes, 1, 1, 1, 1][:5], order="F")
    times, components = array.shape[3:]
    time = chosen_stack(path, times, choice.stack, f"{times} time points (sizes {sizes})")
    if array.dtype.fields is not None:
        names = [name for name in ("R", "G", "B", "A") if name in array.dtype.fields]
        colour = np.stack([array[..., time, 0][name] for name in names], axis=-1)
        return chosen_component(path, colour, choice.component, is_colour=True)
    if components == 1:
        refuse_component(path, choice.component)
        return array[..., time, 0]
    colour_intent = int(header["intent_code"]) in (_RGB_VECTOR, _RGBA_VECTOR)
    return chosen_component(path, array[..., time, :], choice.component, colour_intent)


def _frame(path: Path, header: Any) -> NDArray[np.float64]:
    """The affine from IJK to RAS in mm: the sform, else the qform, else as 3D Slicer places a file with neither."""
    unit = int(header["xyzt_units"]) & 7
    if unit not in _MM_PER_UNIT:
        raise ImageFileError(f"{path}: its unit of length has the code {unit}, which NIfTI does not know.")
    sform = header.get_sform() if int(header["sform_code"]) > 0 else None
    qform = _qform(path, header, needed=sform is None) if int(header["qform_code"]) > 0 else None
    spacing = np.array(header["pixdim"][1:4], np.float64)
    if sform is not None:
        frame = np.array(sform, np.float64)
        _refuse_no_frame(path, frame, "sform")
        if qform is not None:
            _warn_of_two_places(path, frame, qform, header)
        elif not (np.isfinite(spacing) & (spacing > 0))[: len(header.get_data_shape())].all():
            logger.warning("%s: states the spacings %s; those of its sform are used.", path, spacing.tolist())
    elif qform is not None:
        frame = np.array(qform, np.float64)
        _refuse_no_frame(path, frame, "qform")
    else:
        spacing[len(header.get_data_shape()) :] = 1.0
        if not (np.isfinite(spacing) & (spacing > 0)).all():
            raise ImageFileError(f"{path}: no position, and the spacings {spacing.tolist()}: save it again with both.")
        frame = LPS_FROM_RAS @ np.diag([*spacing, 1.0])
        logger.warning("%s: says nothing of its position (no code of qform or sform); placed as in 3D Slicer.", path)
    if unit in (1, 3):
        logger.warning("%s: states lengths in %s; converted to mm.", path, "m" if unit == 1 else "micron")
        frame = np.diag([_MM_PER_UNIT[unit]] * 3 + [1.0]) @ frame
    return frame


def _qform(path: Path, header: Any, needed: bool) -> NDArray[np.float64] | None:
    """The qform's affine; None where it cannot be used and is not needed."""
    axes = len(header.get_data_shape())
    stored_sign, *stored_spacing = header["pixdim"][:4]
    stored = np.array(stored_spacing, np.float64)
    usable = header.copy()
    usable["pixdim"][0] = -1 if stored_sign < 0 else 1  # NIfTI says that 0 counts as 1; nibabel refuses it
    # Axes without extent may have no spacing; nibabel refuses negative ones.
    usable["pixdim"][1:4] = np.where(np.arange(3) < axes, stored, np.where(stored > 0, stored, 1.0))
    problem = ""
    if not (np.isfinite(stored[:axes]) & (stored[:axes] > 0)).all():
        problem = f"its spacings are {stored.tolist()}"
    else:
        try:
            return np.array(usable.get_qform(), np.float64)
        except ValueError as error:
            problem = str(error)
    if needed:
        raise ImageFileError(f"{path}: its position (qform) cannot be used: {problem}.")
    logger.warning("%s: its qform cannot be used (%s); its sform is.", path, problem)
    return None


def _refuse_no_frame(path: Path, frame: NDArray[np.float64], name: str) -> None:
    if not np.isfinite(frame).all():
        raise ImageFileError(f"{path}: its position ({name}) holds NaN or infinite numbers: {frame[:3].tolist()}.")
    try:
        ImageGeometry(frame, (1, 1, 1))
    except ValueError as error:
        raise ImageFileError(f"{path}: its position ({name}) cannot be used: {error}") from error


def _warn_of_two_places(path: Path, sform: NDArray[np.float64], qform: NDArray[np.float64], header: Any) -> None:
    shape = [*header.get_data_shape()[:3], 1, 1, 1][:3]
    corners = np.array(np.meshgrid(*[(0, size - 1) for size in shape], [1.0])).reshape(4, -1)
    apart = float(np.linalg.norm(((sform - qform) @ corners)[:3], axis=0).max())
    half_voxel = 0.5 * float(np.linalg.norm(sform[:3, :3], axis=0).min())
    if apart > half_voxel:
        logger.warning(
            "%s: states two positions, up to %.1f mm apart: the sform is used, not the qform. If the mask lies "
            "elsewhere, correct the file's header.",
            path,
            apart * _MM_PER_UNIT[int(header["xyzt_units"]) & 7],
        )


def write_nifti(path: Path, voxels: NDArray[np.generic], geometry: ImageGeometry) -> None:
    """Write grey (K, J, I) or colour (K, J, I, 3) voxels, with the same frame as sform and as qform.

    The caller sees to it that the grid is not sheared, which a qform cannot hold.
    """
    import nibabel

    array = np.moveaxis(voxels, (0, 1, 2), (2, 1, 0))
    if voxels.ndim == 4:
        array = array[..., None, :]
    if voxels.dtype == np.bool_:
        array = array.astype(np.uint8)
    header = nibabel.Nifti1Header()
    header.set_data_dtype(array.dtype)
    image = nibabel.Nifti1Image(array, geometry.ijk_to_ras, header)
    image.header.set_xyzt_units("mm")
    image.set_sform(geometry.ijk_to_ras, code="scanner")
    image.set_qform(geometry.ijk_to_ras, code="scanner", strip_shears=True)
    if voxels.ndim == 4:
        image.header["intent_code"] = _RGB_VECTOR
    nibabel.save(image, path)
