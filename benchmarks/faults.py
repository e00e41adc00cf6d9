"""Kills processes with SIGKILL at random moments while they write, and looks at what they leave.

    python benchmarks/faults.py --kills 40

After each kill the output must be the old file or the whole new one, and a batch's log readable; the next run that is
left alone must finish the work and leave nothing but it. Prints a row for each kind of writing. POSIX only.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from timing import print_table

import dbsam
from dbsam.cli.batch import BatchModel, run_batch
from dbsam.cli.case import Case
from dbsam.inference.predictor import SlicePredictor
from dbsam.io.images import write_volume
from dbsam.weights.checkpoint import save_checkpoint
from dbsam.weights.download import Digest, RemoteFile, download_file
from dbsam.weights.load import load_model

GRID = dbsam.ImageGeometry.from_spacing((1.0, 1.0, 2.0), (96, 96, 24))
OLD = b"a former file"


class FaultError(AssertionError):
    """Something was lost, or is neither old nor new."""


@dataclass(frozen=True)
class Writing:
    """A kind of writing.

    Attributes:
        name: What is written.
        outputs: The files, of which each exists before, with `OLD` in it.
        write: Writes them.
        allowed: Names that may lie in the folder when the work is done.
    """

    name: str
    outputs: tuple[Path, ...]
    write: Callable[[], object]
    allowed: frozenset[str]


@dataclass
class Outcome:
    """What the kills of a kind of writing left: how often they came in time, and old and new files."""

    kills: int = 0
    in_time: int = 0
    old: int = 0
    new: int = 0


def writings(folder: Path, url: str, get_predictor: Callable[[], SlicePredictor]) -> Iterator[Writing]:
    """The kinds, each in a folder of its own; `url` leads to the parent of `folder`'s files for the download."""
    labels = np.random.default_rng(0).integers(0, 4, GRID.shape_KJI).astype(np.uint8)
    segments = [dbsam.Segment(f"s{n}", labels == n) for n in (1, 2, 3)]
    loaded = load_model("compact", "cpu")
    content = os.urandom(1 << 24)
    (folder / "published.bin").write_bytes(content)
    remote = RemoteFile(f"{url}/published.bin", len(content), Digest("sha256", hashlib.sha256(content).hexdigest()))

    def kind(name: str, file: str, write: Callable[[Path], object], *further: str) -> Writing:
        path = folder / name.replace(" ", "-") / file
        path.parent.mkdir()
        return Writing(name, (path,), partial(write, path), frozenset({file, *further}))

    yield kind("segments", "mask.seg.nrrd", lambda path: dbsam.write_segmentation(path, segments, GRID))
    yield kind("labelmap", "mask.nii.gz", lambda path: dbsam.write_labelmap(path, labels, GRID))
    yield kind("export", "mine.safetensors", lambda path: save_checkpoint(path, loaded.model, loaded.info))
    yield kind("download", "weights.bin", partial(download_file, remote), "weights.bin.lock")
    yield _batch(folder / "batch", get_predictor)


def _batch(folder: Path, get_predictor: Callable[[], SlicePredictor]) -> Writing:
    folder.mkdir()
    voxels = np.full(GRID.shape_KJI, 10, np.int16)
    voxels[8:14, 30:60, 30:60] = 200
    write_volume(folder / "volume.nrrd", voxels, GRID)
    box = ((26, 26, 10, 63, 63, 11),)
    cases = [Case(folder / "volume.nrrd", folder / f"out{n}.nrrd", boxes_ijk=box) for n in range(4)]
    model = BatchModel(get_predictor, "model", lambda: None)
    names = {"volume.nrrd", "log.jsonl", *(case.output.name for case in cases)}
    return Writing(
        "batch", tuple(case.output for case in cases), lambda: run_batch(cases, folder / "log.jsonl", model),
        frozenset(names),
    )  # fmt: skip


def kill_at_random(writing: Writing, kills: int, chance: random.Random) -> Outcome:
    """Kill a writing again and again.

    Raises:
        FaultError: A file is neither old nor new, or something is left.
    """
    _reset(writing)
    began = time.monotonic()
    _in_process(writing.write, None)
    seconds = time.monotonic() - began
    whole = [_digest(path) for path in writing.outputs]
    outcome = Outcome()
    for _ in range(kills):
        _reset(writing)
        outcome.in_time += _in_process(writing.write, chance.uniform(0.0, 1.1 * seconds))
        outcome.kills += 1
        for path, new in zip(writing.outputs, whole, strict=True):
            found = path.read_bytes()
            if found == OLD:
                outcome.old += 1
            elif hashlib.sha256(found).hexdigest() == new:
                outcome.new += 1
            else:
                raise FaultError(f"{path}: {len(found):,} bytes that are neither the old file nor the new one")
        _in_process(writing.write, None)
        if [_digest(path) for path in writing.outputs] != whole:
            raise FaultError(f"{writing.name}: the next run did not finish the work")
        if left := {entry.name for entry in writing.outputs[0].parent.iterdir()} - writing.allowed:
            raise FaultError(f"{writing.name}: {', '.join(sorted(left))} stays for ever")
    return outcome


def _reset(writing: Writing) -> None:
    (writing.outputs[0].parent / "log.jsonl").unlink(missing_ok=True)
    for path in writing.outputs:
        path.write_bytes(OLD)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _in_process(write: Callable[[], object], seconds: float | None) -> bool:
    """Run in a forked process, which is killed after `seconds`; returns whether that was in time."""
    process = multiprocessing.get_context("fork").Process(target=write)
    process.start()
    if seconds is not None:
        process.join(seconds)
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise FaultError(f"the writing failed with {process.exitcode}")
    return process.exitcode != 0


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """Serve a folder's files from a process of its own; yields the address."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        process = multiprocessing.get_context("fork").Process(target=server.serve_forever, daemon=True)
        process.start()
        yield f"http://127.0.0.1:{server.server_port}"
        process.kill()
        process.join()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40, help="of each kind")
    parser.add_argument("--kinds", nargs="+", help="of segments, labelmap, export, download, batch; all by default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["no_proxy"] = "127.0.0.1"
    chance, rows = random.Random(options.seed), []
    predictor = dbsam.load_predictor("compact", "cpu")
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as url:
        for writing in writings(Path(folder), url, lambda: predictor):
            if options.kinds and writing.name not in options.kinds:
                continue
            found = kill_at_random(writing, options.kills, chance)
            rows.append((writing.name, *map(str, (found.kills, found.in_time, found.old, found.new))))
    print_table(
        "Killed while writing",
        [
            f"SIGKILL after 0 to 1.1 times the writing's duration, {options.kills} times each, seed {options.seed}. No "
            "file was torn, every next run finished the work, and nothing stayed behind after it."
        ],
        ["writing", "kills", "in time", "files old", "files new"],
        rows,
    )


if __name__ == "__main__":
    main()
