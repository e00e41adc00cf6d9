"""The training module: data of the scene on disk, a process of its own, its end with all it started."""

import json
import sys
import time

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("host", reason="needs slicer-core and PySide6")
import host
import SimpleITK as sitk
import slicer
import slicer_scene as scenes

SHAPE = (6, 20, 24)
IJK_TO_RAS = np.array([[0.0, -0.7, 0, 5], [0.9, 0, 0, -3], [0, 0, 3.0, 11], [0, 0, 0, 1]])

TINY = (
    "model.settings={image_size: 32, conv_image_size: 32, conv_channels: [8, 8, 8], embed_dim: 16, depth: 2, "
    "num_heads: 2, stage_ends: [0, 1], deformable_heads: 2, prompt_embed_dim: 16, decoder_heads: 2, "
    "decoder_mlp_dim: 16, iou_head_hidden_dim: 16}"
)
SETTINGS = [
    TINY, "model.base=''", "data.superpixel_slices=[0, 0]", "run.steps=4", "run.batch_size=2",
    "run.validate_every=2",
    "run.precision=32-true", "run.accelerator=cpu",
]  # fmt: skip


@pytest.fixture
def module():
    host.start()
    host.new_scene()
    widget = host.open_module("DBSAMTraining")
    yield widget
    host.close_module("DBSAMTraining")
    host.new_scene()


def pair(name="head", segment="liver"):
    mask = block(5, 12)
    volume = scenes.add_volume(slicer.mrmlScene, np.where(mask, 400, -100).astype(np.int16), IJK_TO_RAS, name)
    return volume, segmented(volume, {segment: mask}), mask


def block(first, end):
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:4, first:end, 6:15] = 1
    return mask


def segmented(volume, masks, name="segmentation"):
    segmentation = scenes.add_segmentation(slicer.mrmlScene, volume, masks, name)
    for segment, mask in masks.items():
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, segment, volume)
    return segmentation


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
    from dbsam_training.nnunet import RawDataset

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

    from dbsam_training.nnunet import RawDataset

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

    from dbsam_training.nnunet import RawDataset
    from dbsam_training.sources import case_faults

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


def test_stopping_ends_the_process_and_what_it_started(module, tmp_path, monkeypatch):
    process = started(
        tmp_path,
        monkeypatch,
        "import os, subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(tmp_path / 'pid')!r}, 'w').write(str(child.pid)); print('started', flush=True); time.sleep(60)\n",
    )
    until(lambda: "started" in process.state().log)
    pid = int((tmp_path / "pid").read_text(encoding="utf-8"))
    process.stop()
    assert not process.running
    until(lambda: not alive(pid))


def test_the_panel_trains_and_hands_over_the_weights(module, tmp_path):
    pytest.importorskip("lightning_fabric")
    pytest.importorskip("yaml")
    from DBSAMTrainingLib.SceneData import ScenePair

    panel, logic = module.panel, module.logic
    assert not panel.startButton.isEnabled()
    volume, segmentation, _ = pair()
    logic.train([ScenePair(volume, segmentation)], "finetune", tmp_path / "run", SETTINGS)
    until(lambda: not logic.state().running, 120)
    state = logic.state()
    assert (state.exitCode, state.step, state.steps) == (0, 4, 4), state.log
    panel.update()
    assert panel.useButton.isEnabled()
    assert "step 4 of 4" in panel.statusLabel.text
    panel.folderEdit.currentPath = str(tmp_path / "another")
    assert not panel.useButton.isEnabled()
    # After a restart of Slicer nothing is known but the folder.
    logic._process = None
    panel.folderEdit.currentPath = str(tmp_path / "run")
    assert panel.statusLabel.text.startswith("step 4 of 4, loss")
    assert panel.logText.toPlainText() == state.log
    assert panel.useButton.isEnabled()
    host.open_module("DBSAMSegment")
    panel.useButton.click()
    host.raise_slot_errors()
    path = tmp_path / "run" / "weights.safetensors"
    assert slicer.util.getModuleLogic("DBSAMSegment").getParameterNode().model == str(path)
    host.close_module("DBSAMSegment")
    from dbsam.checkpoint_info import read_info

    assert [credit.name for credit in read_info(path).datasets] == ["data"]
    assert panel.startButton.isEnabled()  # without pairs: with the data that lie there
    panel.startButton.click()
    host.raise_slot_errors()
    until(lambda: not logic.state().running, 120)
    panel.update()
    assert panel.statusLabel.text.endswith("finished"), logic.state().log


