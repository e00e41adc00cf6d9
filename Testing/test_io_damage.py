"""Image files that would come out, or go in, other than they are: refused, and a good former file stays."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dbsam.geometry.grid import ImageGeometry
from dbsam.io import images

GRID = ImageGeometry.from_spacing((1.0, 1.0, 3.0), (40, 30, 5))
FLAT = ImageGeometry.from_spacing((1.0, 1.0, 3.0), (40, 30, 1))
# 0.3 mm along I for each 3 mm along K: the angle between the two is atan(10) = 84.29 degrees.
SHEARED = ImageGeometry(np.array([[1.0, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 3, 0], [0, 0, 0, 1]]), (40, 30, 5))


def noise(geometry: ImageGeometry) -> np.ndarray:
    """Labels that no format can compress below some hundred bytes."""
    return np.random.default_rng(0).integers(0, 200, geometry.shape_KJI).astype(np.uint8)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit on the size of a file")
@pytest.mark.parametrize("name", ["m.nrrd", "m.nii", "m.nii.gz", "m.mha", "m.png", "m.tif", "m.seg.nrrd"])
def test_a_full_disk_is_an_error_and_leaves_the_old_file_alone(tmp_path, name):
    """By a limit on the size of files, which a process sets for itself."""
    code = f"""
import resource, signal, sys
import numpy as np
from dbsam import Segment, write_segmentation
from dbsam.io import images
from test_io_damage import FLAT, GRID, noise
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (700, resource.RLIM_INFINITY))
grid = FLAT if {name.endswith((".png", ".tif"))} else GRID
try:
    if {name.endswith(".seg.nrrd")}:
        write_segmentation({name!r}, [Segment("a", noise(grid) > 99)], grid)
    else:
        images.write_labelmap({name!r}, noise(grid), grid)
except OSError as error:
    print(error)
    sys.exit(3)
