"""PNG, JPEG, TIFF, BMP, GIF and WebP, read by Pillow, as they are seen: turned as their orientation says.

Pillow 13 is not relied on where it was found wrong: it scrambles TIFFs of orientation 5 to 8, keeps 8 of the 16 bits of
colours and of grey with alpha, takes signed for unsigned 8-bit TIFFs, and drops channels that a TIFF does not explain.
"""

from __future__ import annotations

import io
import logging
import re
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.grid import LPS_FROM_RAS
from dbsam.io.image_file import (
    Choice,
    ImageFile,
    ImageFileError,
    chosen_component,
    chosen_stack,
    native,
    refuse_component,
)

if TYPE_CHECKING:
    from PIL.Image import Image

logger = logging.getLogger(__name__)

PICTURE_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp")

_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM", b"GIF8", b"RIFF")
_FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "GIF", "WEBP")
_GREY = {"L": None, "I;16": None, "I;16B": None, "I;16L": None, "I": None, "F": None, "1": "L", "LA": "L", "La": "L"}
_COLOUR = {"RGB": None, "RGBA": "RGB", "RGBX": "RGB", "RGBa": "RGB", "P": "RGB", "PA": "RGB"}
_ORIENTATION = 274
_TURNS = {
    1: lambda seen: seen,
    2: lambda seen: seen[:, ::-1],
    3: lambda seen: seen[::-1, ::-1],
    4: lambda seen: seen[::-1],
    5: lambda seen: seen.swapaxes(0, 1),
    6: lambda seen: seen.swapaxes(0, 1)[:, ::-1],
    7: lambda seen: seen[::-1, ::-1].swapaxes(0, 1),
    8: lambda seen: seen.swapaxes(0, 1)[::-1],
}
_BITS, _PHOTOMETRIC, _DESCRIPTION, _SAMPLES, _PLANAR, _FORMAT, _KIND = 258, 262, 270, 277, 284, 339, 254
_MOST_SAMPLES = 4  # red, green, blue and alpha
_COMPRESSION, _DEFLATE = 259, (8, 32946)
_MIN_IS_WHITE, _MIN_IS_BLACK, _TIFF_RGB, _TIFF_PALETTE, _TIFF_YCBCR = 0, 1, 2, 3, 6
_PNG_BITS_AT, _PNG_KIND_AT, _PNG_HEADER = 24, 25, 29
_PNG_RGB, _PNG_GREY_ALPHA, _PNG_RGBA = 2, 4, 6


def is_picture(path: Path) -> bool:
    """Whether the file begins as one of these formats does, or is named so."""
    with path.open("rb") as file:
        return file.read(8).startswith(_STARTS) or path.name.lower().endswith(PICTURE_ENDINGS)


def read_picture(path: Path, choice: Choice, as_labels: bool = False) -> ImageFile:
    """Read a picture as one K-slice, or the pages of a TIFF as its slices; an alpha channel is dropped.

    Args:
        path: The file.
        choice: A page, frame or component.
        as_labels: Keep the indices of a palette, which are the ids of a labelmap but no grey values.

    Raises:
        ImageFileError: It is damaged, holds several images and none is chosen, or channels that it does not explain.
        MemoryError: It does not fit into memory.
    """
    from PIL import Image

    try:
        content = path.read_bytes()
        if content.startswith(_STARTS[0]):
            _check_png(content)
        with warnings.catch_warnings():
            # What Pillow only warns of, such as cut metadata, is damage; and a large picture is no attack here.
            warnings.simplefilter("error")
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            voxels = _voxels(path, content, choice, as_labels)
    except Image.DecompressionBombError as error:
        raise MemoryError(f"{path}: {error} Crop the picture, or reduce it.") from error
    except ImageFileError:
        raise
    except (OSError, ValueError, SyntaxError, TypeError, KeyError, IndexError, EOFError, OverflowError, Warning,
            struct.error, zlib.error) as error:  # fmt: skip
        raise ImageFileError(f"{path}: not an image that can be read, damaged or cut short: {error}") from error
    return ImageFile(np.ascontiguousarray(voxels), LPS_FROM_RAS, spacing_known=False)


