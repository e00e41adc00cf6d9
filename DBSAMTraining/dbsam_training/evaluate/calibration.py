"""How well a model knows how good its masks are, and the curve that corrects what it thinks."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from dbsam.inference.calibration import Calibration
from dbsam_training.evaluate.bootstrap import Row
from dbsam_training.figures import new_figure, save_figure

BINS = 10
MOST_POINTS = 20
LEAST_JUDGEMENTS = 40
BAD_DSC, GOOD_DSC = 0.5, 0.8

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Judgement:
    """What a model thought of its mask on one slice, and what it was: IoU, 0..1."""

    dataset: str
    case: str
    model: str
    predicted: float
    measured: float


@dataclass(frozen=True)
class CalibrationSummary:
    """How well one model judges its masks.

    Attributes:
        slices: Judgements it rests on.
        error: Expected calibration error of what the model says.
        error_corrected: The same after a curve that was fitted on the other half of the cases; None where there are too
            few.
        curve: Fitted on all cases, as `Calibration.to_metric` writes it; None where there are too few.
        bad: Objects with a DSC below `BAD_DSC`.
        bad_warned: Share of them that the engine calls likely wrong.
        good: Objects with a DSC above `GOOD_DSC`.
        good_warned: Share of them, which should not be.
    """

    slices: int
    error: float
    error_corrected: float | None
    curve: dict[str, list[float]] | None
    bad: int
    bad_warned: float | None
    good: int
    good_warned: float | None


def summarise_judgements(judgements: Sequence[Judgement], rows: Sequence[Row], fits: bool = True) -> CalibrationSummary:
    """Judge one model.

    Args:
        judgements: Of its slices, at least one.
        rows: Of its objects.
        fits: Whether a curve is fitted; not on estimates that one has corrected already.
    """
    predicted, measured, weights = _columns(judgements)
    corrected = curve = None
    if fits and len(judgements) >= LEAST_JUDGEMENTS and (fitted := fit_calibration(judgements)):
        curve = fitted.to_metric()
        corrected = _cross_fitted_error(judgements)
    warned = [(row.dsc, row.warned) for row in rows if row.warned is not None]
    bad, good = ([w for dsc, w in warned if dsc < BAD_DSC], [w for dsc, w in warned if dsc > GOOD_DSC])
    return CalibrationSummary(
        len(judgements),
        calibration_error(predicted, measured, weights),
        corrected,
        curve,
        len(bad),
        float(np.mean(bad)) if bad else None,
        len(good),
        float(np.mean(good)) if good else None,
    )


def calibration_error(predicted: FloatArray, measured: FloatArray, weights: FloatArray) -> float:
    """Expected calibration error: the mean distance of predicted and measured IoU over bins of predicted IoU.

    Args:
        predicted: (N,).
        measured: (N,).
        weights: (N,), which count in place of the slices' number.
    """
    places = np.clip((predicted * BINS).astype(int), 0, BINS - 1)
    apart = np.bincount(places, weights * (predicted - measured), BINS)
    return float(np.abs(apart).sum() / weights.sum())


def fit_calibration(judgements: Sequence[Judgement]) -> Calibration | None:
    """The rising curve of mean measured IoU over predicted IoU; each data set weighs the same.

    Returns:
        None where the model says nearly the same of all masks.
    """
    predicted, measured, weights = _columns(judgements)
    order = np.argsort(predicted, kind="stable")
    shares = np.cumsum(weights[order]) / weights.sum()
    group = np.minimum((shares * MOST_POINTS).astype(int), MOST_POINTS - 1)
    _, group = np.unique(group, return_inverse=True)
    mass = np.bincount(group, weights[order])
    x = np.bincount(group, (weights * predicted)[order]) / mass
    y = np.bincount(group, (weights * measured)[order]) / mass
    y = np.clip(isotonic_regression(y, weights=mass).x, 0, 1)
    kept = np.concatenate([[True], np.diff(x) > 1e-6])
    if kept.sum() < 2:
        return None
    return Calibration(tuple(np.round(x[kept], 6).tolist()), tuple(np.round(y[kept], 6).tolist()))


def write_reliability(path: Path, judgements: Mapping[str, Sequence[Judgement]]) -> None:
    """Draw measured over predicted IoU of each model, with the curve that corrects it."""
    figure = new_figure(4.2 * len(judgements), 4)
    grid = figure.subplots(1, len(judgements), squeeze=False)[0]
    for axes, (model, of_model) in zip(grid, judgements.items(), strict=True):
        predicted, measured, weights = _columns(of_model)
        places = np.clip((predicted * BINS).astype(int), 0, BINS - 1)
        mass = np.bincount(places, weights, BINS)
        there = mass > 0
        x = np.bincount(places, weights * predicted, BINS)[there] / mass[there]
        y = np.bincount(places, weights * measured, BINS)[there] / mass[there]
        axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
        axes.scatter(x, y, 200 * mass[there] / mass.max(), color="tab:blue", label="slices, by bin")
        if len(of_model) >= LEAST_JUDGEMENTS and (curve := fit_calibration(of_model)):
            axes.plot(curve.predicted, curve.measured, color="tab:orange", label="fitted curve")
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="predicted IoU", title=model)
        axes.set_ylabel("measured IoU")
        axes.legend(fontsize=8, loc="upper left")
    save_figure(figure, path)


def _cross_fitted_error(judgements: Sequence[Judgement]) -> float | None:
    """Each half of the cases corrected by the curve of the other."""
    halves: tuple[list[Judgement], list[Judgement]] = ([], [])
    for judgement in judgements:
        name = f"{judgement.dataset}/{judgement.case}".encode()
        halves[hashlib.sha256(name).digest()[0] % 2].append(judgement)
    curves = [fit_calibration(half) if half else None for half in halves]
    if None in curves:
        return None
    parts = []
    for half, curve in zip(halves, reversed(curves), strict=True):
        predicted, measured, weights = _columns(half)
        assert curve is not None
        parts.append((curve(predicted).astype(float), measured, weights))
    predicted, measured, weights = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return calibration_error(predicted, measured, weights)


def _columns(judgements: Sequence[Judgement]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Predicted and measured IoU, and weights by which each data set counts the same."""
    sizes = Counter(judgement.dataset for judgement in judgements)
    table = np.array([(j.predicted, j.measured, 1 / sizes[j.dataset]) for j in judgements], float)
    return table[:, 0], table[:, 1], table[:, 2]
