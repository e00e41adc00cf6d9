"""A picture sheet like the paper's Figure 2: rows of cases; image with prompt, each model, ground truth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dbsam_training.evaluate.examples import Example
from dbsam_training.evaluate.prompts import BoolArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CELL_INCHES = 2.2
CONTEXT = 0.6
"""Of the box's longer side, shown round the box on every side."""

FOUND_COLOUR = (1.0, 0.75, 0.1)
TRUTH_COLOUR = (0.2, 0.9, 0.4)


def write_sheet(path: Path, examples: Sequence[Example], models: Sequence[str]) -> None:
    """Draws one row per example and saves the sheet as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # slow to import
    from matplotlib.figure import Figure

    columns = 2 + len(models)
    figure = Figure(figsize=(CELL_INCHES * columns, CELL_INCHES * 1.12 * len(examples)), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(examples), columns, squeeze=False)
    for row, example in zip(grid, examples, strict=True):
        _draw(row[0], example, None, "image and box")
        row[0].set_ylabel(f"{example.modality}\n{example.structure}\n{example.case[:18]}", fontsize=7)
        for axes, model in zip(row[1:-1], models, strict=True):
            _draw(axes, example, example.masks[model], f"{model}  DSC {100 * example.dsc[model]:.1f}")
        _draw(row[-1], example, example.truth, "ground truth", TRUTH_COLOUR)
    figure.savefig(path, dpi=110)


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
