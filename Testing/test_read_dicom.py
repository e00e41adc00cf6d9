"""DICOM: each frame lies where its own position says and has its own scale, or the input is refused by name."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_files import (
    Frame,
    Items,
    frames_along_z,
    item,
    new_file,
    save,
    write_enhanced,
    write_series,
)
from pydicom.data import get_testdata_file
from pydicom.uid import (
    EnhancedCTImageStorage,
    MRImageStorage,
    SecondaryCaptureImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from dbsam.io.images import ImageFileError, read_volume

# Frames along z, 0.5 mm between columns and 0.75 mm between rows, first voxel at (-10, -20, z) in LPS.
TURNED = (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)


def written(folder: Path, form: str, frames: list[Frame], **facts) -> Path:
    """One input of the frames in any of the forms that a reader meets."""
    if form == "series":
        write_series(folder / "in", frames, **facts)
        return folder / "in"
    file = write_enhanced(folder / "in" / "all.dcm", frames, **facts)
    return file if form == "file" else file.parent


FORMS = pytest.mark.parametrize("form", ["series", "file", "folder"])


@FORMS
@pytest.mark.parametrize("order", ["up", "down", "shuffled"])
def test_frames_are_placed_by_their_own_positions(tmp_path, form, order):
    frames = frames_along_z([3 * n for n in range(10)])
    if order == "down":
        frames.reverse()
    if order == "shuffled":
        np.random.default_rng(0).shuffle(frames)
    volume = read_volume(written(tmp_path, form, frames))
    assert volume.voxels[:, 0, 0].tolist() == [300 * n for n in range(10)]
    np.testing.assert_allclose(
        volume.geometry.ijk_to_ras, [[-0.5, 0, 0, 10], [0, -0.75, 0, 20], [0, 0, 3, 0], [0, 0, 0, 1]], atol=1e-9
    )


def shifted(frames: list[Frame], along_y_per_mm: float) -> list[Frame]:
    return [
        replace(frame, position=(-10.0, -20.0 + along_y_per_mm * frame.position[2], frame.position[2]))
        for frame in frames
    ]


IRREGULAR = {
    "five slices missing": (frames_along_z([0, 1, 2, 3, 4, 9, 10, 11, 12, 13]), r"1\.000 mm apart, but 5\.000 mm"),
    "one slice missing": (frames_along_z([0, 3, 6, 12]), r"3\.000 mm apart, but 6\.000 mm"),
    "distances that grow": (frames_along_z(np.cumsum([3 * 1.001**n for n in range(60)])), r"mm apart"),
    "a tilted gantry": (shifted(frames_along_z(range(10)), 0.2), r"shifted by 0\.200 mm .*\(a tilted gantry\)"),
    "a gantry tilted by 2 degrees": (shifted(frames_along_z(range(60)), 0.035), r"tilted gantry\), 2\.065 mm in all"),
    "a slice twice": (frames_along_z([0, 1, 2, 2, 3]), "several images lie at one position"),
    "a slice of another size": (frames_along_z([0, 1, 2])[:2] + frames_along_z([2], (7, 8)), "sizes, 6 x 5 and 8 x 7"),
    "another pixel spacing": (
        [*frames_along_z([0, 1]), replace(frames_along_z([2])[0], spacing=(0.8, 0.5))],
        r"pixel spacings, 0\.5 x 0\.75 and 0\.5 x 0\.8 mm",
    ),
    "NaN in a position": (
        [*frames_along_z([0, 1]), replace(frames_along_z([2])[0], position=(0, 0, "nan"))],
        "position",
    ),
    "axes at no right angle": (
        [replace(frame, orientation=(1, 0, 0, 0.6, 0.8, 0)) for frame in frames_along_z([0, 1])],
        "no pair of directions at right angles",
    ),
    "no pixel spacing": (
        [replace(frame, spacing=(0.0, 0.5)) for frame in frames_along_z([0, 1])],
        "its pixel spacing is",
    ),
}


@FORMS
@pytest.mark.parametrize("what", IRREGULAR)
def test_what_is_no_regular_stack_is_refused_by_name(tmp_path, form, what):
    frames, reason = IRREGULAR[what]
    if "size" in what and form != "series":
        pytest.skip("all frames of a file have one size")
    with pytest.raises(ImageFileError, match=reason) as caught:
        read_volume(written(tmp_path, form, frames))
    assert str(tmp_path) in str(caught.value), "the message names the file"


def brighter(frames: list[Frame], by: int, **facts) -> list[Frame]:
    return [replace(frame, pixels=frame.pixels + np.int16(by), facts=facts) for frame in frames]


def interleaved(*stacks: list[Frame]) -> list[Frame]:
    return [frame for frames in zip(*stacks, strict=True) for frame in frames]


BASE = frames_along_z(range(0, 15, 3))
SEVERAL = {
    "two times": ([*brighter(BASE, 0, TemporalPositionIndex=1), *brighter(BASE, 1, TemporalPositionIndex=2)], "time 2"),
    "two echoes, interleaved": (
        interleaved(brighter(BASE, 0, EffectiveEchoTime=4.6), brighter(BASE, 1, EffectiveEchoTime=9.2)),
        "echo time 9.2",
    ),
    "two b-values": (
        [*brighter(BASE, 0, DiffusionBValue=0.0), *brighter(BASE, 1, DiffusionBValue=800.0)],
        "b-value 800",
    ),
    "two times that nothing names": ([*BASE, *brighter(BASE, 1)], "number 2 at each position"),
    "two orientations": (
        [*BASE, *(replace(f, orientation=TURNED, position=(f.position[2], 0, 0)) for f in brighter(BASE, 1))],
        "sagittal",
    ),
    "two stacks of one orientation": (
        [*brighter(BASE, 0, StackID="1"), *brighter(BASE, 1, StackID="2")],
        "stack 2",
    ),
}


@FORMS
@pytest.mark.parametrize("what", SEVERAL)
def test_of_several_stacks_the_message_names_the_option_that_chooses(tmp_path, form, what):
    frames, listed = SEVERAL[what]
    path = written(tmp_path, form, frames)
    with pytest.raises(ImageFileError, match=rf"--stack N(.|\n)*--stack 2  5 slices.*{listed}"):
        read_volume(path)
    first, second = (read_volume(path, stack=stack) for stack in (1, 2))
    assert first.voxels.shape == second.voxels.shape == (5, 5, 6)
    assert set((second.voxels % 100).ravel() - (first.voxels % 100).ravel()) == {1}
    if "orientation" not in what or "one" in what:
        np.testing.assert_array_equal(first.geometry.ijk_to_ras, second.geometry.ijk_to_ras)
    else:
        # Rows run along P, columns to the feet, so that slices go to the right: LPS x from 12 down to 0.
        np.testing.assert_allclose(
            second.geometry.ijk_to_ras, [[0, 0, 3, -12], [-0.5, 0, 0, 0], [0, -0.75, 0, 0], [0, 0, 0, 1]], atol=1e-9
        )
    with pytest.raises(ImageFileError, match="no stack 3"):
        read_volume(path, stack=3)


def test_a_cine_without_positions_asks_for_a_frame(tmp_path):
    pixels = np.arange(4 * 5 * 6 * 3, dtype=np.uint8).reshape(4, 5, 6, 3)
    file = new_file(UltrasoundMultiFrameImageStorage, "US", "1.2.3", pixels[0])
    file.NumberOfFrames = 4
    file.PixelData = pixels.tobytes()
    path = save(file, tmp_path / "cine.dcm")
    with pytest.raises(ImageFileError, match=r"cine\.dcm: holds 4 frames without positions \(a cine\).*--stack N"):
        read_volume(path)
    volume = read_volume(path, stack=3)
    np.testing.assert_array_equal(volume.voxels[0], pixels[2])
    assert not volume.spacing_known


def test_a_dose_lies_by_its_offsets_in_units_of_dose(tmp_path):
    """15 frames of rtdose.dcm lie 3 mm apart; its scale is 1e-6 Gy."""
    for name in ("rtdose.dcm", "rtdose_expb.dcm", "rtdose_rle.dcm"):
        path = get_testdata_file(name)
        content = pydicom.dcmread(path)
        volume = read_volume(path)
        np.testing.assert_array_equal(volume.voxels, content.pixel_array * float(content.DoseGridScaling))
        offsets = np.array(content.GridFrameOffsetVector, float)
        z = content.ImagePositionPatient[2] + offsets - offsets[0]
        np.testing.assert_allclose(volume.geometry.ijk_to_ras[2, 2:], [abs(z[1] - z[0]), z.min()])


@FORMS
def test_each_slice_has_its_own_slope_and_intercept(tmp_path, form):
    slopes, intercepts = [1.0, 0.37, 0.37, 2.5], [0.0, -3.0, 0.5, 7.0]
    frames = [
        replace(frame, slope=slope, intercept=intercept)
        for frame, slope, intercept in zip(frames_along_z(range(4)), slopes, intercepts, strict=True)
    ]
    volume = read_volume(written(tmp_path, form, frames))
    expected = [
        frame.pixels * slope + intercept for frame, slope, intercept in zip(frames, slopes, intercepts, strict=True)
    ]
    np.testing.assert_allclose(volume.voxels, expected, rtol=1e-12)


@FORMS
@pytest.mark.parametrize(("slope", "largest"), [(100.0, 3_000_000), (1.0, 30_000), (1e6, 30_000_000_000)])
def test_a_slope_does_not_overflow(tmp_path, form, slope, largest):
    frames = [replace(frame, pixels=np.full((5, 6), 30_000, np.int16), slope=slope) for frame in frames_along_z([0, 1])]
    volume = read_volume(written(tmp_path, form, frames))
    assert (volume.voxels == largest).all()
    assert np.issubdtype(volume.voxels.dtype, np.integer)


def test_a_modality_lut_is_applied(tmp_path):
    table = (np.arange(500) ** 2 % 60000).astype(np.uint16)
    lut = Items([item(LUTDescriptor=[500, 0, 16], ModalityLUTType="US", LUTData=table.tobytes())])
    frames = [replace(frame, slope=None, pixels=frame.pixels.astype(np.uint16)) for frame in frames_along_z([0, 1, 2])]
    write_series(tmp_path / "in", frames, ModalityLUTSequence=lut)
    np.testing.assert_array_equal(read_volume(tmp_path / "in").voxels, [table[frame.pixels] for frame in frames])


@pytest.mark.parametrize(
    ("stored", "facts", "expected"),
    [
        ([5, 6, 7, 4095], {"BitsStored": 12, "HighBit": 11}, [5, 6, 7, 4095]),
        ([0x1005, 6, 0x8007, 4095], {"BitsStored": 12, "HighBit": 11}, [5, 6, 7, 4095]),  # overlay in the bits above
        ([0x0FFB, 6], {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 1}, [-5, 6]),
    ],
)
def test_bits_beyond_those_stored_are_no_values(tmp_path, stored, facts, expected):
    [path] = write_series(tmp_path / "in", [Frame(np.array([stored, stored], np.uint16))], **facts)
    assert read_volume(path).voxels[0, 0].tolist() == expected


def test_values_in_other_bits_than_the_lowest_are_refused(tmp_path):
    [path] = write_series(tmp_path / "in", [Frame(np.full((2, 2), 80, np.uint16))], BitsStored=12, HighBit=15)
    with pytest.raises(ImageFileError, match="highest bit is 15 of 12 stored"):
        read_volume(path)


DECODED = (
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "MR_small_expb.dcm",
    "JPEG2000.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_implicit.dcm",
    "SC_rgb_rle_16bit.dcm",
    "SC_rgb_rle.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm",
    "image_dfl.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "CT_small.dcm",
)


@pytest.mark.parametrize("name", DECODED)
def test_public_files_of_every_encoding_have_the_values_of_an_independent_reader(name):
    path = get_testdata_file(name)
    content = pydicom.dcmread(path)
    expected = pydicom.pixels.pixel_array(content) * float(content.get("RescaleSlope", 1))
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels[0], expected + float(content.get("RescaleIntercept", 0)))
    if "ImagePositionPatient" in content:
        x, y, z = map(float, content.ImagePositionPatient)
        np.testing.assert_allclose(volume.geometry.ijk_to_ras[:3, 3], [-x, -y, z], atol=1e-6)


@pytest.mark.parametrize("compressor", ["JPEG", "JPEG2000"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.uint16])
def test_lossless_jpegs_keep_every_value(tmp_path, compressor, dtype):
    limits = np.iinfo(dtype)
    values = np.random.default_rng(0).integers(limits.min, limits.max, (1, 32, 24), endpoint=True).astype(dtype)
    writer = sitk.ImageFileWriter()
    writer.SetFileName(str(tmp_path / "a.dcm"))
    writer.UseCompressionOn()
    writer.SetCompressor(compressor)
    writer.Execute(sitk.GetImageFromArray(values))
    assert "Lossless" in pydicom.dcmread(tmp_path / "a.dcm").file_meta.TransferSyntaxUID.name
    np.testing.assert_array_equal(read_volume(tmp_path / "a.dcm").voxels, values)


REFUSED = {
    "MR_truncated.dcm": "damaged or cut short",
    "rtplan.dcm": "no image, but RTPLAN",
    "liver_1frame.dcm": "a DICOM segmentation, not an image",
    "SC_rgb_rle_32bit.dcm": "colour values of type uint32",
    "badVR.dcm": "NumberOfFrames is '1A'",
    "test-SR.dcm": "no image, but SR",
}


@pytest.mark.parametrize("name", REFUSED)
def test_public_files_that_hold_no_usable_image_are_refused_by_name(name):
    with pytest.raises(ImageFileError, match=rf"{name}: .*{REFUSED[name]}"):
        read_volume(get_testdata_file(name))


# Lengths differ with those of the generated UIDs, so the places are counted from what a file is made of.
CUTS = {
    "empty": lambda whole: 0,
    "in the preamble": lambda whole: 100,
    "after the magic": lambda whole: 132,
    "in the meta header": lambda whole: 150,
    "in a value": lambda whole: whole.index(b"1.2.3.4") + 3,
    "before the voxels": lambda whole: len(whole) - 60 - 12,
    "in their length": lambda whole: len(whole) - 60 - 2,
    "in the voxels": lambda whole: len(whole) - 35,
    "before the last byte": lambda whole: len(whole) - 1,
}


@pytest.mark.parametrize("place", CUTS)
@pytest.mark.parametrize("which", [0, 2])
def test_a_slice_that_is_cut_short_is_named_wherever_it_ends(tmp_path, place, which):
    paths = write_series(tmp_path / "in", frames_along_z([0, 1, 2, 3]))
    whole = paths[which].read_bytes()
    paths[which].write_bytes(whole[: CUTS[place](whole)])
    with pytest.raises(ImageFileError, match=rf"{paths[which].name}: .*(cut short|empty)"):
        read_volume(tmp_path / "in")


def test_what_lies_beside_the_slices_and_is_no_image_is_passed_over(tmp_path):
    write_series(tmp_path / "in", frames_along_z([0, 1, 2]))
    for name in ("rtplan.dcm", "test-SR.dcm", "liver_1frame.dcm"):
        shutil.copy(get_testdata_file(name), tmp_path / "in")
    (tmp_path / "in" / "README").write_text("notes")
    (tmp_path / "in" / "DIRFILE").touch()
    assert read_volume(tmp_path / "in").voxels.shape == (3, 5, 6)


def test_a_damaged_file_of_another_series_is_no_concern(tmp_path):
    write_series(tmp_path / "in", frames_along_z([0, 1, 2]), series="1.2.3")
    paths = write_series(tmp_path / "in", frames_along_z([0, 1, 2]), series="1.2.4")
    paths[0].write_bytes(paths[0].read_bytes()[:-80])
    assert read_volume(tmp_path / "in", series_uid="1.2.3").voxels.shape == (3, 5, 6)
    with pytest.raises(ImageFileError, match=rf"{paths[0].name}.*cut short"):
        read_volume(tmp_path / "in", series_uid="1.2.4")


def test_a_series_of_several_multi_frame_files_is_one_stack(tmp_path):
    write_enhanced(tmp_path / "in/b.dcm", frames_along_z([0, 3, 6]), sop_class=EnhancedCTImageStorage)
    write_enhanced(tmp_path / "in/a.dcm", frames_along_z([9, 12]), sop_class=EnhancedCTImageStorage)
    assert read_volume(tmp_path / "in").voxels[:, 0, 0].tolist() == [0, 300, 600, 900, 1200]


def test_more_voxels_than_memory_are_too_many_and_not_damaged(tmp_path):
    path = write_enhanced(tmp_path / "huge.dcm", frames_along_z([0, 1]))
    content = pydicom.dcmread(path)
    content.NumberOfFrames, content.Rows, content.Columns = 2, 65535, 65535
    content.BitsAllocated = 32
    del content.PerFrameFunctionalGroupsSequence
    content.NumberOfFrames = 100_000
    content.save_as(path)
    with pytest.raises(MemoryError, match=r"huge\.dcm: .*GiB"):
        read_volume(path)


def test_a_lone_slice_keeps_its_place_and_the_spacing_that_is_stated(tmp_path):
    [path] = write_series(tmp_path / "in", frames_along_z([7]), sop_class=MRImageStorage, SpacingBetweenSlices=4.5)
    np.testing.assert_allclose(read_volume(path).geometry.ijk_to_ras[2], [0, 0, 4.5, 7])


def unplaced(folder: Path, **facts) -> list[Path]:
    return write_series(folder, [replace(f, position=None, orientation=None) for f in frames_along_z([0, 1])], **facts)


def test_a_slice_spacing_is_for_images_without_position_and_numbers_alone(tmp_path):
    write_series(tmp_path / "placed", frames_along_z([0, 1]))
    with pytest.raises(ImageFileError, match="a slice spacing is given, but"):
        read_volume(tmp_path / "placed", slice_spacing_mm=1)
    [one, _] = unplaced(tmp_path / "same number", InstanceNumber=1)
    with pytest.raises(ImageFileError, match="no InstanceNumber of their own"):
        read_volume(tmp_path / "same number", slice_spacing_mm=1)
    with pytest.raises(ImageFileError, match="a slice spacing is given, but"):
        read_volume(one, slice_spacing_mm=1)
    unplaced(tmp_path / "two spacings")[1].unlink()
    [other] = unplaced(tmp_path / "other", PixelSpacing=[3, 3], InstanceNumber=7)[:1]
    shutil.copy(other, tmp_path / "two spacings/b.dcm")
    with pytest.raises(ImageFileError, match="different sizes or pixel spacings"):
        read_volume(tmp_path / "two spacings", slice_spacing_mm=1)


def stored_in_12_bits(content, high_bits: int) -> None:
    """Signed values in the lower 12 of 16 bits, with anything in those above, as old files keep overlays there."""
    content.BitsStored, content.HighBit, content.PixelRepresentation = 12, 11, 1
    values = np.frombuffer(content.PixelData, "<i2") - 300
    content.PixelData = ((values.astype(np.uint16) & 0x0FFF) | high_bits).astype("<u2").tobytes()


@pytest.mark.parametrize("high_bits", [0, 0xA000, 0xF000])
def test_bits_above_those_stored_are_no_part_of_a_value(tmp_path, high_bits):
    frames = frames_along_z([0, 1])
    for path in write_series(tmp_path / "in", frames):
        content = pydicom.dcmread(path)
        stored_in_12_bits(content, high_bits)
        content.save_as(path)
    expected = np.stack([frame.pixels for frame in frames]) - 300
    np.testing.assert_array_equal(read_volume(tmp_path / "in").voxels, expected)


PIXELS = np.random.default_rng(1).integers(0, 256, (8, 10, 3)).astype(np.uint8)


def colour_file(path: Path, kind: str, **facts):
    file = new_file(SecondaryCaptureImageStorage, "OT", "1.2.3", PIXELS)
    file.PixelData = PIXELS.tobytes()
    file.PhotometricInterpretation = kind
    for name, value in facts.items():
        setattr(file, name, value)
    return save(file, path)


def test_planes_of_colour_and_a_rescale_beside_them_change_no_colour(tmp_path):
    planes = {"PlanarConfiguration": 1, "PixelData": PIXELS.transpose(2, 0, 1).tobytes()}
    for n, facts in enumerate(({}, planes, {"RescaleSlope": 2, "RescaleIntercept": 5})):
        np.testing.assert_array_equal(read_volume(colour_file(tmp_path / f"{n}.dcm", "RGB", **facts)).voxels[0], PIXELS)


@pytest.mark.parametrize("kind", ["HSV", "CMYK", "YBR_PARTIAL_422", "XYZ"])
def test_colours_of_other_kinds_are_refused(tmp_path, kind):
    with pytest.raises(ImageFileError, match=f"colours of kind {kind}"):
        read_volume(colour_file(tmp_path / "a.dcm", kind))
