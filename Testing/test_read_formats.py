"""NIfTI, NRRD, MetaImage, pictures and npz: read as they are meant, with values a person can derive, or refused."""

from __future__ import annotations

import gzip
import logging
import os
import struct
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from PIL import Image

from dbsam.geometry.grid import ImageGeometry
from dbsam.io.images import ImageFileError, input_files, read_labelmap, read_volume, write_labelmap, write_volume

VOXELS = np.arange(120, dtype=np.int16).reshape(4, 5, 6)  # K, J, I
FRAME = np.array([[-0.5, 0, 0, 10.0], [0, -0.75, 0, 20], [0, 0, 3, -7], [0, 0, 0, 1]])
DATA = VOXELS.astype("<i2").tobytes()


def nifti(
    path: Path, kind=nibabel.Nifti1Image, voxels=VOXELS, sform=FRAME, qform=FRAME, codes=(1, 1), **fields
) -> Path:
    axes = np.moveaxis(voxels, (0, 1, 2), (2, 1, 0)) if voxels.ndim < 5 else voxels
    image = kind(axes, None)
    image.header.set_xyzt_units("mm")
    image.set_sform(sform, codes[0])
    image.set_qform(qform, codes[1])
    nibabel.save(image, path)
    if fields:
        order, content = "<", bytearray(path.read_bytes())
        for place, (form, *values) in fields.items():
            struct.pack_into(order + form, content, int(place.removeprefix("at")), *values)
        path.write_bytes(content)
    return path


def nrrd(path: Path, *lines: str, data: bytes = DATA, sizes="6 5 4", kind="short") -> Path:
    """An NRRD with the given lines, which replace those of the same name."""
    fields = {
        "type": kind, "dimension": str(len(sizes.split())), "space": "left-posterior-superior", "sizes": sizes,
        "space directions": "(0.5,0,0) (0,0.75,0) (0,0,3)", "endian": "little", "encoding": "raw",
        "space origin": "(-10,-20,-7)",
    }  # fmt: skip
    for line in lines:
        name, _, value = line.partition(": ")
        fields[name] = value
    text = "".join(f"{name}: {value}\n" for name, value in fields.items() if value)
    path.write_bytes(f"NRRD0005\n{text}\n".encode() + data)
    return path


def meta(path: Path, *lines: str, data: bytes = DATA) -> Path:
    fields = {
        "ObjectType": "Image", "NDims": "3", "BinaryData": "True", "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False", "TransformMatrix": "1 0 0 0 1 0 0 0 1", "Offset": "-10 -20 -7",
        "ElementSpacing": "0.5 0.75 3", "DimSize": "6 5 4", "ElementType": "MET_SHORT",
    }  # fmt: skip
    for line in lines:
        name, _, value = line.partition(" = ")
        fields[name] = value
    where = fields.pop("ElementDataFile", "LOCAL")
    text = "".join(f"{name} = {value}\n" for name, value in fields.items() if value)
    path.write_bytes(f"{text}ElementDataFile = {where}\n".encode() + data)
    return path


def assert_right(path: Path, voxels=VOXELS, frame=FRAME, **choice) -> None:
    volume = read_volume(path, **choice)
    np.testing.assert_array_equal(volume.voxels, voxels)
    np.testing.assert_allclose(volume.geometry.ijk_to_ras, frame, atol=1e-6)


def moved(frame: np.ndarray, mm: float) -> np.ndarray:
    other = frame.copy()
    other[0, 3] += mm
    return other


def turned(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ FRAME


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image, nibabel.Nifti1Pair])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_every_form_of_nifti_is_read(tmp_path, kind, ending):
    if kind is nibabel.Nifti1Pair:
        ending = ending.replace(".nii", ".img")
        nifti(tmp_path / f"a{ending}", kind)
        assert_right(tmp_path / f"a{ending.replace('.img', '.hdr')}")
    assert_right(nifti(tmp_path / f"a{ending}", kind))


def test_a_nifti_is_what_it_holds_whatever_its_name_says_of_compression(tmp_path):
    plain = nifti(tmp_path / "plain.nii")
    (tmp_path / "named.nii.gz").write_bytes(plain.read_bytes())
    (tmp_path / "packed.nii").write_bytes(gzip.compress(plain.read_bytes()))
    assert_right(tmp_path / "named.nii.gz")
    assert_right(tmp_path / "packed.nii")


@pytest.mark.parametrize(
    ("qform", "warned"),
    [(moved(FRAME, 30), "30.0 mm"), (turned(30), "mm apart"), (moved(FRAME, 0.2), ""), (turned(0.01), "")],
)
def test_of_two_positions_the_sform_is_taken_and_a_difference_is_named(tmp_path, caplog, qform, warned):
    with caplog.at_level(logging.WARNING, "dbsam"):
        assert_right(nifti(tmp_path / "a.nii", qform=qform))
    assert ("the sform is used, not the qform" in caplog.text) == bool(warned)
    assert warned in caplog.text


@pytest.mark.parametrize("codes", [(2, 0), (0, 1), (4, 0), (0, 3)])
def test_a_position_with_a_code_is_taken(tmp_path, codes):
    forms = (FRAME, moved(FRAME, 50)) if codes[0] else (moved(FRAME, 50), FRAME)
    assert_right(nifti(tmp_path / "a.nii", sform=forms[0], qform=forms[1], codes=codes))


