"""Models and baselines side by side on data sets, with box prompts made from the true masks."""

from __future__ import annotations

import csv
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Protocol

import numpy as np

from dbsam.geometry.grid import OrientedBox, slice_axes, slice_boxes_xyxy
from dbsam.preprocess.intensity import IntensityWindow, resolve_intensity
from dbsam.preprocess.volume import Volume
from dbsam_training.data.case import Case, CaseError, Source, Structure, check_names, ignored_voxels
from dbsam_training.data.dataset_info import DatasetInfo
from dbsam_training.evaluate.bootstrap import Row
from dbsam_training.evaluate.examples import KEEPERS, Example, ExampleKeeper
from dbsam_training.evaluate.metrics import score_masks
from dbsam_training.evaluate.prompts import BoolArray, FloatArray, paper_boxes, roi_box, slice_stack

logger = logging.getLogger(__name__)

PROMPTS = ("paper", "roi")
MASK_BUDGET_BYTES = 1_000_000_000
"""Objects of a case are taken in groups whose masks fit into this."""


class Segmenter(Protocol):
    """A model or baseline under evaluation; masks come back as one (K,J,I) array per object."""

    name: str

    def segment_slices(self, volume: Volume, axis: int, prompts: Sequence[Mapping[int, FloatArray]]) -> list[BoolArray]:
        """Segments objects prompted by one box (x_min, y_min, x_max, y_max) per slice."""

    def segment_rois(self, volume: Volume, axis: int, boxes: Sequence[OrientedBox]) -> list[BoolArray]:
        """Segments objects prompted by one 3D box each."""


@dataclass(frozen=True)
class Settings:
    """What is evaluated.

    Attributes:
        split: "train", "val", "test" or "all".
        prompts: of `PROMPTS`.
        limit: most cases per data set; None takes all.
        axis: slice axis, by any name that `ImageGeometry.axis_index` knows.
        seed: of the loose boxes.
        sheet: of `KEEPERS`: what the picture sheets show.
        sheet_rows: most rows of a sheet.
    """

    split: str = "val"
    prompts: tuple[str, ...] = ("paper",)
    limit: int | None = None
    axis: str = "auto"
    seed: int = 0
    sheet: str = "datasets"
    sheet_rows: int = 10

    def __post_init__(self) -> None:
        unknown = set(self.prompts) - set(PROMPTS)
        if unknown or not self.prompts:
            raise ValueError(f"Unknown prompts {sorted(unknown)}: use {' or '.join(PROMPTS)}.")
        if self.sheet not in KEEPERS:
            raise ValueError(f"Unknown sheet {self.sheet!r}: use {' or '.join(KEEPERS)}.")


@dataclass(frozen=True)
class Problem:
    """Something wrong with a case; `skipped` if it yielded no scores, for one model or for all."""

    dataset: str
    case: str
    reason: str
    skipped: bool


@dataclass
class Evaluation:
    """What came out: one row per object, model and prompt, and all that a report needs."""

    settings: Settings
    models: list[str]
    datasets: dict[str, DatasetInfo] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.examples: ExampleKeeper = KEEPERS[self.settings.sheet](self.settings.sheet_rows)


def evaluate(
    datasets: Sequence[Source], segmenters: Sequence[Segmenter], settings: Settings, rows_path: Path | None = None
) -> Evaluation:
    """Evaluates models on data sets.

    A case that can't be read, or that a model refuses, is named in the result's `problems`; the others go on.

    Args:
        datasets: where the cases come from.
        segmenters: with different names.
        settings: split, prompts and limits.
        rows_path: CSV file that grows with every case.

    Raises:
        ValueError: two models or two data sets share a name, or a data set has no such split.
    """
    names = [segmenter.name for segmenter in segmenters]
    if len(set(names)) != len(names):
        raise ValueError(f"Models must have different names, not {names}.")
    check_names(datasets)
    result = Evaluation(settings, names, seconds=dict.fromkeys(names, 0.0))
    splits = [(dataset, dataset.list_cases(settings.split)[: settings.limit]) for dataset in datasets]
    with _row_writer(rows_path) as writer:
        for dataset, cases in splits:
            started, before = time.monotonic(), len(result.rows)
            result.datasets[dataset.info.name] = dataset.info
            if not cases:
                logger.warning(
                    "%s has no case in the split %s: --split all takes every case.", dataset.info.name, settings.split
                )
            for case_name in cases:
                new_rows = _evaluate_case(dataset, case_name, segmenters, result)
                result.rows.extend(new_rows)
                writer(new_rows)
            logger.info(
                "%s: %d cases, %d scores, %.1f s",
                dataset.info.name,
                len(cases),
                len(result.rows) - before,
                time.monotonic() - started,
            )
    return result


