"""What clicks gain: scores after each, and how many it takes to a good mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dbsam_training.figures import new_figure, save_figure

GOALS = (0.85, 0.90)
"""IoU that counts as good enough, the field's NoC@85 and NoC@90."""


@dataclass(frozen=True)
class ClickCurve:
    """DSC and NSD of one object by the box alone and after 1, 2, ... clicks."""

    dataset: str
    case: str
    structure: str
    model: str
    dsc: tuple[float, ...]
    nsd: tuple[float, ...]

    def clicks_to(self, iou: float) -> int:
        """Clicks until the mask has an IoU; 0 where the box alone does it, all that were given where none does."""
        goal = 2 * iou / (1 + iou)
        return next((clicks for clicks, dsc in enumerate(self.dsc) if dsc >= goal), len(self.dsc) - 1)


@dataclass(frozen=True)
class ClickSummary:
    """Means over data sets of one model.

    Attributes:
        dsc: By the box alone and after each click.
        nsd: The same.
        dsc_worst_half: Of the half of the objects that are worst by the box alone.
        clicks_to: Mean number of clicks to each of `GOALS`; an object that doesn't reach it counts as all clicks.
        reached: Share of the objects that reach each of `GOALS`.
    """

    dsc: list[float]
    nsd: list[float]
    dsc_worst_half: list[float]
    clicks_to: dict[str, float]
    reached: dict[str, float]


def summarise_clicks(curves: Sequence[ClickCurve]) -> ClickSummary:
    """The means of one model's curves, at least one."""
    by_dsc = sorted(curves, key=lambda curve: curve.dsc[0])
    worst = by_dsc[: max(1, len(by_dsc) // 2)]
    goals = {f"{100 * goal:.0f}": goal for goal in GOALS}
    return ClickSummary(
        _mean(curves, [curve.dsc for curve in curves]),
        _mean(curves, [curve.nsd for curve in curves]),
        _mean(worst, [curve.dsc for curve in worst]),
        {name: _mean(curves, [(curve.clicks_to(goal),) for curve in curves])[0] for name, goal in goals.items()},
        {
            name: _mean(curves, [(max(curve.dsc) >= 2 * goal / (1 + goal),) for curve in curves])[0]
            for name, goal in goals.items()
        },
    )


def _mean(curves: Sequence[ClickCurve], values: Sequence[Sequence[float]]) -> list[float]:
    """Means over data sets of the means over their objects."""
    names = np.array([curve.dataset for curve in curves])
    table = np.array(values, float)
    return [float(mean) for mean in np.mean([table[names == name].mean(0) for name in np.unique(names)], axis=0)]


def write_click_curve(path: Path, summaries: dict[str, ClickSummary]) -> None:
    """Draw DSC over clicks, of all objects and of those that are worst by the box alone."""
    figure = new_figure(5.5, 4)
    axes = figure.subplots()
    for number, (model, summary) in enumerate(summaries.items()):
        clicks, colour = range(len(summary.dsc)), f"C{number}"
        axes.plot(clicks, [100 * v for v in summary.dsc], marker="o", color=colour, label=model)
        worst = [100 * value for value in summary.dsc_worst_half]
        axes.plot(clicks, worst, "--", marker="o", color=colour, label=f"{model}, worst half")
    axes.set_xlabel("clicks")
    axes.set_ylabel("DSC [%]")
    axes.legend(fontsize=8)
    save_figure(figure, path)
