"""NRRD and MetaImage, read by SimpleITK after a look at what it takes on trust.

ITK 5 checks no checksum of compressed voxels and goes on with what it could not unpack, tells of a file's excess in no
way, takes lists and time points for colours, any unit for mm and any space for LPS.
"""

from __future__ import annotations

import glob
import gzip
import logging
import math
import os
import re
import shutil
import tempfile
import zlib
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.grid import LPS_FROM_RAS, ImageGeometry
from dbsam.geometry.plane_cut import FloatArray
from dbsam.io.image_file import (
    Choice,
    ImageFile,
    ImageFileError,
    chosen_component,
    chosen_stack,
    refuse_component,
    refuse_what_fits_no_memory,
)

if TYPE_CHECKING:
    import SimpleITK as sitk

logger = logging.getLogger(__name__)

NRRD_ENDINGS = (".nrrd", ".nhdr")
METAIMAGE_ENDINGS = (".mha", ".mhd")

_LONGEST_HEADER = 1 << 20
_CHUNK = 1 << 20
_DAMAGED = "Copy or download it again."
_SPACES = ("right-anterior-superior", "left-anterior-superior", "left-posterior-superior", "ras", "las", "lps")
_MM_PER_UNIT = {
    "mm": 1.0, "millimeter": 1.0, "millimetre": 1.0, "millimeters": 1.0, "millimetres": 1.0, "": 1.0,
    "m": 1000.0, "meter": 1000.0, "metre": 1000.0, "meters": 1000.0, "metres": 1000.0,
    "cm": 10.0, "centimeter": 10.0, "centimetre": 10.0, "centimeters": 10.0, "centimetres": 10.0,
    "um": 1e-3, "µm": 1e-3, "μm": 1e-3, "micron": 1e-3, "microns": 1e-3, "micrometer": 1e-3, "micrometre": 1e-3,
    "micrometers": 1e-3, "micrometres": 1e-3, "nm": 1e-6, "nanometer": 1e-6, "nanometre": 1e-6,
}  # fmt: skip
_NRRD_BYTES = {
    **dict.fromkeys(("signed char", "int8", "int8_t", "uchar", "unsigned char", "uint8", "uint8_t"), 1),
    **dict.fromkeys(("short", "short int", "signed short", "signed short int", "int16", "int16_t"), 2),
    **dict.fromkeys(("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"), 2),
    **dict.fromkeys(("int", "signed int", "int32", "int32_t", "uint", "unsigned int", "uint32", "uint32_t"), 4),
    **dict.fromkeys(("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64"), 8),
    **dict.fromkeys(("int64_t", "ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"), 8),
    "float": 4,
    "double": 8,
}
_META_BYTES = {
    **dict.fromkeys(("MET_CHAR", "MET_UCHAR", "MET_ASCII_CHAR"), 1),
    **dict.fromkeys(("MET_SHORT", "MET_USHORT"), 2),
    **dict.fromkeys(("MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG", "MET_FLOAT"), 4),
    **dict.fromkeys(("MET_LONG_LONG", "MET_ULONG_LONG", "MET_DOUBLE"), 8),
}
# How many numbers each has, as a power of NDims; ITK puts 0 in the place of those that it cannot read.
_META_NUMBERS = {
    **dict.fromkeys(
        ("DimSize", "ElementSpacing", "ElementSize", "Offset", "Position", "Origin", "CenterOfRotation"), 1
    ),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), 2),
    **dict.fromkeys(("NDims", "ElementNumberOfChannels", "HeaderSize", "CompressedDataSize"), 0),
    **dict.fromkeys(("ElementToIntensityFunctionSlope", "ElementToIntensityFunctionOffset"), 0),
}
_META_WORDS = (
    "BinaryData", "CompressedData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB", "ElementType", "ElementDataFile",
    "DistanceUnits",
)  # fmt: skip
_META_NO_SCALE = {"Slope": 1.0, "Offset": 0.0}
_META_ORIGINS = ("Offset", "Position", "Origin")
_META_SAME = (
    _META_ORIGINS, ("TransformMatrix", "Rotation", "Orientation"), ("BinaryDataByteOrderMSB", "ElementByteOrderMSB"),
)  # fmt: skip
_END_OF_NRRD = re.compile(rb"\r?\n\r?\n")
_END_OF_METAIMAGE = re.compile(rb"^\s*ElementDataFile\s*=\s*local[ \t]*\r?\n", re.MULTILINE | re.IGNORECASE)
_SPATIAL_KINDS = ("domain", "space", "???", "none")
_COLOUR_KINDS = {"rgb-color": 3, "rgba-color": 4}


