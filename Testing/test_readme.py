"""What the README and the tutorial tell a reader to type does what it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dbsam.cli.main import ExitCode
from dbsam.io.images import read_labelmap, read_volume, write_png
from dbsam.weights.load import find_weights

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("command-line.md", "python.md")]
SLICER = (ROOT / "docs/slicer.md").read_text(encoding="utf-8")
TUTORIAL = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
SAMPLE = ROOT / "Resources" / "Sample"

needs_weights = pytest.mark.skipif(find_weights("compact") is None, reason="no compact weights in this checkout")


def blocks(language: str) -> list[str]:
    """The code blocks of the README and its pages; those of docs/slicer.md are in test_slicer_readme.py."""
    text = "\n".join([README, *PAGES])
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def reader_folder(tmp_path: Path) -> Path:
    """The files that the README's reader has, under the names that it uses."""
    shutil.copy(SAMPLE / "phantom_ct.nrrd", tmp_path / "ct.nrrd")
    for name in ("liver", "kidney"):
        shutil.copy(SAMPLE / "phantom_roi.mrk.json", tmp_path / f"{name}.mrk.json")
    write_png(tmp_path / "ultrasound.png", read_volume(SAMPLE / "phantom_ultrasound.nrrd").voxels[0].astype(np.uint8))
    (tmp_path / "cases.csv").write_text(blocks("csv")[0], encoding="utf-8")
    return tmp_path


@needs_weights
def test_the_shell_examples_run_as_they_stand(reader_folder):
    commands = "".join(block for block in blocks("sh") if "dbsam " in block)
    assert commands.count("dbsam segment") == 4
    folder_of_commands = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": folder_of_commands, "DBSAM_CACHE": str(reader_folder / "cache")}
    subprocess.run(["sh", "-ec", commands], cwd=reader_folder, env=environment, check=True, stdout=subprocess.PIPE)
    names = ("liver.png", "lesion.png", "out/ct.seg.nrrd", "out/ct.png", "out/liver.nii.gz")
    assert all((reader_folder / name).is_file() for name in names)
    truth, _ = read_labelmap(SAMPLE / "phantom_truth.nrrd")
    for name in ("liver.seg.nrrd", "box.nrrd"):
        assert read_labelmap(reader_folder / name)[0].shape == truth.shape
    assert set(np.unique(read_labelmap(reader_folder / "organs.nii.gz")[0])) <= {0, 1, 2}


@needs_weights
@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_the_python_examples_run_as_they_stand(reader_folder, number):
    subprocess.run([sys.executable, "-c", blocks("python")[number]], cwd=reader_folder, check=True)
    if number == 0:
        in_labelmap, _ = read_labelmap(reader_folder / "liver.nii.gz")
        in_segmentation, _ = read_labelmap(reader_folder / "liver.seg.nrrd")
        np.testing.assert_array_equal(in_labelmap, in_segmentation)


@needs_weights
def test_the_tutorials_python_example_runs_as_it_stands():
    (example,) = re.findall(r"^```python\n(.*?)^```", TUTORIAL, re.DOTALL | re.MULTILINE)
    done = subprocess.run([sys.executable, "-c", example], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == ["ct", "mr", "ultrasound"]
    assert all(int(line[-2]) > 0 for line in lines)


def test_the_exit_codes_are_those_of_the_command():
    table = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGES[0], re.MULTILINE)}
    assert table == {int(code) for code in ExitCode}


def test_the_two_commands_are_targets_of_the_makefile():
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    commands = blocks("sh")[0].split("\n")
    assert [line.removeprefix("make ") for line in commands if line] == ["demo", "test"]
    assert {"demo", "test"} <= set(targets)


@pytest.mark.parametrize(
    ("text", "folder"), [(README, ROOT), *((page, ROOT / "docs") for page in (TUTORIAL, SLICER, *PAGES))]
)
def test_links_within_the_repository_lead_somewhere(text, folder):
    links = re.findall(r"\]\(((?!https?:|#)[^)]+)\)", text)
    assert links
    assert [link for link in links if not (folder / link.partition("#")[0]).exists()] == []
