"""What `prepare` and `evaluate` notice about data: changed files, leaking splits, equal names, unfit cases."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from training_cases import write_pictures

from dbsam.io.images import read_image
from dbsam_training.cli import main
from dbsam_training.data.case import CaseError
from dbsam_training.data.discover import find_sources
from dbsam_training.data.nnunet import RawDataset
from dbsam_training.evaluate.baselines import BASELINES
from dbsam_training.evaluate.evaluate import Settings, evaluate
from dbsam_training.evaluate.found import Found
from dbsam_training.recipe import DataOptions
from dbsam_training.schema import SettingError
from dbsam_training.store.format import TrainingStore
from dbsam_training.store.prepare import BrokenDataError, prepare

SLICES = DataOptions(protocol="slices")
OBJECTS = DataOptions(protocol="objects", superpixel_slices=(1, 1))


def write_png(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array.astype(np.uint8)).save(path)


def write_volumes(folder: Path, cases: int = 2, **facts) -> Path:
    """An nnU-Net folder of volumes of 3x12x14 with a block each, all for training."""
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    labels = np.zeros((3, 12, 14), np.uint8)
    labels[1, 3:8, 4:9] = 1
    names = [f"v{n}" for n in range(cases)]
    for name in names:
        write_nifti(folder / f"imagesTr/{name}_0000.nii.gz", labels * 100.0 + np.arange(14))
        write_nifti(folder / f"labelsTr/{name}.nii.gz", labels)
    described = {"labels": {"background": 0, "block": 1}, "channel_names": {"0": "MR"}, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(described | facts))
    (folder / "splits_final.json").write_text(json.dumps([{"train": names, "val": []}]))
    return folder


def write_nifti(path: Path, array: np.ndarray, origin=(0.0, 0.0, 0.0)) -> None:
    image = sitk.GetImageFromArray(array if array.dtype == np.uint8 else array.astype(np.float32))
    image.SetOrigin(origin)
    sitk.WriteImage(image, str(path))


def stored(folder: Path) -> dict[str, bytes]:
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.parent.name != "inputs"}


@pytest.mark.parametrize("skip_bad", [False, True])
def test_a_corrected_label_is_prepared_again(tmp_path, skip_bad):
    folder = write_pictures(tmp_path / "Dataset001_Discs")
    prepare([RawDataset(folder)], tmp_path / "store", SLICES, skip_bad)
    before = TrainingStore(tmp_path / "store").signature
    label = folder / "labelsTr/case2.png"
    write_png(label, np.flipud(np.array(Image.open(label))))
    prepare([RawDataset(folder)], tmp_path / "store", SLICES, skip_bad)
    assert TrainingStore(tmp_path / "store").signature != before
    prepare([RawDataset(folder)], tmp_path / "fresh", SLICES, skip_bad)
    assert stored(tmp_path / "store") == stored(tmp_path / "fresh")


def test_a_mended_case_that_was_left_out_comes_back(tmp_path):
    folder = write_pictures(tmp_path / "Dataset001_Discs", cases=8)
    good = (folder / "labelsTr/case5.png").read_bytes()
    (folder / "labelsTr/case5.png").write_bytes(b"broken")
    assert len(prepare([RawDataset(folder)], tmp_path / "store", SLICES, skip_bad=True).faults) == 1
    (folder / "labelsTr/case5.png").write_bytes(good)
    assert prepare([RawDataset(folder)], tmp_path / "store", SLICES, skip_bad=True).faults == []
    assert len(TrainingStore(tmp_path / "store")) == 8


def test_a_file_that_was_only_touched_changes_nothing(tmp_path):
    folder = write_pictures(tmp_path / "Dataset001_Discs")
    prepare([RawDataset(folder)], tmp_path / "store", SLICES)
    before = stored(tmp_path / "store")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "store/parts").rglob("*.bin")}
    os.utime(folder / "labelsTr/case2.png", ns=(1, 1))
    prepare([RawDataset(folder)], tmp_path / "store", SLICES)
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "store/parts").rglob("*.bin")}
    assert stored(tmp_path / "store") == before


@pytest.mark.parametrize("layout", ["nnU-Net", "folders"])
def test_without_a_split_numbered_cases_are_patients_of_their_own_and_a_fifth_is_for_validation(tmp_path, layout):
    images, labels, mark = ("imagesTr", "labelsTr", "_0000") if layout == "nnU-Net" else ("images", "labels", "")
    for n in range(12):
        write_png(tmp_path / f"set/{images}/case_{n:03d}{mark}.png", np.eye(8))
        write_png(tmp_path / f"set/{labels}/case_{n:03d}.png", np.eye(8))
    (tmp_path / "set/dataset.json").write_text(json.dumps({"labels": {"background": 0, "x": 1}}))
    [source] = find_sources([tmp_path / "set"])
    train, val = source.list_cases("train"), source.list_cases("val")
    assert (len(train), len(val)) == (10, 2)
    assert not set(train) & set(val)


@pytest.mark.parametrize(
    ("cases", "together"),
    [
        (["case_1", "case_2"], False),
        (["p1-001", "p1-002", "p2-001"], True),
        (["case_1", "case_2", "extra_1"], False),
        (["2024_1", "2024_2"], False),
        ([f"{name}_{n}" for name in ("ada", "ben", "cem", "dan", "eva") for n in (1, 2)], True),
    ],
)
def test_the_last_number_is_a_slices_only_where_the_rest_can_name_a_patient(cases, together):
    from dbsam_training.data.splits import made_split, patients_of

    patients = patients_of(cases)
    assert (patients[cases[0]] == patients[cases[1]]) is together
    assert made_split(patients, "val")
    assert made_split(patients, "train")


def test_a_case_on_both_sides_of_a_split_is_refused(tmp_path):
    folder = write_pictures(tmp_path / "Dataset001_Discs")
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["case0", "case1"], "val": ["case1"]}]))
    with pytest.raises(SettingError, match=r"1 cases are in train and in val \(case1\)"):
        prepare([RawDataset(folder)], tmp_path / "store", SLICES)


def test_two_data_sets_of_one_name_are_refused_with_both_paths(tmp_path):
    sources = [RawDataset(write_pictures(tmp_path / site / "Dataset001_X")) for site in ("a", "b")]
    for call in (lambda: prepare(sources, tmp_path / "store", SLICES), lambda: evaluate(sources, [], Settings())):
        with pytest.raises(SettingError, match="both called Dataset001_X") as caught:
            call()
        assert all(str(source.folder) in str(caught.value) for source in sources)


def refused_alone(folder: Path, store: Path, case: str, reason: str, options: DataOptions = SLICES) -> None:
    """Assert that one case is named, and that the others are prepared without it."""
    [source] = find_sources([folder])
    with pytest.raises(BrokenDataError, match=rf"1 cases are broken:\n.*case {case}: .*{reason}"):
        prepare([source], store, options)
    report = prepare([source], store, options, skip_bad=True)
    assert [fault.case for fault in report.faults] == [case]
    assert len(TrainingStore(store)) > 0


def test_labels_that_lie_elsewhere_than_the_image_make_a_case_unfit(tmp_path):
    folder = write_volumes(tmp_path / "Dataset001_V")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTr/v1.nii.gz")))
    write_nifti(folder / "labelsTr/v1.nii.gz", labels, origin=(0.0, 40.0, 0.0))
    refused_alone(folder, tmp_path / "store", "v1", "different")


def test_labels_that_differ_by_rounding_alone_are_fine(tmp_path):
    folder = write_volumes(tmp_path / "Dataset001_V")
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "labelsTr/v1.nii.gz")))
    write_nifti(folder / "labelsTr/v1.nii.gz", labels, origin=(0.0, 0.01, 0.0))
    assert prepare([RawDataset(folder)], tmp_path / "store", SLICES).faults == []


@pytest.mark.parametrize("layout", ["nnU-Net", "folders"])
def test_voxels_that_are_nan_make_a_case_unfit_although_itk_reads_them_as_zero(tmp_path, layout):
    folder = write_volumes(tmp_path / "Dataset001_V")
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "imagesTr/v1_0000.nii.gz")))
    voxels[0, 0, :5] = np.nan
    write_nifti(folder / "imagesTr/v1_0000.nii.gz", voxels)
    if layout == "folders":
        (folder / "imagesTr").rename(folder / "images")
        (folder / "labelsTr").rename(folder / "labels")
        for path in (folder / "images").iterdir():
            path.rename(str(path).replace("_0000", ""))
    refused_alone(folder, tmp_path / "store", "v1", "5 of 504 voxels are NaN")


@pytest.mark.parametrize("options", [SLICES, OBJECTS], ids=["slices", "objects"])
def test_a_blank_image_makes_a_case_unfit(tmp_path, options):
    folder = write_volumes(tmp_path / "Dataset001_V")
    write_nifti(folder / "imagesTr/v1_0000.nii.gz", np.zeros((3, 12, 14)))
    refused_alone(folder, tmp_path / "store", "v1", "", options)


def test_ignored_voxels_make_a_case_unfit_for_training_and_are_left_out_of_scores(tmp_path):
    folder = write_pictures(tmp_path / "Dataset001_Discs", labels={"background": 0, "disc": 1, "ignore": 2})
    labels = np.array(Image.open(folder / "labelsTr/case3.png"))
    labels[:, 40:] = 2
    write_png(folder / "labelsTr/case3.png", labels)

    class MarksAll:
        name = "all"
        takes_clicks = False

        def segment_slices(self, volume, axis, prompts):
            return [Found(np.ones(volume.geometry.shape_KJI, bool)) for _ in prompts]

    (folder / "splits_final.json").write_text(json.dumps([{"train": [], "val": ["case3"]}]))
    [row] = evaluate([RawDataset(folder)], [MarksAll()], Settings()).rows
    disc = (labels == 1).sum()
    assert row.dsc == pytest.approx(2 * disc / (disc + 40 * 40))
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["case2", "case3"], "val": []}]))
    refused_alone(folder, tmp_path / "store", "case3", "320 voxels are labelled `ignore`")


def soft_edged(folder: Path, ending: str) -> None:
    ys, xs = np.mgrid[:40, :40]
    soft = np.clip(12 - np.hypot(ys - 20, xs - 20), 0, 1)
    for n in range(2):
        write_png(folder / f"images/a{n}.png", 60 + 100 * soft)
        write_png(folder / f"masks/a{n}{ending}", 255 * soft)


@pytest.mark.parametrize("ending", [".png", ".jpg"])
def test_the_grey_edge_of_a_mask_is_no_structure(tmp_path, ending):
    soft_edged(tmp_path / "set", ending)
    with pytest.raises(BrokenDataError, match="as smoothed or JPEG masks do") as caught:
        prepare(find_sources([tmp_path / "set"]), tmp_path / "store", SLICES)
    assert "dataset.json" in str(caught.value)


@pytest.mark.parametrize("values", [(255,), (1, 2, 3, 4, 5), (127, 255)])
def test_a_few_ids_of_a_picture_need_no_names(tmp_path, values):
    for n in range(2):
        mask = np.zeros((40, 40))
        for at, value in enumerate(values):
            mask[5 * at : 5 * at + 4, 3:20] = value
        write_png(tmp_path / f"set/images/a{n}.png", mask / 2 + 20)
        write_png(tmp_path / f"set/masks/a{n}.png", mask)
    prepare(find_sources([tmp_path / "set"]), tmp_path / "store", SLICES)
    assert len(TrainingStore(tmp_path / "store").structure_names) == len(values)


@pytest.mark.parametrize(("images", "labels", "mark"), [("imagesTr", "labelsTr", "_0000"), ("images", "labels", "")])
def test_an_image_without_labels_is_reported(tmp_path, caplog, images, labels, mark):
    for n in range(3):
        write_png(tmp_path / f"set/{images}/a{n}{mark}.png", 90 * np.eye(40))
        write_png(tmp_path / f"set/{labels}/a{n}.png", np.eye(40))
    (tmp_path / f"set/{labels}/a1.png").unlink()
    (tmp_path / "set/dataset.json").write_text(json.dumps({"labels": {"background": 0, "x": 1}}))
    report = prepare(find_sources([tmp_path / "set"]), tmp_path / "store", SLICES)
    assert report.left_out == {"set, image a1": "it has no label file"}
    assert json.loads((tmp_path / "store/report.json").read_text(encoding="utf-8"))["left_out"] == report.left_out
    assert "1 images have no label file" in caplog.text


def test_of_several_channels_the_one_that_is_used_is_named(tmp_path, caplog):
    RawDataset(write_pictures(tmp_path / "Dataset001_D", channel_names={"0": "T1", "1": "T2"}))
    assert "2 channels (T1, T2), of which channel 0 alone is used" in caplog.text
    caplog.clear()
    RawDataset(write_pictures(tmp_path / "Dataset002_D", channel_names={"0": "R", "1": "G", "2": "B"}))
    assert caplog.text == ""


def test_a_wrong_file_ending_is_named(tmp_path):
    folder = write_pictures(tmp_path / "Dataset001_D", file_ending=".nii")
    with pytest.raises(SettingError, match=r"ends in '\.nii'.*case0\.png: correct dataset\.json"):
        RawDataset(folder).list_cases()


def test_other_layouts_are_evaluated_too(tmp_path):
    for n in range(6):
        write_png(tmp_path / f"set/images/a{n}.png", 200 * np.tri(40))
        write_png(tmp_path / f"set/labels/a{n}.png", np.tri(40))
    arguments = ["evaluate", "--data", str(tmp_path / "set"), "--model", "otsu", "--report", str(tmp_path / "report")]
    assert main(arguments) == 0
    assert (tmp_path / "report/cases.csv").read_text(encoding="utf-8").count("\n") == 2
    assert main([*arguments, "--split", "test"]) == 2


def test_a_case_that_a_model_refuses_for_each_prompt_is_counted_once(tmp_path, monkeypatch, capsys):
    class Refuses:
        name = "otsu"
        takes_clicks = False

        def segment_slices(self, volume, axis, prompts):
            raise ValueError("not this one")

        segment_rois = segment_slices

    monkeypatch.setitem(BASELINES, "otsu", Refuses)
    folder = write_pictures(tmp_path / "Dataset001_D")
    arguments = ["--model", "otsu", "box-ellipse", "--prompt", "paper", "roi", "--report", str(tmp_path / "report")]
    assert main(["evaluate", "--data", str(folder), *arguments]) == 0
    assert "1 cases were skipped" in capsys.readouterr().err


@pytest.mark.parametrize("file", ["imagesTr/v1_0000.nii.gz", "labelsTr/v1.nii.gz"])
def test_half_a_nifti_makes_a_case_unfit(tmp_path, file):
    folder = write_volumes(tmp_path / "Dataset001_V")
    path = folder / file
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(CaseError, match="damaged: it does not hold all its voxels"):
        RawDataset(folder).read_case("v1")


def test_a_compressed_nifti_beside_its_namesake_is_read_itself(tmp_path):
    write_nifti(tmp_path / "a.nii", np.zeros((3, 4, 5)))
    write_nifti(tmp_path / "a.nii.gz", np.full((3, 4, 5), 7.0))
    assert read_image(tmp_path / "a.nii.gz").voxels.max() == 7


def test_colour_volumes_are_read_as_colours_where_file_or_data_set_says_so(tmp_path):
    from dbsam.geometry.grid import ImageGeometry
    from dbsam_training.data.nnunet_writer import RawCase, write_raw_dataset

    colours = np.arange(3 * 12 * 14 * 3).reshape(3, 12, 14, 3).astype(np.uint8)
    labels = np.zeros((3, 12, 14), np.uint8)
    labels[1, 3:8, 4:9] = 1
    grid = ImageGeometry.from_spacing((1.0, 1.0, 2.0), (14, 12, 3))
    write_raw_dataset(tmp_path / "Dataset001_C", [RawCase("a", colours, labels, grid)], ["x"])
    np.testing.assert_array_equal(RawDataset(tmp_path / "Dataset001_C").read_case("a").voxels_KJI, colours)
    image = tmp_path / "Dataset001_C/imagesTr/a_0000.nrrd"
    image.write_bytes(image.read_bytes().replace(b"RGB-color", b"vector"))
    with pytest.raises(CaseError, match="--component rgb"):
        RawDataset(tmp_path / "Dataset001_C").read_case("a")
    described = json.loads((tmp_path / "Dataset001_C/dataset.json").read_text())
    described["channel_names"] = {"0": "R", "1": "G", "2": "B"}
    (tmp_path / "Dataset001_C/dataset.json").write_text(json.dumps(described))
    np.testing.assert_array_equal(RawDataset(tmp_path / "Dataset001_C").read_case("a").voxels_KJI, colours)