def is_nrrd(path: Path) -> bool:
    """Whether the file begins like NRRD, or is named so."""
    return _start(path).startswith(b"NRRD000") or path.name.lower().endswith(NRRD_ENDINGS)


def is_metaimage(path: Path) -> bool:
    """Whether the file begins like MetaImage, or is named so."""
    start = _start(path).lstrip()
    return start.startswith((b"ObjectType", b"NDims")) or path.name.lower().endswith(METAIMAGE_ENDINGS)


def data_files(header: Path) -> list[Path]:
    """The files that hold the voxels where they are not in the header's own (.mhd, .nhdr and others)."""
    text = _text(header)
    # A name, a pattern such as slice%03d.raw with its numbers, or the word LIST with names on lines of their own.
    match = re.search(r"^(?:ElementDataFile\s*=|data ?file:)(.*)", text, re.MULTILINE | re.IGNORECASE | re.DOTALL)
    if match is None:
        return []
    first, *others = [line.strip() for line in match[1].split("\n")]
    if first.upper() in ("LOCAL", ""):
        return []
    if first.upper().split()[0] == "LIST":
        # NRRD's list ends the header; so does an empty line.
        names = [name for name in others if name]
        return [header.parent / name for name in names]
    if "%" in first:
        place = header.parent / first.split()[0]
        return sorted(Path(file) for file in glob.glob(re.sub(r"%\d*d", "*", glob.escape(str(place)))))
    return [header.parent / first]


def read_nrrd(path: Path, choice: Choice) -> ImageFile:
    """Read an NRRD file, or a detached header with its voxels.

    Raises:
        ImageFileError: It is damaged, its place or unit cannot be known, or it holds several images and none is chosen.
        MemoryError: It does not fit into memory.
    """
    text = _text(path)
    fields = _nrrd_fields(path, text)
    kinds = _nrrd_kinds(path, fields)
    sizes = _numbers(path, fields, "sizes", int)
    others = [(kind, size) for kind, size in zip(kinds, sizes, strict=True) if kind not in _SPATIAL_KINDS and size > 1]
    if len(others) > 1:
        named = ", ".join(f"{size} of kind {kind}" for kind, size in others)
        raise ImageFileError(f"{path}: holds several values a voxel ({named}); save one as a volume of its own.")
    if others and others[0][0] == "time" and kinds[0] != "time" and None in _vectors(fields):
        raise ImageFileError(f"{path}: holds {others[0][1]} time points; save one as a volume of its own.")
    _check_nrrd_voxels(path, fields, sizes)
    scale = _nrrd_scale(path, fields, kinds)
    placed = _check_nrrd_place(path, fields, kinds)
    if not placed:
        _warn_of_no_place(path)
    image = _read_with_itk(path)
    is_colour = any(_COLOUR_KINDS.get(kind) == size for kind, size in others)
    what = f"values a voxel, of the kind {others[0][0]!r}" if others else "values a voxel"
    has_spacing = "space directions" in fields or "spacings" in fields
    found = _image_file(path, image, choice, is_colour, what, scale, has_spacing)
    frame = _nrrd_frame(fields, kinds, scale) if placed else None
    return replace(found, position_known=placed, ijk_to_ras=found.ijk_to_ras if frame is None else frame)


