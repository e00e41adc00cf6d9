"""Kills processes with SIGKILL at random moments while they write, lets their disk run full, looks at what they leave.

    python benchmarks/faults.py --kills 40

After each fault the output must be the old file or the whole new one, and a batch's log readable; the next run that is
left alone must finish the work and leave nothing but it. A run of training must go on, and end with the losses and the
weights of one without faults. Prints a row for each kind of writing. POSIX only.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import torch
from timing import print_table

import dbsam
from dbsam.cli.batch import BatchModel, run_batch
from dbsam.cli.case import Case
from dbsam.inference.predictor import SlicePredictor
from dbsam.io.images import write_volume
from dbsam.weights.checkpoint import save_checkpoint
from dbsam.weights.download import Digest, RemoteFile, download_file
from dbsam.weights.load import load_model
from dbsam_training.data.discover import find_sources
from dbsam_training.data.nnunet_writer import RawCase, write_raw_dataset
from dbsam_training.recipe import Recipe, load_recipe
from dbsam_training.store.prepare import prepare
from dbsam_training.trainer.export import ExportOptions, export_run
from dbsam_training.trainer.log import read_log
from dbsam_training.trainer.loop import train
from dbsam_training.trainer.run_folder import BEST, LAST, RECIPE, read_state

GRID = dbsam.ImageGeometry.from_spacing((1.0, 1.0, 2.0), (96, 96, 24))
OLD = b"a former file"
# The smallest network of the design: a run of it takes about a second.
TINY = {
    "image_size": 32, "conv_image_size": 32, "conv_channels": [8, 8, 8], "conv_stage_depth": 1, "embed_dim": 16,
    "depth": 2, "num_heads": 2, "stage_ends": [0, 1], "deformable_heads": 2, "prompt_embed_dim": 16,
    "decoder_heads": 2, "decoder_mlp_dim": 16, "iou_head_hidden_dim": 16,
}  # fmt: skip
SETTINGS = {
    "model.settings": TINY, "data.superpixel_slices": [0, 0], "run.batch_size": 4, "run.steps": 8,
    "run.precision": "32-true", "run.accelerator": "cpu", "run.store_on_gpu": False, "run.validate_every": 4,
    "run.validate_per_dataset": 2, "run.checkpoint_every": 2, "augment.insert": 0.0,
}  # fmt: skip


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
    """What the faults of a kind of writing left: how often they came in time, old and new files, what was told."""

    faults: int = 0
    in_time: int = 0
    old: int = 0
    new: int = 0
    errors: list[str] = field(default_factory=list)

    def row(self, name: str) -> tuple[str, ...]:
        """Returns the table's row."""
        return name, *map(str, (self.faults, self.in_time, self.old, self.new))


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

    run = _tiny_run(folder / "run")

    def export(path: Path) -> None:
        export_run(run, path, path.with_name("card.md"), ExportOptions(state="last"))

    exported = kind("export of a run", "mine.safetensors", export, "card.md")
    yield replace(exported, outputs=(*exported.outputs, exported.outputs[0].with_name("card.md")))
    yield kind("segments", "mask.seg.nrrd", lambda path: dbsam.write_segmentation(path, segments, GRID))
    yield kind("labelmap", "mask.nii.gz", lambda path: dbsam.write_labelmap(path, labels, GRID))
    yield kind("weights", "mine.safetensors", lambda path: save_checkpoint(path, loaded.model, loaded.info))
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


def _tiny_run(folder: Path) -> Path:
    """A finished run of training, beside its store."""
    recipe, store = tiny_training(folder)
    train(recipe, [store], folder / "run", callbacks=())
    return folder / "run"


def tiny_training(folder: Path) -> tuple[Recipe, Path]:
    """A recipe and a store of bright discs, by which a run takes about a second."""
    geometry, random = dbsam.ImageGeometry.from_spacing((1.0, 1.0, 1.0), (48, 40, 1)), np.random.default_rng(0)
    y, x = np.mgrid[:40, :48]
    cases = []
    for n in range(4):
        disc = (((y - 20) ** 2 + (x - 24) ** 2) < (7 + n) ** 2)[None]
        voxels = np.where(disc, 190, 60) + random.normal(0, 8, disc.shape)
        cases.append(RawCase(f"case{n}", voxels.clip(0, 255).astype(np.uint8), disc.astype(np.uint8), geometry))
    write_raw_dataset(folder / "Dataset001_Discs", cases, ["disc"], modality="CT", licence="CC0")
    recipe = load_recipe("compact", SETTINGS)
    prepare(find_sources([folder / "Dataset001_Discs"]), folder / "store", recipe.data)
    return recipe, folder / "store"


