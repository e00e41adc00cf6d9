"""The command `dbsam` as a user types it."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cases import GEOMETRY, block_voxels, roi_box, write_case, write_tiny_weights

from dbsam.cli import terminal
from dbsam.cli.main import ExitCode, main
from dbsam.cli.terminal import ProgressBar, progress_line
from dbsam.io import images
from dbsam.progress import Progress


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    write_tiny_weights(path)
    return str(path)


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DBSAM_CACHE", str(tmp_path / "cache"))
    write_case(tmp_path)


def segment(weights: str, *arguments: str) -> int:
    return main(["segment", *arguments, "--model", weights, "--device", "cpu"])


def test_clicks_reach_the_model_which_says_if_it_takes_none(weights, capsys):
    given = ("--include", "-1", "2", "-3e0", "--exclude-ijk", "4", "5", "6", "--spread", "slice")
    assert segment(weights, "volume.nrrd", "--roi", "block.mrk.json", "--output", "m.nrrd", *given) == ExitCode.FILES
    assert "wasn't trained with clicks" in capsys.readouterr().err
    assert not Path("m.nrrd").exists()


def test_a_volume_and_an_roi_give_a_segmentation_an_overlay_and_a_report(weights, capsys):
    code = segment(
        weights, "volume.nrrd", "--roi", "block.mrk.json", "--output", "out/block.seg.nrrd",
        "--overlay", "out/block.png", "--strategy", "box", "--window", "10,400", "--json",
    )  # fmt: skip
    assert code == ExitCode.DONE
    report = json.loads(capsys.readouterr().out)
    assert report["device"] == "cpu"
    [found] = report["segments"]
    assert (found["name"], found["strategy"]) == ("block", "box")
    assert found["intensity"] == {"name": "window", "low": -190, "high": 210, "reason": "chosen by the user"}
    assert sorted(row["index"] for row in found["slices"]) == [2, 3, 4, 5], "the slices that the ROI cuts"
    labels, geometry = images.read_labelmap("out/block.seg.nrrd")
    np.testing.assert_allclose(geometry.ijk_to_ras, GEOMETRY.ijk_to_ras)
    k, j, i = np.nonzero(labels)
    points_ras = (GEOMETRY.ijk_to_ras @ [i, j, k, np.ones_like(i)])[:3].T
    assert roi_box().contains_ras(points_ras).all(), "nothing is set outside the ROI"
    assert found["voxels"] == len(k)
    assert images.read_volume("out/block.png").voxels.shape[-1] == 3


def test_without_json_the_result_is_told_in_words(weights, capsys):
    assert segment(weights, "volume.nrrd", "--box-ijk", "4", "3", "2", "15", "12", "5", "--output", "mask.nii.gz") == 0
    out = capsys.readouterr().out
    assert "Segment_1: " in out
    assert "Intensity percentile: 10 to 200 (values from 10, so not taken for Hounsfield units" in out
    assert "Wrote mask.nii.gz in " in out
    assert Path("mask.nii.gz").exists()


def test_quiet_prints_nothing(weights, capsys):
    assert segment(weights, "volume.nrrd", "--roi", "block.mrk.json", "--output", "mask.nrrd", "--quiet") == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_a_picture_and_a_rectangle_give_a_picture(weights):
    images.write_png("photo.png", np.stack([block_voxels()[3].astype(np.uint8)] * 3, axis=-1))
    assert segment(weights, "photo.png", "--box", "4", "3", "15", "12", "--output", "mask.png", "--quiet") == 0
    assert images.read_labelmap("mask.png")[0].shape == (1, 20, 24)


def test_what_is_said_of_a_picture_counts_pixels(weights, capsys):
    images.write_png("photo.png", block_voxels()[3].astype(np.uint8))
    assert segment(weights, "photo.png", "--box", "4", "3", "15", "12", "--output", "mask.png") == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert re.match(r"Segment_1: [\d,]+ pixels", line)
    assert "ml" not in line


def test_a_box_in_mm_may_have_negative_numbers_in_any_form(weights, capsys):
    found = []
    for box in (["--box-mm", "-6.5", "2.75e1", "8.", "-1e-1", "17.5", "16"], ["--box-mm", "-.1", "17.5", "8", "-6.5"]):
        corners = [*box, *["27.5", "16."][: 7 - len(box)]]
        assert segment(weights, "volume.nrrd", *corners, "--output", "m.nrrd", "--json") == 0
        found.append(json.loads(capsys.readouterr().out)["segments"][0]["slices"])
    assert found[0] == found[1]
    # From R -6.5 to -0.1 and from A 27.5 to 17.5, with the first voxel's centre at -10 and 30.
    assert {tuple(row["box_xyxy"]) for row in found[0]} == {(3.5, 2.5, 9.9, 12.5)}


@pytest.mark.parametrize(
    "window",
    [
        ["--window", "-600,1500"],
        ["--window=-600/1500"],
        ["--window", "-600/1500"],
        ["--window", "-1,2", "--window", "-600,1500"],
        ["--window", "-.5,2", "--axis", "k", "--window=-1,2", "--window", "-600,1500"],
    ],
)
def test_a_window_may_have_a_negative_level(weights, capsys, window):
    assert segment(weights, "volume.nrrd", "--roi", "block.mrk.json", "--output", "m.nrrd", "--json", *window) == 0
    window_used = json.loads(capsys.readouterr().out)["segments"][0]["intensity"]
    assert (window_used["low"], window_used["high"]) == (-1350, 150)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "out.nrrd"], "Nothing says where the structure is: give an ROI file, a box or a mask"),
        (["b.nrrd", "--roi", "block.mrk.json", "--output", "o.nrrd"], "2 volumes: this command does one. For many, by"),
        (["--box-from", "m.nrrd", "--margin", "-1", "--output", "o.nrrd"], "A margin of -1 mm"),
        (["--roi", "block.mrk.json", "--output", "out.txt"], "out.txt: unknown ending"),
        (["--roi", "block.mrk.json", "--output", "o.nrrd", "--overlay", "o.jpg"], "o.jpg: the overlay is a .png"),
        (["--roi", "block.mrk.json", "--output", "volume.nrrd"], "volume.nrrd: an output would overwrite an input"),
        (["--roi", "block.mrk.json", "--output", "o.nrrd", "--window", "liver"], "nor one of auto, ct-soft-tissue"),
        (["--roi", "block.mrk.json", "--output", "o.nrrd", "--window", "40,-1"], "'40,-1' is neither level and width"),
        (["--roi", "block.mrk.json", "--output", "o.nrrd", "--strategy", "magic"], "invalid choice: 'magic'"),
        (["--roi", "block.mrk.json", "--output", "o.nrrd", "--axis", "z"], "--axis: invalid choice: 'z' (choose from"),
        (["--box-ijk", "1", "2", "3", "--output", "o.nrrd"], "--box-ijk: expected 6 arguments"),
    ],
)
def test_wrong_arguments_are_told_with_the_usage(capsys, arguments, message):
    with pytest.raises(SystemExit) as exit_info:
        main(["segment", "volume.nrrd", *arguments])
    assert exit_info.value.code == ExitCode.USAGE
    error = capsys.readouterr().err
    assert error.startswith("usage: dbsam segment VOLUME (--roi FILE ... ")
    assert message in error


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["missing.nrrd", "--roi", "block.mrk.json"], ExitCode.FILES, "missing.nrrd: no such file"),
        (["volume.nrrd", "--roi", "missing.mrk.json"], ExitCode.FILES, "missing.mrk.json: no such ROI file"),
        (["block.mrk.json", "--roi", "block.mrk.json"], ExitCode.FILES, "block.mrk.json: not an image"),
        (["volume.nrrd", "--roi", "volume.nrrd"], ExitCode.FILES, "is not a JSON file"),
        (["volume.nrrd", "--box-from", "missing.nrrd"], ExitCode.FILES, "missing.nrrd: no such file"),
        (["volume.nrrd", "--box-ijk", "90", "0", "0", "99", "9", "9"], ExitCode.FILES, "lies outside the volume"),
        (["volume.nrrd", "--roi", "block.mrk.json", "--model", "nothing"], ExitCode.WEIGHTS, "named 'nothing'"),
        (["volume.nrrd", "--roi", "block.mrk.json", "--model", "gone.safetensors"], ExitCode.WEIGHTS, "no weights"),
        (["volume.nrrd", "--roi", "block.mrk.json", "--device", "tpu"], ExitCode.DEVICE, "'tpu' is not a device"),
        (["volume.nrrd", "--roi", "block.mrk.json", "--output", "volume.nrrd/o.nrrd"], ExitCode.FILES, "is a file and"),
    ],
)  # fmt: skip
def test_what_goes_wrong_has_an_exit_code_and_one_clear_message(capsys, weights, arguments, code, message):
    assert main(["segment", "--output", "out.nrrd", "--model", weights, *arguments]) == code
    captured = capsys.readouterr()
    assert captured.err.startswith("dbsam: ")
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert not Path("out.nrrd").exists()


def test_a_batch_says_how_each_case_went(weights, capsys):
    Path("cases.csv").write_text(
        "volume,roi,output\nvolume.nrrd,block.mrk.json,out/a.seg.nrrd\nmissing.nrrd,block.mrk.json,out/b.seg.nrrd\n"
    )
    arguments = ["batch", "cases.csv", "--model", weights, "--device", "cpu"]
    assert main(arguments) == ExitCode.SOME_FAILED
    out = capsys.readouterr().out
    assert "[1/2] out/a.seg.nrrd: done\n" in out
    assert "[2/2] out/b.seg.nrrd: missing.nrrd: no such file or folder.\n" in out
    assert out.endswith("1 done, 0 skipped, 1 failed.\n")
    assert main([*arguments, "--json"]) == ExitCode.SOME_FAILED
    assert json.loads(capsys.readouterr().out)["skipped"] == ["out/a.seg.nrrd"]
    assert Path("cases.csv.done.jsonl").exists()


def test_a_batch_without_its_device_ends_at_once(weights, capsys):
    rows = [f"volume.nrrd,block.mrk.json,out/{n}.nrrd" for n in range(2)]
    Path("cases.csv").write_text("\n".join(["volume,roi,output", *rows]))
    assert main(["batch", "cases.csv", "--model", weights, "--device", "cuda:99"]) == ExitCode.DEVICE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("dbsam: The device 'cuda:99' cannot be used: ")


@pytest.mark.parametrize("axis", ["2", "k", "AXIAL"])
def test_an_axis_may_be_a_number_or_a_name_in_any_case(weights, capsys, axis):
    assert (
        segment(weights, "volume.nrrd", "--roi", "block.mrk.json", "--output", "m.nrrd", "--json", "--axis", axis) == 0
    )
    assert json.loads(capsys.readouterr().out)["segments"][0]["axis"] == "K"


def test_info_counts_parameters_and_names_the_licence(capsys, weights):
    assert main(["info", "--model", "sam"]) == 0
    out = capsys.readouterr().out
    assert "SAM ViT-B" in out
    assert "Apache-2.0" in out
    # segment_anything's ViT-B: 89,670,912 in the image encoder and 6,220 in the prompt encoder, frozen.
    assert "all parts 4,058,340 89,677,132" in " ".join(out.split())
    assert main(["info", "--model", weights, "--json"]) == 0
    description = json.loads(capsys.readouterr().out)
    assert description["config"]["embed_dim"] == 24
    assert description["trained"] + description["frozen"] == sum(
        part["trained"] + part["frozen"] for part in description["parts"]
    )


def test_info_of_the_shipped_weights_fits_on_a_screen_and_names_their_scores(capsys):
    assert main(["info", "--model", "compact"]) == 0
    facts, trained_on = capsys.readouterr().out.split("trained on:")
    assert max(map(len, facts.splitlines())) < 160
    assert re.search(r"metrics: +DSC paper \d\d\.\d\d, roi \d\d\.\d\d", facts)
    assert re.search(r"recipe: +compact, [\d,]+ steps", facts)
    assert len(trained_on.splitlines()) > 70


def test_weights_are_listed_located_and_cleared(capsys, tmp_path):
    assert main(["weights", "path"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'cache'}\n"
    assert main(["weights", "list", "--json"]) == 0
    by_name = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert by_name["sam"]["path"] is None
    assert by_name["sam"]["url"].endswith("/sam_vit_b_01ec64.pth")
    assert main(["weights", "path", "sam"]) == ExitCode.WEIGHTS
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "sam_vit_b_01ec64.pth.part").write_bytes(bytes(1_500_000))
    capsys.readouterr()
    assert main(["weights", "clear"]) == 0
    assert capsys.readouterr().out == "Freed 1.5 MB.\n"


@pytest.mark.parametrize("command", [[], ["segment"], ["batch"], ["info"], ["weights"]])
def test_help_teaches_with_examples_and_exit_codes(capsys, command):
    with pytest.raises(SystemExit) as exit_info:
        main([*command, "--help"])
    assert exit_info.value.code == 0
    out = capsys.readouterr().out
    assert "exit codes:\n  0    done" in out
    assert not command or f"\n  dbsam {command[0]} " in out


def test_the_module_runs_as_a_command():
    run = subprocess.run([sys.executable, "-m", "dbsam", "--version"], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("dbsam 0.")


@pytest.mark.skipif(os.name == "nt", reason="Windows delivers Ctrl-C to a whole console")
def test_ctrl_c_ends_without_output_and_with_code_130(weights):
    """The signal arrives just before the model is loaded."""
    code = (
        "import os, signal, sys, dbsam.weights.load, dbsam.cli.main\n"
        "load = dbsam.weights.load.load_model\n"
        "def interrupted(*arguments, **options):\n"
        "    os.kill(os.getpid(), signal.SIGINT)\n"
        "    return load(*arguments, **options)\n"
        "dbsam.weights.load.load_model = interrupted\n"
        "sys.exit(dbsam.cli.main.main(sys.argv[1:]))\n"
    )
    arguments = ["segment", "volume.nrrd", "--roi", "block.mrk.json", "--output", "out.nrrd", "--model", weights]
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert run.returncode == ExitCode.INTERRUPTED == 128 + signal.SIGINT
    assert run.stderr == "dbsam: Interrupted.\n"
    assert not Path("out.nrrd").exists()


def test_a_progress_line_shows_share_count_and_time_left():
    assert progress_line("ct.nrrd", Progress(6, 12, "encoding", 83.0)) == (
        "ct.nrrd  encoding [############------------] 6/12  1:23 left"
    )
    assert progress_line("sam", Progress(187_500_000, 375_000_000, "", None)) == (
        "sam [############------------] 188/375 MB"
    )


def test_progress_is_drawn_on_a_terminal_only(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(terminal.time, "monotonic", lambda: 100.0)
    screen, log = Terminal(), io.StringIO()
    for stream in (screen, log):
        with ProgressBar("ct.nrrd", stream=stream) as bar:
            for done in range(1, 4):
                bar(Progress(done, 3, "encoding", None))
    assert log.getvalue() == ""
    assert screen.getvalue().count("encoding") == 2, "the first and the last; the second came a moment after the first"
    assert screen.getvalue().endswith("\r\x1b[K"), "the line is taken away at the end"