def read_metaimage(path: Path, choice: Choice) -> ImageFile:
    """Read a MetaImage file, or a header with its voxels.

    Raises:
        ImageFileError: It is damaged, its spacing cannot be used, or it holds several images and none is chosen.
        MemoryError: It does not fit into memory.
    """
    fields = _meta_fields(path, _text(path))
    sizes = _numbers(path, fields, "DimSize", int)
    for key in ("ElementSpacing", "ElementSize"):
        if key in fields:
            values = _numbers(path, fields, key, float)
            if not all(math.isfinite(value) and value > 0 for value in values):
                raise ImageFileError(f"{path}: its {key} is {fields[key]}; spacings are positive numbers.")
    _check_meta_voxels(path, fields, sizes)
    scale = [_mm_per(path, fields.get("DistanceUnits", "mm"))] * 3
    has_spacing = any(key in fields for key in ("ElementSpacing", "ElementSize"))
    found = _image_file(path, _read_with_itk(path), choice, False, "values a voxel", scale, has_spacing)
    if not any(key in fields for key in _META_ORIGINS):
        _warn_of_no_place(path)
        return replace(found, position_known=False)
    return found


def _meta_fields(path: Path, text: str) -> dict[str, str]:
    """The header's fields; refuses what ITK drops or takes for something else without a word."""
    fields: dict[str, str] = {}
    known = {name.lower(): name for name in (*_META_NUMBERS, *_META_WORDS)}
    for name, value in re.findall(r"^[ \t]*(\w+)[ \t]*[=:][ \t]*(.*?)[ \t]*$", text, re.MULTILINE):
        if known.get(name.lower(), name) != name:
            raise ImageFileError(f"{path}: its header has {name!r}, which counts as {known[name.lower()]} alone.")
        if fields.setdefault(name, value) != value:
            raise ImageFileError(f"{path}: its header has {name} twice, {fields[name]!r} and {value!r}.")
        if name == "ElementDataFile":  # the last; names of files may follow
            break
    if not {"ElementDataFile", "DimSize", "NDims"} <= fields.keys():
        raise ImageFileError(
            f"{path}: not an image that can be read, or damaged: its header has no ElementDataFile, DimSize or NDims."
        )
    [dimensions] = _numbers(path, fields, "NDims", int) or [0]
    for name in fields.keys() & _META_NUMBERS.keys():
        numbers, count = _numbers(path, fields, name, float), dimensions ** _META_NUMBERS[name]
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            raise ImageFileError(
                f"{path}: damaged: {name!r} in its header is {fields[name]!r} instead of {count} numbers."
            )
    for names in _META_SAME:
        stated = {name: fields[name] for name in names if name in fields}
        if len({_canonical(value) for value in stated.values()}) > 1:
            raise ImageFileError(f"{path}: its header contradicts itself: {stated}.")
    scale = [float(fields.get(f"ElementToIntensityFunction{name}", value)) for name, value in _META_NO_SCALE.items()]
    if scale != list(_META_NO_SCALE.values()):
        raise ImageFileError(
            f"{path}: its values are to be scaled (ElementToIntensityFunction), which ITK and 3D Slicer do not do. "
            "Save it again with the scaled values."
        )
    return fields


def _canonical(value: str) -> Hashable:
    try:
        return tuple(map(float, value.split()))
    except ValueError:
        return value.lower()


def read_pixels(path: Path) -> NDArray[Any]:
    """The array of a picture as ITK reads it: (K, H, W, C) or (H, W, C).

    Raises:
        ImageFileError: It cannot be read.
    """
    import SimpleITK as sitk

    return np.asarray(sitk.GetArrayFromImage(_read_with_itk(path)))


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _text(path: Path) -> str:
    """The header: up to the empty line of NRRD or the last line of MetaImage, but not the voxels behind it."""
    with path.open("rb") as file:
        content = file.read(_LONGEST_HEADER)
    if content.startswith(b"NRRD"):
        content = _END_OF_NRRD.split(content, maxsplit=1)[0]
    elif local := _END_OF_METAIMAGE.search(content):
        content = content[: local.end()]
    return content.decode("utf-8", "surrogateescape").replace("\r\n", "\n")


def _numbers(path: Path, fields: Mapping[str, str], key: str, kind: type) -> list[Any]:
    try:
        return [kind(part) for part in fields[key].split()]
    except (KeyError, ValueError) as error:
        raise ImageFileError(f"{path}: damaged: {key!r} in its header is {fields.get(key)!r}.") from error


