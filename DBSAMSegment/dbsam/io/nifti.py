"""Whether a NIfTI file is whole. ITK does not tell: it fills what is missing with zeros."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

NIFTI_ENDINGS = (".nii", ".nii.gz")

# By the length of the header (NIfTI-1, NIfTI-2), which is its first value: place and type of the sizes, of the bits of
# a voxel, and of where voxels begin.
_LAYOUTS = {348: ((40, "8h"), (72, "h"), (108, "f")), 540: ((16, "8q"), (14, "h"), (168, "q"))}
_LONGEST_HEADER = 540
_GZIP_MAGIC = b"\x1f\x8b"


def is_truncated(path: Path) -> bool:
    """Whether a file of `NIFTI_ENDINGS` ends before its last voxel; False where it is no NIfTI at all.

    A compressed file is decompressed only if the length that its last four bytes state is not the expected one.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        compressed = file.read(2) == _GZIP_MAGIC
    try:
        with gzip.open(path) if compressed else path.open("rb") as stream:
            needed = _bytes_needed(stream.read(_LONGEST_HEADER))
            if needed is None:
                return False
            if not compressed:
                return path.stat().st_size < needed
            return _stated_length(path) != needed % 2**32 and stream.seek(needed) < needed
    except (EOFError, zlib.error, gzip.BadGzipFile):
        return True


def _bytes_needed(header: bytes) -> int | None:
    """Length of the uncompressed file by its header; None where this is no header of NIfTI."""
    for order in "<>":
        length = struct.unpack_from(f"{order}i", header)[0] if len(header) >= 4 else 0
        if length not in _LAYOUTS or len(header) < length:
            continue
        (count, *sizes), (bits,), (start,) = (
            struct.unpack_from(f"{order}{kind}", header, place) for place, kind in _LAYOUTS[length]
        )
        if 1 <= count <= 7 and math.isfinite(start):
            return int(start) + math.prod(max(1, size) for size in sizes[:count]) * bits // 8
    return None


def _stated_length(path: Path) -> int:
    """What a gzip file says of its uncompressed length, modulo 2^32."""
    with path.open("rb") as file:
        file.seek(-4, 2)
        return int.from_bytes(file.read(4), "little")
