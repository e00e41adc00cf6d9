"""Turns data sets into a training store: bounded memory, resumable, the same bytes every time.

A store is made of shards, a piece of one data set's split each, written by one process each. A shard that is finished
is not made again; shards whose options or cases changed are. Broken cases are named in `report.json`, and left out only
if that was asked for.
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
from dbsam_training.data.json_files import read_json, write_json
from dbsam_training.data.licences import is_open
from dbsam_training.data.tasks import TaskRegistry
from dbsam_training.recipe import DataOptions
from dbsam_training.store.format import (
    FORMAT_VERSION,
    SHARD_FILE,
    SHARDS,
    Sample,
    StoreError,
    TrainingStore,
    read_store_facts,
)
from dbsam_training.store.inputs import FOLDER as INPUTS
from dbsam_training.store.inputs import Inputs, describe, have_changed, record_of
from dbsam_training.store.locks import sole_use
from dbsam_training.store.objects import PatchOptions, cut_objects
from dbsam_training.store.prepare_report import BrokenDataError, Fault, Report, faults_text, note_unlabelled
from dbsam_training.store.slices import cut_slices
from dbsam_training.store.superpixels import DATASET_NAME as SUPERPIXELS
from dbsam_training.store.superpixels import cut_superpixels
from dbsam_training.store.writer import ShardWriter

if TYPE_CHECKING:
    from dbsam.cli.cluster import Workers

logger = logging.getLogger(__name__)

CASES_PER_SHARD = {2: 4096, 3: 64}
"""By dimension, for protocol "slices": what an interrupted run has to do again at most."""


@dataclass(frozen=True)
class _Shard:
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
        progress: Called after each shard.
        workers: Processes that make the shards instead of this one; they see the same files.

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
    shards = [shard for source in kept for shard in _shards(source, options, tasks, skip_bad)]
    for name in (SHARDS, INPUTS):
        (folder / name).mkdir(exist_ok=True)
    (folder / "store.json").unlink(missing_ok=True)  # while shards change, the folder is no finished store
    for leftover in (folder / SHARDS).glob(".*.tmp"):
        shutil.rmtree(leftover)
    make = partial(_make, folder)
    ended = workers.run(make, shards) if workers else ((shard, partial(make, shard)) for shard in shards)
    made: dict[str, tuple[int, list[Fault]]] = {}
    with closing(ended):
        for shard, finish in ended:
            samples, faults, inputs = finish()
            made[shard.name] = samples, faults
            if inputs is not None:
                write_json(record_of(folder, shard.name), inputs)
            if progress:
                progress(Progress(len(made), len(shards), shard.source.info.name, None))
    for shard in shards:
        samples, faults = made[shard.name]
        report.faults += faults
        if shard.kind != SUPERPIXELS:
            counts = report.samples.setdefault(shard.source.info.name, {})
            counts[shard.split] = counts.get(shard.split, 0) + samples
    report.faults = list(dict.fromkeys(report.faults))
    for source in kept:
        note_unlabelled(source, report)
    write_json(folder / "report.json", asdict(report))
    if report.faults and not skip_bad:
        raise BrokenDataError(faults_text(report, folder))
    if not shards:
        raise BrokenDataError(f"No data set is left: {report.left_out}")
    _finish(folder, shards, options)
    return report


def would_change(
    sources: Sequence[Source], folder: Path, options: DataOptions, tasks: TaskRegistry | None
) -> list[str]:
    """Names of the shards of a finished store that `prepare` would make anew, add or drop."""
    kept = [source for source in sources if _wanted(source, options, Report())]
    shards = {shard.name: shard for source in kept for shard in _shards(source, options, tasks, False)}
    stored = set(read_store_facts(folder)[SHARDS])
    kept_names = shards.keys() & stored
    changed = {name for name in kept_names if _shard_facts(folder, shards[name], unknown_inputs=False) is None}
    return sorted(changed | (shards.keys() ^ stored))


def _wanted(source: Source, options: DataOptions, report: Report) -> bool:
    name, licence = source.info.name, source.info.licence
    if options.licence == "open" and not is_open(licence):
        report.left_out[name] = f"its licence is {licence!r}, which is not in the list of open ones"
        logger.info("%s is left out: %s", name, report.left_out[name])
        return False
    return True


def _shards(source: Source, options: DataOptions, tasks: TaskRegistry | None, skip_bad: bool) -> Iterator[_Shard]:
    info = source.info
    intensity = (tasks.intensity_for(info) if tasks else None) or options.intensity
    for split in ("train", "val"):
        if split == "val" and info.mask_origin == "model":
            continue  # masks that a model made measure nothing
        cases = tuple(source.list_cases(split))
        if not cases:
            continue
        if options.protocol == "objects":
            yield _Shard(f"{info.name}.{split}", source, split, cases, "objects", intensity, skip_bad, options)
            if split == "train" and max(options.superpixel_slices) > 0:
                name = f"{info.name}.{SUPERPIXELS}"
                yield _Shard(name, source, split, cases, SUPERPIXELS, intensity, skip_bad, options)
            continue
        size = CASES_PER_SHARD[info.dimension or 3]
        for start in range(0, len(cases), size):
            name = f"{info.name}.{split}.{start // size:04d}"
            piece = cases[start : start + size]
            yield _Shard(name, source, split, piece, "slices", intensity, skip_bad, options)


def _shard_facts(folder: Path, shard: _Shard, unknown_inputs: bool = True) -> dict[str, Any] | None:
    """Content of the part.json of a shard that exists as it would be written from the data as they are now."""
    path = folder / SHARDS / shard.name / SHARD_FILE
    if not path.is_file():
        return None
    facts: dict[str, Any] = read_json(path, StoreError, f"Remove {path.parent} and prepare again.")
    record = record_of(folder, shard.name)
    if facts["work"] != _work_key(shard) or have_changed(record, shard.source, shard.cases, unknown_inputs):
        return None
    return facts


def _make(folder: Path, shard: _Shard) -> tuple[int, list[Fault], Inputs | None]:
    """Write a shard unless it exists as it would be written.

    Returns:
        Its number of samples, its broken cases, and what its cases' files were, None for a shard that was there.
    """
    facts = _shard_facts(folder, shard)
    if facts is not None and (shard.skip_bad or not facts["faults"]):
        return int(facts["counts"]["samples"]), [Fault(*fault) for fault in facts["faults"]], None
    record_of(folder, shard.name).unlink(missing_ok=True)
    shutil.rmtree(folder / SHARDS / shard.name, ignore_errors=True)
    inputs = describe(shard.source, shard.cases)
    faults: dict[str, str] = {}
    sound: set[str] = set()

    def read(name: str) -> Case | None:
        if name in faults:
            return None
        try:
            case = shard.source.read_case(name)
        except CaseError as error:
            faults[name] = error.reason
            return None
        if name not in sound:
            found = case_faults(shard.source.info, case)
            try:
                resolve_intensity(shard.intensity, case.voxels_KJI)
            except ValueError as error:  # a blank image, or one that the rule does not fit
                found.append(str(error))
            if found:
                faults[name] = "; ".join(found)
                return None
            sound.add(name)
        return case

    info = shard.source.info
    dataset = SUPERPIXELS if shard.kind == SUPERPIXELS else info.name
    writer = ShardWriter(folder, shard.name, {"dataset": dataset, "split": shard.split, "work": _work_key(shard)})
    try:
        for sample in _samples(shard, read):
            writer.add(sample)
    except BaseException:
        writer.discard()
        raise
    found = [Fault(info.name, case, reason) for case, reason in sorted(faults.items())]
    # Of superpixels, the annotated part of the same cases reports them.
    reported = [] if shard.kind == SUPERPIXELS else found
    for fault in found:
        logger.debug("%s, %s: %s", fault.dataset, fault.case, fault.reason)
    if found and not shard.skip_bad:
        writer.discard()
        return 0, reported, None
    return writer.close({"faults": [(f.dataset, f.case, f.reason) for f in reported]}), reported, inputs


def _samples(shard: _Shard, read: Callable[[str], Case | None]) -> Iterator[Sample]:
    data, info = shard.options, shard.source.info
    seed = zlib.crc32(info.name.encode())  # the choice in one data set does not depend on the others
    if shard.kind == "slices":
        for name in shard.cases:
            case = read(name)
            if case is not None:
                yield from cut_slices(info, case, shard.intensity)
        return
    most = data.train_per_dataset if shard.split == "train" else data.val_per_dataset
    options = PatchOptions(most, shard.intensity, neighbours=data.neighbours, slice_views=data.slice_views, seed=seed)
    if shard.kind == "objects":
        yield from cut_objects(shard.source, shard.cases, read, options)
    else:
        slices = data.superpixel_slices[0 if info.dimension == 2 else 1]
        yield from cut_superpixels(shard.cases, read, slices, data.superpixels_per_slice, options)


def _work_key(shard: _Shard) -> str:
    """Digest of all that decides what a shard holds, so far as it can be known without reading the images."""
    data = asdict(shard.options)
    content = [
        FORMAT_VERSION,
        shard.kind,
        shard.split,
        shard.intensity,
        shard.cases,
        asdict(shard.source.info),
        {
            k: data[k]
            for k in (
                *("train_per_dataset", "val_per_dataset", "superpixel_slices", "superpixels_per_slice"),
                "neighbours",
                *(("slice_views",) if data["slice_views"] else ()),  # stores from before it are not made anew
            )
        },
    ]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=list).encode()).hexdigest()


def _finish(folder: Path, shards: Sequence[_Shard], options: DataOptions) -> None:
    datasets: dict[str, dict[str, Any]] = {}
    for shard in shards:
        info = shard.source.info
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
        if shard.kind != SUPERPIXELS:
            facts["cases"][shard.split] = facts["cases"].get(shard.split, 0) + len(shard.cases)
    content = {
        "format": FORMAT_VERSION,
        "protocol": options.protocol,
        "options": asdict(options),
        "datasets": datasets,
        SHARDS: [shard.name for shard in shards],
    }
    write_json(folder / "store.json", content)
    store = TrainingStore(folder)
    logger.info(
        "%s holds %d training and %d validation samples of %d data sets.",
        folder, len(store.indices("train")), len(store.indices("val")), len(datasets),
    )  # fmt: skip