def test_a_handedness_of_0_counts_as_1_as_the_standard_says(tmp_path):
    assert_right(nifti(tmp_path / "a.nii", codes=(0, 1), at76=("f", 0)))


def test_a_nifti_without_position_is_placed_as_in_slicer_with_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "dbsam"):
        assert_right(nifti(tmp_path / "a.nii", codes=(0, 0)), frame=np.diag([-0.5, -0.75, 3, 1]))
    assert "says nothing of its position" in caplog.text


@pytest.mark.parametrize("spacing", [(-0.5, 0.75, 3), (0, 0, 0), (float("nan"), 1, 1)])
def test_spacings_that_are_none_do_no_harm_beside_a_valid_sform(tmp_path, caplog, spacing):
    for codes in ((1, 1), (1, 0)):
        with caplog.at_level(logging.WARNING, "dbsam"):
            assert_right(nifti(tmp_path / "a.nii", codes=codes, at80=("3f", *spacing)))
        assert "a.nii" in caplog.text
        caplog.clear()
    with pytest.raises(ImageFileError, match=r"a\.nii: its position \(qform\) cannot be used"):
        read_volume(nifti(tmp_path / "a.nii", codes=(0, 1), at80=("3f", *spacing)))
    with pytest.raises(ImageFileError, match=r"a\.nii: no position, and the spacings"):
        read_volume(nifti(tmp_path / "a.nii", codes=(0, 0), at80=("3f", *spacing)))


@pytest.mark.parametrize(("unit", "factor"), [(1, 1000.0), (3, 0.001), (0, 1.0), (2, 1.0)])
def test_the_unit_of_a_nifti_is_heeded(tmp_path, unit, factor):
    assert_right(nifti(tmp_path / "a.nii", at123=("b", unit)), frame=np.diag([factor] * 3 + [1]) @ FRAME)


NO_NIFTI = {
    "unit": ({"at123": ("b", 5)}, "unit of length has the code 5"),
    "NaN in the sform": ({"at280": ("f", float("nan"))}, r"position \(sform\) holds NaN"),
    "a flat sform": ({"at312": ("4f", 0, 0, 0, 0)}, r"position \(sform\) cannot be used"),
    "magic": ({"at344": ("4s", b"nii\0")}, "magic"),
    "Analyze": ({"at344": ("4s", b"\0\0\0\0")}, "Analyze 7.5"),
    "a pair's magic": ({"at344": ("4s", b"ni1\0")}, "pair of .hdr and .img"),
    "type": ({"at70": ("h", 77)}, "cannot be used"),
    "a size less": ({"at42": ("h", 5)}, "bytes more than the voxels"),
    "a size more": ({"at42": ("h", 7)}, "does not hold all its voxels"),
    "no size": ({"at42": ("h", 0)}, "at least 1"),
    "start of voxels": ({"at108": ("f", 20)}, "within its header"),
    "start of voxels nowhere": ({"at108": ("f", float("nan"))}, "begin at byte nan"),
}


@pytest.mark.parametrize("what", NO_NIFTI)
def test_a_nifti_with_a_header_that_cannot_be_is_refused(tmp_path, what):
    fields, reason = NO_NIFTI[what]
    with pytest.raises(ImageFileError, match=rf"a\.nii: .*{reason}"):
        read_volume(nifti(tmp_path / "a.nii", **fields))


@pytest.mark.parametrize(
    ("slope", "intercept", "expected"),
    [
        (1, -1024, VOXELS.astype(int) - 1024),
        (0, 7, VOXELS),
        (300, 0, VOXELS.astype(int) * 300),
        (0.5, 1, VOXELS * 0.5 + 1),
    ],
)
def test_a_nifti_is_scaled(tmp_path, slope, intercept, expected):
    path = nifti(tmp_path / "a.nii", at112=("2f", slope, intercept))
    assert_right(path, expected)
    np.testing.assert_array_equal(nibabel.load(path).get_fdata().T, expected)


def test_of_times_and_components_one_is_chosen(tmp_path):
    times = np.stack([VOXELS, VOXELS + 1, VOXELS + 2], axis=-1)
    path = nifti(tmp_path / "t.nii.gz", voxels=times)
    with pytest.raises(ImageFileError, match=r"3 time points.*--stack N"):
        read_volume(path)
    assert_right(path, VOXELS + 1, stack=2)
    vectors = np.moveaxis(times, (0, 1, 2), (2, 1, 0))[:, :, :, None, :]
    path = nifti(tmp_path / "v.nii", voxels=vectors)
    with pytest.raises(ImageFileError, match=r"3 values a voxel.*--component N"):
        read_volume(path)
    assert_right(path, VOXELS + 2, component=3)
    with pytest.raises(ImageFileError, match="no component 4"):
        read_volume(path, component=4)


