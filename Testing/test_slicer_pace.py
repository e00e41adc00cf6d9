"""The usual pace before any slice was timed: own weights have that of their architecture."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

pytest.importorskip("slicer")
import slicer_scene as scenes
from DBSAMSegmentLib.Run.Pace import Pace

from dbsam.modeling.config import named_config
from dbsam.weights.metadata import CheckpointInfo

SHIPPED = scenes.MODULE_FOLDER / "Resources/Models/dbsam_compact.safetensors"
UNKNOWN = 11.0


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
        "import sys; from DBSAMSegmentLib.Run.Pace import Pace;"
        " assert Pace().secondsPerSlice(sys.argv[1], 'cpu') == 0.1;"
        " assert not {'torch', 'safetensors.torch'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(scenes.MODULE_FOLDER)}
    subprocess.run([sys.executable, "-c", code, str(SHIPPED)], check=True, env=environment)
