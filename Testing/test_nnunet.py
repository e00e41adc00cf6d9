"""Reading of nnU-Net raw data sets, complete ones and ones that say little or something wrong."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sitk = pytest.importorskip("SimpleITK")
Image = pytest.importorskip("PIL.Image")

from dbsam_training.data.case import CaseError  # noqa: E402
from dbsam_training.data.discover import find_sources  # noqa: E402
from dbsam_training.data.nnunet import RawDataset, class_of  # noqa: E402


def make_dataset(folder: Path, content: dict[str, Any], splits: Any = None) -> Path:
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    (folder / "dataset.json").write_text(json.dumps(content))
    if splits is not None:
        (folder / "splits_final.json").write_text(json.dumps(splits))
    return folder


def write_png(folder: Path, case: str, image: np.ndarray, labels: np.ndarray) -> None:
    Image.fromarray(image).save(folder / "imagesTr" / f"{case}_0000.png")
    Image.fromarray(labels).save(folder / "labelsTr" / f"{case}.png")


def write_volume(
    folder: Path, case: str, image_KJI: np.ndarray, labels_KJI: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)
) -> None:
    for array, path in (
        (image_KJI, folder / "imagesTr" / f"{case}_0000.nii.gz"),
        (labels_KJI, folder / "labelsTr" / f"{case}.nii.gz"),
    ):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing)
        sitk.WriteImage(image, str(path))


def structure_masks(dataset: RawDataset, case: str) -> dict[str, list[list[int]]]:
    """Structure name -> (k, j, i) of its voxels."""
    found = dataset.structures(dataset.read_case(case))
    return {structure.name: np.argwhere(structure.mask_KJI).tolist() for structure in found}


def test_classes_regions_and_nested_unions_become_structures_where_present(tmp_path: Path) -> None:
    content = {
        "labels": {"background": 0, "kidney": 1, "tumour": 2, "cyst": 3, "lesion": [2, 3], "absent": 7, "ignore": 9},
        "nested": {"kidney": [1, 2, 3]},
        "file_ending": ".png",
    }
    folder = make_dataset(tmp_path / "Dataset900_Kidneys", content)
    write_png(folder, "a", np.zeros((1, 5), np.uint8), np.array([[0, 1, 2, 3, 9]], np.uint8))
    dataset = RawDataset(folder)
    assert structure_masks(dataset, "a") == {
        "kidney": [[0, 0, 1], [0, 0, 2], [0, 0, 3]],
        "tumour": [[0, 0, 2]],
        "cyst": [[0, 0, 3]],
        "lesion": [[0, 0, 2], [0, 0, 3]],
    }
    assert dataset.read_case("a").problems == ()


def test_every_id_is_an_object_where_ids_number_instances(tmp_path: Path) -> None:
    content = {"labels": {"background": 0, "nucleus": 1}, "instances": True, "file_ending": ".png"}
    folder = make_dataset(tmp_path / "Dataset901_Nuclei", content)
    write_png(folder, "a", np.zeros((1, 4), np.uint8), np.array([[1, 40, 40, 0]], np.uint8))
    dataset = RawDataset(folder)
    assert structure_masks(dataset, "a") == {"nucleus #1": [[0, 0, 0]], "nucleus #40": [[0, 0, 1], [0, 0, 2]]}
    assert dataset.read_case("a").problems == ()
    assert class_of("nucleus #40") == "nucleus"


def test_an_rgb_picture_has_unit_pixels_of_unknown_size(tmp_path: Path) -> None:
    content = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "polyp": 1}}
    folder = make_dataset(tmp_path / "Dataset902_Polyps", content | {"file_ending": ".png"})
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    write_png(folder, "a", image, np.ones((4, 6), np.uint8))
    case = RawDataset(folder).read_case("a")
    assert np.array_equal(case.voxels_KJI, image[None])
    assert case.geometry.spacing_mm == (1.0, 1.0, 1.0)
    assert (case.dimension, case.spacing_ijk_mm) == (2, None)


def test_three_grey_files_named_red_green_blue_make_one_colour_image(tmp_path: Path) -> None:
    content = {"channel_names": {"0": "R", "1": "G", "2": "B"}, "labels": {"background": 0, "x": 1}}
    folder = make_dataset(tmp_path / "Dataset903_Channels", content | {"file_ending": ".png"})
    for channel in range(3):
        Image.fromarray(np.full((2, 2), 10 * channel, np.uint8)).save(folder / f"imagesTr/a_000{channel}.png")
    Image.fromarray(np.ones((2, 2), np.uint8)).save(folder / "labelsTr/a.png")
    assert RawDataset(folder).read_case("a").voxels_KJI[0, 0, 0].tolist() == [0, 10, 20]


def test_of_several_modalities_the_chosen_channel_is_read(tmp_path: Path) -> None:
    content = {"channel_names": {"0": "T1", "1": "FLAIR"}, "labels": {"background": 0, "x": 1}, "file_ending": ".png"}
    folder = make_dataset(tmp_path / "Dataset904_Two", content)
    for channel in range(2):
        Image.fromarray(np.full((2, 2), 50 + channel, np.uint8)).save(folder / f"imagesTr/a_000{channel}.png")
    Image.fromarray(np.ones((2, 2), np.uint8)).save(folder / "labelsTr/a.png")
    assert RawDataset(folder).read_case("a").voxels_KJI.max() == 50
    assert RawDataset(folder, channel=1).read_case("a").voxels_KJI.max() == 51


def test_indices_of_a_palette_picture_are_label_ids(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "Dataset905_Palette", {"labels": {"background": 0, "x": 2}, "file_ending": ".png"})
    Image.fromarray(np.zeros((1, 2), np.uint8)).save(folder / "imagesTr/a_0000.png")
    labels = Image.fromarray(np.array([[0, 2]], np.uint8), mode="P")
    labels.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    labels.save(folder / "labelsTr/a.png")
    assert structure_masks(RawDataset(folder), "a") == {"x": [[0, 0, 1]]}


def test_an_oblique_volume_keeps_its_affine_in_ras(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "Dataset906_Oblique", {"labels": {"background": 0, "x": 1}})
    angle = np.deg2rad(30)
    direction = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    for array, name in (
        (np.zeros((2, 3, 4), np.int16), "imagesTr/a_0000"),
        (np.ones((2, 3, 4), np.uint8), "labelsTr/a"),
    ):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((0.5, 0.75, 3.0))
        image.SetOrigin((10.0, -20.0, 30.0))
        image.SetDirection(direction.ravel().tolist())
        sitk.WriteImage(image, str(folder / f"{name}.nii.gz"))
    case = RawDataset(folder).read_case("a")
    expected = np.eye(4)
    expected[:3, :3] = np.diag([-1, -1, 1]) @ direction @ np.diag([0.5, 0.75, 3.0])
    expected[:3, 3] = [-10, 20, 30]
    np.testing.assert_allclose(case.geometry.ijk_to_ras, expected, atol=1e-5)
    assert case.voxels_KJI.shape == (2, 3, 4)
    assert (case.dimension, case.spacing_ijk_mm, case.problems) == (3, (0.5, 0.75, 3.0), ())


def test_a_data_set_made_for_nnunet_alone_needs_no_further_keys(tmp_path: Path) -> None:
    content = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "spleen": 1}, "numTraining": 1}
    folder = make_dataset(tmp_path / "Dataset009_Spleen", content)
    write_volume(folder, "spleen_1", np.zeros((2, 3, 4), np.int16), np.ones((2, 3, 4), np.uint8), (1.0, 1.0, 5.0))
    dataset = RawDataset(folder)
    assert (dataset.info.name, dataset.info.modality, dataset.info.mask_origin) == (
        "Dataset009_Spleen",
        "CT",
        "unknown",
    )
    assert dataset.list_cases("train") == dataset.list_cases("all") == ["spleen_1"]
    assert dataset.list_cases("val") == []
    assert dataset.read_case("spleen_1").dimension == 3


def test_labels_of_nnunet_version_1_are_understood(tmp_path: Path) -> None:
    content = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "heart"}, "file_ending": ".png"}
    folder = make_dataset(tmp_path / "Task002_Heart", content)
    write_png(folder, "a", np.zeros((1, 2), np.uint8), np.array([[0, 1]], np.uint8))
    dataset = RawDataset(folder)
    assert dataset.info.modality == "MRI"
    assert structure_masks(dataset, "a") == {"heart": [[0, 0, 1]]}


def test_splits_come_from_the_asked_fold(tmp_path: Path) -> None:
    splits = [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}]
    folder = make_dataset(tmp_path / "Dataset907_Split", {"labels": {"background": 0, "x": 1}}, splits)
    dataset = RawDataset(folder)
    assert (dataset.list_cases("val"), dataset.list_cases("val", fold=1)) == (["b"], ["a"])
    with pytest.raises(ValueError, match="fold 2"):
        dataset.list_cases("val", fold=2)
    with pytest.raises(ValueError, match="validation"):
        dataset.list_cases("validation")


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        (np.ones((2, 3, 5), np.uint8), r"\(2, 3, 4\).*\(2, 3, 5\)"),
        (np.full((2, 3, 4), np.nan, np.float32), "24 NaN"),
        (np.full((2, 3, 4), 0.5, np.float32), "0.5"),
        (np.full((2, 3, 4), -1, np.int16), "-1"),
    ],
)
def test_unusable_labels_are_refused_with_the_case_and_the_reason(
    tmp_path: Path, labels: np.ndarray, reason: str
) -> None:
    folder = make_dataset(tmp_path / "Dataset908_Broken", {"labels": {"background": 0, "x": 1}})
    write_volume(folder, "case_7", np.zeros((2, 3, 4), np.int16), labels)
    with pytest.raises(CaseError, match=f"case_7: .*{reason}"):
        RawDataset(folder).read_case("case_7")


@pytest.mark.parametrize(
    ("image", "labels", "problem"),
    [
        (np.zeros((2, 2, 2), np.int16), np.zeros((2, 2, 2), np.uint8), "empty"),
        (np.zeros((2, 2, 2), np.int16), np.full((2, 2, 2), 5, np.uint8), "[5]"),
        (np.full((2, 2, 2), np.nan, np.float32), np.ones((2, 2, 2), np.uint8), "8 of 8 voxels are NaN"),
    ],
)
def test_suspicious_cases_are_read_and_described(
    tmp_path: Path, image: np.ndarray, labels: np.ndarray, problem: str
) -> None:
    folder = make_dataset(tmp_path / "Dataset909_Odd", {"labels": {"background": 0, "x": 1}})
    write_volume(folder, "a", image, labels)
    (found,) = RawDataset(folder).read_case("a").problems
    assert problem in found


def test_a_label_file_that_lies_elsewhere_in_space_is_reported(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "Dataset910_Shifted", {"labels": {"background": 0, "x": 1}})
    write_volume(folder, "a", np.zeros((2, 2, 2), np.int16), np.ones((2, 2, 2), np.uint8))
    labels = sitk.ReadImage(str(folder / "labelsTr/a.nii.gz"))
    labels.SetOrigin((0, 0, 10))
    sitk.WriteImage(labels, str(folder / "labelsTr/a.nii.gz"))
    assert "affine" in RawDataset(folder).read_case("a").problems[0]


def test_a_volume_with_slightly_sheared_axes_is_read_with_its_spacing(tmp_path: Path) -> None:
    content = {"labels": {"background": 0, "x": 1}, "file_ending": ".nii"}
    folder = make_dataset(tmp_path / "Dataset913_Sheared", content)
    for name, array in (
        ("imagesTr/a_0000", np.zeros((2, 3, 4), np.int16)),
        ("labelsTr/a", np.ones((2, 3, 4), np.uint8)),
    ):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((1.0, 1.0, 3.0))
        sitk.WriteImage(image, str(folder / f"{name}.nii"))
        header = bytearray((folder / f"{name}.nii").read_bytes())
        struct.pack_into("<2h", header, 252, 0, 1)  # no qform, an sform
        struct.pack_into("<12f", header, 280, 1, 0.02, 0, 0, 0, 1, 0, 0, 0, 0, 3, 0)
        (folder / f"{name}.nii").write_bytes(header)
    spacing = RawDataset(folder).read_case("a").geometry.spacing_mm
    assert spacing == pytest.approx((1.0, 1.0, 3.0), abs=1e-3)


def test_missing_and_damaged_files_are_refused_by_case(tmp_path: Path) -> None:
    folder = make_dataset(tmp_path / "Dataset911_Gone", {"labels": {"background": 0, "x": 1}, "file_ending": ".png"})
    write_png(folder, "good", np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8))
    write_png(folder, "damaged", np.zeros((2, 2), np.uint8), np.ones((2, 2), np.uint8))
    (folder / "imagesTr/damaged_0000.png").write_bytes(b"not a picture")
    Image.fromarray(np.ones((2, 2), np.uint8)).save(folder / "labelsTr/imageless.png")
    dataset = RawDataset(folder)
    assert dataset.list_cases() == ["damaged", "good", "imageless"]
    for case in ("damaged", "imageless", "unheard_of"):
        with pytest.raises(CaseError, match=case):
            dataset.read_case(case)


def test_data_sets_are_found_one_level_below_a_folder(tmp_path: Path) -> None:
    content = {"labels": {"background": 0, "x": 1}}
    make_dataset(tmp_path / "raw" / "Dataset002_B", content)
    first = make_dataset(tmp_path / "raw" / "Dataset001_A", content)
    found = find_sources([first, tmp_path / "raw"])
    assert [dataset.info.name for dataset in found] == ["Dataset001_A", "Dataset002_B"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="empty"):
        find_sources([tmp_path / "empty"])


def test_a_dataset_json_without_labels_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="labels"):
        RawDataset(make_dataset(tmp_path / "Dataset912_NoLabels", {"name": "x"}))
