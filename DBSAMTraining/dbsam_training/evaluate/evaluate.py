"""Models and baselines side by side on data sets, with box prompts made from the true masks."""

from __future__ import annotations

import csv
import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from itertools import repeat
from pathlib import Path
from typing import cast

import numpy as np

from dbsam.geometry.grid import OrientedBox, slice_axes, slice_boxes_xyxy
from dbsam.io.files import atomic_path
from dbsam.preprocess.intensity import IntensityWindow, resolve_intensity
from dbsam.preprocess.volume import Volume
from dbsam_training.data.case import Case, CaseError, Source, Structure, check_names, ignored_voxels
from dbsam_training.data.dataset_info import DatasetInfo
from dbsam_training.evaluate.bootstrap import Row
from dbsam_training.evaluate.calibration import Judgement
from dbsam_training.evaluate.click_curve import ClickCurve
from dbsam_training.evaluate.contact_sheet import KEEPERS, Example, ExampleKeeper
from dbsam_training.evaluate.found import ClickSegmenter, Found, Segmenter
from dbsam_training.evaluate.metrics import score_masks
from dbsam_training.evaluate.prompts import (
    ROI_LOOSENESS_VOXELS,
    BoolArray,
    Click,
    FloatArray,
    next_click,
    paper_boxes,
    roi_box,
    slice_stack,
)
from dbsam_training.evaluate.segmenters import EvaluatedWeights, ModelSegmenter

logger = logging.getLogger(__name__)

PROMPTS = ("paper", "roi", "clicks")
CLICKS_SHOWN = (0, 1, 3, 5)
"""After so many clicks, scores enter the tables."""
MASK_BUDGET_BYTES = 1_000_000_000
"""Objects of a case are taken in groups whose masks fit into this."""


