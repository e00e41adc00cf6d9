"""Means, bootstrap confidence intervals and paired tests over the rows of an evaluation."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


@dataclass(frozen=True)
class Row:
    """One line of cases.csv: the scores of one object under one model and prompt; DSC and NSD are in 0..1.

    Attributes:
        draw: number of the box, from 0, where several are drawn round each object.
        warned: whether a user would be told that the mask is likely wrong; None where the engine was not asked.
    """

    dataset: str
    case: str
    structure: str
    modality: str
    dimension: int
    model: str
    prompt: str
    dsc: float
    nsd: float
    draw: int = 0
    warned: bool | None = None


def read_rows(path: Path) -> list[Row]:
    """The rows of a cases.csv."""
    with path.open(newline="", encoding="utf-8") as file:
        return [_row(line) for line in csv.DictReader(file)]


def _row(line: dict[str, Any]) -> Row:
    numbers = {name: float(line[name]) for name in ("dsc", "nsd")}
    whole = {name: int(line[name]) for name in ("dimension", "draw")}
    return Row(**line | numbers | whole | {"warned": {"True": True, "False": False}.get(line["warned"])})


@dataclass(frozen=True)
class Mean:
    """A mean over data sets with its 95 % confidence interval."""

    value: float
    low: float
    high: float
    datasets: int
    cases: int
    objects: int


@dataclass(frozen=True)
class Comparison:
    """Difference between two models on the same cases.

    Attributes:
        difference: mean over data sets of `model` minus that of `other`.
        low, high: 95 % bootstrap interval of the difference.
        cases: pairs in the test.
        p_value: Wilcoxon's signed-rank test over the cases' mean scores, two-sided.
        p_adjusted: the same after Holm's correction for the number of pairs of models.
    """

    model: str
    other: str
    metric: str
    difference: float
    low: float
    high: float
    cases: int
    p_value: float
    p_adjusted: float


def group_by(items: Sequence[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Items by the value of a key, in order of first appearance."""
    groups: dict[Key, list[Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def mean_over_datasets(rows: Sequence[Row], metric: str) -> Mean:
    """Mean over data sets of each data set's mean over its objects, with a bootstrap interval.

    The bootstrap resamples the cases within each data set, because the objects of one image are not independent. It
    says how far the figure depends on the cases at hand, not on the choice of data sets.

    Args:
        rows: of one model and prompt, at least one.
        metric: "dsc" or "nsd".
    """
    scores = [(row.dataset, row.case, float(getattr(row, metric))) for row in rows]
    value, low, high = _clustered_mean(scores)
    cases = len({(dataset, case) for dataset, case, _ in scores})
    objects = len({(row.dataset, row.case, row.structure) for row in rows})
    return Mean(value, low, high, len({row.dataset for row in rows}), cases, objects)


def compare_models(rows: Sequence[Row], metric: str) -> list[Comparison]:
    """Compares every pair of models on the objects that both have scores for.

    Args:
        rows: of one prompt.
        metric: "dsc" or "nsd".

    Returns:
        One comparison per pair with common objects, `model` being the one that comes later in `rows`.
    """
    by_model = {
        model: {(row.dataset, row.case, row.structure, row.draw): float(getattr(row, metric)) for row in group}
        for model, group in group_by(rows, lambda row: row.model).items()
    }
    comparisons = []
    for other, model in itertools.combinations(by_model, 2):
        common = [key for key in by_model[model] if key in by_model[other]]
        if not common:
            continue
        differences = [(key[0], key[1], by_model[model][key] - by_model[other][key]) for key in common]
        value, low, high = _clustered_mean(differences)
        per_case = _case_means(differences)
        p_value = float(stats.wilcoxon(per_case).pvalue) if np.any(per_case) else 1.0
        comparisons.append(Comparison(model, other, metric, value, low, high, len(per_case), p_value, p_value))
    return _with_holm_correction(comparisons)


def _case_means(scores: Sequence[tuple[str, str, float]]) -> NDArray[np.float64]:
    per_case: dict[tuple[str, str], list[float]] = {}
    for dataset, case, score in scores:
        per_case.setdefault((dataset, case), []).append(score)
    return np.array([np.mean(values) for values in per_case.values()])


def _clustered_mean(scores: Sequence[tuple[str, str, float]]) -> tuple[float, float, float]:
    """Mean over data sets of (data set, case, score) and its bootstrap interval."""
    datasets: dict[str, dict[str, list[float]]] = {}
    for dataset, case, score in scores:
        datasets.setdefault(dataset, {}).setdefault(case, []).append(score)
    rng = np.random.default_rng(0)
    means, resampled = [], np.zeros(RESAMPLES)
    for cases in datasets.values():
        sums = np.array([sum(values) for values in cases.values()])
        counts = np.array([len(values) for values in cases.values()])
        means.append(sums.sum() / counts.sum())
        drawn = rng.multinomial(len(cases), np.full(len(cases), 1 / len(cases)), size=RESAMPLES)
        resampled += (drawn @ sums) / (drawn @ counts)
    low, high = np.quantile(resampled / len(datasets), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(np.mean(means)), float(low), float(high)


def _with_holm_correction(comparisons: Sequence[Comparison]) -> list[Comparison]:
    adjusted = dict.fromkeys(range(len(comparisons)), 1.0)
    running = 0.0
    ranked = sorted(range(len(comparisons)), key=lambda n: comparisons[n].p_value)
    for rank, n in enumerate(ranked):
        running = max(running, min(1.0, comparisons[n].p_value * (len(comparisons) - rank)))
        adjusted[n] = running
    return [replace(comparison, p_adjusted=adjusted[n]) for n, comparison in enumerate(comparisons)]
