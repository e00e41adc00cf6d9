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

import dbsam.cli.main
import dbsam_training.cli
from dbsam.cli.main import ExitCode
from dbsam.io.images import read_labelmap, read_volume, write_png
from dbsam.weights.load import find_weights

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [(ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("command-line.md", "python.md")]
TUTORIAL = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
SAMPLE = ROOT / "Resources" / "Sample"
PROSE = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("DBSAM*/*.md"), *ROOT.glob("DBSAM*/Resources/*/*.md")]
)
# Options of other programs: of Slicer, torchrun, dask and the store's packing script.
OTHERS = {"--help", "--no-main-window", "--no-splash", "--python-script", "--nproc-per-node", "--nthreads", "--quality"}

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


@pytest.mark.parametrize("page", PROSE, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_within_the_repository_lead_somewhere(page):
    links = re.findall(r"\]\(((?!https?:)[^)]+)\)", page.read_text(encoding="utf-8"))
    dead = []
    for link in links:
        name, _, heading = link.partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (heading and heading not in anchors(target)):
            dead.append(link)
    assert dead == []


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    ("page", "main", "commands"),
    [
        ("docs/command-line.md", dbsam.cli.main.main, ("segment", "batch")),
        ("DBSAMTraining/README.md", dbsam_training.cli.main, ("prepare", "fit", "export", "evaluate")),
    ],
)
def test_the_options_that_a_page_names_are_those_of_the_commands(page, main, commands, capsys):
    for command in commands:
        with pytest.raises(SystemExit):
            main([command, "--help"])
    known = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", (ROOT / page).read_text(encoding="utf-8")))
    assert len(named) > 8
    assert named - known - OTHERS == set()