def _voxels(path: Path, content: bytes, choice: Choice, as_labels: bool) -> NDArray[Any]:
    from PIL import Image

    with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
        is_tiff = picture.format == "TIFF"
        count = 1 if picture.format == "MPO" else getattr(picture, "n_frames", 1)
        if is_tiff:
            pages = _tiff_pages(path, picture, count, choice.stack)
        else:
            pages = [chosen_stack(path, count, choice.stack, f"{count} frames")]
            _refuse_unexplained(path, picture)
        orientations = [_orientation(picture, page) for page in pages]
        kinds = [_tiff_kind(path, picture, page) if is_tiff else "" for page in pages]
        for page in pages if is_tiff else ():
            picture.seek(page)
            _check_tiff(content, picture.tag_v2)
    stored = _tiff_as_stored(content) if is_tiff else content
    planes = []
    with Image.open(io.BytesIO(stored), formats=_FORMATS) as picture:
        for page, kind, orientation in zip(pages, kinds, orientations, strict=True):
            picture.seek(page)
            plane = _sixteen_bit_colours(path, content, kind, page)
            plane = _pixels(path, picture, kind, as_labels) if plane is None else plane
            if plane.ndim == 3:
                plane = chosen_component(path, plane, choice.component, is_colour=True)
            else:
                refuse_component(path, choice.component)
            planes.append(_TURNS[orientation](plane))
    if orientations[0] != 1:
        logger.warning("%s: turned as its orientation (%d) says; boxes and mask are those of the picture as seen.",
                       path, orientations[0])  # fmt: skip
    return np.stack(planes)


def _orientation(picture: Image, page: int) -> int:
    picture.seek(page)
    if picture.format == "TIFF":
        found = picture.tag_v2.get(_ORIENTATION, 1)  # type: ignore[attr-defined]
    else:
        found = picture.getexif().get(_ORIENTATION, 1)
    return found if found in _TURNS else 1


def _refuse_unexplained(path: Path, picture: Image) -> None:
    if picture.mode not in {**_GREY, **_COLOUR}:
        raise ImageFileError(f"{path}: colours of kind {picture.mode}; save it as RGB or grey.")


def _pixels(path: Path, picture: Image, kind: str, as_labels: bool) -> NDArray[Any]:
    """(H, W) or (H, W, C) pixels of the page at hand, as stored."""
    mode = picture.mode
    if mode in ("P", "1") and as_labels:
        return np.array(picture).astype(np.uint8)
    _refuse_unexplained(path, picture)
    wanted = {**_GREY, **_COLOUR}[mode]
    array = native(np.array(picture if wanted is None else picture.convert(wanted)))
    if kind == "i1":
        return array.view(np.int8)
    if kind == "u4":
        return array.view(np.uint32)
    if kind == "u2, inverted":  # Pillow inverts what has fewer bits
        return ~array.astype(np.uint16)
    if kind in ("i2", "u2"):
        return array.astype(kind)
    return array


def _check_png(content: bytes) -> None:
    """Compare the checksums of all parts, which Pillow does for some alone.

    Raises:
        ValueError: One differs, or the file ends early.
    """
    place, kind = len(_STARTS[0]), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, place)
        data = content[place + 4 : place + 8 + length]
        (checksum,) = struct.unpack_from(">I", content, place + 8 + length)
        if zlib.crc32(data) != checksum:
            raise ValueError(f"the checksum of its part {kind.decode('latin-1')!r} is wrong.")
        place += 12 + length


def _sixteen_bit_colours(path: Path, content: bytes, kind: str, page: int) -> NDArray[Any] | None:
    """(H, W[, C]) pixels of 16 bits in several channels, of which Pillow keeps 8 bits; None for other pictures."""
    is_png = content.startswith(_STARTS[0]) and content[_PNG_BITS_AT] == 16
    if is_png and content[_PNG_KIND_AT] == _PNG_GREY_ALPHA:
        return _png_grey_with_alpha(content)
    if not (kind == "colour of 16 bits" or (is_png and content[_PNG_KIND_AT] in (_PNG_RGB, _PNG_RGBA))):
        return None
    from dbsam.io.itk_files import read_pixels

    array = read_pixels(path)
    return array[page] if array.ndim == 4 else array


def _png_grey_with_alpha(content: bytes) -> NDArray[Any]:
    """Grey values of 16 bits beside 16 of alpha, whose bytes lie as those of four channels of 8 bits do."""
    from PIL import Image

    header = content[12:_PNG_BITS_AT] + bytes([8, _PNG_RGBA]) + content[_PNG_KIND_AT + 1 : _PNG_HEADER]
    disguised = content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[_PNG_HEADER + 4 :]
    with Image.open(io.BytesIO(disguised), formats=("PNG",)) as picture:
        high, low = np.array(picture)[..., 0], np.array(picture)[..., 1]
    return high.astype(np.uint16) << np.uint16(8) | low


def _tiff_pages(path: Path, picture: Image, count: int, stack: int | None) -> list[int]:
    """The pages to read: all of a stack, or the chosen one."""
    shapes = []
    for page in range(count):
        picture.seek(page)
        shapes.append((picture.size, picture.mode, picture.tag_v2.get(_KIND, 0)))  # type: ignore[attr-defined]
    picture.seek(0)
    hyper = _hyperstack(str(picture.tag_v2.get(_DESCRIPTION, "")))  # type: ignore[attr-defined]
    if stack is not None or (count > 1 and (hyper or len(set(shapes)) > 1)):
        what = f"{count} pages of {hyper}" if hyper else f"{count} pages"
        if len(set(shapes)) > 1:
            what += " of different sizes or kinds"
        listing = [f"{width} x {height}, {mode}" for (width, height), mode, _ in shapes]
        return [chosen_stack(path, count, stack, what, listing)]
    return list(range(count))


