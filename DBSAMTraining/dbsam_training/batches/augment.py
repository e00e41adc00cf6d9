"""Prompts and augmentation of a batch of patches: what a user's box and an unknown scanner may do to a slice."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from dbsam.modeling.slice_view import SEEN_SIZE
from dbsam_training.batches.boxes import bounds, draw_boxes
from dbsam_training.batches.intensity import distort_batch
from dbsam_training.batches.rng import Draws
from dbsam_training.batches.synthetic import Shapes, inverse_2x2, paint, softened
from dbsam_training.recipe import AugmentOptions, PromptOptions
from dbsam_training.store.format import PATCH_SIZE

_CENTRE = (PATCH_SIZE - 1) / 2
_SHORTEST_SIDE = 8.0
_ELASTIC_POINTS = 4


@dataclass(frozen=True)
class Batch:
    """What the training step takes.

    Attributes:
        images: (B, 3, S, S), 0..255.
        valid: (B, 1, S, S), 1 inside the slice.
        boxes_xyxy: (B, 4) in pixels of `images`.
        masks: (B, M, M), 0 or 1.
        mask_valid: (B, M, M), 1 inside the slice.
        seen: (B, C, 64, 64), what a view of the whole slice shows of the region; None without one.
    """

    images: Tensor
    valid: Tensor
    boxes_xyxy: Tensor
    masks: Tensor
    mask_valid: Tensor
    seen: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return self._each(lambda value: value.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which copies to a GPU do not wait (called by the DataLoader)."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        values: dict[str, Tensor | None] = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: change(value) for name, value in values.items() if value is not None})


def make_batch(
    arrays: Mapping[str, Tensor],
    size: int,
    mask_size: int,
    table: Tensor,
    prompts: PromptOptions,
    augment: AugmentOptions,
) -> Batch:
    """Draws a prompt and an augmentation for each sample and samples the network's input, on the arrays' device.

    Args:
        arrays: A batch of the store.
        size: Side S of the network's input.
        mask_size: Side M of the masks.
        table: (B, draws.COUNT) random numbers, one row a sample.
        prompts: How boxes are drawn.
        augment: How images are changed.
    """
    draws = Draws(table)
    hulls, whole = arrays["hulls"], _corners(arrays["prompts"])
    inserted, shapes = draws.chance(augment.insert), Shapes.draw(draws)
    if augment.insert:
        drawn = shapes.hull()
        hulls = torch.where(inserted[:, None, None], drawn, hulls)
        whole = torch.where(inserted[:, None, None], _corners(bounds(drawn)), whole)
    matrix = _random_affine(draws, augment.geometric)
    thetas, boxes = _place(arrays, hulls, whole, matrix, size, draws, prompts)
    bend = _bend(thetas, draws, augment.elastic)
    grid = _grid(thetas, bend, size)
    images = F.grid_sample(
        arrays["images"].permute(0, 3, 1, 2).float(), grid, padding_mode="border", align_corners=False
    )
    valid = _inside(arrays["slices"], grid)
    mask_grid = grid if mask_size == size else _grid(thetas, bend, mask_size)
    cover = _cover(arrays["masks"], mask_grid)
    if augment.insert or augment.recolour:
        depth = shapes.depth(_pixels(grid))
        soft = cover if mask_grid is grid else _cover(arrays["masks"], grid)
        inside = torch.where(inserted[:, None, None], softened(depth, draws), soft)
        painted = inserted | draws.chance(augment.recolour)
        images = torch.where(painted[:, None, None, None], paint(images, inside, draws), images)
    masks = cover >= 0.5
    if augment.insert:
        depth = depth if mask_grid is grid else shapes.depth(_pixels(mask_grid))
        masks = torch.where(inserted[:, None, None], depth >= 0, masks)
    images = distort_batch(images, draws, augment)
    mask_valid = _inside(arrays["slices"], mask_grid)
    seen = _seen(arrays, _grid(thetas, bend, SEEN_SIZE)) if "maps" in arrays else None
    return Batch(images, valid.unsqueeze(1), boxes, masks.float() * mask_valid, mask_valid, seen)


def _seen(arrays: Mapping[str, Tensor], grid: Tensor) -> Tensor:
    """What the features of the whole slices show at places in the patches, as `slice_view.cut_out` samples them."""
    x0, y0, x1, y1 = arrays["slices"].unbind(1)
    corner, side = torch.stack([x0, y0], 1), torch.maximum(x1 - x0, y1 - y0)
    places = 2 * (_pixels(grid) - corner[:, None, None]) / side[:, None, None, None] - 1
    return F.grid_sample(arrays["maps"].float(), places, padding_mode="zeros", align_corners=False)


def _corners(edges: Tensor) -> Tensor:
    """Corners (B, 4, 2) of rectangles (B, 4)."""
    x0, y0, x1, y1 = edges.unbind(1)
    return torch.stack([x0, y0, x1, y0, x0, y1, x1, y1], 1).view(-1, 4, 2)


def _random_affine(draws: Draws, share: float) -> Tensor:
    """Quarter turn, flip, small rotation and anisotropic scale, as 2x2 matrices about the patches' centres."""
    small = torch.where(draws.chance(0.5), draws.uniform(-0.4, 0.4), 0.0)
    angle = draws.uniform(0, 4).floor() * (math.pi / 2) + small
    cosine, sine = angle.cos(), angle.sin()
    rotation = torch.stack([cosine, -sine, sine, cosine], -1).view(-1, 2, 2)
    stretch, flip = draws.uniform(-0.2, 0.2).exp(), torch.where(draws.chance(0.5), -1.0, 1.0)
    matrix = rotation * torch.stack([stretch * flip, 1 / stretch], -1)[:, None, :]
    return torch.where(draws.chance(share)[:, None, None], matrix, torch.eye(2, device=matrix.device))