def test_colour_in_nifti_is_what_says_so(tmp_path):
    colours = np.arange(360, dtype=np.uint8).reshape(4, 5, 6, 3)
    packed = np.ascontiguousarray(np.moveaxis(colours, (0, 1, 2), (2, 1, 0))).view(
        [("R", "u1"), ("G", "u1"), ("B", "u1")]
    )
    image = nibabel.Nifti1Image(packed[..., 0], FRAME)
    nibabel.save(image, tmp_path / "rgb.nii.gz")
    assert_right(tmp_path / "rgb.nii.gz", colours)
    vectors = np.moveaxis(colours, (0, 1, 2), (2, 1, 0))[:, :, :, None, :]
    plain = nifti(tmp_path / "vector.nii", voxels=vectors)
    with pytest.raises(ImageFileError, match="--component rgb"):
        read_volume(plain)
    assert_right(plain, colours, component="rgb")
    assert_right(nifti(tmp_path / "vector.nii", voxels=vectors, at68=("h", 2003)), colours)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_colours_that_are_written_are_colours_when_read(tmp_path, ending, dtype):
    colours = np.arange(360).astype(dtype).reshape(4, 5, 6, 3)
    write_volume(tmp_path / f"a{ending}", colours, ImageGeometry(FRAME, (6, 5, 4)))
    assert_right(tmp_path / f"a{ending}", colours)


@pytest.mark.parametrize("dtype", [np.bool_, np.uint8, np.int16, np.int32, np.int64, np.uint16, np.float32, np.float64])
def test_what_is_written_as_nifti_has_one_frame_in_both_forms(tmp_path, dtype):
    frame = turned(37)
    write_volume(tmp_path / "a.nii.gz", (VOXELS % 2).astype(dtype), ImageGeometry(frame, (6, 5, 4)))
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert int(image.header["qform_code"]) == int(image.header["sform_code"]) == 1
    np.testing.assert_allclose(image.get_sform(), frame, atol=1e-5)
    np.testing.assert_allclose(image.get_qform(), frame, atol=1e-5)
    np.testing.assert_array_equal(np.asanyarray(image.dataobj).T, VOXELS % 2)
    if dtype != np.bool_:
        assert image.get_data_dtype() == dtype


RIGHT_NRRD = {
    "plain": ((), {}),
    "gzip": (("encoding: gzip",), {"data": gzip.compress(DATA)}),
    "gzip in two parts": (("encoding: gz",), {"data": gzip.compress(DATA[:70]) + gzip.compress(DATA[70:])}),
    "text": (("encoding: ascii",), {"data": " ".join(map(str, range(120))).encode()}),
    "big-endian": (("endian: big",), {"data": VOXELS.astype(">i2").tobytes()}),
    "RAS": (
        ("space: RAS", "space directions: (-0.5,0,0) (0,-0.75,0) (0,0,3)", "space origin: (10,20,-7)"),
        {},
    ),
    "LAS": (("space: LAS", "space directions: (0.5,0,0) (0,-0.75,0) (0,0,3)", "space origin: (-10,20,-7)"), {}),
    "units in mm": (('space units: "mm" "mm" "mm"',), {}),
    "units in micron": (
        ('space units: "um" "µm" "microns"', "space directions: (500,0,0) (0,750,0) (0,0,3000)",
         "space origin: (-10000,-20000,-7000)"), {},
    ),
    "units in cm": (
        ('space units: "cm" "cm" "cm"', "space directions: (0.05,0,0) (0,0.075,0) (0,0,0.3)",
         "space origin: (-1,-2,-0.7)"), {},
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", RIGHT_NRRD)
def test_an_nrrd_is_read_in_its_unit_and_its_space(tmp_path, what):
    lines, data = RIGHT_NRRD[what]
    assert_right(nrrd(tmp_path / "a.nrrd", *lines, **data))


NO_NRRD = {
    "unit": (('space units: "feet" "feet" "feet"',), {}, "unit of length is 'feet'"),
    "space without anatomy": (("space: 3D-right-handed",), {}, "which side is left"),
    "no named space": (("space: ", "space dimension: 3"), {}, "which side is left"),
    "NaN in a direction": (("space directions: (0.5,0,0) (0,nan,0) (0,0,3)",), {}, "holds NaN"),
    "NaN for a direction": (("space directions: (0.5,0,0) (nan,nan,nan) (0,0,3)",), {}, "holds NaN"),
    "no direction": (("space directions: (0.5,0,0) none (0,0,3)",), {}, "holds NaN or no numbers"),
    "infinite origin": (("space origin: (inf,0,0)",), {}, "holds NaN"),
    "directions in one plane": (("space directions: (1,0,0) (0,1,0) (1,1,0)",), {}, "cannot be used|orientation"),
    "negative spacing": (
        ("space: ", "space directions: ", "space origin: ", "spacings: 1 -1 1"),
        {},
        "must be positive",
    ),
    "a byte less": ((), {"data": DATA[:-1]}, "does not hold all its voxels"),
    "a byte more": ((), {"data": DATA + b"0"}, "241 bytes of voxels, where its header states 240"),
    "a slice less, packed": (("encoding: gzip",), {"data": gzip.compress(DATA[:-60])}, "does not hold all"),
    "a slice more, packed": (("encoding: gzip",), {"data": gzip.compress(DATA + DATA[:60])}, "header states 240"),
    "half of the packed": (("encoding: gzip",), {"data": gzip.compress(DATA)[:-20]}, "cannot be unpacked"),
    "no data": ((), {"data": b""}, "does not hold all"),
    "missing voxel file": (("data file: gone.raw",), {}, "gone.raw, which is not there"),
    "sizes that are words": ((), {"sizes": "6 five 4"}, "sizes"),
    "encoding": (("encoding: bzip2",), {}, "encoding 'bzip2'"),
}


@pytest.mark.parametrize("what", NO_NRRD)
def test_an_nrrd_that_cannot_be_trusted_is_refused(tmp_path, what):
    lines, data, reason = NO_NRRD[what]
    with pytest.raises(ImageFileError, match=rf"a\.nrrd: .*({reason})"):
        read_volume(nrrd(tmp_path / "a.nrrd", *lines, **data))


@pytest.mark.parametrize("kind", ["list", "vector", "time", "point", "RGB-color", "none", "covariant-vector"])
@pytest.mark.parametrize("count", [2, 3, 4])
def test_values_of_a_voxel_are_a_colour_only_where_the_nrrd_says_so(tmp_path, kind, count):
    several = np.stack([VOXELS.astype(np.uint8) + n for n in range(count)], axis=-1)
    path = nrrd(
        tmp_path / "a.nrrd", f"kinds: {kind} domain domain domain",
        "space directions: none (0.5,0,0) (0,0.75,0) (0,0,3)", sizes=f"{count} 6 5 4", kind="uchar",
        data=several.tobytes(),
    )  # fmt: skip
    if kind == "RGB-color" and count == 3:
        assert_right(path, several)
        return
    with pytest.raises(ImageFileError, match=rf"a\.nrrd: .*({count} values a voxel.*--component N|kind|read)"):
        read_volume(path)
    if kind in ("list", "vector"):
        assert_right(path, VOXELS + 1, component=2)


@pytest.mark.parametrize("kind", ["list", "time"])
def test_several_volumes_in_an_nrrd_are_no_volume(tmp_path, kind):
    path = nrrd(
        tmp_path / "a.nrrd", f"kinds: domain domain domain {kind}",
        "space directions: (0.5,0,0) (0,0.75,0) (0,0,3) none", sizes="6 5 4 2", data=DATA + DATA,
    )  # fmt: skip
    reason = "2 time points" if kind == "time" else "2 values a voxel"
    with pytest.raises(ImageFileError, match=rf"a\.nrrd: holds {reason}"):
        read_volume(path)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".nii.gz"])