def test_a_folder_that_holds_no_run_shows_none(module, tmp_path):
    panel = module.panel
    (tmp_path / "train.csv").write_text("name,loss\nmine,high\n", encoding="utf-8")
    panel.folderEdit.currentPath = str(tmp_path)  # a table of something else
    assert panel.statusLabel.text == "step 0"
    for folder in (str(tmp_path / "none"), "x" * 5000, ""):
        panel.folderEdit.currentPath = folder
        host.raise_slot_errors()
        assert (panel.statusLabel.text, panel.useButton.isEnabled()) == ("", False)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("sys.exit(0)", "finished"),
        ("sys.exit(1)", "failed: see the end of the log below"),
        ("sys.exit(2)", "refused, as the data, the folder or a setting can't be used: see the end of the log below"),
        ("os.kill(os.getpid(), 9)", "ended by the system (code -9), perhaps for want of memory: see the end of"),
        ("print('started', flush=True); time.sleep(60)", "stopped"),
    ],
)
def test_the_panel_says_in_words_how_a_training_ended(module, tmp_path, monkeypatch, code, words):
    process = started(tmp_path, monkeypatch, f"import os, sys, time; {code}")
    module.logic._process = process
    if words == "stopped":
        until(lambda: "started" in process.state().log)
        module.panel.onStop()
    until(lambda: not process.running)
    module.panel.update()
    assert f", {words}" in module.panel.statusLabel.text
    assert "process.log" in module.panel.statusLabel.text or words in ("finished", "stopped")


def test_the_log_grows_at_its_end_and_stays_where_it_is_read(module, monkeypatch, tmp_path):
    panel, log = module.panel, tmp_path / "process.log"
    panel.logText.resize(300, 100)
    bar = panel.logText.verticalScrollBar()

    def grown(lines):
        log.write_text("".join(f"line {number}\n" for number in range(lines)), encoding="utf-8")
        panel.update()
        return panel.logText.toPlainText().splitlines()

    panel.folderEdit.currentPath = str(tmp_path)
    assert len(grown(150)) == 150
    bar.setValue(bar.maximum)
    grown(160)
    assert bar.value == bar.maximum > 100
    bar.setValue(20)
    # The state holds the last 200 lines; what has been shown before stays.
    assert grown(300) == [f"line {number}" for number in range(300)]
    assert bar.value == 20
    assert grown(3) == ["line 0", "line 1", "line 2"]  # another run


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


@pytest.mark.parametrize("agreed", [False, True])
def test_what_a_training_needs_is_installed_before_it_starts(module, monkeypatch, tmp_path, agreed):
    from DBSAMSegmentLib import Packages

    asked, installed, started = [], [], []
    monkeypatch.setattr(Packages.importlib.util, "find_spec", lambda name: None if name == "lightning_fabric" else name)
    monkeypatch.setattr(slicer.app, "_testing", False)
    monkeypatch.setattr(
        slicer.util, "confirmOkCancelDisplay", lambda text, *args, **options: asked.append(text) or agreed
    )
    monkeypatch.setattr("DBSAMSegmentLib.Packages.install", lambda missing, parent: installed.extend(missing))
    monkeypatch.setattr(module.logic, "train", lambda *arguments, **options: started.append(arguments))
    module.panel.onStart()
    assert "lightning-fabric" in asked[0]
    assert installed == (["lightning-fabric"] if agreed else [])
    assert len(started) == agreed


def started(folder, monkeypatch, script):
    """A process that runs a script in place of the command."""
    from DBSAMTrainingLib import TrainingProcess as processes

    monkeypatch.setattr(processes, "pythonExecutable", lambda: sys.executable)
    (folder / "dbsam_training").mkdir()
    (folder / "dbsam_training" / "train.py").write_text(script, encoding="utf-8")
    process = processes.TrainingProcess(folder / "run")
    with monkeypatch.context() as patch:
        patch.setattr(processes.Path, "resolve", lambda path: folder / "DBSAMTrainingLib" / "x.py")
        process.start([])
    return process


def until(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().split()[2] != "Z"
    except FileNotFoundError:
        return False