def _place(
    arrays: Mapping[str, Tensor],
    hulls: Tensor,
    whole: Tensor,
    matrix: Tensor,
    size: int,
    draws: Draws,
    prompts: PromptOptions,
) -> tuple[Tensor, Tensor]:
    """The affines from the outputs' to the patches' normalised coordinates, and the boxes in output pixels."""
    turn = matrix.transpose(1, 2)
    boxes = draw_boxes((hulls - _CENTRE) @ turn, (whole - _CENTRE) @ turn, arrays["pixels"], draws, prompts)
    longest = (boxes[:, 2:] - boxes[:, :2]).amax(1).clamp_min(_SHORTEST_SIDE)
    jitter, shift = draws.uniform(*prompts.context_jitter), draws.uniform(-1, 1, 2)
    if prompts.whole_slice:
        edges = bounds((_corners(arrays["slices"]) - _CENTRE) @ turn)
        middle, side = (edges[:, :2] + edges[:, 2:]) / 2, (edges[:, 2:] - edges[:, :2]).amax(1)
        boxes = boxes.clamp(edges[:, :2].repeat(1, 2), edges[:, 2:].repeat(1, 2))
    else:
        side = longest * prompts.context * jitter
        slack = (side - longest) / 2 * 0.6
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2 + shift * slack[:, None]
    placed = (boxes - middle.repeat(1, 2)) * (size / side)[:, None] + (size - 1) / 2
    inverse = inverse_2x2(matrix)
    shift_back = inverse @ middle[:, :, None] * (2 / PATCH_SIZE)
    return torch.cat([inverse * (side / PATCH_SIZE)[:, None, None], shift_back], 2), placed


def _bend(thetas: Tensor, draws: Draws, share: float) -> Tensor:
    """Displacements (B, 2, points, points) of a few grid points, up to 3 % of the region, for a share of samples."""
    strength = torch.where(draws.chance(share), draws.uniform(0, 0.03), 0.0)
    side = thetas[:, :, :2].flatten(1).norm(dim=1) * math.sqrt(2)  # of the region, in normalised coordinates
    field = draws.uniform(-1, 1, 2, _ELASTIC_POINTS, _ELASTIC_POINTS)
    return field * (strength * side)[:, None, None, None]


def _grid(thetas: Tensor, bend: Tensor, size: int) -> Tensor:
    """Sampling places (B, size, size, 2) in the patches' normalised coordinates."""
    straight = F.affine_grid(thetas, [len(thetas), 1, size, size], align_corners=False)
    return straight + F.interpolate(bend, (size, size), mode="bicubic", align_corners=True).permute(0, 2, 3, 1)


def _pixels(grid: Tensor) -> Tensor:
    return (grid + 1) * PATCH_SIZE / 2 - 0.5


def _cover(masks: Tensor, grid: Tensor) -> Tensor:
    return F.grid_sample(masks.unsqueeze(1).float() / 255, grid, padding_mode="border", align_corners=False)[:, 0]


def _inside(slices: Tensor, grid: Tensor) -> Tensor:
    pixels = _pixels(grid)
    edges = slices.view(-1, 1, 1, 4).clamp(-0.5, PATCH_SIZE - 0.5)
    return ((pixels >= edges[..., :2]) & (pixels <= edges[..., 2:])).all(-1).float()