def test_pictures_and_series_of_volumes_that_simpleitk_writes_are_read(tmp_path, ending):
    picture = sitk.GetImageFromArray(VOXELS[0])
    picture.SetSpacing((0.5, 0.75))
    picture.SetOrigin((-10, -20))
    sitk.WriteImage(picture, str(tmp_path / f"p{ending}"))
    assert_right(tmp_path / f"p{ending}", VOXELS[:1], np.array([[-0.5, 0, 0, 10.0], [0, -0.75, 0, 20], *np.eye(4)[2:]]))
    volumes = sitk.JoinSeries([sitk.GetImageFromArray(VOXELS), sitk.GetImageFromArray(VOXELS + 1)])
    sitk.WriteImage(volumes, str(tmp_path / f"v{ending}"))
    with pytest.raises(ImageFileError, match=r"2 time points \(sizes \(6, 5, 4, 2\)\).*--stack N"):
        read_volume(tmp_path / f"v{ending}")
    assert_right(tmp_path / f"v{ending}", VOXELS + 1, np.diag([-1.0, -1, 1, 1]), stack=2)


def test_a_segmentation_of_two_layers_is_no_volume(tmp_path):
    from dbsam.io.seg_nrrd import Segment, write_segmentation

    segments = [Segment("a", VOXELS < 60), Segment("b", VOXELS < 30)]
    write_segmentation(tmp_path / "two.seg.nrrd", segments, ImageGeometry(FRAME, (6, 5, 4)))
    with pytest.raises(ImageFileError, match="2 values a voxel, of the kind 'list'"):
        read_volume(tmp_path / "two.seg.nrrd")


def test_an_nrrd_without_position_is_warned_of(tmp_path, caplog):
    path = nrrd(tmp_path / "a.nrrd", "space: ", "space directions: ", "space origin: ", "spacings: 0.5 0.75 3")
    with caplog.at_level(logging.WARNING, "dbsam"):
        assert_right(path, frame=np.diag([-0.5, -0.75, 3, 1]))
    assert "does not say where it lies" in caplog.text
    assert not read_volume(path).position_known
    assert read_volume(path).spacing_known


PACKED = zlib.compress(DATA)
RIGHT_META = {
    "plain": ((), {}),
    "big-endian": (("BinaryDataByteOrderMSB = True",), {"data": VOXELS.astype(">i2").tobytes()}),
    "packed": (("CompressedData = True", f"CompressedDataSize = {len(PACKED)}"), {"data": PACKED}),
}


@pytest.mark.parametrize("what", RIGHT_META)
def test_a_metaimage_is_read(tmp_path, what):
    lines, data = RIGHT_META[what]
    assert_right(meta(tmp_path / "a.mha", *lines, **data))


