"""The command `dbsam` where its surroundings are in the way: encodings, folders, compilers, closed pipes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cases import GEOMETRY, block_voxels, roi_box, write_case, write_tiny_weights

import dbsam
from dbsam.cli.main import ExitCode, main
from dbsam.inference.predictor import DeviceError, ModelPredictor
from dbsam.preprocess.sampling import Region
from dbsam.weights import cache_dir


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DBSAM_CACHE", str(tmp_path / "cache"))
    write_case(tmp_path)
    write_tiny_weights(tmp_path / "tiny.safetensors")


def dbsam_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dbsam", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


def test_a_name_that_the_terminal_cannot_show_ends_nothing():
    Path("cases.csv").write_text(
        "volume,roi,output\nvolume.nrrd,block.mrk.json,肝1.nrrd\nvolume.nrrd,block.mrk.json,b.nrrd\n", encoding="utf-8"
    )
    done = dbsam_command("batch", "cases.csv", "--model", "tiny.safetensors", PYTHONIOENCODING="cp1252")
    assert done.returncode == 0, done.stderr
    assert Path("肝1.nrrd").is_file()
    assert Path("b.nrrd").is_file()
    assert "\\u809d1.nrrd: done" in done.stdout


def test_verbose_says_where_an_error_happened(capsys):
    assert main(["segment", "nope.nrrd", "--roi", "block.mrk.json", "-o", "z.nrrd", "-v"]) == ExitCode.FILES
    assert "in read_volume" in capsys.readouterr().err


def test_a_folder_that_may_not_be_written_is_refused_before_the_work(monkeypatch, capsys):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "locked")  # as root, all may be written
    Path("locked").mkdir()
    read = []
    monkeypatch.setattr("dbsam.io.images.read_volume", lambda *arguments: read.append(arguments))
    code = main(["segment", "volume.nrrd", "--roi", "block.mrk.json", "-o", "locked/z.nrrd"])
    assert code == ExitCode.FILES
    assert "locked/z.nrrd: nothing may be written into" in capsys.readouterr().err
    assert read == []
    Path("locked/cases.csv").write_text("volume,roi,output\n../volume.nrrd,../block.mrk.json,../b.nrrd\n")
    assert main(["batch", "locked/cases.csv", "--model", "tiny.safetensors"]) == ExitCode.FILES
    assert not Path("b.nrrd").exists()


def test_a_box_without_a_voxel_is_named_before_the_others_are_computed(capsys):
    document = json.loads(Path("block.mrk.json").read_text(encoding="utf-8"))
    [markup] = document["markups"]
    markup["size"] = [0.01, 0.01, 0.01]
    ijk_to_lps = np.diag([-1, -1, 1, 1]) @ GEOMETRY.ijk_to_ras
    markup["center"] = (ijk_to_lps @ [5.5, 5.5, 3.5, 1])[:3].tolist()
    Path("tiny.mrk.json").write_text(json.dumps(document), encoding="utf-8")
    code = main(["segment", "volume.nrrd", "--roi", "block.mrk.json", "tiny.mrk.json", "-o", "z.nrrd"])
    assert code == ExitCode.FILES
    assert "'block': The box holds the centre of no voxel" in capsys.readouterr().err


def test_without_a_home_folder_the_variable_is_named(monkeypatch):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("DBSAM_CACHE")
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    with pytest.raises(FileNotFoundError, match="name a folder in DBSAM_CACHE"):
        cache_dir.cache_folder()


def test_what_cannot_be_compiled_is_an_error_of_the_device(monkeypatch):
    from torch._inductor.exc import InvalidCxxCompiler

    def compile_nothing(function, **options):
        def fail(*arguments):
            raise InvalidCxxCompiler()

        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    predictor = dbsam.load_predictor("tiny.safetensors", "cpu", compiled=True)
    with pytest.raises(DeviceError, match="cannot be compiled here"):
        dbsam.segment(dbsam.Volume(block_voxels(), GEOMETRY), roi_box(), predictor)


def test_an_embedding_of_a_batch_keeps_nothing_but_itself():
    predictor = dbsam.load_predictor("tiny.safetensors", "cpu")
    assert isinstance(predictor, ModelPredictor)
    image = block_voxels()[0]
    picture = image.astype("uint8")[..., None].repeat(3, -1)
    region = Region(0, 0, 10, 10)
    kept = predictor.encode([picture] * 4, [region] * 4)[0]
    tensors = (kept.encoded.image_embedding, *kept.encoded.high_res_features)
    assert sum(tensor.untyped_storage().nbytes() for tensor in tensors) == kept.nbytes
