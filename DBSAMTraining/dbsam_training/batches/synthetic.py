"""Random shapes drawn into training images: objects of any outline and contrast, on real backgrounds."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dbsam_training.batches.intensity import smooth_field
from dbsam_training.batches.rng import Draws, constant
from dbsam_training.store.format import HULL_POINTS, PATCH_SIZE

_WAVES = (0.25, 0.2, 0.12, 0.08, 0.05)
"""Largest share of the radius that each wave round the outline adds, from two periods a turn upwards."""
_SMALLEST, _LARGEST = 6.0, 56.0
_RECTANGLES = 0.3
"""Share of shapes that are rectangles, most of them upright: test objects and devices have corners."""
_FAINTEST, _STRONGEST = 12.0, 200.0


@dataclass(frozen=True)
class Shapes:
    """Outlines r(angle) about a centre, stretched along a random direction; lengths in pixels of the patch.

    Attributes:
        centre: (B, 2).
        radius: (B,).
        square: (B,) whether the outline is a square before it is stretched; else it is a circle with waves.
        waves: (B, 5, 2) cosine and sine amplitudes over the radius.
        stretch: (B, 2, 2) from the outline's own frame to the patch.
    """

    centre: Tensor
    radius: Tensor
    square: Tensor
    waves: Tensor
    stretch: Tensor

    @classmethod
    def draw(cls, draws: Draws) -> Shapes:
        """One shape for each sample, in the middle of its patch."""
        centre = draws.uniform(0.35, 0.65, 2) * PATCH_SIZE
        radius = draws.uniform(math.log(_SMALLEST), math.log(_LARGEST)).exp()
        waves = draws.uniform(-1, 1, len(_WAVES), 2) * constant(_WAVES, centre.device)[:, None] * 0.7
        square, longer = draws.chance(_RECTANGLES), draws.uniform(-0.5, 0.5).exp()
        angle = torch.where(square & draws.chance(0.7), 0.0, draws.uniform(0, math.pi))
        cosine, sine = angle.cos(), angle.sin()
        turn = torch.stack([cosine, -sine, sine, cosine], -1).view(-1, 2, 2)
        return cls(centre, radius, square, waves, turn * torch.stack([longer, 1 / longer], -1)[:, None, :])

    def hull(self) -> Tensor:
        """Points on the outlines, (B, HULL_POINTS, 2) in pixels of the patch."""
        angles = torch.arange(HULL_POINTS, device=self.centre.device) * (2 * math.pi / HULL_POINTS)
        angles = angles.expand(len(self.centre), -1)
        directions = torch.stack([angles.cos(), angles.sin()], -1)
        own = directions * self._outline(angles)[..., None]
        return own @ self.stretch.transpose(1, 2) + self.centre[:, None]

    def depth(self, places: Tensor) -> Tensor:
        """How far inside the outline places (B, H, W, 2) of the patch lie, in pixels, about; (B, H, W)."""
        own = (places.flatten(1, 2) - self.centre[:, None]) @ inverse_2x2(self.stretch).transpose(1, 2)
        reach = self._outline(torch.atan2(own[..., 1], own[..., 0]))
        inside = 1 - own.norm(dim=-1) / reach.clamp_min(1e-3)
        return (inside * self.radius[:, None]).view(places.shape[:3])

    def _outline(self, angles: Tensor) -> Tensor:
        radius = torch.ones_like(angles)
        for k in range(len(_WAVES)):
            cosine, sine = self.waves[:, k, 0, None], self.waves[:, k, 1, None]
            radius = radius + cosine * (angles * (k + 2)).cos() + sine * (angles * (k + 2)).sin()
        edge = 1 / torch.maximum(angles.cos().abs(), angles.sin().abs())
        return torch.where(self.square[:, None], edge, radius.clamp_min(0.2)) * self.radius[:, None]


def inverse_2x2(matrices: Tensor) -> Tensor:
    """Inverses (B, 2, 2), by Cramer's rule: `Tensor.inverse` waits for the GPU, to say whether one is singular."""
    a, b, c, d = matrices.flatten(1).unbind(1)
    return torch.stack([d, -b, -c, a], -1).view(-1, 2, 2) / (a * d - b * c)[:, None, None]


def softened(depth: Tensor, draws: Draws) -> Tensor:
    """1 inside and 0 outside of outlines, with edges of random sharpness, from `Shapes.depth`; (B, H, W)."""
    return (depth / draws.uniform(0.3, 3.0)[:, None, None]).sigmoid()


def paint(images: Tensor, inside: Tensor, draws: Draws) -> Tensor:
    """Brighten or darken objects; of every other image only a part of its own contrast stays, down to none.

    Args:
        images: (B, 3, S, S), 0..255.
        inside: (B, S, S), 1 inside the object, 0 outside.
        draws: Source of contrast and texture.

    Returns:
        (B, 3, S, S), 0..255.
    """
    size = images.shape[-1]
    inside = inside[:, None]
    kept = torch.where(draws.chance(0.5), 1.0, draws.uniform(-0.3, 0.7).clamp_min(0)).view(-1, 1, 1, 1)
    level = draws.uniform(20, 235).view(-1, 1, 1, 1)
    images = images * kept + level * (1 - kept)
    contrast = draws.uniform(math.log(_FAINTEST), math.log(_STRONGEST)).exp()
    contrast = torch.where(draws.chance(0.5), contrast, -contrast).view(-1, 1, 1, 1)
    mean = (images * inside).sum((1, 2, 3), keepdim=True) / (3 * inside.sum((1, 2, 3), keepdim=True)).clamp_min(1)
    beyond = (mean + contrast - 127.5).abs() > 127.5
    contrast = torch.where(beyond, -contrast, contrast)
    texture = smooth_field(draws, -1, 1, 6, size) * draws.uniform(0, 30).view(-1, 1, 1, 1)
    return (images + inside * (contrast + texture)).clamp(0, 255)
