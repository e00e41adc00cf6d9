"""The training module: which data of the scene it takes, and how they are written to disk."""

import json

import pytest

pytest.importorskip("slicer")
pytest.importorskip("host", reason="needs slicer-core and PySide6")
import host
import SimpleITK as sitk
import slicer
from training_scene import IJK_TO_RAS, block, pair, segmented, training_module


@pytest.fixture
def module():
    with training_module() as widget:
        yield widget


def choose(panel, volume, segmentation):
    panel.volumeSelector.setCurrentNode(volume)
    panel.segmentationSelector.setCurrentNode(segmentation)
    panel.addButton.click()


def test_the_scene_is_written_with_its_geometry_and_names(module, tmp_path):
    from DBSAMTrainingLib.SceneData import ScenePair, exportPairs

    pairs = [pair("head one", "liver"), pair("two", "spleen")]
    names = exportPairs([ScenePair(volume, segmentation) for volume, segmentation, _ in pairs], tmp_path)
    assert names == ["head_one_1", "two_2"]
    assert json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8"))["labels"] == {
        "background": 0,
        "liver": 1,
        "spleen": 2,
    }
    from dbsam_training.data.nnunet import RawDataset

    dataset = RawDataset(tmp_path)
    case = dataset.read_case("two_2")
    assert case.geometry.ijk_to_ras == pytest.approx(IJK_TO_RAS, abs=1e-6)
    [structure] = dataset.structures(case)
    assert structure.name == "spleen"
    assert (structure.mask_KJI == (pairs[1][2] > 0)).all()
    assert sitk.ReadImage(str(tmp_path / "imagesTr/two_2_0000.nrrd")).GetPixelID() == sitk.sitkInt16


def test_an_empty_segment_is_refused_by_name(module, tmp_path):
    from DBSAMTrainingLib.SceneData import ScenePair, exportPairs

    volume, segmentation, _ = pair()
    segmentation.GetSegmentation().AddEmptySegment("kidney", "kidney")
    with pytest.raises(ValueError, match="segment kidney of segmentation is empty"):
        exportPairs([ScenePair(volume, segmentation)], tmp_path)


def test_a_pair_is_listed_once(module):
    volume, segmentation, _ = pair("ct")
    for _ in range(2):  # a double click
        choose(module.panel, volume, segmentation)
    assert (len(module.panel._pairs), module.panel.pairList.count) == (1, 1)
    assert module.panel.statusLabel.text == "ct / segmentation is in the list already."


def test_all_segmentations_of_a_volume_are_one_case_and_no_image_is_on_both_sides(module, tmp_path):
    from DBSAMTrainingLib.SceneData import ScenePair, exportPairs

    from dbsam_training.data.nnunet import RawDataset

    volume, liver, mask = pair("ct")
    spleen = segmented(volume, {"spleen": block(14, 17)})
    others = [ScenePair(*pair(name)[:2]) for name in ("two", "three")]
    assert exportPairs([ScenePair(volume, liver), *others, ScenePair(volume, spleen)], tmp_path) == [
        "ct_1", "two_2", "three_3",
    ]  # fmt: skip
    dataset = RawDataset(tmp_path)
    assert (dataset.list_cases("train"), dataset.list_cases("val")) == (["ct_1", "two_2"], ["three_3"])
    found = {one.name: one.mask_KJI for one in dataset.structures(dataset.read_case("ct_1"))}
    assert found.keys() == {"liver", "spleen"}
    assert (found["liver"] == (mask > 0)).all()
    assert (found["spleen"] == (block(14, 17) > 0)).all()


def test_overlapping_structures_stay_whole(module, tmp_path):
    from DBSAMTrainingLib.SceneData import ScenePair, exportPairs

    from dbsam_training.data.case import case_faults
    from dbsam_training.data.nnunet import RawDataset

    masks = {"lesion": block(7, 9), "liver": block(5, 12), "vessel": block(8, 14)}
    pairs = []
    for name in ("one", "two"):
        volume = pair(name)[0]
        pairs.append(ScenePair(volume, segmented(volume, masks)))
    exportPairs(pairs, tmp_path)
    labels = json.loads((tmp_path / "dataset.json").read_text(encoding="utf-8"))["labels"]
    # Rows 5-6: 2 liver; 7: 4 lesion, liver; 8: 6 all; 9-11: 5 liver, vessel; 12-13: 3 vessel.
    assert labels == {"background": 0, "lesion": [1, 4, 6], "liver": [2, 4, 5, 6], "vessel": [3, 5, 6]}
    dataset = RawDataset(tmp_path)
    for name in ("one_1", "two_2"):
        case = dataset.read_case(name)
        assert case_faults(dataset.info, case) == []
        found = {one.name: one.mask_KJI for one in dataset.structures(case)}
        assert found.keys() == masks.keys()
        assert all((found[structure] == (mask > 0)).all() for structure, mask in masks.items())