@dataclass(frozen=True)
class PromptKind:
    """A kind of prompt.

    Attributes:
        name: in tables: "paper", "roi", "roi-6" or "clicks".
        shape: of `PROMPTS`.
        looseness: of a 3D box, in voxels.
    """

    name: str
    shape: str
    looseness: int = ROI_LOOSENESS_VOXELS


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
        looseness: voxels between object and 3D box; empty for the usual ones.
        jitter: boxes drawn round each object.
        clicks: most clicks of the prompt "clicks".
    """

    split: str = "val"
    prompts: tuple[str, ...] = ("paper",)
    limit: int | None = None
    axis: str = "auto"
    seed: int = 0
    sheet: str = "datasets"
    sheet_rows: int = 10
    looseness: tuple[int, ...] = ()
    jitter: int = 1
    clicks: int = 10

    @property
    def kinds(self) -> list[PromptKind]:
        """The prompts, "roi" once for each looseness."""
        loose = [PromptKind(f"roi-{looseness}", "roi", looseness) for looseness in self.looseness]
        return [
            kind
            for prompt in self.prompts
            for kind in (loose if prompt == "roi" and loose else [PromptKind(prompt, prompt)])
        ]

    def __post_init__(self) -> None:
        unknown = set(self.prompts) - set(PROMPTS)
        if unknown or not self.prompts:
            raise ValueError(f"Unknown prompts {sorted(unknown)}: use {' or '.join(PROMPTS)}.")
        if self.looseness and "roi" not in self.prompts:
            raise ValueError("A looseness is one of 3D boxes: add the prompt roi.")
        least = min((0, *self.looseness))
        if least < 0 or len(set(self.looseness)) < len(self.looseness):
            raise ValueError(f"Give different loosenesses of 0 or more voxels, not {list(self.looseness)}.")
        if self.jitter < 1 or self.clicks < 1:
            raise ValueError(f"At least one box and one click are needed, not {self.jitter} and {self.clicks}.")
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
    """What came out: one row per object, box, model and prompt, and all that a report needs."""

    settings: Settings
    models: list[str]
    datasets: dict[str, DatasetInfo] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    judgements: list[Judgement] = field(default_factory=list)
    click_curves: list[ClickCurve] = field(default_factory=list)
    weights: dict[str, EvaluatedWeights] = field(default_factory=dict)

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
    result.weights = {s.name: s.weights for s in segmenters if isinstance(s, ModelSegmenter) and s.weights}
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
        for kind in result.settings.kinds:
            if kind.shape == "clicks":
                rows += _evaluate_clicks(_Objects(dataset.info, case, volume, group, kind, 0, result), segmenters)
                continue
            for draw in range(result.settings.jitter):
                objects = _Objects(dataset.info, case, volume, group, kind, draw, result)
                rows += _evaluate_boxes(objects, segmenters, window if draw == 0 else None)
    return rows


def _evaluate_boxes(
    objects: _Objects, segmenters: Sequence[Segmenter], shown_by: IntensityWindow | None
) -> Iterator[Row]:
    """Scores of all models on some objects; the objects may be shown if `shown_by` says how."""
    found: dict[str, list[Found]] = {}
    scores: dict[str, list[Row]] = {}
    for segmenter in segmenters:
        with objects.watch(segmenter.name):
            found[segmenter.name] = objects.segment(segmenter)
        if segmenter.name in found:
            scores[segmenter.name] = list(map(objects.score, objects.numbers, repeat(segmenter), found[segmenter.name]))
            yield from scores[segmenter.name]
    if shown_by is not None and len(found) == len(segmenters):
        examples = objects.result.examples
        for index in examples.wanted(scores[segmenters[0].name], objects.sizes):
            examples.add(objects.example(index, found, scores, shown_by))


def _evaluate_clicks(objects: _Objects, segmenters: Sequence[Segmenter]) -> Iterator[Row]:
    """Scores after some numbers of clicks; of what takes none, by the box alone."""
    for segmenter in segmenters:
        for number in objects.numbers:
            after: list[Row] = []
            with objects.watch(segmenter.name):
                after = [objects.score(number, segmenter, found) for found in objects.segment_clicks(number, segmenter)]
            if not after:
                continue
            if not segmenter.takes_clicks:
                yield replace(after[0], prompt="clicks-0")
                continue
            after += [after[-1]] * (objects.result.settings.clicks + 1 - len(after))
            yield from (replace(after[n], prompt=f"clicks-{n}") for n in CLICKS_SHOWN if n < len(after))
            first = after[0]
            objects.result.click_curves.append(
                ClickCurve(
                    first.dataset,
                    first.case,
                    first.structure,
                    first.model,
                    tuple(row.dsc for row in after),
                    tuple(row.nsd for row in after),
                )
            )


class _Objects:
    """Some objects of a case with their prompts."""

    def __init__(
        self,
        info: DatasetInfo,
        case: Case,
        volume: Volume,
        structures: Sequence[Structure],
        kind: PromptKind,
        draw: int,
        result: Evaluation,
    ) -> None:
        self._info, self._case, self._volume, self._structures = info, case, volume, structures
        self._kind, self._draw, self.result = kind, draw, result
        self._axis = case.geometry.axis_index(result.settings.axis)
        self.numbers = range(len(structures))
        self._slice_boxes: list[dict[int, FloatArray]] = []
        self._rois: list[OrientedBox] = []
        for structure in structures:
            name = f"{result.settings.seed}/{info.name}/{case.name}/{structure.name}"
            again = f"{name}/{draw}" if draw else ""
            if kind.shape == "paper":
                self._slice_boxes.append(paper_boxes(structure.mask_KJI, self._axis, again or name))
            else:
                self._rois.append(roi_box(structure.mask_KJI, case.geometry, self._axis, kind.looseness, again))

    @property
    def sizes(self) -> list[int]:
        """Voxels of the objects."""
        return [int(np.count_nonzero(structure.mask_KJI)) for structure in self._structures]

    @contextmanager
    def watch(self, model: str) -> Iterator[None]:
        """Take the time of a model; a case that it refuses is noted."""
        started = time.monotonic()
        try:
            yield
        except ValueError as error:
            problem = Problem(self._info.name, self._case.name, f"{model}: {error}", skipped=True)
            self.result.problems.append(problem)
        else:
            self.result.seconds[model] += time.monotonic() - started

    def segment(self, segmenter: Segmenter) -> list[Found]:
        if self._kind.shape == "paper":
            return segmenter.segment_slices(self._volume, self._axis, self._slice_boxes)
        return segmenter.segment_rois(self._volume, self._axis, self._rois)

    def segment_clicks(self, number: int, segmenter: Segmenter) -> Iterator[Found]:
        """What is found of an object by its box alone, and after each click if the model takes any."""
        roi, truth = self._rois[number], self._structures[number].mask_KJI
        if not segmenter.takes_clicks:
            yield from segmenter.segment_rois(self._volume, self._axis, [roi])
            return
        known = ~self._unknown if self._unknown is not None else np.True_

        def click_on(mask_KJI: BoolArray) -> Click | None:
            return next_click(truth, np.where(known, mask_KJI, truth), self._case.geometry.spacing_mm)

        clicked = cast(ClickSegmenter, segmenter)
        yield from clicked.segment_clicks(self._volume, self._axis, roi, click_on, self.result.settings.clicks)

    @cached_property
    def _unknown(self) -> BoolArray | None:
        return ignored_voxels(self._info, self._case)

    def score(self, number: int, segmenter: Segmenter, found: Found) -> Row:
        """The scores of an object; what the model thought of its slices goes to the result's judgements."""
        structure, mask = self._structures[number], found.mask_KJI
        if self._unknown is not None:
            mask = mask & ~self._unknown
        scores = score_masks(structure.mask_KJI, mask, self._case.spacing_ijk_mm)
        truths, masks = slice_stack(structure.mask_KJI, self._axis), slice_stack(mask, self._axis)
        if self._kind.shape != "clicks":  # a clicked mask is another question than the one that is asked by a box
            name, case, model = self._info.name, self._case.name, segmenter.name
            self.result.judgements += [
                Judgement(name, case, model, predicted, _iou(truths[index], masks[index]))
                for index, predicted in found.predicted_iou.items()
            ]
        return Row(
            dataset=self._info.name,
            case=self._case.name,
            structure=structure.name,
            modality=self._info.modality,
            dimension=self._case.dimension,
            model=segmenter.name,
            prompt=self._kind.name,
            dsc=scores.dsc,
            nsd=scores.nsd,
            draw=self._draw,
            warned=found.warned,
        )

    def example(
        self,
        which: int,
        found: Mapping[str, Sequence[Found]],
        scores: Mapping[str, Sequence[Row]],
        window: IntensityWindow,
    ) -> Example:
        """The largest slice of one of the objects, as the models see it."""
        structure = self._structures[which]
        truth = slice_stack(structure.mask_KJI, self._axis)
        index = int(np.argmax(np.count_nonzero(truth, axis=(1, 2))))
        if self._kind.shape == "paper":
            box = self._slice_boxes[which][index]
        else:
            box = slice_boxes_xyxy(self._rois[which], self._case.geometry, self._axis)[index]
        x_axis, y_axis = slice_axes(self._axis)
        spacing = self._case.geometry.spacing_mm
        shown = {model: slice_stack(of[which].mask_KJI, self._axis)[index].copy() for model, of in found.items()}
        return Example(
            dataset=self._info.name,
            case=self._case.name,
            structure=structure.name,
            modality=self._info.modality,
            prompt=self._kind.name,
            image=window.apply(slice_stack(self._volume.voxels, self._axis)[index]),
            box_xyxy=box,
            truth=truth[index].copy(),
            masks=shown,
            dsc={model: rows[which].dsc for model, rows in scores.items()},
            spacing_xy=(spacing[x_axis], spacing[y_axis]),
        )


def _iou(truth: BoolArray, mask: BoolArray) -> float:
    return int(np.count_nonzero(truth & mask)) / max(1, int(np.count_nonzero(truth | mask)))


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
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [column.name for column in fields(Row)])
        writer.writeheader()

        def write(rows: Sequence[Row]) -> None:
            writer.writerows(asdict(row) for row in rows)
            file.flush()

        yield write