def _whole(path: Path, fields: Mapping[str, str], key: str, default: int) -> int:
    """One whole number of the header; NRRD writes some names in one word, too."""
    name = next((name for name in (key, key.replace(" ", "")) if name in fields), None)
    if name is None:
        return default
    [number] = [*_numbers(path, fields, name, int), default][:1]
    return int(number)


def _mm_per(path: Path, unit: str) -> float:
    factor = _MM_PER_UNIT.get(unit.strip().strip('"').lower())
    if factor is None:
        raise ImageFileError(f"{path}: its unit of length is {unit!r}, which is not known here. Save it in mm.")
    if factor != 1:
        logger.warning("%s: states lengths in %s; converted to mm.", path, unit)
    return factor


def _nrrd_fields(path: Path, text: str) -> dict[str, str]:
    lines = text.split("\n")
    if not re.fullmatch(r"NRRD000[1-5]\s*", lines[0]):
        raise ImageFileError(
            f"{path}: not an image that can be read, or damaged: an NRRD file does not begin with {lines[0][:20]!r}."
        )
    fields = {}
    for line in lines[1:]:
        name, separator, value = line.partition(":")
        if separator and not value.startswith("=") and not line.startswith("#"):
            fields[name.strip().lower().replace("datafile", "data file")] = value.strip()
    return fields


def _nrrd_kinds(path: Path, fields: Mapping[str, str]) -> list[str]:
    """The kind of each axis, in lower case; "domain" where the file says nothing."""
    sizes = fields.get("sizes", "").split()
    kinds = fields.get("kinds", " ".join(["domain"] * len(sizes))).lower().split()
    directions = _vectors(fields)
    if len(kinds) != len(sizes) or (directions and len(directions) != len(sizes)):
        raise ImageFileError(f"{path}: damaged: its header has {len(sizes)} sizes, but another number of axes.")
    # An axis without direction, where others have one, does not lie in space.
    if directions and len(sizes) > 3:
        return [
            "list" if vector is None and kind in _SPATIAL_KINDS else kind
            for kind, vector in zip(kinds, directions, strict=True)
        ]
    return kinds


def _vectors(fields: Mapping[str, str]) -> list[tuple[float, ...] | None]:
    """The direction of each axis; None for an axis without."""
    found = re.findall(r"none|\([^)]*\)", fields.get("space directions", ""), re.IGNORECASE)
    return [_vector(text) for text in found]


def _vector(text: str) -> tuple[float, ...] | None:
    try:
        return tuple(float(part) for part in text.strip("()").split(","))
    except ValueError:
        return None


def _check_nrrd_place(path: Path, fields: Mapping[str, str], kinds: Sequence[str]) -> bool:
    """Whether the file has a position; refuses one that cannot be known."""
    spacings = fields.get("spacings", "").split()
    for kind, text in zip(kinds, spacings, strict=False):
        spacing = _vector(text)
        if kind in _SPATIAL_KINDS and not (spacing and math.isfinite(spacing[0]) and spacing[0] > 0):
            raise ImageFileError(f"{path}: its spacings are {fields['spacings']}; they must be positive numbers.")
    if "space" not in fields and "space directions" not in fields and "space dimension" not in fields:
        return False
    space = fields.get("space", "").lower().removesuffix("-time").removesuffix("t")
    is_named = bool(space) or fields.get("space dimension") not in ("2", "4")
    if not is_named:
        # ITK has no other form for pictures and series of volumes; for volumes Slicer takes it for RAS, ITK for LPS.
        logger.warning("%s: does not name its space; taken for left, posterior, superior, as ITK writes it.", path)
    elif space not in _SPACES:
        named = f"the space {fields['space']!r}" if "space" in fields else "no named space"
        raise ImageFileError(
            f"{path}: has {named}, so that nobody knows which side is left. Say `space: left-posterior-superior` (or "
            "right-anterior-superior) in its header, whichever is right."
        )
    origin = _vector(fields.get("space origin", "(0,0,0)"))
    directions = _vectors(fields)
    spatial = [vector for kind, vector in zip(kinds, directions, strict=False) if kind in _SPATIAL_KINDS]
    vectors = [*spatial, origin]
    if any(vector is None or not all(map(math.isfinite, vector)) for vector in vectors):
        raise ImageFileError(
            f"{path}: its position holds NaN or no numbers: directions {fields.get('space directions')}, origin "
            f"{fields.get('space origin')}."
        )
    try:
        if len(spatial) == 3:
            ImageGeometry(np.block([[np.transpose(np.array(spatial)), np.zeros((3, 1))], [np.eye(4)[3:]]]), (1, 1, 1))
    except ValueError as error:
        raise ImageFileError(f"{path}: its position cannot be used: {error}") from error
    return is_named and {"space directions", "space origin"} <= fields.keys()


