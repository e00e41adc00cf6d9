"""One flipped bit, 40 times a format: refused, or without effect, where the format holds a checksum of its voxels.

Headers hold none: a bit of a header may change what is read, and so may one of the voxels of formats without checksum.
Those are counted by `python Testing/test_read_flips.py`, and the docs say which they are.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from dicom_files import frames_along_z, write_enhanced
from PIL import Image

from dbsam.geometry.grid import ImageGeometry
from dbsam.io.images import ImageFileError, read_volume, write_volume
from dbsam.io.seg_nrrd import Segment, write_segmentation

GRID = ImageGeometry(np.array([[-0.5, 0, 0, 10.0], [0, -0.75, 0, 20], [0, 0, 3, -7], [0, 0, 0, 1]]), (24, 20, 6))
FLIPS = 40


def voxels() -> np.ndarray:
    """Smooth enough to be packed."""
    k, j, i = np.indices(GRID.shape_KJI)
    return (1000 * np.sin(i / 5) * np.cos(j / 4) + 40 * k).astype(np.int16)


def picture() -> np.ndarray:
    return ((voxels()[0] + 1000) / 9).astype(np.uint8)


def write(path: Path) -> tuple[int, int]:
    """Write a file by its name; returns from where to where a checksum covers it, if one does."""
    name = path.name
    if name.endswith(".seg.nrrd"):
        write_segmentation(path, [Segment("a", voxels() > 300)], GRID)
    elif name.endswith(".mhd"):
        write_volume(path.with_name("packed.mha"), voxels(), GRID)
        header, packed = path.with_name("packed.mha").read_bytes().split(b"LOCAL\n", 1)
        path.with_name("packed.mha").unlink()
        path.write_bytes(header + b"voxels.zraw\n")
        path.with_name("voxels.zraw").write_bytes(packed)
    elif name.endswith(".dcm"):
        write_enhanced(path, frames_along_z(range(6), (20, 24)))
    elif name.endswith((".png", ".jpg", ".bmp", ".gif", ".webp", ".tif")):
        options = {"deflate.tif": {"compression": "tiff_adobe_deflate"}, "lzw.tif": {"compression": "tiff_lzw"}}
        Image.fromarray(picture()).save(path, **options.get(name, {}))
    elif name.endswith(".npz"):
        np.savez_compressed(path, imgs=voxels())
    else:
        write_volume(path, voxels(), GRID)
    content = path.read_bytes()
    if name.endswith((".nrrd", ".mha")):
        return content.index(b"\n\n" if name.endswith(".nrrd") else b"LOCAL\n") + 6, len(content)
    if name == "deflate.tif":
        with Image.open(path) as image:
            [start], [length] = image.tag_v2[273], image.tag_v2[279]
        return start, start + length
    return 0, path.with_name("voxels.zraw").stat().st_size if name.endswith(".mhd") else len(content)


def outcomes(folder: Path, name: str, flips: int = FLIPS, in_header: bool = True) -> Counter[str]:
    """How often a flipped bit was refused, without effect, or changed what is read without a word."""
    path = folder / name
    start, stop = write(path)
    good = read_volume(path)
    changed = path.with_name("voxels.zraw") if name.endswith(".mhd") else path
    whole, random, found = changed.read_bytes(), np.random.default_rng(20), Counter[str]()
    if in_header:
        start, stop = 0, len(whole)
    for _ in range(flips):
        content = bytearray(whole)
        content[random.integers(start, stop)] ^= 1 << random.integers(8)
        changed.write_bytes(content)
        try:
            volume = read_volume(path)
        except (ImageFileError, MemoryError):
            found["refused"] += 1
            continue
        same = np.array_equal(volume.voxels, good.voxels) and np.allclose(
            volume.geometry.ijk_to_ras, good.geometry.ijk_to_ras, atol=1e-4
        )
        found["without effect" if same else "wrong"] += 1
    return found


WITH_CHECKSUM = ("a.nii.gz", "a.nrrd", "a.seg.nrrd", "a.mha", "a.mhd", "a.png", "a.npz", "deflate.tif")
WITHOUT = ("a.nii", "a.dcm", "a.jpg", "a.tif", "lzw.tif", "a.bmp", "a.gif", "a.webp")


@pytest.mark.parametrize("name", WITH_CHECKSUM)
def test_no_flipped_bit_changes_voxels_that_have_a_checksum(tmp_path, name):
    found = outcomes(tmp_path, name, in_header=False)
    assert found["wrong"] == 0
    assert found["refused"] >= 0.8 * FLIPS, "nearly each is noticed; a few bits of a packed header mean nothing"


def test_the_packed_header_of_a_nifti_has_the_checksum_too(tmp_path):
    write(tmp_path / "a.nii.gz")
    content = bytearray(gzip.decompress((tmp_path / "a.nii.gz").read_bytes()))
    packed = bytearray((tmp_path / "a.nii.gz").read_bytes())
    packed[-6] ^= 1  # of the checksum itself
    (tmp_path / "a.nii.gz").write_bytes(packed)
    with pytest.raises(ImageFileError, match="cannot be unpacked"):
        read_volume(tmp_path / "a.nii.gz")
    assert len(content) == 352 + voxels().nbytes


def main() -> None:
    """Count, in all bytes of a file, what happens to 400 flips a format."""
    with tempfile.TemporaryDirectory() as folder:
        for name in (*WITH_CHECKSUM, *WITHOUT):
            sys.stdout.write(f"{name:12} {dict(outcomes(Path(folder), name, 400))}\n")


if __name__ == "__main__":
    main()