def _hyperstack(description: str) -> str:
    """What ImageJ or OME says of the channels and times among the pages; empty where there are none."""
    found = []
    for names in (("channels", "SizeC"), ("frames", "SizeT")):
        for name in names:
            match = re.search(rf'\b{name}="?(\d+)', description)
            if match and int(match[1]) > 1:
                found.append(f"{match[1]} {names[0]}")
    return " and ".join(found)


def _tiff_kind(path: Path, picture: Image, page: int) -> str:
    """The type of a page's values where Pillow mistakes it, "colour of 16 bits", or nothing.

    Raises:
        ImageFileError: It has channels that it does not explain, or values that cannot be read rightly.
    """
    picture.seek(page)
    tags: Any = picture.tag_v2  # type: ignore[attr-defined]
    bits = tags.get(_BITS, (1,))
    bits = bits if isinstance(bits, tuple) else (bits,)
    samples, photometric = tags.get(_SAMPLES, 1), tags.get(_PHOTOMETRIC)
    form = tags.get(_FORMAT, (1,))
    form = form[0] if isinstance(form, tuple) else form
    if len(set(bits)) > 1:
        raise ImageFileError(f"{path}: channels of {bits} bits; save it as RGB or grey.")
    if photometric in (_MIN_IS_WHITE, _MIN_IS_BLACK, _TIFF_PALETTE) and samples > 1:
        with_alpha = samples == 2 and picture.mode in ("LA", "La", "PA")
        if not with_alpha:
            raise ImageFileError(
                f"{path}: holds {samples} channels and does not say what they are. Save the one to be segmented."
            )
    if photometric == _MIN_IS_WHITE and (bits[0] > 16 or form != 1):
        raise ImageFileError(f"{path}: {bits[0]} bits or signs, with 0 as white; save it with 0 as black.")
    if photometric not in (_MIN_IS_WHITE, _MIN_IS_BLACK, _TIFF_RGB, _TIFF_PALETTE, _TIFF_YCBCR):
        raise ImageFileError(f"{path}: colours of the kind {photometric}; save it as RGB or grey.")
    if samples > _MOST_SAMPLES:
        raise ImageFileError(f"{path}: a colour and {samples - 3} more channels; save the colour, or one of them.")
    if samples >= 3 and bits[0] == 16:
        if tags.get(_PLANAR, 1) != 1 or form != 1 or _orientation(picture, page) != 1:
            raise ImageFileError(f"{path}: 16-bit colours in {samples} planes or turned; save it as plain RGB.")
        return "colour of 16 bits"
    if samples >= 3 and bits[0] != 8:
        raise ImageFileError(f"{path}: colours of {bits[0]} bits; save them as 8-bit RGB.")
    if samples == 2 and bits[0] != 8:
        raise ImageFileError(f"{path}: grey of {bits[0]} bits with alpha; save it without alpha.")
    if photometric == _MIN_IS_WHITE and bits[0] == 16:
        return "u2, inverted"
    if form == 2 and bits[0] in (8, 16):
        return f"i{bits[0] // 8}"
    return "u4" if form == 1 and bits[0] == 32 else ""


def _check_tiff(content: bytes, tags: Any) -> None:
    """Compare the checksums of deflated strips and tiles, at which libtiff does not arrive.

    Raises:
        zlib.error: One differs.
    """
    if tags.get(_COMPRESSION) not in _DEFLATE:
        return
    for offsets, lengths in ((273, 279), (324, 325)):
        for start, length in zip(tags.get(offsets, ()), tags.get(lengths, ()), strict=True):
            unpacker = zlib.decompressobj()
            unpacker.decompress(content[start : start + length])
            if not unpacker.eof:
                raise zlib.error("a strip ends early")


def _tiff_as_stored(content: bytes) -> bytes:
    """The file with orientation 1 on all pages, so that Pillow leaves the pixels where they are."""
    order = "<" if content[:2] == b"II" else ">"
    is_big = struct.unpack_from(f"{order}H", content, 2)[0] == 43
    counts, offsets, entry_bytes, place = ("Q", "Q", 20, 8) if is_big else ("H", "I", 12, 4)
    changed, seen = bytearray(content), set()
    (directory,) = struct.unpack_from(order + offsets, content, place)
    while directory and directory not in seen:
        seen.add(directory)
        (entries,) = struct.unpack_from(order + counts, content, directory)
        first = directory + struct.calcsize(counts)
        for at in range(first, first + entries * entry_bytes, entry_bytes):
            if struct.unpack_from(f"{order}H", content, at)[0] == _ORIENTATION:
                struct.pack_into(f"{order}H", changed, at + (12 if is_big else 8), 1)
        (directory,) = struct.unpack_from(order + offsets, content, first + entries * entry_bytes)
    return bytes(changed)