def _warn_of_no_place(path: Path) -> None:
    logger.warning(
        "%s: does not say where it lies; its axes are taken for left, posterior, superior, its origin for 0, where "
        "nothing is stated, and boxes are to be given in voxels.", path,
    )  # fmt: skip


def _nrrd_frame(fields: Mapping[str, str], kinds: Sequence[str], scale: Sequence[float]) -> FloatArray | None:
    """The affine to RAS that a checked header states; None where not three axes lie in space.

    Not ITK's: up to SimpleITK 2.5.0 that takes left-anterior-superior for right-anterior-superior.
    """
    axes = [vector for kind, vector in zip(kinds, _vectors(fields), strict=True) if kind in _SPATIAL_KINDS]
    columns = [vector[:3] for vector in (*axes, _vector(fields["space origin"])) if vector]  # a fourth counts times
    if [len(column) for column in columns] != [3] * 4:
        return None
    space = fields["space"].lower()
    right, anterior = (word[0] for word in (space.split("-") if "-" in space else space)[:2])
    signs = np.array([1 if right == "r" else -1, 1 if anterior == "a" else -1, 1])
    frame = np.eye(4)
    frame[:3] = np.column_stack(columns) * (signs * scale)[:, None]
    return frame


def _nrrd_scale(path: Path, fields: Mapping[str, str], kinds: Sequence[str]) -> list[float]:
    """Millimetres in the unit of each axis of space."""
    if "space units" in fields:
        units = re.findall(r'"([^"]*)"|(\S+)', fields["space units"])
        named = [quoted or plain for quoted, plain in units][:3]
        return [_mm_per(path, unit) for unit in named + ["mm"] * (3 - len(named))]
    units = re.findall(r'"([^"]*)"', fields.get("units", ""))
    if "space directions" in fields or not units:
        return [1.0] * 3
    named = [unit for kind, unit in zip(kinds, units, strict=False) if kind in _SPATIAL_KINDS][:3]
    return [_mm_per(path, unit) for unit in named + ["mm"] * (3 - len(named))]


def _check_nrrd_voxels(path: Path, fields: Mapping[str, str], sizes: Sequence[int]) -> None:
    """Compare length and checksum of the voxels with what the header states."""
    item = _NRRD_BYTES.get(fields.get("type", "").lower())
    if item is None or not sizes or min(sizes) < 1:
        raise ImageFileError(f"{path}: values of type {fields.get('type')!r} and sizes {list(sizes)} are no image.")
    needed = math.prod(sizes) * item
    refuse_what_fits_no_memory(path, needed)
    encoding = fields.get("encoding", "").lower()
    files = data_files(path)
    byte_skip, line_skip = _whole(path, fields, "byte skip", 0), _whole(path, fields, "line skip", 0)
    if files:
        _refuse_missing(path, files)
        lengths = [_length(file, 0, encoding, line_skip) for file in files]
    else:
        lengths = [_length(path, _length_of_header(path), encoding)]
    if encoding in ("txt", "text", "ascii"):
        needed = math.prod(sizes)
    if byte_skip == -1 and sum(lengths) >= needed:
        return
    _compare(path, sum(lengths) - max(byte_skip, 0) * len(lengths), needed, files)