def kill_at_random(writing: Writing, kills: int, chance: random.Random) -> Outcome:
    """Kill a writing again and again.

    Raises:
        FaultError: A file is neither old nor new, or something is left.
    """
    _reset(writing)
    began = time.monotonic()
    _in_process(writing.write)
    seconds = time.monotonic() - began
    whole, outcome = [_digest(path) for path in writing.outputs], Outcome()
    for _ in range(kills):
        _reset(writing)
        outcome.faults += 1
        outcome.in_time += _in_process(writing.write, chance.uniform(0.0, 1.1 * seconds)) == -signal.SIGKILL
        _judge(writing, whole, outcome)
    return outcome


def fill_disk(writing: Writing, times: int, chance: random.Random) -> Outcome:
    """Let the disk of a writing run full again and again, at another length of a file each time, short ones as often.

    Raises:
        FaultError: A file is neither old nor new, something is left, or the error does not name a file.
    """
    _reset(writing)
    _in_process(writing.write)
    whole, outcome = [_digest(path) for path in writing.outputs], Outcome()
    largest = max(path.stat().st_size for path in writing.outputs)
    for _ in range(times):
        _reset(writing)
        error = in_a_full_disk(writing.write, int(largest ** chance.random()))
        _note(outcome, error)
        _judge(writing, whole, outcome)
    return outcome


def kill_training(folder: Path, kills: int, chance: random.Random, full_disk: bool = False) -> Outcome:
    """Kill a run of training again and again, and each time go on with it; when it has ended, begin another.

    Args:
        folder: An empty folder to do so in.
        kills: How often.
        chance: When.
        full_disk: Let its disk run full instead.

    Returns:
        How often that came in time; how often the resume point was the former one or a new one.

    Raises:
        FaultError: A file of the run is damaged, or it ends with other losses or weights than a run without faults.
    """
    recipe, store = tiny_training(folder)
    began = time.monotonic()
    _in_process(partial(train, recipe, [store], folder / "whole"))
    seconds = time.monotonic() - began
    largest, outcome, run = (folder / "whole" / LAST).stat().st_size, Outcome(), 0
    while outcome.faults < kills:
        run += 1
        place, ended = folder / f"run{run}", False
        while not ended and outcome.faults < kills:
            former = _digest(place / LAST) if (place / LAST).is_file() else ""
            work = partial(train, recipe, [store], place)
            if full_disk:
                _note(outcome, error := in_a_full_disk(work, int(largest ** chance.random())))
                ended = not error
            else:
                ended = _in_process(work, chance.uniform(0.0, 1.1 * seconds)) == 0
                outcome.in_time += not ended
                outcome.faults += 1
            _check_run(place)
            is_old = former == (_digest(place / LAST) if (place / LAST).is_file() else "")
            outcome.old, outcome.new = outcome.old + is_old, outcome.new + (not is_old)
        _in_process(partial(train, recipe, [store], place))
        _compare_runs(folder / "whole", place)
    return outcome


def _check_run(folder: Path) -> None:
    """Read all that a run has written.

    Raises:
        FaultError: A part is damaged.
    """
    for name in (LAST, BEST):
        if (folder / name).is_file():
            read_state(folder / name)
    if (folder / RECIPE).is_file():
        load_recipe(folder / RECIPE)
    for path in folder.glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    for path in folder.glob("*.png"):
        if not path.read_bytes().endswith(b"IEND\xaeB`\x82"):
            raise FaultError(f"{path}: not whole")


