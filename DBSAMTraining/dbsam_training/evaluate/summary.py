"""An evaluation condensed to means, intervals and tests: what summary.json holds and the report prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from dbsam_training.data.dataset_info import DatasetInfo
from dbsam_training.data.nnunet import class_of
from dbsam_training.evaluate.bootstrap import Comparison, Mean, Row, compare_models, group_by, mean_over_datasets
from dbsam_training.evaluate.evaluate import Evaluation

METRICS = ("dsc", "nsd")


@dataclass(frozen=True)
class Group:
    """Data sets whose mean is reported together."""

    name: str
    title: str
    includes: Callable[[DatasetInfo, Row], bool]


def _counts(info: DatasetInfo, row: Row) -> bool:
    return not info.ill_posed_for_one_box and info.mask_origin != "model"


GROUPS = (
    Group("all", "All well-posed", _counts),
    Group("3d", "3D, well-posed", lambda info, row: _counts(info, row) and row.dimension == 3),
    Group("2d", "2D, well-posed", lambda info, row: _counts(info, row) and row.dimension == 2),
    Group("ill-posed", "Ill-posed for one box", lambda info, row: info.ill_posed_for_one_box),
    Group("model-masks", "Masks made by a model", lambda info, row: info.mask_origin == "model"),
)


@dataclass(frozen=True)
class GroupMeans:
    """Means of one model over one group of data sets."""

    prompt: str
    model: str
    group: str
    dsc: Mean
    nsd: Mean


@dataclass(frozen=True)
class TaskScore:
    """Plain means of one model over the objects of a data set, or of one structure of it."""

    prompt: str
    dataset: str
    structure: str | None
    modality: str
    dimension: int
    model: str
    dsc: float
    nsd: float
    cases: int
    objects: int


@dataclass(frozen=True)
class Summary:
    """All figures of an evaluation beyond its rows."""

    means: list[GroupMeans]
    datasets: list[TaskScore]
    structures: list[TaskScore]
    comparisons: dict[str, list[Comparison]]


def summarise(evaluation: Evaluation) -> Summary:
    """Computes means over groups of data sets, per data set and per structure, and compares the models.

    The comparisons, by prompt, take the well-posed data sets.
    """
    infos = evaluation.datasets
    means, comparisons = [], {}
    for prompt, rows in group_by(evaluation.rows, lambda row: row.prompt).items():
        for group in GROUPS:
            chosen = [row for row in rows if group.includes(infos[row.dataset], row)]
            for model, of_model in group_by(chosen, lambda row: row.model).items():
                dsc, nsd = (mean_over_datasets(of_model, metric) for metric in METRICS)
                means.append(GroupMeans(prompt, model, group.name, dsc, nsd))
        well_posed = [row for row in rows if GROUPS[0].includes(infos[row.dataset], row)]
        comparisons[prompt] = [entry for metric in METRICS for entry in compare_models(well_posed, metric)]

    def structure_of(row: Row) -> str:
        return class_of(row.structure) if infos[row.dataset].instances else row.structure

    by_dataset = group_by(evaluation.rows, lambda row: (row.prompt, row.dataset, None, row.model))
    by_structure = group_by(evaluation.rows, lambda row: (row.prompt, row.dataset, structure_of(row), row.model))
    return Summary(
        means,
        [_task_score(key[2], rows) for key, rows in by_dataset.items()],
        [_task_score(key[2], rows) for key, rows in by_structure.items()],
        comparisons,
    )


def summary_as_json(evaluation: Evaluation, summary: Summary) -> dict[str, object]:
    """The content of summary.json: everything in `summary`, with settings, data sets and problems. Scores are 0..1."""
    counted = {
        name: {
            "modality": info.modality,
            "licence": info.licence,
            "reference": info.reference,
            "mask_origin": info.mask_origin,
            "spacing": info.spacing,
            "instances": info.instances,
            "ill_posed_for_one_box": info.ill_posed_for_one_box,
        }
        for name, info in evaluation.datasets.items()
    }
    return {
        "settings": asdict(evaluation.settings),
        "models": evaluation.models,
        "means": [asdict(entry) for entry in summary.means],
        "comparisons": {
            prompt: [asdict(entry) for entry in entries] for prompt, entries in summary.comparisons.items()
        },
        "datasets": [asdict(entry) for entry in summary.datasets],
        "structures": [asdict(entry) for entry in summary.structures],
        "data": counted,
        "problems": [asdict(entry) for entry in evaluation.problems],
        "seconds": evaluation.seconds,
    }


def _task_score(structure: str | None, rows: Sequence[Row]) -> TaskScore:
    first = rows[0]
    return TaskScore(
        prompt=first.prompt,
        dataset=first.dataset,
        structure=structure,
        modality=first.modality,
        dimension=first.dimension,
        model=first.model,
        dsc=float(np.mean([row.dsc for row in rows])),
        nsd=float(np.mean([row.nsd for row in rows])),
        cases=len({row.case for row in rows}),
        objects=len(rows),
    )
