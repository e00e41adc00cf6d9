"""DICOM folders that are no regular stack are refused, because their volume would lie elsewhere than its slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dbsam.io import images

AXIAL, TURNED = (1, 0, 0, 0, 1, 0), (0, 1, 0, -1, 0, 0)
UID = "1.2.3.4"


def write_slice(
    folder: Path,
    number: int,
    position: tuple[float, ...],
    axes: tuple[float, ...] = AXIAL,
    spacing: tuple[float, float] = (0.5, 0.5),
    uid: str = UID,
) -> Path:
    """One slice whose pixels are its number."""
    image = sitk.GetImageFromArray(np.full((1, 5, 6), number, np.int16))
    image.SetSpacing((*spacing, 1.0))
    image.SetOrigin(position)
    x, y = np.array(axes[:3]), np.array(axes[3:])
    image.SetDirection(np.stack([x, y, np.cross(x, y)], axis=1).ravel().tolist())
    for tag, value in {
        "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
        "0008|0060": "CT",
        "0020|000d": "1.2.3",
        "0020|000e": uid,
        "0020|0013": str(number),
        "0020|0032": "\\".join(map(str, position)),
        "0020|0037": "\\".join(map(str, axes)),
    }.items():
        image.SetMetaData(tag, value)
    folder.mkdir(exist_ok=True)
    path = folder / f"{uid}.{number}.dcm"
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    writer.SetFileName(str(path))
    writer.Execute(image)
    return path


@pytest.mark.parametrize("count", [2, 5])
def test_images_at_one_position_are_no_volume(tmp_path, count):
    for number in range(count):
        file = write_slice(tmp_path / "cine", number, (1.0, 2.0, 3.0))
    with pytest.raises(images.ImageFileError, match=r"several images lie at one position \(a cine(.|\n)*name a single"):
        images.read_volume(tmp_path / "cine")
    assert images.read_volume(file).geometry.dimensions_ijk == (6, 5, 1), "a single file is read as before"


def test_two_images_at_each_position_are_no_volume(tmp_path):
    for number in range(6):
        write_slice(tmp_path / "phases", number, (0.0, 0.0, 3.0 * (number // 2)))
    with pytest.raises(images.ImageFileError, match="several images lie at one position"):
        images.read_volume(tmp_path / "phases")


@pytest.mark.parametrize("count", [2, 5])
def test_slices_of_different_orientation_are_no_volume(tmp_path, count):
    for number in range(count):
        write_slice(tmp_path / "mixed", number, (0.0, 0.0, 3.0 * number), TURNED if number == count - 1 else AXIAL)
    with pytest.raises(
        images.ImageFileError, match=rf"different orientations:\n.*\n.*{UID}\.{count - 1}\.dcm\nMove one"
    ):
        images.read_volume(tmp_path / "mixed")


def test_slices_of_different_pixel_spacing_are_no_volume(tmp_path):
    for number in range(4):
        write_slice(tmp_path / "mixed", number, (0.0, 0.0, 3.0 * number), spacing=(0.5, 0.5 if number < 3 else 0.8))
    with pytest.raises(images.ImageFileError, match=r"different pixel spacings, 0\.5 x 0\.5 and 0\.5 x 0\.8 mm"):
        images.read_volume(tmp_path / "mixed")


def test_two_slices_of_a_tilted_gantry_are_refused_like_three(tmp_path):
    for number in range(2):
        write_slice(tmp_path / "head", number, (0.0, 1.0 * number, 4.0 * number))
    with pytest.raises(images.ImageFileError, match=r"shifted by 1\.000 mm"):
        images.read_volume(tmp_path / "head")


def test_images_without_any_position_are_refused_unless_their_distance_is_given(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    for number in range(3):
        file = write_slice(tmp_path / "captures", number, (0.0, 0.0, 0.0))
        content = pydicom.dcmread(file)
        del content.ImagePositionPatient, content.ImageOrientationPatient
        content.save_as(file)
    with pytest.raises(images.ImageFileError, match=r"captures: its 3 images have no position.*--slice-spacing MM"):
        images.read_volume(tmp_path / "captures")
    volume = images.read_volume(tmp_path / "captures", slice_spacing_mm=2.5)
    assert volume.voxels[:, 0, 0].tolist() == [0, 1, 2]
    assert volume.geometry.spacing_mm[2] == 2.5
    assert not volume.position_known


def test_a_whole_uid_chooses_its_series_though_another_begins_with_it(tmp_path):
    for number in range(2):
        write_slice(tmp_path / "ct", number, (0.0, 0.0, 3.0 * number))
        write_slice(tmp_path / "ct", 10 + number, (0.0, 0.0, 3.0 * number), uid=f"{UID}0")
    assert images.read_volume(tmp_path / "ct", series_uid=UID).voxels.max() == 1
    assert images.read_volume(tmp_path / "ct", series_uid=f"{UID}0").voxels.max() == 11
    with pytest.raises(images.ImageFileError, match="several series"):
        images.read_volume(tmp_path / "ct", series_uid="1.2.3")
