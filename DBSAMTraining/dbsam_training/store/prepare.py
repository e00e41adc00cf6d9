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
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbsam.preprocess.intensity import resolve_intensity
from dbsam.progress import Progress
from dbsam_training.data.case import Case, CaseError, Source, case_faults, check_names
from dbsam_training.data.licences import is_open
from dbsam_training.data.tasks import TaskRegistry
from dbsam_training.recipe import DataOptions
from dbsam_training.store.format import FORMAT_VERSION, Sample, TrainingStore, read_store_facts, write_json
from dbsam_training.store.locks import sole_use
from dbsam_training.store.objects import PatchOptions, cut_objects
from dbsam_training.store.part_inputs import FOLDER as INPUTS
from dbsam_training.store.part_inputs import Inputs, describe, have_changed, record_of
from dbsam_training.store.prepare_report import BrokenDataError, Fault, Report, faults_text, note_unlabelled
from dbsam_training.store.slices import cut_slices
from dbsam_training.store.superpixels import DATASET_NAME as SUPERPIXELS
from dbsam_training.store.superpixels import cut_superpixels
from dbsam_training.store.writer import PartWriter

if TYPE_CHECKING:
    from dbsam.cli.cluster import Workers

logger = logging.getLogger(__name__)

CASES_PER_PART = {2: 4096, 3: 64}
"""By dimension, for protocol "slices": what an interrupted run has to do again at most."""


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
        SettingError: Two data sets have the same name, or another process writes the store.
    """
    with sole_use(folder):
        return _prepare(sources, folder, options, skip_bad, tasks, progress, workers)


def _prepare(
    sources: Sequence[Source],
    folder: Path,
    options: DataOptions,
    skip_bad: bool,
    tasks: TaskRegistry | None,
    progress: Callable[[Progress], None] | None,
    workers: Workers | None,
) -> Report:
    report = Report()
    kept = [source for source in sources if _wanted(source, options, report)]
    check_names(kept)
    parts = [part for source in kept for part in _parts(source, options, tasks, skip_bad)]
    for name in ("parts", INPUTS):
        (folder / name).mkdir(exist_ok=True)
    (folder / "store.json").unlink(missing_ok=True)  # while parts change, the folder is no finished store
    for leftover in (folder / "parts").glob(".*.tmp"):
        shutil.rmtree(leftover)
    make = partial(_make, folder)
    ended = workers.run(make, parts) if workers else ((part, partial(make, part)) for part in parts)
    made: dict[str, tuple[int, list[Fault]]] = {}
    with closing(ended):
        for part, finish in ended:
            samples, faults, inputs = finish()
            made[part.name] = samples, faults
            if inputs is not None:
                write_json(record_of(folder, part.name), inputs)
            if progress:
                progress(Progress(len(made), len(parts), part.source.info.name, None))
    for part in parts:
        samples, faults = made[part.name]
        report.faults += faults
        if part.kind != SUPERPIXELS:
            counts = report.samples.setdefault(part.source.info.name, {})
            counts[part.split] = counts.get(part.split, 0) + samples
    report.faults = list(dict.fromkeys(report.faults))
    for source in kept:
        note_unlabelled(source, report)
    write_json(folder / "report.json", asdict(report))
    if report.faults and not skip_bad:
        raise BrokenDataError(faults_text(report, folder))
    if not parts:
        raise BrokenDataError(f"No data set is left: {report.left_out}")
    _finish(folder, parts, options)
    return report


def would_change(
    sources: Sequence[Source], folder: Path, options: DataOptions, tasks: TaskRegistry | None
) -> list[str]:
    """Names of the parts of a finished store that `prepare` would make anew, add or drop."""
    kept = [source for source in sources if _wanted(source, options, Report())]
    parts = {part.name: part for source in kept for part in _parts(source, options, tasks, False)}
    stored = set(read_store_facts(folder)["parts"])
    changed = {name for name in parts.keys() & stored if _part_facts(folder, parts[name], unknown_inputs=False) is None}
    return sorted(changed | (parts.keys() ^ stored))


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


def _part_facts(folder: Path, part: _Part, unknown_inputs: bool = True) -> dict[str, Any] | None:
    """Content of the part.json of a part that exists as it would be written from the data as they are now."""
    path = folder / "parts" / part.name / "part.json"
    if not path.is_file():
        return None
    facts: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    record = record_of(folder, part.name)
    if facts["work"] != _work_key(part) or have_changed(record, part.source, part.cases, unknown_inputs):
        return None
    return facts


def _make(folder: Path, part: _Part) -> tuple[int, list[Fault], Inputs | None]:
    """Write a part unless it exists as it would be written.

    Returns:
        Its number of samples, its broken cases, and what its cases' files were, None for a part that was there.
    """
    facts = _part_facts(folder, part)
    if facts is not None and (part.skip_bad or not facts["faults"]):
        return int(facts["counts"]["samples"]), [Fault(*fault) for fault in facts["faults"]], None
    record_of(folder, part.name).unlink(missing_ok=True)
    shutil.rmtree(folder / "parts" / part.name, ignore_errors=True)
    inputs = describe(part.source, part.cases)
    faults: dict[str, str] = {}
    sound: set[str] = set()

    def read(name: str) -> Case | None:
        if name in faults:
            return None
        try:
            case = part.source.read_case(name)
        except CaseError as error:
            faults[name] = error.reason
            return None
        if name not in sound:
            found = case_faults(part.source.info, case)
            try:
                resolve_intensity(part.intensity, case.voxels_KJI)
            except ValueError as error:  # a blank image, or one that the rule does not fit
                found.append(str(error))
            if found:
                faults[name] = "; ".join(found)
                return None
            sound.add(name)
        return case

    info = part.source.info
    dataset = SUPERPIXELS if part.kind == SUPERPIXELS else info.name
    writer = PartWriter(folder, part.name, {"dataset": dataset, "split": part.split, "work": _work_key(part)})
    try:
        for sample in _samples(part, read):
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
        return 0, reported, None
    return writer.close({"faults": [(f.dataset, f.case, f.reason) for f in reported]}), reported, inputs


def _samples(part: _Part, read: Callable[[str], Case | None]) -> Iterator[Sample]:
    data, info = part.options, part.source.info
    seed = zlib.crc32(info.name.encode())  # the choice in one data set does not depend on the others
    if part.kind == "slices":
        for name in part.cases:
            case = read(name)
            if case is not None:
                yield from cut_slices(info, case, part.intensity)
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