def _check_meta_voxels(path: Path, fields: Mapping[str, str], sizes: Sequence[int]) -> None:
    item = _META_BYTES.get(fields.get("ElementType", "").upper())
    if item is None or min(sizes, default=0) < 1:
        raise ImageFileError(f"{path}: values of type {fields.get('ElementType')!r} and sizes {sizes} are no image.")
    count = math.prod(sizes) * _whole(path, fields, "ElementNumberOfChannels", 1)
    refuse_what_fits_no_memory(path, count * item)
    files = data_files(path)
    if files:
        _refuse_missing(path, files)
    places = [(file, 0) for file in files] or [(path, _length_of_header(path))]
    if fields.get("CompressedData", "False").lower().startswith("t"):
        if "CompressedDataSize" not in fields:
            raise ImageFileError(
                f"{path}: compressed without CompressedDataSize, which is not read rightly. Save it again."
            )
        stated = _whole(path, fields, "CompressedDataSize", 0)
        found = sum(file.stat().st_size - start for file, start in places)
        if found != stated:
            raise ImageFileError(f"{path}: damaged: {found} bytes of compressed voxels instead of {stated}. {_DAMAGED}")
        lengths = [_length(file, start, "zlib") for file, start in places]
    elif fields.get("BinaryData", "True").lower().startswith("f"):
        raise ImageFileError(f"{path}: voxels as text, which ITK does not read; save it again as binary.")
    else:
        skip = _whole(path, fields, "HeaderSize", 0)
        lengths = [_length(file, start, "raw") - max(skip, 0) for file, start in places]
        if skip == -1 and sum(lengths) >= count * item:
            return
    _compare(path, sum(lengths), count * item, files)


def _refuse_missing(path: Path, files: Sequence[Path]) -> None:
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise ImageFileError(f"{path}: its voxels are in {missing[0]}, which is not there. Copy both.")


def _compare(path: Path, found: int, needed: int, files: Sequence[Path]) -> None:
    where = f" in {files[0].name}" if files else ""
    if found < needed:
        raise ImageFileError(
            f"{path}: damaged: it does not hold all its voxels: {found} bytes{where} instead of {needed}. {_DAMAGED}"
        )
    if found > needed:
        raise ImageFileError(f"{path}: damaged: {found} bytes of voxels{where}, where its header states {needed}.")


def _length_of_header(path: Path) -> int:
    with path.open("rb") as file:
        content = file.read(_LONGEST_HEADER)
    end = (_END_OF_NRRD if content.startswith(b"NRRD") else _END_OF_METAIMAGE).search(content)
    if end is None:
        raise ImageFileError(f"{path}: damaged: it ends within its header. {_DAMAGED}")
    return end.end()


def _length(path: Path, start: int, encoding: str, line_skip: int = 0) -> int:
    """How many bytes (numbers, in a text) of voxels a file holds, after their checksum has been compared."""
    with path.open("rb") as file:
        file.seek(start)
        for _ in range(line_skip):
            file.readline()
        try:
            if encoding in ("gzip", "gz"):
                with gzip.GzipFile(fileobj=file, mode="rb") as unpacked:
                    return sum(map(len, iter(lambda: unpacked.read(_CHUNK), b"")))
            if encoding == "zlib":
                return _unpacked_length(file.read())
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ImageFileError(f"{path}: damaged: its voxels cannot be unpacked ({error}). {_DAMAGED}") from error
        if encoding in ("txt", "text", "ascii"):
            return len(file.read().split())
        if encoding == "hex":
            return len(b"".join(file.read().split())) // 2
        if encoding != "raw":
            raise ImageFileError(f"{path}: voxels in the encoding {encoding!r}; save it as raw or gzip.")
        return path.stat().st_size - file.tell()


def _unpacked_length(content: bytes) -> int:
    unpacker = zlib.decompressobj(wbits=47)  # as MetaIO: zlib or gzip
    length = 0
    while content and not unpacker.eof:
        length += len(unpacker.decompress(content, _CHUNK))
        content = unpacker.unconsumed_tail
    if not unpacker.eof:
        raise EOFError("it ends early")
    if unpacker.unused_data:
        raise zlib.error(f"{len(unpacker.unused_data)} bytes too many")
    return length


