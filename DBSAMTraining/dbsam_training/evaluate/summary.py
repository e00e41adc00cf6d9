"""An evaluation condensed to means, intervals and tests: what summary.json holds and the report prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from dbsam_training.data.dataset_info import DatasetInfo
from dbsam_training.data.nnunet import class_of
from dbsam_training.evaluate.bootstrap import Comparison, Mean, Row, compare_models, group_by, mean_over_datasets
from dbsam_training.evaluate.calibration import CalibrationSummary, summarise_judgements
from dbsam_training.evaluate.click_curve import ClickCurve, ClickSummary, summarise_clicks
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
class Spread:
    """How far a model's masks hang on how the box was drawn, means over data sets of one group.

    Attributes:
        boxes: drawn round each object.
        mean: DSC.
        deviation: standard deviation of the DSC over the boxes of an object.
        worst: DSC of the worst of an object's boxes.
    """

    prompt: str
    model: str
    group: str
    boxes: int
    mean: float
    deviation: float
    worst: float


@dataclass(frozen=True)
class Summary:
    """All figures of an evaluation beyond its rows.

    Attributes:
        means: over groups of data sets.
        datasets: of each data set.
        structures: of each structure of a data set.
        comparisons: pairs of models by prompt.
        spreads: over the boxes drawn round each object, where there are several.
        calibration: by model, of those that judge their masks.
        clicks: by model, of those that take clicks, on the well-posed data sets.
    """

    means: list[GroupMeans]
    datasets: list[TaskScore]
    structures: list[TaskScore]
    comparisons: dict[str, list[Comparison]]
    spreads: list[Spread]
    calibration: dict[str, CalibrationSummary]
    clicks: dict[str, ClickSummary]


def summarise(evaluation: Evaluation) -> Summary:
    """Computes means over groups of data sets, per data set and per structure, and compares the models.

    The comparisons, by prompt, take the well-posed data sets.
    """
    infos = evaluation.datasets
    means, comparisons, spreads = [], {}, []
    for prompt, rows in group_by(evaluation.rows, lambda row: row.prompt).items():
        for group in GROUPS:
            chosen = [row for row in rows if group.includes(infos[row.dataset], row)]
            for model, of_model in group_by(chosen, lambda row: row.model).items():
                dsc, nsd = (mean_over_datasets(of_model, metric) for metric in METRICS)
                means.append(GroupMeans(prompt, model, group.name, dsc, nsd))
                if evaluation.settings.jitter > 1 and not prompt.startswith("clicks"):
                    spreads.append(_spread(prompt, model, group.name, of_model))
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
        spreads,
        {
            model: summarise_judgements(
                of_model,
                [row for row in evaluation.rows if row.model == model],
                fits=model not in evaluation.weights or not evaluation.weights[model].calibrated,
            )
            for model, of_model in group_by(evaluation.judgements, lambda judgement: judgement.model).items()
        },
        {
            model: summarise_clicks(of_model)
            for model, of_model in group_by(_well_posed_curves(evaluation), lambda curve: curve.model).items()
        },
    )


def _well_posed_curves(evaluation: Evaluation) -> list[ClickCurve]:
    infos = evaluation.datasets
    posed = {name for name, i in infos.items() if not i.ill_posed_for_one_box and i.mask_origin != "model"}
    return [curve for curve in evaluation.click_curves if curve.dataset in posed]


def _spread(prompt: str, model: str, group: str, rows: Sequence[Row]) -> Spread:
    figures: dict[str, list[tuple[float, float, float]]] = {}
    boxes = 0
    for (dataset, _, _), of_object in group_by(rows, lambda row: (row.dataset, row.case, row.structure)).items():
        dsc = np.array([row.dsc for row in of_object])
        boxes = max(boxes, len(dsc))
        deviation = float(dsc.std(ddof=1)) if len(dsc) > 1 else 0.0
        figures.setdefault(dataset, []).append((float(dsc.mean()), deviation, float(dsc.min())))
    mean, deviation, worst = np.mean([np.mean(values, axis=0) for values in figures.values()], axis=0).tolist()
    return Spread(prompt, model, group, boxes, mean, deviation, worst)


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
        "weights": {model: weights.sha256 for model, weights in evaluation.weights.items()},
        "means": [asdict(entry) for entry in summary.means],
        "comparisons": {
            prompt: [asdict(entry) for entry in entries] for prompt, entries in summary.comparisons.items()
        },
        "datasets": [asdict(entry) for entry in summary.datasets],
        "structures": [asdict(entry) for entry in summary.structures],
        "spreads": [asdict(entry) for entry in summary.spreads],
        "calibration": {model: asdict(entry) for model, entry in summary.calibration.items()},
        "clicks": {model: asdict(entry) for model, entry in summary.clicks.items()},
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
        objects=len({(row.case, row.structure) for row in rows}),
    )
