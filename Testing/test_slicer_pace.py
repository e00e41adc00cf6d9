"""The usual pace before any slice was timed: own weights have that of their architecture."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

pytest.importorskip("slicer")
import slicer
import slicer_scene as scenes
from DBSAMSegmentLib.Run.Pace import Pace

from dbsam.modeling.config import named_config
from dbsam.weights.metadata import CheckpointInfo

SHIPPED = scenes.MODULE_FOLDER / "Resources/Models/dbsam_compact.safetensors"
UNKNOWN = 11.0


@pytest.fixture(autouse=True)
def nothing_measured():
    slicer.app.settings().remove("DBSAM/Pace")
    yield
    slicer.app.settings().remove("DBSAM/Pace")


def segmented(seconds, slices, hits=0, load=0.0):
    from types import SimpleNamespace

    one = SimpleNamespace(slices=[None] * slices, cache_hits=hits, seconds=seconds)
    return SimpleNamespace(segmentations=(one,), load_seconds=load)


def test_what_was_measured_counts_also_in_the_next_session_and_for_weights_of_the_same_architecture(tmp_path):
    mine = shutil.copy(SHIPPED, tmp_path / "mine.safetensors")
    Pace().measured("compact", "cpu", segmented(2.0, 10, load=3.0))
    assert Pace().secondsPerSlice("compact", "cpu") == pytest.approx(0.2)
    assert Pace().secondsToLoad("compact", "cpu") == pytest.approx(3.0)
    assert Pace().secondsPerSlice(str(mine), "cpu") == pytest.approx(0.2)
    assert Pace().secondsPerSlice("compact", "cuda") == 0.2
    assert Pace().secondsPerSlice("sam", "cpu") == 8.0


def test_slices_that_lay_ready_say_nothing_of_new_ones():
    pace = Pace()
    pace.measured("compact", "cpu", segmented(0.1, 10, hits=9))
    assert pace.secondsPerSlice("compact", "cpu") == 0.1
    pace.measured("compact", "cpu", segmented(1.6, 10, hits=2))
    assert pace.secondsPerSlice("compact", "cpu") == pytest.approx(0.2)


def test_a_pace_in_the_settings_that_is_no_number_is_passed_over():
    slicer.app.settings().setValue("DBSAM/Pace/compact@cpu/slice", "quick")
    assert Pace().secondsPerSlice("compact", "cpu") == 0.1


def seconds(path):
    return Pace().secondsPerSlice(str(path), "cpu")


def write_weights(path, system):
    info = CheckpointInfo("mine", "1", named_config(system), "", "2026-01-01")
    save_file({"weight": np.zeros(1, np.float32)}, path, info.to_metadata())


def test_compact_weights_of_ones_own_are_as_fast_as_the_shipped_ones(tmp_path):
    mine = shutil.copy(SHIPPED, tmp_path / "mine.safetensors")
    assert seconds(mine) == seconds("compact") == 0.1


def test_a_large_system_or_a_file_that_does_not_say_what_it_is_counts_as_large(tmp_path):
    write_weights(tmp_path / "sam.safetensors", "sam")
    write_weights(tmp_path / "dbsam.safetensors", "dbsam")
    save_file({"weight": np.zeros(1, np.float32)}, tmp_path / "foreign.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"not weights")
    (tmp_path / "other.pth").write_bytes(b"pickle")
    assert seconds(tmp_path / "sam.safetensors") == seconds("sam") == 8.0
    names = ("dbsam.safetensors", "foreign.safetensors", "damaged.safetensors", "other.pth", "missing", "")
    assert [seconds(tmp_path / name) for name in names] == [UNKNOWN] * len(names)
    assert seconds("no\0path") == UNKNOWN


def test_a_file_that_was_replaced_is_read_again(tmp_path):
    path = tmp_path / "mine.safetensors"
    write_weights(path, "dbsam")
    assert seconds(path) == UNKNOWN
    write_weights(path, "compact")
    os.utime(path, ns=(1, 1))
    assert seconds(path) == 0.1


def test_the_header_is_read_without_torch():
    code = (
        "import sys, host; host.start(); from DBSAMSegmentLib.Run.Pace import Pace;"
        " assert Pace().secondsPerSlice(sys.argv[1], 'cpu') == 0.1;"
        " assert not {'torch', 'safetensors.torch'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(scenes.MODULE_FOLDER), os.path.dirname(__file__)])}
    subprocess.run([sys.executable, "-c", code, str(SHIPPED)], check=True, env=environment)
