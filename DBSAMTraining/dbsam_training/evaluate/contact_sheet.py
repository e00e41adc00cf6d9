"""Picture sheets like the paper's Figure 2, and which objects of an evaluation they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from dbsam_training.evaluate.bootstrap import Row
from dbsam_training.evaluate.prompts import BoolArray, FloatArray
from dbsam_training.figures import new_figure, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL_INCHES = 2.2
CONTEXT = 0.6
"""Of the box's longer side, shown round the box on every side."""

FOUND_COLOUR = (1.0, 0.75, 0.1)
TRUTH_COLOUR = (0.2, 0.9, 0.4)


@dataclass(frozen=True, eq=False)
class Example:
    """The largest slice of an object, for the picture sheet.

    Attributes:
        image: [y,x] grey or [y,x,3] colour, as the models see it.
        box_xyxy: the prompt on this slice, in continuous pixel coordinates.
        truth: [y,x].
        masks: [y,x] by model.
        dsc: of the whole object, by model.
        spacing_xy: of the slice's pixels, in mm.
    """

    dataset: str
    case: str
    structure: str
    modality: str
    prompt: str
    image: NDArray[np.uint8]
    box_xyxy: FloatArray
    truth: BoolArray
    masks: dict[str, BoolArray]
    dsc: dict[str, float]
    spacing_xy: tuple[float, float]


class ExampleKeeper(Protocol):
    """Keeps examples while an evaluation goes on, so that not every object's picture is held in memory."""

    def wanted(self, rows: Sequence[Row], sizes: Sequence[int]) -> list[int]:
        """Which of some objects of a case to keep, by their scores under the first model and their voxels."""

    def add(self, example: Example) -> None:
        """Keep an example."""

    def chosen(self, prompt: str) -> list[Example]:
        """The rows of a prompt's sheet, in order."""


class OneOfEachDataset:
    """The largest object of each data set's first case; every modality is shown before one is shown twice."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[Example] = []

    def wanted(self, rows: Sequence[Row], sizes: Sequence[int]) -> list[int]:
        """The largest one, of a data set's first case."""
        there = any((kept.dataset, kept.prompt) == (rows[0].dataset, rows[0].prompt) for kept in self._kept)
        return [] if there else [int(np.argmax(sizes))]

    def add(self, example: Example) -> None:
        """Keep an example."""
        self._kept.append(example)

    def chosen(self, prompt: str) -> list[Example]:
        """One of each data set, as many as fit."""
        rest = [example for example in self._kept if example.prompt == prompt]
        chosen: list[Example] = []
        while rest and len(chosen) < self._most:
            round_of_modalities = list({example.modality: example for example in reversed(rest)}.values())[::-1]
            chosen += round_of_modalities[: self._most - len(chosen)]
            rest = [example for example in rest if all(example is not taken for taken in chosen)]
        return chosen


class WorstObjects:
    """The objects with the lowest DSC under the first model, worst first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[str, list[Example]] = {}

    def wanted(self, rows: Sequence[Row], sizes: Sequence[int]) -> list[int]:
        """Those that are worse than the best of the kept ones."""
        kept = self._kept.get(rows[0].prompt, [])
        limit = _first_dsc(kept[-1]) if len(kept) == self._most else np.inf
        return [index for index, row in enumerate(rows) if row.dsc < limit]

    def add(self, example: Example) -> None:
        """Keep an example, and drop the best one if there are too many."""
        kept = [*self._kept.get(example.prompt, []), example]
        self._kept[example.prompt] = sorted(kept, key=_first_dsc)[: self._most]

    def chosen(self, prompt: str) -> list[Example]:
        """The kept ones, worst first."""
        return list(self._kept.get(prompt, []))


KEEPERS: dict[str, Callable[[int], ExampleKeeper]] = {"datasets": OneOfEachDataset, "worst": WorstObjects}


def _first_dsc(example: Example) -> float:
    return next(iter(example.dsc.values()))


def write_sheet(path: Path, examples: Sequence[Example], models: Sequence[str]) -> None:
    """Draws one row per example (image with prompt, each model, ground truth) and saves the sheet as PNG."""
    columns = 2 + len(models)
    figure = new_figure(CELL_INCHES * columns, CELL_INCHES * 1.12 * len(examples))
    grid = figure.subplots(len(examples), columns, squeeze=False)
    for row, example in zip(grid, examples, strict=True):
        _draw(row[0], example, None, "image and box")
        row[0].set_ylabel(f"{example.modality}\n{example.structure}\n{example.case[:18]}", fontsize=7)
        for axes, model in zip(row[1:-1], models, strict=True):
            _draw(axes, example, example.masks[model], f"{model}  DSC {100 * example.dsc[model]:.1f}")
        _draw(row[-1], example, example.truth, "ground truth", TRUTH_COLOUR)
    save_figure(figure, path)


def _draw(
    axes: Axes,
    example: Example,
    mask: BoolArray | None,
    title: str,
    colour: tuple[float, float, float] = FOUND_COLOUR,
) -> None:
    from matplotlib.patches import Rectangle

    x0, y0, x1, y1 = example.box_xyxy
    spacing_x, spacing_y = example.spacing_xy
    axes.imshow(_overlaid(example.image, mask, colour), aspect=spacing_y / spacing_x, interpolation="nearest")
    if mask is None:
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor="cyan", linewidth=1.0))
    reach_mm = max((x1 - x0) * spacing_x, (y1 - y0) * spacing_y) * (0.5 + CONTEXT)
    centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2
    axes.set_xlim(centre_x - reach_mm / spacing_x, centre_x + reach_mm / spacing_x)
    axes.set_ylim(centre_y + reach_mm / spacing_y, centre_y - reach_mm / spacing_y)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor("black")
    axes.set_title(title, fontsize=8)


def _overlaid(
    image: NDArray[np.uint8], mask: BoolArray | None, colour: tuple[float, float, float]
) -> NDArray[np.float64]:
    rgb = (image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)) / 255.0
    if mask is not None:
        rgb[mask] = 0.6 * rgb[mask] + 0.4 * np.array(colour)
    return np.asarray(rgb)