NO_META = {
    "packed without length": (("CompressedData = True",), {"data": PACKED}, "without CompressedDataSize"),
    "packed with another length": (
        ("CompressedData = True", f"CompressedDataSize = {len(PACKED) - 3}"), {"data": PACKED}, "instead of",
    ),
    "packed and cut": (
        ("CompressedData = True", f"CompressedDataSize = {len(PACKED) - 9}"), {"data": PACKED[:-9]},
        "cannot be unpacked",
    ),
    "packed voxels of another size": (
        ("CompressedData = True", f"CompressedDataSize = {len(zlib.compress(DATA[:-60]))}"),
        {"data": zlib.compress(DATA[:-60])}, "does not hold all",
    ),
    "a byte less": ((), {"data": DATA[:-1]}, "does not hold all its voxels"),
    "a byte more": ((), {"data": DATA + b"0"}, "where its header states 240"),
    "spacing of 0": (("ElementSpacing = 0 1 1",), {}, "positive"),
    "negative spacing": (("ElementSpacing = 1 -1 1",), {}, "positive"),
    "NaN spacing": (("ElementSpacing = 1 nan 1",), {}, "instead of 3 numbers"),
    "NaN direction": (("TransformMatrix = 1 0 0 0 nan 0 0 0 1",), {}, "instead of 9 numbers"),
    "flat direction": (("TransformMatrix = 1 0 0 0 1 0 1 1 0",), {}, "cannot be used|read|loss"),
    "text": (("BinaryData = False",), {"data": " ".join(map(str, range(120))).encode()}, "voxels as text"),
    "type": (("ElementType = MET_OTHER",), {}, "MET_OTHER"),
    "no sizes": (("DimSize = ",), {}, "DimSize"),
    "colour that nothing says": (
        ("ElementNumberOfChannels = 3", "ElementType = MET_UCHAR"), {"data": (DATA * 2)[:360]}, "--component rgb",
    ),
    "missing voxel file": (("ElementDataFile = gone.raw",), {"data": b""}, "gone.raw, which is not there"),
}  # fmt: skip


@pytest.mark.parametrize("what", NO_META)
def test_a_metaimage_that_cannot_be_trusted_is_refused(tmp_path, what):
    lines, data, reason = NO_META[what]
    with pytest.raises(ImageFileError, match=rf"a\.mha: .*({reason})"):
        read_volume(meta(tmp_path / "a.mha", *lines, **data))


@pytest.mark.parametrize("write", [nrrd, meta])
def test_a_header_and_its_voxels_are_one_input(tmp_path, write):
    (tmp_path / "voxels.raw").write_bytes(DATA)
    line, name = ("data file: voxels.raw", "a.nhdr") if write is nrrd else ("ElementDataFile = voxels.raw", "a.mhd")
    path = write(tmp_path / name, line, data=b"")
    assert_right(path)
    assert input_files(path) == [path, tmp_path / "voxels.raw"]
    (tmp_path / "voxels.raw").write_bytes(DATA[:-1])
    with pytest.raises(ImageFileError, match=rf"{name}: damaged: .*voxels\.raw"):
        read_volume(path)


@pytest.mark.parametrize("write", [nrrd, meta])
def test_voxels_in_a_file_a_slice_are_one_input(tmp_path, write):
    for k in range(4):
        (tmp_path / f"s{k}.raw").write_bytes(VOXELS[k].tobytes())
    if write is nrrd:
        path = nrrd(tmp_path / "a.nhdr", "data file: s%d.raw 0 3 1", data=b"")
    else:
        path = meta(tmp_path / "a.mhd", "ElementDataFile = LIST", data=b"s0.raw\ns1.raw\ns2.raw\ns3.raw\n")
    assert_right(path)
    assert [file.name for file in input_files(path)] == [path.name, "s0.raw", "s1.raw", "s2.raw", "s3.raw"]


SEEN = np.array([[10, 20, 30], [40, 50, 60]], np.uint8)
# How the rows of the picture as seen lie in the file: TIFF 6.0, Orientation.
STORED = {
    1: SEEN, 2: SEEN[:, ::-1], 3: SEEN[::-1, ::-1], 4: SEEN[::-1], 5: SEEN.T, 6: SEEN.T[::-1], 7: SEEN.T[::-1, ::-1],
    8: SEEN.T[:, ::-1],
}  # fmt: skip


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif", ".webp", "lzw.tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_read_as_it_is_seen(tmp_path, caplog, orientation, ending, channels):
    stored = np.kron(STORED[orientation], np.ones((16, 16), np.uint8))  # JPEG keeps blocks
    stored = stored if channels == 1 else np.stack([stored, stored, stored], axis=-1)
    path = tmp_path / f"a{ending}"
    options = {"compression": "tiff_lzw"} if ending.startswith("lzw") else {}
    if ending.endswith(".tif"):
        Image.fromarray(stored).save(path, tiffinfo={274: orientation}, **options)
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(stored).save(path, exif=exif, **({"lossless": True} if ending == ".webp" else {"quality": 100}))
    with caplog.at_level(logging.WARNING, "dbsam"):
        volume = read_volume(path)
    grey = volume.voxels[0] if volume.voxels.ndim == 3 else volume.voxels[0, ..., 0]
    np.testing.assert_allclose(grey[8::16, 8::16], SEEN, atol=1)
    assert grey.shape == (32, 48)
    assert ("turned as its orientation" in caplog.text) == (orientation != 1)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(48, dtype=np.uint8), np.arange(-20, 28, dtype=np.int8), np.arange(48, dtype=np.uint16) * 1300,
        np.arange(-20, 28, dtype=np.int16) * 1000, np.arange(48, dtype=np.uint32) * 80_000_000,
        np.arange(-20, 28, dtype=np.int32) * 80_000_000, np.linspace(-1, 1, 48, dtype=np.float32),
    ],
    ids=lambda values: str(values.dtype),
)  # fmt: skip
@pytest.mark.parametrize("order", "<>")
def test_grey_tiffs_of_every_type_keep_their_values(tmp_path, values, order):
    tifffile.imwrite(tmp_path / "a.tif", values.reshape(6, 8), byteorder=order)
    if (order, values.dtype) == (">", np.uint32):  # Pillow does not read it
        with pytest.raises(ImageFileError, match=r"a\.tif: not an image that can be read"):
            read_volume(tmp_path / "a.tif")
        return
    voxels = read_volume(tmp_path / "a.tif").voxels
    np.testing.assert_array_equal(voxels[0], values.reshape(6, 8))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("ending", ["tif", "png"])
