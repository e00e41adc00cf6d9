"""Pictures that a run writes as it trains: the learning curve, and predictions on validation samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dbsam_training.figures import new_figure, save_figure
from dbsam_training.trainer.validation import Example

_CELL_INCHES = 1.7
_COLUMNS = 6
_MOST_EXAMPLES = 18
_SMOOTHING_STEPS = 50


def write_learning_curve(
    path: Path, losses: Sequence[Mapping[str, float]], validations: Sequence[Mapping[str, float]]
) -> None:
    """Draw loss and validation DSC over steps.

    Args:
        path: The PNG.
        losses: Rows with "step" and "loss".
        validations: Rows with "step" and a DSC for each kind of prompt.
    """
    figure = new_figure(8, 4)
    left = figure.subplots()
    steps = np.array([row["step"] for row in losses])
    values = np.array([row["loss"] for row in losses])
    left.plot(steps, values, color="tab:blue", alpha=0.25, linewidth=0.6)
    if len(values) >= 2 * _SMOOTHING_STEPS:
        smooth = np.convolve(values, np.full(_SMOOTHING_STEPS, 1 / _SMOOTHING_STEPS), "valid")
        left.plot(steps[_SMOOTHING_STEPS - 1 :], smooth, color="tab:blue", linewidth=1.4)
    left.set_xlabel("step")
    left.set_ylabel("training loss", color="tab:blue")
    right = left.twinx()
    kinds = [key for key in (validations[-1] if validations else {}) if key not in ("step", "score")]
    for kind, style in zip(kinds, ("-", "--", ":"), strict=False):
        points = [(row["step"], 100 * row[kind]) for row in validations if kind in row]
        right.plot(
            *zip(*points, strict=True), style, marker="o", markersize=3, color="tab:orange", label=f"{kind} prompt"
        )
    right.set_ylabel("validation DSC [%]", color="tab:orange")
    if kinds:
        right.legend(loc="center right", fontsize=8)
    save_figure(figure, path)


def write_overlays(path: Path, examples: Sequence[Example]) -> None:
    """Draw predictions (filled) over truth (outline) with their boxes, one example of each data set first."""
    first_of_each = {example.dataset: example for example in reversed(examples)}.values()
    chosen = list(first_of_each)[::-1][:_MOST_EXAMPLES]
    if not chosen:
        return
    rows = -(-len(chosen) // _COLUMNS)
    figure = new_figure(_CELL_INCHES * _COLUMNS, _CELL_INCHES * 1.15 * rows)
    grid = figure.subplots(rows, _COLUMNS, squeeze=False)
    for axes in grid.flat:
        axes.set_axis_off()
    for axes, example in zip(grid.flat, chosen, strict=False):
        size = example.image.shape[0]
        extent = (-0.5, size - 0.5, size - 0.5, -0.5)
        axes.imshow(example.image, extent=extent)
        axes.imshow(_tint(example.predicted), extent=extent, interpolation="nearest")
        if example.truth.any() and not example.truth.all():
            ticks = (np.arange(example.truth.shape[0]) + 0.5) * size / example.truth.shape[0] - 0.5
            axes.contour(ticks, ticks, example.truth, [0.5], colors=["lime"], linewidths=0.8)
        x0, y0, x1, y1 = example.box_xyxy
        axes.plot([x0, x1, x1, x0, x0], [y0, y0, y1, y1, y0], color="cyan", linewidth=0.8)
        axes.set_title(f"{example.dataset[:22]}\nDSC {100 * example.dsc:.0f}", fontsize=6)
    save_figure(figure, path)


def _tint(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    colour = np.zeros((*mask.shape, 4), np.float32)
    colour[mask] = (1.0, 0.7, 0.1, 0.45)
    return colour