def _image_file(
    path: Path, image: sitk.Image, choice: Choice, is_colour: bool, what: str, scale: Sequence[float], has_spacing: bool
) -> ImageFile:
    import SimpleITK as sitk

    dimension, components = image.GetDimension(), image.GetNumberOfComponentsPerPixel()
    sizes = [*image.GetSize(), 1, 1][: max(dimension, 4)]
    if any(size > 1 for size in sizes[4:]):
        raise ImageFileError(f"{path}: {dimension} dimensions with sizes {image.GetSize()}; save one as a volume.")
    array = sitk.GetArrayFromImage(image)
    if np.iscomplexobj(array):
        raise ImageFileError(f"{path}: complex values; save the magnitude as a volume.")
    size_i, size_j, size_k, times = sizes[:4]
    array = array.reshape(times, size_k, size_j, size_i, components)
    array = array[chosen_stack(path, times, choice.stack, f"{times} time points (sizes {image.GetSize()})")]
    if components > 1:
        voxels = chosen_component(path, array, choice.component, is_colour, what)
    else:
        refuse_component(path, choice.component)
        voxels = np.ascontiguousarray(array[..., 0])
    ijk_to_lps = np.eye(4)
    axes = min(dimension, 3)
    directions = np.reshape(image.GetDirection(), (dimension, dimension)) * image.GetSpacing()
    ijk_to_lps[:axes, :axes] = directions[:axes, :axes]
    ijk_to_lps[:axes, 3] = image.GetOrigin()[:axes]
    frame = LPS_FROM_RAS @ np.diag([*scale, 1.0]) @ ijk_to_lps
    i, j, k = ([*image.GetSpacing(), 1.0][n] * scale[n] for n in range(3))
    found = ImageFile(voxels, frame, has_spacing, stated_spacing_mm=(i, j, k))
    try:
        _ = found.geometry
    except ValueError as error:
        raise ImageFileError(f"{path}: its position cannot be used: {error}") from error
    return found


def _read_with_itk(path: Path) -> sitk.Image:
    """The image; what ITK only warns of is an error."""
    import SimpleITK as sitk

    try:
        with _warnings_of_itk() as told, _name_that_itk_knows(path) as name:
            image = sitk.ReadImage(str(name))
    except RuntimeError as error:
        message = last_line(str(error))
        if "allocat" in message.lower() or "bad_alloc" in message.lower():
            raise MemoryError(f"{path}: too large for this computer's memory ({message}).") from error
        raise ImageFileError(f"{path}: cannot be read: {message}") from error
    if told:
        raise ImageFileError(f"{path}: not read without loss: {last_line(told[0])}")
    return image


@contextmanager
def _warnings_of_itk() -> Iterator[list[str]]:
    """Collects what ITK warns of meanwhile, which it would write to standard error."""
    import SimpleITK as sitk

    told: list[str] = []

    class Collector(sitk.LoggerBase):
        def DisplayWarningText(self, text: str) -> None:
            told.append(text)

        DisplayErrorText = DisplayText = DisplayGenericOutputText = DisplayDebugText = DisplayWarningText

    collector = Collector()
    former = collector.SetAsGlobalITKLogger()
    try:
        yield told
    finally:
        former.SetAsGlobalITKLogger()


@contextmanager
def _name_that_itk_knows(path: Path) -> Iterator[Path]:
    """The path, or that of a link in another folder where ITK knows the ending in lower case only."""
    if path.suffix == path.suffix.lower() or path.suffix.lower() != ".mha":
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="dbsam-") as folder:
        link = Path(folder) / "image.mha"
        try:
            os.symlink(path.resolve(), link)
        except OSError:  # Windows lets not everybody make links
            shutil.copyfile(path, link)
        yield link


def last_line(text: str) -> str:
    """What ITK complains about, without its stack of source files."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("Reason:")]
    return lines[-1] if lines else "unknown reason."