def test_colours_keep_all_their_bits(tmp_path, bits, channels, ending):
    colours = (np.arange(48 * channels).reshape(6, 8, channels) * (bits * 15 - 119)).astype(f"u{bits // 8}")
    path = tmp_path / f"a.{ending}"
    if ending == "tif":
        tifffile.imwrite(path, colours, photometric="rgb", extrasamples=["unassalpha"] if channels == 4 else None)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(colours, isVector=True), str(path))
    np.testing.assert_array_equal(read_volume(path).voxels[0], colours[..., :3])


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_channels_that_a_tiff_does_not_explain_are_refused(tmp_path, count, planar):
    shape = (6, 8, count) if planar == "contig" else (count, 6, 8)
    channels = np.arange(48 * count, dtype=np.uint8).reshape(shape)
    tifffile.imwrite(tmp_path / "a.tif", channels, photometric="minisblack", planarconfig=planar)
    with pytest.raises(ImageFileError, match=r"a\.tif: "):
        read_volume(tmp_path / "a.tif")


def test_alpha_is_dropped_where_the_tiff_says_that_it_is_alpha(tmp_path):
    pixels = np.arange(96, dtype=np.uint8).reshape(6, 8, 2)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig",
                     extrasamples=["unassalpha"])  # fmt: skip
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").voxels[0], pixels[..., 0])


def test_pages_are_slices_unless_they_are_channels_times_or_of_other_sizes(tmp_path):
    pages = np.arange(6 * 48, dtype=np.uint8).reshape(6, 6, 8)
    tifffile.imwrite(tmp_path / "z.tif", pages, photometric="minisblack")
    np.testing.assert_array_equal(read_volume(tmp_path / "z.tif").voxels, pages)
    tifffile.imwrite(tmp_path / "c.tif", pages.reshape(3, 2, 6, 8), imagej=True, metadata={"axes": "ZCYX"})
    tifffile.imwrite(tmp_path / "o.ome.tif", pages.reshape(3, 2, 6, 8), metadata={"axes": "TCYX"})
    for name in ("c.tif", "o.ome.tif"):
        with pytest.raises(ImageFileError, match=rf"{name}: holds 6 pages of .*2 channels.*--stack N"):
            read_volume(tmp_path / name)
        np.testing.assert_array_equal(read_volume(tmp_path / name, stack=2).voxels, pages[1:2])
    with tifffile.TiffWriter(tmp_path / "s.tif") as file:
        file.write(pages[0])
        file.write(pages[0, :3])
    with pytest.raises(ImageFileError, match=r"2 pages of different sizes"):
        read_volume(tmp_path / "s.tif")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "lzw.tif", "a.bmp", "a.webp", "a.gif"])
@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_a_picture_that_is_cut_short_is_refused(tmp_path, name, share):
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / name, **({"compression": "tiff_lzw"} if name.startswith("lzw") else {}))
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(share * len(content))])
    with pytest.raises(ImageFileError, match=rf"{name}: not an image that can be read, damaged or cut short"):
        read_volume(tmp_path / name)


def test_colours_of_other_kinds_are_refused(tmp_path):
    Image.new("CMYK", (8, 6)).save(tmp_path / "a.jpg")
    Image.new("LAB", (8, 6)).save(tmp_path / "a.tif")
    for name in ("a.jpg", "a.tif"):
        with pytest.raises(ImageFileError, match=rf"{name}: colours of (the )?kind"):
            read_volume(tmp_path / name)


