"""Missing packages: what is said, and how pip is run."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("slicer")
import slicer_scene as scenes
from DBSAMSegmentLib.Mrml.NodeRequests import requestOf
from DBSAMSegmentLib.Panel.Packages import pipInstall
from DBSAMSegmentLib.Run import Interpreter, Requirements
from DBSAMSegmentLib.Run.Runner import SegmentationRunner
from processes import has_ended, is_running


@pytest.fixture
def without_torch(monkeypatch):
    find = Requirements.importlib.util.find_spec
    absent = ("torch", "safetensors")
    monkeypatch.setattr(
        Requirements.importlib.util, "find_spec", lambda name, *rest: None if name in absent else find(name, *rest)
    )


def test_the_console_names_what_is_missing_and_how_to_get_it(without_torch):
    import numpy as np

    scene = scenes.new_scene()
    volume = scenes.add_volume(scene, np.arange(8 * 8 * 8, dtype=np.int16).reshape(8, 8, 8))
    segmentation = scenes.add_segmentation(scene, volume)
    roi = scenes.add_roi(scene, (4, 4, 4), (4, 4, 4))
    runner = SegmentationRunner(scene)
    with pytest.raises(RuntimeError, match=r"aren't installed in Slicer: torch, safetensors\. Open the module DB-SAM"):
        runner.segment(volume, segmentation, requestOf(volume, [roi], None, segmentation))
    assert runner.worker.processId is None
    runner.close()


def fake_pip(tmp_path, monkeypatch, code):
    """An interpreter whose pip does this."""
    folder = tmp_path / "pip"
    folder.mkdir()
    (folder / "__init__.py").write_text("", encoding="utf-8")
    (folder / "__main__.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


def test_pip_runs_beside_the_application_and_tells_what_it_does(tmp_path, monkeypatch):
    fake_pip(
        tmp_path,
        monkeypatch,
        "import sys, time, pathlib\nprint('Collecting', sys.argv[-1], flush=True)\ntime.sleep(0.5)\n"
        "constraints = open(sys.argv[sys.argv.index('--constraint') + 1]).read()\n"
        "pathlib.Path(sys.argv[0]).with_name('seen').write_text(constraints)",
    )
    said = []
    pipInstall(["segment-anything>=1.0"], lambda text: said.append(text) or True)
    assert "Collecting segment-anything>=1.0" in said
    assert "numpy==" in (tmp_path / "pip" / "seen").read_text(encoding="utf-8"), "Slicer's own packages stay"


def test_pips_last_lines_are_told_when_it_fails(tmp_path, monkeypatch):
    fake_pip(tmp_path, monkeypatch, "import sys\nprint('No matching distribution', flush=True)\nsys.exit(1)")
    with pytest.raises(RuntimeError, match=r"exit code 1(.|\n)*No matching distribution"):
        pipInstall(["nothing"], lambda text: True)


def test_an_installation_can_be_cancelled(tmp_path, monkeypatch):
    fake_pip(tmp_path, monkeypatch, "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(60)")
    process = []

    def until_it_runs(text):
        if text.isdigit():
            process.append(int(text))
            assert is_running(process[0])
        return not process

    with pytest.raises(RuntimeError, match="cancelled"):
        pipInstall(["nothing"], until_it_runs)
    assert has_ended(process[0], 5)


def test_without_pythonslicer_words_say_so(monkeypatch, tmp_path):
    monkeypatch.setattr(Interpreter.shutil, "which", lambda *args, **options: None)
    assert Interpreter.pythonExecutable() == sys.executable
    for executable in ("", "/opt/Slicer/bin/SlicerApp-real"):
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(RuntimeError, match=r"PythonSlicer, with which .* neither on the path nor in"):
            Interpreter.pythonExecutable()


def test_pythonslicer_is_found_in_slicers_own_folder(monkeypatch, tmp_path):
    launcher = tmp_path / "bin" / ("PythonSlicer.exe" if sys.platform == "win32" else "PythonSlicer")
    launcher.parent.mkdir()
    launcher.write_text("", encoding="utf-8")
    launcher.chmod(0o755)
    monkeypatch.setenv("PATH", "")
    application = SimpleNamespace(app=SimpleNamespace(slicerHome=str(tmp_path)))
    monkeypatch.setattr(Interpreter, "slicer", application)
    assert Interpreter.pythonExecutable() == str(launcher)


def test_panel_effect_and_console_need_nothing_that_slicer_lacks_until_something_is_computed():
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'segment_anything', 'safetensors', 'filelock')))\n"
        f"sys.path[:0] = {sys.path!r}\n"
        "import host\n"
        "host.start()\n"
        "widget = host.open_module('DBSAMSegment')\n"
        "import DBSAMSegmentLib.Run.Batches, DBSAMSegmentLib.Effect.EffectOptions\n"
        "import SegmentEditorDBSAMLib.SegmentEditorEffect\n"
        "host.process_events(0.2)\n"
        "assert widget.logic.runner.worker.processId is None\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