"""
    (tmp_path / name).write_bytes(b"old")
    paths = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths}, capture_output=True
    )
    assert run.returncode == 3, run.stderr.decode()
    assert f"{name}: cannot be written" in run.stdout.decode()
    assert (tmp_path / name).read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("dtype", [bool, np.int32, np.int64, np.uint64, np.float16, np.float64])
@pytest.mark.parametrize("name", ["m.nrrd", "m.nii.gz", "m.mha", "m.png", "m.tif", "m.npz"])
def test_labels_of_every_type_are_written(tmp_path, name, dtype):
    grid = FLAT if name in ("m.png", "m.tif") else GRID
    labels = (noise(grid) % 7).astype(dtype)
    images.write_labelmap(tmp_path / name, labels, grid)
    np.testing.assert_array_equal(images.read_labelmap(tmp_path / name)[0], labels.astype(np.int32))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("m.png", 70_000, "labels go from 0 to 70000, more than uint16 holds"),
        ("m.tif", -1, "labels go from -1 to 199"),
        ("m.png", 0.5, r"a label is 0\.5, which is not a whole number"),
        ("m.tif", np.nan, "a label is nan"),
    ],
)
def test_labels_that_a_format_lacks_are_refused_and_the_former_file_stays(tmp_path, name, value, message):
    labels = noise(FLAT).astype(np.float64)
    labels[0, 0, 0] = 0
    labels[0, 1, 1] = value
    (tmp_path / name).write_bytes(b"former")
    with pytest.raises(ValueError, match=message):
        images.write_labelmap(tmp_path / name, labels, FLAT)
    assert (tmp_path / name).read_bytes() == b"former"


@pytest.mark.parametrize("name", ["m.NII.GZ", "m.Nii", "m.Mha", "m.NRRD", "m.PNG", "m.Tif"])
def test_endings_in_capitals_are_written_and_read(tmp_path, name):
    grid = FLAT if name in ("m.PNG", "m.Tif") else GRID
    images.write_labelmap(tmp_path / name, noise(grid), grid)
    assert [file.name for file in tmp_path.iterdir()] == [name]
    np.testing.assert_array_equal(images.read_labelmap(tmp_path / name)[0], noise(grid))


@pytest.mark.parametrize("name", ["m.nii", "m.nii.gz"])
@pytest.mark.parametrize("share", [0.99, 0.5, 0.01])
def test_half_a_nifti_is_refused_instead_of_read_as_zeros(tmp_path, name, share):
    images.write_volume(tmp_path / name, noise(GRID), GRID)
    np.testing.assert_array_equal(images.read_volume(tmp_path / name).voxels, noise(GRID))
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(images.ImageFileError, match=rf"{name}: (damaged: it does not hold all|not an image)"):
        images.read_volume(tmp_path / name)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("length", [348, 540])
@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_the_length_of_a_nifti_follows_from_its_header(tmp_path, order, length, ending):
    """7 x 5 voxels of 16 bits behind 600 bytes are 670 bytes: no byte less and none more."""
    header = bytearray(600)
    struct.pack_into(f"{order}i", header, 0, length)
    first = {348: (("8h", 40), ("h", 70), ("h", 72), ("f", 108), ("4s", 344), ("4f", 76)),
             540: (("8q", 16), ("h", 12), ("h", 14), ("q", 168), ("8s", 4), ("4d", 104))}[length]  # fmt: skip
    magic = b"n+1\0" if length == 348 else b"n+2\0\r\n\x1a\n"
    for (kind, place), values in zip(
        first, ((2, 7, 5, 0, 0, 0, 0, 0), (4,), (16,), (600,), (magic,), (1, 1, 1, 1)), strict=True
    ):
        struct.pack_into(f"{order}{kind}", header, place, *values)
    path = tmp_path / f"image.{ending}"
    for beyond in (-1, 0, 1):
        content = bytes(header) + bytes(70 + beyond)
        path.write_bytes(gzip.compress(content) if ending == "nii.gz" else content)
        if beyond:
            with pytest.raises(images.ImageFileError, match=r"image\.nii.*: damaged"):
                images.read_volume(path)
        else:
            assert images.read_volume(path).voxels.shape == (1, 5, 7)


def test_a_compressed_nifti_in_several_parts_is_whole(tmp_path):
    """Parallel compressors write members one after the other, so the last four bytes count only the last member."""
    images.write_volume(tmp_path / "a.nii", noise(GRID), GRID)
    content = (tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content[:900]) + gzip.compress(content[900:]))
    np.testing.assert_array_equal(images.read_volume(tmp_path / "b.nii.gz").voxels, noise(GRID))


def test_a_compressed_nifti_beside_its_namesake_is_read_itself(tmp_path):
    images.write_volume(tmp_path / "a.nii", np.zeros_like(noise(GRID)), GRID)
    images.write_volume(tmp_path / "a.nii.gz", noise(GRID), GRID)
    np.testing.assert_array_equal(images.read_volume(tmp_path / "a.nii.gz").voxels, noise(GRID))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".NII.gz"])
def test_a_sheared_volume_is_not_written_as_nifti(tmp_path, ending):
    with pytest.raises(ValueError, match=r"sheared \(two of its axes are 84\.29 degrees apart\).*use \.nrrd"):
        images.write_labelmap(tmp_path / f"m{ending}", noise(SHEARED), SHEARED)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_a_sheared_volume_keeps_its_place_in_other_formats(tmp_path, ending):
    images.write_labelmap(tmp_path / f"m{ending}", noise(SHEARED), SHEARED)
    _, geometry = images.read_labelmap(tmp_path / f"m{ending}")
    np.testing.assert_allclose(geometry.ijk_to_ras, SHEARED.ijk_to_ras, atol=1e-6)


def test_a_sheared_nifti_keeps_its_place(tmp_path):
    path = tmp_path / "m.nii"
    images.write_volume(path, noise(GRID), GRID)
    content = bytearray(path.read_bytes())
    struct.pack_into("<hh", content, 252, 0, 1)  # the place is that of the sform alone
    struct.pack_into("<12f", content, 280, *SHEARED.ijk_to_ras[:3].ravel())
    path.write_bytes(content)
    np.testing.assert_allclose(images.read_volume(path).geometry.ijk_to_ras, SHEARED.ijk_to_ras, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_picture_in_grey_with_alpha_is_read_without_its_alpha_channel(tmp_path, bits):
    pixels = np.arange(70).reshape(5, 7, 2).astype(f">u{bits // 8}")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", 7, 5, bits, 4, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    png = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    (tmp_path / "grey.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    np.testing.assert_array_equal(images.read_volume(tmp_path / "grey.png").voxels[0], pixels[..., 0])
    (tmp_path / "half.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png[:40])
    with pytest.raises(images.ImageFileError, match=r"half\.png: not an image that can be read"):
        images.read_volume(tmp_path / "half.png")


def test_a_picture_of_12_bits_a_colour_keeps_its_levels_and_the_report_names_its_values(tmp_path):
    from dbsam.preprocess.intensity import resolve_intensity

    colours = np.linspace(1, 4000, 900).astype(np.uint16).reshape(15, 20, 3)
    sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(tmp_path / "photo.png"))
    voxels = images.read_volume(tmp_path / "photo.png").voxels
    window = resolve_intensity("auto", voxels)
    assert len(np.unique(window.apply(voxels))) == 256
    assert 1 <= window.low < 30
    assert 3970 < window.high <= 4000
    assert "the image is in colour, from 1 to 4000" in window.reason


def test_a_colour_volume_of_one_slice_is_written_whole(tmp_path):
    grid = ImageGeometry.from_spacing((1.0, 1.0, 2.0), (6, 5, 1))
    colours = np.arange(90, dtype=np.uint8).reshape(1, 5, 6, 3)
    images.write_volume(tmp_path / "a.nii.gz", colours, grid)
    np.testing.assert_array_equal(images.read_volume(tmp_path / "a.nii.gz").voxels.squeeze(), colours.squeeze())
