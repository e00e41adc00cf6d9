"""Box prompts for training samples: the paper's, those a 3D box shows, tight ones, ones that cut into the object."""

from __future__ import annotations

import torch
from torch import Tensor

from dbsam_training.batches.rng import Draws, constant
from dbsam_training.recipe import PromptOptions

PAPER_PIXELS = 20.0
_SAME_PIXELS = 2.0


def draw_boxes(hull: Tensor, whole: Tensor, pixel: Tensor, draws: Draws, prompts: PromptOptions) -> Tensor:
    """One box for each sample.

    Args:
        hull: (B, P, 2) extreme points of the object on its slice, NaN where the object is not on it.
        whole: (B, 4, 2) corners of the whole 3D object's rectangle.
        pixel: (B,) one pixel of the paper's 256 grid, in the units of the points.
        draws: Source of every random choice.
        prompts: Shares of the kinds of boxes.

    Returns:
        (B, 4) x_min, y_min, x_max, y_max in the units of the points.
    """
    ended = hull.isnan().flatten(1).any(1)
    rectangle = bounds(whole)
    tight = torch.where(ended[:, None], rectangle, bounds(hull.nan_to_num()))
    extent = (tight[:, 2:] - tight[:, :2]).repeat(1, 2)
    outwards = constant((-1.0, -1.0, 1.0, 1.0), tight.device)
    unit = pixel[:, None]
    paper = tight + outwards * draws.uniform(0, PAPER_PIXELS, 4) * unit
    loose = _loose(tight, rectangle, extent, ended, outwards, unit, draws)
    cut = tight - outwards * draws.uniform(0, 0.05, 4) * extent
    near = tight + outwards * (draws.uniform(0, 0.15, 4) * extent + draws.uniform(0, 1.5, 4) * unit)
    kind = draws.uniform(0, 1)
    boxes = torch.where((kind < prompts.paper + prompts.loose + prompts.cut)[:, None], cut, near)
    boxes = torch.where(((kind < prompts.paper + prompts.loose) | ended)[:, None], loose, boxes)
    return torch.where(((kind < prompts.paper) & ~ended)[:, None], paper, boxes)


def bounds(points: Tensor) -> Tensor:
    """Edges (B, 4) of the rectangles round points (B, P, 2)."""
    return torch.cat([points.amin(1), points.amax(1)], 1)


def _loose(
    tight: Tensor, rectangle: Tensor, extent: Tensor, ended: Tensor, outwards: Tensor, unit: Tensor, draws: Draws
) -> Tensor:
    """From the whole object's rectangle, or where that is the slice's own, up to 60 % looser on each side."""
    in_plane = tight + outwards * draws.uniform(0, 0.6, 4) * extent
    # A box carried over from the neighbouring slice is smaller than the whole object.
    carried = ended & draws.chance(0.5)
    half = (rectangle[:, 2:] - rectangle[:, :2]) / 2
    middle = rectangle[:, :2] + half
    half = half * torch.where(carried, draws.uniform(0.4, 1.0), torch.ones_like(unit[:, 0]))[:, None]
    through = torch.cat([middle - half, middle + half], 1) + outwards * draws.uniform(0, 6, 4) * unit
    same = ((rectangle - tight).abs() <= _SAME_PIXELS).all(1) & ~ended
    return torch.where(same[:, None], in_plane, through)
