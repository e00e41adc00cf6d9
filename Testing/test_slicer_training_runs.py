"""A training in a process of its own: its end with all it started, what the panel says of it, and its weights."""

import sys
import time

import pytest

pytest.importorskip("slicer")
pytest.importorskip("host", reason="needs slicer-core and PySide6")
import host
import slicer
from training_scene import pair, training_module

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
    with training_module() as widget:
        yield widget


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
    from dbsam.weights.metadata import read_info

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
        ("print('started', flush=True); time.sleep(60)", "stopped before it was saved"),
    ],
)
def test_the_panel_says_in_words_how_a_training_ended(module, tmp_path, monkeypatch, code, words):
    process = started(tmp_path, monkeypatch, f"import os, sys, time; {code}")
    module.logic._process = process
    if words.startswith("stopped"):
        until(lambda: "started" in process.state().log)
        module.panel.onStop()  # which asks
        assert "press Stop again" in module.panel.statusLabel.text
        module.panel.onStop()
    until(lambda: not process.running)
    module.panel.update()
    assert f", {words}" in module.panel.statusLabel.text
    assert "process.log" in module.panel.statusLabel.text or words in ("finished", "stopped before it was saved")


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


@pytest.mark.parametrize("agreed", [False, True])
def test_what_a_training_needs_is_installed_before_it_starts(module, monkeypatch, tmp_path, agreed):
    from DBSAMSegmentLib.Run import Requirements

    asked, installed, started = [], [], []
    monkeypatch.setattr(
        Requirements.importlib.util, "find_spec", lambda name: None if name == "lightning_fabric" else name
    )
    monkeypatch.setattr(slicer.app, "_testing", False)
    monkeypatch.setattr("DBSAMSegmentLib.Panel.Packages.confirmed", lambda text, *args: asked.append(text) or agreed)
    monkeypatch.setattr("DBSAMSegmentLib.Panel.Packages.install", lambda missing, parent: installed.extend(missing))
    monkeypatch.setattr(module.logic, "train", lambda *arguments, **options: started.append(arguments))
    module.panel.onStart()
    assert "lightning-fabric" in asked[0]
    assert installed == (["lightning-fabric"] if agreed else [])
    assert len(started) == agreed


def test_stop_lets_the_training_save_itself_and_start_goes_on(module, tmp_path, monkeypatch):
    process = started(
        tmp_path,
        monkeypatch,
        "import pathlib, sys, time\n"
        f"run = pathlib.Path({str(tmp_path / 'run')!r})\n"
        "while not (run / 'stop').exists(): time.sleep(0.05)\n"
        "(run / 'stop').unlink()\n"
        "(run / 'data').mkdir(); (run / 'data/dataset.json').write_text('{}')\n"
        "for name in ('last.pt', 'recipe.yaml'): (run / name).write_text('steps: 4\\n')\n",
    )
    module.logic._process = process
    module.panel.folderEdit.currentPath = str(tmp_path / "run")
    module.panel.onStop()
    until(lambda: not process.running)
    module.panel.update()
    assert process.state().exitCode == 0
    assert module.panel.statusLabel.text.endswith("stopped, and can go on")
    assert module.panel.startButton.isEnabled()


def test_a_refused_start_leaves_the_stopped_run_and_its_data(module, tmp_path, monkeypatch):
    from DBSAMTrainingLib.SceneData import ScenePair, exportPairs
    from DBSAMTrainingLib.TrainingProcess import TrainingProcess

    starts = []
    monkeypatch.setattr(TrainingProcess, "start", lambda self, arguments: starts.append(arguments))
    run = tmp_path / "run"
    volume, segmentation, _ = pair("head")
    exportPairs([ScenePair(volume, segmentation)], run / "data")
    for name in ("last.pt", "recipe.yaml"):
        (run / name).write_text("steps: 4\n")
    before = contents(run)
    module.logic.train([ScenePair(volume, segmentation)], "finetune", run)
    assert len(starts) == 1  # the same data: the run goes on
    assert contents(run) == before
    volume.SetName("renamed")
    with pytest.raises(ValueError, match=r"holds a run on other data, which was left as it is \(.*renamed"):
        module.logic.train([ScenePair(volume, segmentation)], "finetune", run)
    assert contents(run) == before
    assert len(starts) == 1
    module.logic.train([], "finetune", run)
    assert len(starts) == 2


def test_after_a_start_that_failed_the_panel_is_up_to_date(module, monkeypatch, tmp_path):
    shown = []
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **options: shown.append(text))
    monkeypatch.setattr("DBSAMTrainingLib.Panel.ensurePackages", lambda *arguments, **options: True)
    module.panel._pairs.append(object())
    updated = []
    monkeypatch.setattr(module.panel, "update", lambda: updated.append(1))
    monkeypatch.setattr(module.logic, "train", lambda *arguments, **options: 1 / 0)
    module.panel.onStart()
    assert "could not be started" in shown[0]
    assert updated


def test_the_volume_in_view_and_its_segmentation_are_chosen(module):
    volume, segmentation, _ = pair("head")
    pair("another")
    slicer.app.applicationLogic().GetSelectionNode().SetActiveVolumeID(volume.GetID())
    module.enter()
    assert module.panel.volumeSelector.currentNode() is volume
    assert module.panel.segmentationSelector.currentNode() is segmentation


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


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