def test_what_two_pairs_of_a_volume_cannot_both_say_is_refused_by_name(module, tmp_path):
    from DBSAMTrainingLib.SceneData import ScenePair, exportPairs

    volume, first, mask = pair("ct")
    second = segmented(volume, {"liver": mask}, "second reader")
    with pytest.raises(ValueError, match="segment liver of segmentation on ct is listed twice"):
        exportPairs([ScenePair(volume, first), ScenePair(volume, first, ("liver",))], tmp_path)
    with pytest.raises(ValueError, match="structure liver in two segmentations, segmentation and second reader"):
        exportPairs([ScenePair(volume, first), ScenePair(volume, second)], tmp_path)


def test_a_failed_or_cancelled_export_leaves_the_folder_as_it_was(module, tmp_path):
    from DBSAMTrainingLib.SceneData import ExportCancelled, ScenePair, exportPairs

    good, bad = ScenePair(*pair("good")[:2]), ScenePair(*pair("bad")[:2])
    bad.segmentationNode.GetSegmentation().AddEmptySegment("kidney", "kidney")
    new, old = tmp_path / "run" / "data", tmp_path / "old"
    exportPairs([good], old)
    before = {path: path.read_bytes() for path in old.rglob("*") if path.is_file()}
    for folder in (new, old):
        with pytest.raises(ValueError, match="kidney"):
            exportPairs([good, bad], folder)
        for cancelled_at in (0, 1, 2):
            told = []
            with pytest.raises(ExportCancelled):
                exportPairs(
                    [good, ScenePair(*pair("other")[:2])],
                    folder,
                    lambda *state, told=told, last=cancelled_at: told.append(state) or state[0] < last,
                )
            assert told == [(0, 2, "good"), (1, 2, "other"), (2, 2, "")][: cancelled_at + 1]
    assert sorted(tmp_path.iterdir()) == [old]
    assert {path: path.read_bytes() for path in old.rglob("*") if path.is_file()} == before
    assert len(list(old.iterdir())) == 4


def test_an_export_replaces_the_data_of_the_one_before(module, tmp_path):
    from DBSAMTrainingLib.SceneData import ScenePair, exportPairs

    for name in ("first", "second"):
        exportPairs([ScenePair(*pair(name)[:2])], tmp_path)
    assert [path.name for path in (tmp_path / "imagesTr").iterdir()] == ["second_1_0000.nrrd"]
    header = (tmp_path / "imagesTr/second_1_0000.nrrd").read_bytes().partition(b"\n\n")[0]
    assert b"encoding: raw" in header  # compressing a CT held Slicer for seven seconds


@pytest.mark.parametrize("cancelled", [False, True])
def test_writing_the_data_shows_progress_and_can_be_cancelled(module, tmp_path, monkeypatch, cancelled):
    import qt
    from DBSAMTrainingLib import TrainingProcess as processes

    dialogs, shown, started = [], [], []
    make, reader = slicer.util.createProgressDialog, slicer.util.arrayFromSegmentBinaryLabelmap

    def made(**options):
        dialogs.append(make(**options))
        if cancelled:
            qt.QTimer.singleShot(0, dialogs[0].cancel)  # as soon as events are processed
        return dialogs[0]

    def read(*arguments):
        shown.append((dialogs[0].labelText, dialogs[0].value, dialogs[0].maximum))
        return reader(*arguments)

    monkeypatch.setattr(slicer.util, "createProgressDialog", made)
    monkeypatch.setattr(slicer.util, "arrayFromSegmentBinaryLabelmap", read)
    monkeypatch.setattr("DBSAMTrainingLib.Panel.ensurePackages", lambda *arguments, **options: True)
    monkeypatch.setattr(processes.TrainingProcess, "start", lambda self, arguments: started.append(arguments))
    for name in ("one", "two"):
        choose(module.panel, *pair(name)[:2])
    module.panel.folderEdit.currentPath = str(tmp_path / "run")
    module.panel.onStart()
    assert shown == ([] if cancelled else [("Writing one", 0, 2), ("Writing two", 1, 2)])
    assert len(started) == (not cancelled)
    assert (tmp_path / "run").exists() == (not cancelled)
    if cancelled:
        assert module.panel.statusLabel.text == "Cancelled: nothing was written."


def test_a_pair_leaves_the_list_with_its_nodes(module):
    panel = module.panel
    for name in ("one", "two"):
        volume, segmentation, _ = pair(name)
        choose(panel, volume, segmentation)
    slicer.mrmlScene.RemoveNode(volume)
    assert [one.volumeNode.GetName() for one in panel._pairs] == ["one"]
    assert panel.pairList.count == 1
    assert panel.startButton.isEnabled()
    host.new_scene()
    assert (panel._pairs, panel.pairList.count) == ([], 0)
    assert not panel.startButton.isEnabled()