def test_the_indices_of_a_palette_are_labels_and_no_grey_values(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [2, 3]], np.uint8), "P")
    picture.putpalette([9, 8, 7, 10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.save(tmp_path / "a.png")
    assert read_labelmap(tmp_path / "a.png")[0].tolist() == [[[0, 1], [2, 3]]]
    assert read_volume(tmp_path / "a.png").voxels[0, 1].tolist() == [[40, 50, 60], [70, 80, 90]]


def test_npz_in_the_form_of_medsam_goes_in_and_out(tmp_path):
    np.savez_compressed(tmp_path / "v.npz", imgs=VOXELS.astype(np.uint8), gts=VOXELS % 3, spacing=[0.5, 0.75, 3])
    assert_right(tmp_path / "v.npz", frame=np.diag([-0.5, -0.75, 3, 1]))
    np.testing.assert_array_equal(read_labelmap(tmp_path / "v.npz")[0], VOXELS % 3)
    picture = np.arange(90, dtype=np.uint8).reshape(5, 6, 3)
    np.savez(tmp_path / "p.npz", imgs=picture)
    assert_right(tmp_path / "p.npz", picture[None], frame=np.diag([-1, -1, 1, 1]))
    assert not read_volume(tmp_path / "p.npz").spacing_known
    write_labelmap(tmp_path / "out.npz", (VOXELS % 3).astype(np.uint8), ImageGeometry(FRAME, (6, 5, 4)))
    with np.load(tmp_path / "out.npz") as file:
        np.testing.assert_array_equal(file["segs"], VOXELS % 3)
        np.testing.assert_allclose(file["spacing"], [0.5, 0.75, 3])


@pytest.mark.parametrize("what", ["cut", "objects", "other names", "spacing"])
def test_an_npz_that_is_none_of_medsam_is_refused(tmp_path, what):
    path = tmp_path / "a.npz"
    np.savez(path, imgs=VOXELS, spacing=[1, 0, 1] if what == "spacing" else [1, 1, 1])
    if what == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    if what == "objects":
        np.savez(path, imgs=np.array([{"a": 1}], object))
    if what == "other names":
        np.savez(path, data=VOXELS)
    with pytest.raises(ImageFileError, match=r"a\.npz: "):
        read_volume(path)


@pytest.mark.parametrize(
    "ending", [".nrrd", ".nii", ".nii.gz", ".mha", ".png", ".jpg", ".tif", ".dcm", ".npz", "", ".txt"]
)
@pytest.mark.parametrize("content", [b"", b"not an image\n" * 20], ids=["empty", "text"])
def test_what_is_no_image_is_no_missing_file_and_no_crash(tmp_path, ending, content):
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    with pytest.raises(ImageFileError, match=rf"{path.name}: ") as caught:
        read_volume(path)
    assert "No such file" not in str(caught.value)
    assert ("empty" in str(caught.value)) == (not content)


@pytest.mark.parametrize("form", ["nifti", "nrrd", "meta", "bomb"])
def test_more_voxels_than_memory_are_named_as_such(tmp_path, form):
    if form == "nifti":
        path = nifti(tmp_path / "a.nii", at42=("3h", 32767, 32767, 2000))
        os.truncate(path, 352 + 2 * 32767**2 * 2000)  # a file with holes
    elif form == "nrrd":
        path = nrrd(tmp_path / "a.nrrd", sizes="60000 60000 60000")
    elif form == "meta":
        path = meta(tmp_path / "a.mha", "DimSize = 60000 60000 60000")
    else:
        path = nifti(tmp_path / "a.nii", at42=("3h", 32767, 32767, 32767))
        path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(MemoryError, match=rf"{path.name}: .*GiB of memory"):
        read_volume(path)


def test_nan_is_kept_in_every_format_alike(tmp_path):
    voxels = np.linspace(-1000, 1000, 120, dtype=np.float32).reshape(4, 5, 6)
    voxels[0, 0, :3] = np.nan, np.inf, -np.inf
    for ending in (".nrrd", ".nii", ".nii.gz", ".mha"):
        write_volume(tmp_path / f"a{ending}", voxels, ImageGeometry(FRAME, (6, 5, 4)))
        np.testing.assert_array_equal(read_volume(tmp_path / f"a{ending}").voxels, voxels)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), -1.0, 0.25])
def test_a_nifti_is_scaled_as_nibabel_does(tmp_path, value):
    path = nifti(tmp_path / "a.nii", at112=("f", value), at116=("f", 3.0))
    np.testing.assert_array_equal(read_volume(path).voxels, np.asanyarray(nibabel.load(path).dataobj).T)


def test_images_of_one_time_are_volumes(tmp_path):
    assert_right(nifti(tmp_path / "a.nii", voxels=VOXELS[..., None]))
    one = ("kinds: domain domain domain list", "space directions: (0.5,0,0) (0,0.75,0) (0,0,3) none")
    assert_right(nrrd(tmp_path / "a.nrrd", *one, sizes="6 5 4 1"))


SKIPPED_BYTES = {
    "bytes": (("byte skip: 10",), b"x" * 10 + DATA),
    "all before": (("byte skip: -1",), b"x" * 10 + DATA),
    "packed bytes": (("byte skip: 10", "encoding: gzip"), gzip.compress(b"x" * 10 + DATA)),
    "hex": (("encoding: hex",), DATA.hex().encode()),
    "the field's other name": (("byteskip: 10",), b"x" * 10 + DATA),
}


@pytest.mark.parametrize("what", SKIPPED_BYTES)
def test_what_an_nrrd_skips_is_skipped(tmp_path, what):
    lines, data = SKIPPED_BYTES[what]
    assert_right(nrrd(tmp_path / "a.nrrd", *lines, data=data))


@pytest.mark.parametrize("missing", ["space origin: ", "space directions: "])
def test_an_nrrd_that_lacks_a_part_of_its_position_has_none(tmp_path, missing):
    assert not read_volume(nrrd(tmp_path / "a.nrrd", missing)).position_known


