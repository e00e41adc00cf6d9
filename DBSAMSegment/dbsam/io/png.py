"""PNG pictures in grey with alpha, which SimpleITK cannot read, as two other kinds whose bytes lie the same way."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BITS_AT, _KIND_AT, _CHECKSUM_AT = 24, 25, 29
_GREY, _GREY_ALPHA, _RGBA = 0, 4, 6


def is_grey_with_alpha(path: Path) -> bool:
    """Whether a file is a PNG of this kind."""
    with path.open("rb") as file:
        header = file.read(_CHECKSUM_AT)
    return header.startswith(_SIGNATURE) and header[_KIND_AT : _KIND_AT + 1] == bytes([_GREY_ALPHA])


def disguise(content: bytes) -> bytes:
    """The file with another header: 8 bits of grey and of alpha as 16 bits of grey, 16 and 16 as 8 bits of RGBA."""
    bits, kind = (16, _GREY) if content[_BITS_AT] == 8 else (8, _RGBA)
    header = content[12:_BITS_AT] + bytes([bits, kind]) + content[_KIND_AT + 1 : _CHECKSUM_AT]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[_CHECKSUM_AT + 4 :]


def grey_of(disguised: NDArray[np.unsignedinteger]) -> NDArray[np.unsignedinteger]:
    """The grey values in the pixels of a disguised picture: (H, W) uint8 or uint16."""
    if disguised.ndim == 2:
        return (disguised >> 8).astype(np.uint8)
    return disguised[..., 0].astype(np.uint16) << np.uint16(8) | disguised[..., 1]
