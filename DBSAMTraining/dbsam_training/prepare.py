"""Turns data sets into a training store: bounded memory, resumable, the same bytes every time.

A store is made of parts, a piece of one data set's split each, written by one process each. A part that is finished is
not made again; parts whose options or cases changed are. Broken cases are named in `report.json`, and left out only if
that was asked for.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbsam.progress import Progress
from dbsam_training.licences import is_open
from dbsam_training.nnunet import Case, CaseError
from dbsam_training.patches import PatchOptions, cut_objects
from dbsam_training.recipes import DataOptions
from dbsam_training.sources import Source, case_faults
from dbsam_training.store import FORMAT_VERSION, Sample, TrainingStore, write_json
from dbsam_training.store_writer import PartWriter
from dbsam_training.superpixels import DATASET_NAME as SUPERPIXELS
from dbsam_training.superpixels import cut_superpixels
from dbsam_training.tasks import TaskRegistry
from dbsam_training.whole_slices import cut_slices

if TYPE_CHECKING:
    from dbsam.cluster import Workers

logger = logging.getLogger(__name__)

CASES_PER_PART = {2: 4096, 3: 64}
"""By dimension, for protocol "slices": what an interrupted run has to do again at most."""


class BrokenDataError(ValueError):
    """Data sets with broken cases; the message names them."""


@dataclass(frozen=True)
class Fault:
    """A case that cannot be used, and why."""

    dataset: str
    case: str
    reason: str


@dataclass
class Report:
    """What became of the data sets.

    Attributes:
        faults: Broken cases.
        left_out: Data sets that were left out, with the reason.
        samples: Samples of each data set and split.
    """

    faults: list[Fault] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    samples: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Part:
    """A piece of work: some cases of one split of a data set."""

    name: str
    source: Source
    split: str
    cases: tuple[str, ...]
    kind: str  # "objects", "slices" or "superpixels"
    intensity: str
    skip_bad: bool
    options: DataOptions


def prepare(
    sources: Sequence[Source],
    folder: Path,
    options: DataOptions,
    skip_bad: bool = False,
    tasks: TaskRegistry | None = None,
    progress: Callable[[Progress], None] | None = None,
    workers: Workers | None = None,
) -> Report:
    """Make or complete a store.

    Args:
        sources: The data sets.
        folder: The store.
        options: Protocol, intensity rule, limits, licences.
        skip_bad: Leave out broken cases instead of refusing them.
        tasks: Registry that may name another intensity rule for a data set.
        progress: Called after each part.
        workers: Processes that make the parts instead of this one; they see the same files.

    Raises:
        ClusterError: The workers cannot be used, or were lost.
        BrokenDataError: There are broken cases and `skip_bad` is false, or nothing is left.
    """
    report = Report()
    kept = [source for source in sources if _wanted(source, options, report)]
    parts = [part for source in kept for part in _parts(source, options, tasks, skip_bad)]
    (folder / "parts").mkdir(parents=True, exist_ok=True)
    (folder / "store.json").unlink(missing_ok=True)  # while parts change, the folder is no finished store
    for leftover in (folder / "parts").glob(".*.tmp"):
        shutil.rmtree(leftover)
    make = partial(_make, folder)
    ended = workers.run(make, parts) if workers else ((part, partial(make, part)) for part in parts)
    made: dict[str, tuple[int, list[Fault]]] = {}
    with closing(ended):
        for part, finish in ended:
            made[part.name] = finish()
            if progress:
                progress(Progress(len(made), len(parts), part.source.info.name, None))
    for part in parts:
        samples, faults = made[part.name]
        report.faults += faults
        if part.kind != SUPERPIXELS:
            counts = report.samples.setdefault(part.source.info.name, {})
            counts[part.split] = counts.get(part.split, 0) + samples
    write_json(folder / "report.json", asdict(report))
    if report.faults and not skip_bad:
        raise BrokenDataError(_faults_text(report, folder))
    if not parts:
        raise BrokenDataError(f"No data set is left: {report.left_out}")
    _finish(folder, parts, options)
    return report


def _wanted(source: Source, options: DataOptions, report: Report) -> bool:
    name, licence = source.info.name, source.info.licence
    if options.licence == "open" and not is_open(licence):
        report.left_out[name] = f"its licence is {licence!r}, which is not in the list of open ones"
        logger.info("%s is left out: %s", name, report.left_out[name])
        return False
    return True


def _parts(source: Source, options: DataOptions, tasks: TaskRegistry | None, skip_bad: bool) -> Iterator[_Part]:
    info = source.info
    intensity = (tasks.intensity_for(info) if tasks else None) or options.intensity
    for split in ("train", "val"):
        if split == "val" and info.mask_origin == "model":
            continue  # masks that a model made measure nothing
        cases = tuple(source.list_cases(split))
        if not cases:
            continue
        if options.protocol == "objects":
            yield _Part(f"{info.name}.{split}", source, split, cases, "objects", intensity, skip_bad, options)
            if split == "train" and max(options.superpixel_slices) > 0:
                name = f"{info.name}.{SUPERPIXELS}"
                yield _Part(name, source, split, cases, SUPERPIXELS, intensity, skip_bad, options)
            continue
        size = CASES_PER_PART[info.dimension or 3]
        for start in range(0, len(cases), size):
            name = f"{info.name}.{split}.{start // size:04d}"
            piece = cases[start : start + size]
            yield _Part(name, source, split, piece, "slices", intensity, skip_bad, options)


def _make(folder: Path, part: _Part) -> tuple[int, list[Fault]]:
    """Write a part unless it exists as it would be written; returns its number of samples and its broken cases."""
    key = _work_key(part)
    target = folder / "parts" / part.name
    if (target / "part.json").is_file():
        facts: dict[str, Any] = json.loads((target / "part.json").read_text(encoding="utf-8"))
        if facts["work"] == key and (part.skip_bad or not facts["faults"]):
            return int(facts["counts"]["samples"]), [Fault(*fault) for fault in facts["faults"]]
    shutil.rmtree(target, ignore_errors=True)
    faults: dict[str, str] = {}

    def read(name: str) -> Case | None:
        if name in faults:
            return None
        try:
            case = part.source.read_case(name)
            found = case_faults(part.source.info, case)
        except CaseError as error:
            faults[name] = error.reason
            return None
        if found:
            faults[name] = "; ".join(found)
        return None if found else case

    info = part.source.info
    dataset = SUPERPIXELS if part.kind == SUPERPIXELS else info.name
    facts = {"dataset": dataset, "split": part.split, "work": key}
    writer = PartWriter(folder, part.name, facts)
    try:
        for sample in _samples(part, read, faults):
            writer.add(sample)
    except BaseException:
        writer.discard()
        raise
    found = [Fault(info.name, case, reason) for case, reason in sorted(faults.items())]
    # Of superpixels, the annotated part of the same cases reports them.
    reported = [] if part.kind == SUPERPIXELS else found
    for fault in found:
        logger.debug("%s, %s: %s", fault.dataset, fault.case, fault.reason)
    if found and not part.skip_bad:
        writer.discard()
        return 0, reported
    return writer.close({"faults": [(f.dataset, f.case, f.reason) for f in reported]}), reported


def _samples(part: _Part, read: Callable[[str], Case | None], faults: dict[str, str]) -> Iterator[Sample]:
    data, info = part.options, part.source.info
    seed = zlib.crc32(info.name.encode())  # the choice in one data set does not depend on the others
    if part.kind == "slices":
        for name in part.cases:
            case = read(name)
            if case is not None:
                try:
                    yield from cut_slices(info, case, part.intensity)
                except ValueError as error:  # the intensity rule does not fit
                    faults[name] = str(error)
        return
    most = data.train_per_dataset if part.split == "train" else data.val_per_dataset
    options = PatchOptions(most=most, intensity=part.intensity, neighbours=data.neighbours, seed=seed)
    if part.kind == "objects":
        yield from cut_objects(part.source, part.cases, read, options)
    else:
        slices = data.superpixel_slices[0 if info.dimension == 2 else 1]
        yield from cut_superpixels(part.cases, read, slices, data.superpixels_per_slice, options)


def _work_key(part: _Part) -> str:
    """Digest of all that decides what a part holds, so far as it can be known without reading the images."""
    data = asdict(part.options)
    content = [
        FORMAT_VERSION,
        part.kind,
        part.split,
        part.intensity,
        part.cases,
        str(part.source.folder.resolve()),
        asdict(part.source.info),
        {
            k: data[k]
            for k in (
                *("train_per_dataset", "val_per_dataset", "superpixel_slices", "superpixels_per_slice"),
                "neighbours",
            )
        },
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()


def _finish(folder: Path, parts: Sequence[_Part], options: DataOptions) -> None:
    datasets: dict[str, dict[str, Any]] = {}
    for part in parts:
        info = part.source.info
        facts = datasets.setdefault(
            info.name,
            {
                "licence": info.licence,
                "reference": info.reference,
                "modality": info.modality,
                "dimension": info.dimension,
                "mask_origin": info.mask_origin,
                "ill_posed_for_one_box": info.ill_posed_for_one_box,
                "cases": {},
            },
        )
        if part.kind != SUPERPIXELS:
            facts["cases"][part.split] = facts["cases"].get(part.split, 0) + len(part.cases)
    content = {
        "format": FORMAT_VERSION,
        "protocol": options.protocol,
        "options": asdict(options),
        "datasets": datasets,
        "parts": [part.name for part in parts],
    }
    write_json(folder / "store.json", content)
    store = TrainingStore(folder)
    logger.info(
        "%s holds %d training and %d validation samples of %d data sets.",
        folder, len(store.indices("train")), len(store.indices("val")), len(datasets),
    )  # fmt: skip


def _faults_text(report: Report, folder: Path) -> str:
    shown = [f"{fault.dataset}, case {fault.case}: {fault.reason}" for fault in report.faults[:20]]
    rest = len(report.faults) - len(shown)
    if rest:
        shown.append(f"and {rest} more")
    return (
        f"{len(report.faults)} cases are broken:\n  "
        + "\n  ".join(shown)
        + f"\nMend them, or leave them out with --skip-bad. The whole list is in {folder / 'report.json'}."
    )