def _compare_runs(whole: Path, other: Path) -> None:
    for name in ("train.csv", "validation.csv"):
        one, two = ([row | {"seconds": 0} for row in read_log(place / name)] for place in (whole, other))
        if one != two:
            raise FaultError(f"{other / name}: other figures than those of a run without faults")
    one, two = (read_state(place / LAST)["model"] for place in (whole, other))
    if not all(np.array_equal(one[key].numpy(), two[key].numpy()) for key in one):
        raise FaultError(f"{other / LAST}: other weights than those of a run without faults")
    if names := {path.name for path in other.iterdir()} ^ {path.name for path in whole.iterdir()}:
        raise FaultError(f"{other}: {', '.join(sorted(names))} stays or is missing")


def _judge(writing: Writing, whole: Sequence[str], outcome: Outcome) -> None:
    """Look at what a fault has left, and whether the next run finishes the work."""
    for path, new in zip(writing.outputs, whole, strict=True):
        found = path.read_bytes()
        if found == OLD:
            outcome.old += 1
        elif hashlib.sha256(found).hexdigest() == new:
            outcome.new += 1
        else:
            raise FaultError(f"{path}: {len(found):,} bytes that are neither the old file nor the new one")
    _in_process(writing.write)
    if [_digest(path) for path in writing.outputs] != whole:
        raise FaultError(f"{writing.name}: the next run did not finish the work")
    if left := {entry.name for entry in writing.outputs[0].parent.iterdir()} - writing.allowed:
        raise FaultError(f"{writing.name}: {', '.join(sorted(left))} stays for ever")


def _note(outcome: Outcome, error: str) -> None:
    outcome.faults += 1
    outcome.in_time += bool(error)
    if error:
        outcome.errors.append(error)
        if "/" not in error:
            raise FaultError(f"an error that names no file: {error}")


def _reset(writing: Writing) -> None:
    (writing.outputs[0].parent / "log.jsonl").unlink(missing_ok=True)
    for path in writing.outputs:
        path.write_bytes(OLD)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _in_process(write: Callable[[], object], seconds: float | None = None) -> int:
    """Run in a forked process, which is killed after `seconds`; returns its exit code."""
    process = multiprocessing.get_context("fork").Process(target=write)
    process.start()
    if seconds is not None:
        process.join(seconds)
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
    process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise FaultError(f"the writing failed with {process.exitcode}")
    return process.exitcode


def in_a_full_disk(write: Callable[[], object], limit_bytes: int) -> str:
    """The error of a writing in a process that may write no file beyond the limit; empty if it has none."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, resource.RLIM_INFINITY))
            found = write()
            failed = getattr(found, "failed", {})  # a batch goes on with the next case
            os.write(writing, "; ".join(failed.values()).encode())
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading, "rb") as pipe:
        return pipe.read().decode()


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
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=40, help="of each kind")
    parser.add_argument("--full", type=int, default=10, help="how often the disk of each kind runs full")
    parser.add_argument("--kinds", nargs="+", help="names of the tables' first column; all by default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ["no_proxy"] = "127.0.0.1"
    torch.set_num_threads(1)  # a pool of threads does not survive a fork
    chance, killed, full = random.Random(options.seed), [], []
    predictor = dbsam.load_predictor("compact", "cpu")
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as url:
        for writing in writings(Path(folder), url, lambda: predictor):
            if options.kinds and writing.name not in options.kinds:
                continue
            killed.append(kill_at_random(writing, options.kills, chance).row(writing.name))
            full.append(fill_disk(writing, options.full, chance).row(writing.name))
        if not options.kinds or "training" in options.kinds:
            for rows, is_full, times in ((killed, False, options.kills), (full, True, options.full)):
                place = Path(folder, f"training-{is_full}")
                place.mkdir()
                rows.append(kill_training(place, times, chance, is_full).row("training"))
    after = (
        "No file was torn, every next run finished the work, and nothing stayed behind after it; runs of training "
        "ended with the losses and weights of one without faults."
    )
    print_table(
        "Killed while writing",
        [f"SIGKILL after 0 to 1.1 times the writing's duration, seed {options.seed}. {after}"],
        ["writing", "kills", "in time", "files old", "files new"],
        killed,
    )
    print_table(
        "Disk full while writing",
        [f"No file may grow beyond a random number of bytes, seed {options.seed}; each error named its file. {after}"],
        ["writing", "times", "failed", "files old", "files new"],
        full,
    )


if __name__ == "__main__":
    main()