META_WORDS = {
    "Position": (("Position = -10 -20 -7", "Offset = "), DATA),
    "Origin": (("Origin = -10 -20 -7", "Offset = "), DATA),
    "both, with one meaning": (("Position = -10.0 -20 -7.0",), DATA),
    "Rotation": (("Rotation = 1 0 0 0 1 0 0 0 1", "TransformMatrix = "), DATA),
    "ElementByteOrderMSB": (
        ("ElementByteOrderMSB = True", "BinaryDataByteOrderMSB = "), VOXELS.astype(">i2").tobytes(),
    ),
    "no scale": (("ElementToIntensityFunctionSlope = 1", "ElementToIntensityFunctionOffset = 0"), DATA),
}  # fmt: skip


@pytest.mark.parametrize("what", META_WORDS)
def test_metaimages_other_words_mean_the_same(tmp_path, what):
    lines, data = META_WORDS[what]
    assert_right(meta(tmp_path / "a.mha", *lines, data=data))


META_FAULTS = {
    "another byte order": ("ElementByteOrderMSB = True",),
    "another origin": ("Origin = 1 2 3",),
    "another direction": ("Orientation = 0 1 0 1 0 0 0 0 1",),
    "origin in words": ("Offset = a b c",),
    "origin with commas": ("Offset = 1,2,3",),
    "infinite origin": ("Offset = inf 0 0",),
    "two spacings": ("ElementSpacing = 0.5 0.75",),
    "spacing in another spelling": ("elementspacing = 9 9 9", "ElementSpacing = "),
    "a direction of six numbers": ("TransformMatrix = 1 0 0 0 1 0",),
    "an intercept": ("ElementToIntensityFunctionOffset = -1024",),
}


@pytest.mark.parametrize("what", META_FAULTS)
def test_what_itk_would_drop_from_a_metaimage_is_refused(tmp_path, what):
    with pytest.raises(ImageFileError, match=r"a\.mha: (its header|its values|damaged)"):
        read_volume(meta(tmp_path / "a.mha", *META_FAULTS[what]))


def test_a_metaimage_that_says_something_twice_is_refused(tmp_path):
    path = meta(tmp_path / "a.mha")
    path.write_bytes(path.read_bytes().replace(b"DimSize", b"Offset = 5 5 5\nDimSize"))
    with pytest.raises(ImageFileError, match="Offset twice"):
        read_volume(path)
    assert not read_volume(meta(tmp_path / "b.mha", "Offset = ")).position_known


@pytest.mark.parametrize("kind", ["u1", "u2"])
def test_a_tiff_with_0_as_white_is_read_as_it_is_seen(tmp_path, kind):
    pixels = np.arange(120).reshape(12, 10).astype(kind) * 2
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.tif").voxels[0], np.iinfo(kind).max - pixels)


@pytest.mark.parametrize("kind", ["i2", "u4", "f4"])
def test_a_tiff_with_0_as_white_in_other_types_is_refused(tmp_path, kind):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((12, 10), kind), photometric="miniswhite")
    with pytest.raises(ImageFileError, match=r"with 0 as white|not an image that can be read"):
        read_volume(tmp_path / "a.tif")


def test_a_colour_with_further_channels_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((12, 10, 5), np.uint8), photometric="rgb")
    with pytest.raises(ImageFileError, match="a colour and 2 more channels"):
        read_volume(tmp_path / "a.tif")


@pytest.mark.parametrize("ending", ["gif", "webp", "png"])
def test_a_moving_picture_asks_for_a_frame(tmp_path, ending):
    frames = [np.full((12, 10, 3), value, np.uint8) for value in (10, 90, 200)]
    first, *others = map(Image.fromarray, frames)
    first.save(tmp_path / f"a.{ending}", save_all=True, append_images=others, lossless=True)
    with pytest.raises(ImageFileError, match=r"holds 3 frames.*--stack N"):
        read_volume(tmp_path / f"a.{ending}")
    np.testing.assert_array_equal(read_volume(tmp_path / f"a.{ending}", stack=2).voxels[0], frames[1])


NO_NPZ = {
    "objects": ({"imgs": np.array([{1: 2}], object)}, "no npz file of plain arrays"),
    "two images": ({"imgs": VOXELS, "img": VOXELS}, "not one of MedSAM's"),
    "two values a voxel": ({"imgs": np.zeros((2, 3, 4, 2))}, "has the shape"),
    "four values a pixel": ({"img": np.zeros((5, 6, 4), np.uint8)}, "holds 4 values a voxel.*--component"),
    "colours that are no bytes": ({"img": np.zeros((5, 6, 3), np.float32)}, "holds 3 values a voxel.*--component"),
    "booleans": ({"imgs": VOXELS > 3}, "no grey values"),
    "spacing in words": ({"imgs": VOXELS, "spacing": "1,2,3"}, "no npz file of plain arrays"),
}


@pytest.mark.parametrize("what", NO_NPZ)
def test_an_npz_that_is_no_image_is_refused(tmp_path, what):
    arrays, reason = NO_NPZ[what]
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(ImageFileError, match=reason):
        read_volume(tmp_path / "a.npz")


def test_an_npz_in_another_byte_or_axis_order_or_of_booleans_is_read(tmp_path):
    np.savez(tmp_path / "a.npz", imgs=np.asfortranarray(VOXELS.astype(">i2")), gts=VOXELS > 3)
    volume = read_volume(tmp_path / "a.npz")
    np.testing.assert_array_equal(volume.voxels, VOXELS)
    assert volume.voxels.dtype.isnative
    np.testing.assert_array_equal(read_labelmap(tmp_path / "a.npz")[0], VOXELS > 3)