def _evaluate_case(dataset: Source, case_name: str, segmenters: Sequence[Segmenter], result: Evaluation) -> list[Row]:
    name = dataset.info.name
    try:
        case = dataset.read_case(case_name)
    except CaseError as error:
        result.problems.append(Problem(name, case_name, error.reason, skipped=True))
        return []
    result.problems.extend(Problem(name, case_name, reason, skipped=False) for reason in case.problems)
    volume = Volume(case.voxels_KJI, case.geometry)
    try:
        window = resolve_intensity("auto", volume.voxels)
    except ValueError as error:  # a blank image
        result.problems.append(Problem(name, case_name, str(error), skipped=True))
        return []
    rows: list[Row] = []
    for group in _groups(dataset.structures(case), case.labels_KJI.size):
        for prompt in result.settings.prompts:
            run = _PromptedGroup(dataset.info, case, volume, group, prompt, result.settings)
            masks: dict[str, list[BoolArray]] = {}
            scores: dict[str, list[Row]] = {}
            for segmenter in segmenters:
                started = time.monotonic()
                try:
                    masks[segmenter.name] = run.segment(segmenter)
                except ValueError as error:
                    result.problems.append(Problem(name, case_name, f"{segmenter.name}: {error}", skipped=True))
                    continue
                result.seconds[segmenter.name] += time.monotonic() - started
                scores[segmenter.name] = list(run.score(segmenter.name, masks[segmenter.name]))
                rows.extend(scores[segmenter.name])
            if len(masks) == len(segmenters):
                sizes = [int(np.count_nonzero(structure.mask_KJI)) for structure in group]
                for index in result.examples.wanted(scores[segmenters[0].name], sizes):
                    result.examples.add(run.example(index, masks, scores, window))
    return rows


class _PromptedGroup:
    """Some objects of a case with their prompts."""

    def __init__(
        self,
        info: DatasetInfo,
        case: Case,
        volume: Volume,
        structures: Sequence[Structure],
        prompt: str,
        settings: Settings,
    ) -> None:
        self._info, self._case, self._volume, self._structures, self._prompt = info, case, volume, structures, prompt
        self._axis = case.geometry.axis_index(settings.axis)
        self._slice_boxes: list[dict[int, FloatArray]] = []
        self._rois: list[OrientedBox] = []
        for structure in structures:
            if prompt == "paper":
                seed_name = f"{settings.seed}/{info.name}/{case.name}/{structure.name}"
                self._slice_boxes.append(paper_boxes(structure.mask_KJI, self._axis, seed_name))
            else:
                self._rois.append(roi_box(structure.mask_KJI, case.geometry, self._axis))

    def segment(self, segmenter: Segmenter) -> list[BoolArray]:
        if self._prompt == "paper":
            return segmenter.segment_slices(self._volume, self._axis, self._slice_boxes)
        return segmenter.segment_rois(self._volume, self._axis, self._rois)

    def score(self, model: str, masks: Sequence[BoolArray]) -> Iterator[Row]:
        ignored = ignored_voxels(self._info, self._case)
        for structure, mask in zip(self._structures, masks, strict=True):
            found = mask if ignored is None else mask & ~ignored
            scores = score_masks(structure.mask_KJI, found, self._case.spacing_ijk_mm)
            yield Row(
                dataset=self._info.name,
                case=self._case.name,
                structure=structure.name,
                modality=self._info.modality,
                dimension=self._case.dimension,
                model=model,
                prompt=self._prompt,
                dsc=scores.dsc,
                nsd=scores.nsd,
            )

    def example(
        self,
        which: int,
        masks: Mapping[str, Sequence[BoolArray]],
        scores: Mapping[str, Sequence[Row]],
        window: IntensityWindow,
    ) -> Example:
        """The largest slice of one of the group's objects, as the models see it."""
        structure = self._structures[which]
        truth = slice_stack(structure.mask_KJI, self._axis)
        index = int(np.argmax(np.count_nonzero(truth, axis=(1, 2))))
        if self._prompt == "paper":
            box = self._slice_boxes[which][index]
        else:
            box = slice_boxes_xyxy(self._rois[which], self._case.geometry, self._axis)[index]
        x_axis, y_axis = slice_axes(self._axis)
        spacing = self._case.geometry.spacing_mm
        return Example(
            dataset=self._info.name,
            case=self._case.name,
            structure=structure.name,
            modality=self._info.modality,
            prompt=self._prompt,
            image=window.apply(slice_stack(self._volume.voxels, self._axis)[index]),
            box_xyxy=box,
            truth=truth[index].copy(),
            masks={model: slice_stack(found[which], self._axis)[index].copy() for model, found in masks.items()},
            dsc={model: rows[which].dsc for model, rows in scores.items()},
            spacing_xy=(spacing[x_axis], spacing[y_axis]),
        )


def _groups(structures: Iterable[Structure], voxels: int) -> Iterator[list[Structure]]:
    """Structures in groups whose true and found masks fit into the budget."""
    size = max(1, MASK_BUDGET_BYTES // (2 * voxels))
    iterator = iter(structures)
    while group := list(itertools.islice(iterator, size)):
        yield group


@contextmanager
def _row_writer(path: Path | None) -> Iterator[Callable[[Sequence[Row]], None]]:
    """Gives a function that appends rows to a CSV file, or does nothing without a path."""
    if path is None:
        yield lambda rows: None
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(Row)])
        writer.writeheader()

        def write(rows: Sequence[Row]) -> None:
            writer.writerows(asdict(row) for row in rows)
            file.flush()

        yield write
