"""Preparing training stores: what is in them, resuming, broken cases, licences, layouts."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from training_cases import write_pictures

from dbsam_training.data.dataset_info import DatasetInfo
from dbsam_training.data.discover import find_sources
from dbsam_training.data.licences import is_open
from dbsam_training.data.nnunet import RawDataset
from dbsam_training.data.tasks import load_tasks
from dbsam_training.recipe import DataOptions
from dbsam_training.store.format import StoreError, TrainingStore
from dbsam_training.store.prepare import BrokenDataError, prepare

SLICES = DataOptions(protocol="slices")
OBJECTS = DataOptions(protocol="objects", superpixel_slices=(2, 2))


def write_volume(folder, spacing=(1.0, 1.0, 4.0), direction=None):
    """A case of 5 axial slices of 20x30 with two blocks: id 1 on slices 1 to 3, id 2 on slice 3 only."""
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    labels = np.zeros((5, 20, 30), np.uint8)
    labels[1:4, 4:10, 6:18] = 1
    labels[3, 12:18, 20:26] = 2
    voxels = (labels * 100 + 20 + np.arange(5)[:, None, None]).astype(np.int16)
    for kind, array in (("imagesTr/v_0000", voxels), ("labelsTr/v", labels)):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing(spacing)
        if direction:
            image.SetDirection(direction)
        sitk.WriteImage(image, str(folder / f"{kind}.nii.gz"))
    facts = {"labels": {"background": 0, "one": 1, "two": 2}, "file_ending": ".nii.gz", "channel_names": {"0": "MR"}}
    (folder / "dataset.json").write_text(json.dumps(facts))
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["v"], "val": []}]))
    return folder


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_slices_hold_one_sample_for_each_object_on_each_axial_slice(tmp_path):
    prepare([RawDataset(write_volume(tmp_path / "Dataset001_V"))], tmp_path / "store", SLICES)
    store = TrainingStore(tmp_path / "store")
    names = [store.structure_names[n] for n in store.structure]
    assert names == ["one", "one", "one", "two"]
    batch = store.batch(range(4))
    assert batch["images"].shape == (4, 256, 256, 3)
    assert (batch["images"][2] == batch["images"][3]).all()  # two objects on one slice share its image
    # 6 of 20 rows and 12 of 30 columns of a slice that is stretched to 256 x 256
    assert batch["masks"][0].astype(bool).mean() == pytest.approx(6 / 20 * 12 / 30, abs=0.01)
    x0, y0, x1, y1 = batch["prompts"][0]
    assert (x0, x1) == pytest.approx((6 / 30 * 256 - 0.5, 18 / 30 * 256 - 0.5), abs=0.01)
    assert (y0, y1) == pytest.approx((4 / 20 * 256 - 0.5, 10 / 20 * 256 - 0.5), abs=0.01)
    assert batch["pixels"].tolist() == [1, 1, 1, 1]
    part = json.loads((tmp_path / "store/parts/Dataset001_V.train.0000/part.json").read_text(encoding="utf-8"))
    assert part["counts"] == {"images": 0, "greys": 3, "samples": 4}


def test_slices_are_axial_also_where_another_axis_of_the_array_runs_to_the_head(tmp_path):
    # I to the left, J to the head, K to the back: 20 axial slices, 6 of which show "one".
    folder = write_volume(tmp_path / "Dataset001_V", direction=(1, 0, 0, 0, 0, 1, 0, 1, 0))
    prepare([RawDataset(folder)], tmp_path / "store", SLICES)
    store = TrainingStore(tmp_path / "store")
    assert [store.structure_names[n] for n in store.structure].count("one") == 6


def test_objects_hold_patches_beyond_the_ends_of_an_object_and_unannotated_regions(tmp_path):
    prepare([RawDataset(write_volume(tmp_path / "Dataset001_V"))], tmp_path / "store", OBJECTS)
    store = TrainingStore(tmp_path / "store")
    one = (store.structure == store.structure_names.index("one")) & (store.dataset == 0)
    assert store.seen[one].sum() == 3
    assert (~store.seen[one]).sum() == 2  # slices 0 and 4
    assert not store.batch(np.flatnonzero(one & ~store.seen))["masks"].any()


def test_two_runs_give_the_same_bytes_and_a_second_run_writes_nothing(tmp_path):
    source = RawDataset(write_pictures(tmp_path / "Dataset001_Discs"))
    for name in ("a", "b"):
        prepare([source], tmp_path / name, OBJECTS)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "a/parts").rglob("*.bin")}
    prepare([source], tmp_path / "a", OBJECTS)
    assert times == {path: path.stat().st_mtime_ns for path in (tmp_path / "a/parts").rglob("*.bin")}
    assert content(tmp_path / "a") == content(tmp_path / "b")


def test_an_interrupted_run_is_no_store_and_goes_on_to_the_same_bytes(tmp_path):
    sources = [RawDataset(write_pictures(tmp_path / f"Dataset00{n}_Discs", seed=n)) for n in range(3)]
    prepare(sources, tmp_path / "whole", SLICES)

    def stop(progress):
        if progress.done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(sources, tmp_path / "store", SLICES, progress=stop)
    with pytest.raises(StoreError, match="no finished training store"):
        TrainingStore(tmp_path / "store")
    (tmp_path / "store/parts/.torn.tmp").mkdir()
    prepare(sources, tmp_path / "store", SLICES)
    assert content(tmp_path / "store") == content(tmp_path / "whole")


def test_a_changed_byte_is_found(tmp_path):
    prepare([RawDataset(write_pictures(tmp_path / "Dataset001_Discs"))], tmp_path / "store", SLICES)
    store = TrainingStore(tmp_path / "store")
    store.verify()
    file = tmp_path / "store/parts/Dataset001_Discs.train.0000/greys.bin"
    with file.open("r+b") as stream:
        stream.seek(1000)
        stream.write(b"\x07\x08")
    with pytest.raises(StoreError, match=r"greys\.bin is damaged"):
        store.verify()


def test_broken_cases_are_named_and_left_out_only_if_asked(tmp_path):
    folder = write_pictures(tmp_path / "Dataset001_Discs", cases=8)
    empty, shape, unknown = (folder / f"labelsTr/case{n}.png" for n in (2, 3, 4))
    Image.fromarray(np.zeros((40, 48), np.uint8)).save(empty)
    Image.fromarray(np.ones((10, 48), np.uint8)).save(shape)
    Image.fromarray(np.full((40, 48), 9, np.uint8)).save(unknown)
    (folder / "imagesTr/case5_0000.png").write_bytes(b"no picture")
    with pytest.raises(BrokenDataError) as caught:
        prepare([RawDataset(folder)], tmp_path / "store", SLICES)
    text = str(caught.value)
    assert "4 cases are broken" in text
    for expected in ("case2: the labels are empty", "case3: image has", "case4: label ids [9]", "case5: unreadable"):
        assert expected in text
    assert "--skip-bad" in text
    with pytest.raises(StoreError):
        TrainingStore(tmp_path / "store")
    report = prepare([RawDataset(folder)], tmp_path / "store", SLICES, skip_bad=True)
    assert sorted(fault.case for fault in report.faults) == ["case2", "case3", "case4", "case5"]
    assert len(TrainingStore(tmp_path / "store")) == 4


@pytest.mark.parametrize(
    ("licence", "expected"),
    [("CC0", True), ("CC BY 4.0", True), ("cc-by-4.0", True), ("CC0 (as stated)", True), ("Apache-2.0", True),
     ("MIT", True), ("CC BY-NC 4.0", False), ("CC BY-SA 4.0", False), ("not stated", False),
     ("GPL-3.0 (repository)", False), ("CC BY 4.0 (masks); images under their own licences", False), ("", False)],
)  # fmt: skip
def test_open_licences(licence, expected):
    assert is_open(licence) is expected


def test_licence_open_keeps_only_data_sets_that_allow_any_use(tmp_path):
    sources = [
        RawDataset(write_pictures(tmp_path / "Dataset001_Free", licence="CC BY 4.0")),
        RawDataset(write_pictures(tmp_path / "Dataset002_Closed", licence="CC BY-NC 4.0")),
    ]
    report = prepare(sources, tmp_path / "store", DataOptions(licence="open"))
    assert list(report.left_out) == ["Dataset002_Closed"]
    assert TrainingStore(tmp_path / "store").dataset_names == ["Dataset001_Free"]


def test_the_registry_holds_the_papers_tasks_and_their_intensity_rules():
    registry = load_tasks()
    assert [sum(task.dimension == d for task in registry.tasks) for d in (3, 2)] == [21, 9]
    info = DatasetInfo("D", modality="CT", dimension=3, structures=(("Lung infection", (1,)),))
    assert registry.task_of(info).name == "Lung Infections"
    assert registry.intensity_for(info) == "ct-lung"


def make_npz(folder):
    folder.mkdir()
    labels = np.zeros((3, 16, 16), np.uint8)
    labels[1, 4:8, 4:12] = 1
    np.savez(folder / "p1.npz", imgs=labels * 90 + 9, gts=labels, spacing=np.array([1.0, 1.0, 5.0]))
    np.savez(folder / "p2.npz", img=np.stack([labels[1] * 90 + 9] * 3, -1), gt=labels[1])


def make_npy(folder):
    for name in ("imgs", "gts"):
        (folder / name).mkdir(parents=True)
    labels = np.zeros((32, 32), np.uint8)
    labels[4:12, 8:24] = 1
    for case in ("p1-000", "p1-001", "p2-000"):
        np.save(folder / "imgs" / f"{case}.npy", np.stack([labels * 0.5 + 0.1] * 3, -1))
        np.save(folder / "gts" / f"{case}.npy", labels)


def make_volumes(folder):
    folder.mkdir()
    labels = np.zeros((4, 16, 16), np.uint8)
    labels[1:3, 4:8, 4:12] = 1
    for name, array in (("a", labels * np.int16(300)), ("a_seg", labels)):
        sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / f"{name}.nii.gz"))


@pytest.mark.parametrize(
    ("make", "kind", "share"),
    [(make_npz, "MedSamNpz", 4 * 8 / 256), (make_npy, "MedSamNpy", 8 * 16 / 1024),
     (make_volumes, "VolumeFolder", 32 / 256)],
)  # fmt: skip
def test_other_layouts_are_recognised_and_prepared(tmp_path, make, kind, share):
    make(tmp_path / "set")
    [source] = find_sources([tmp_path])
    assert type(source).__name__ == kind
    (tmp_path / "set/splits_final.json").write_text(json.dumps({"train": source.list_cases(), "val": []}))
    prepare([source], tmp_path / "store", SLICES)
    store = TrainingStore(tmp_path / "store")
    masks = store.batch(range(len(store)))["masks"]
    assert masks.astype(bool).mean((1, 2)) == pytest.approx(np.full(len(store), share), abs=0.01)


def test_slices_of_one_patient_stay_on_one_side_of_the_split(tmp_path):
    folder = tmp_path / "set"
    for name in ("imgs", "gts"):
        (folder / name).mkdir(parents=True)
        for patient in range(30):
            for number in range(3):
                np.save(folder / name / f"p{patient}-{number:03d}.npy", np.ones((2, 2), np.uint8))
    [source] = find_sources([folder])
    train, val = ({name.rsplit("-", 1)[0] for name in source.list_cases(split)} for split in ("train", "val"))
    assert len(train) + len(val) == 30
    assert not train & val
    assert 1 <= len(val) <= 12


def test_a_folder_without_data_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="neither is nor holds a data set"):
        find_sources([tmp_path])
    shutil.rmtree(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="There is no folder"):
        find_sources([tmp_path / "empty"])


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{}", b"[" * 100_000], ids=["cut short", "no UTF-8", "nested"])
def test_a_store_whose_facts_are_damaged_says_which_file_and_what_to_do(tmp_path, content):
    (tmp_path / "store.json").write_bytes(content)
    with pytest.raises(StoreError, match=r"store\.json is not valid JSON: .*Run dbsam-train prepare again\."):
        TrainingStore(tmp_path)
