"""What an unknown scanner may do to an image: contrast, shading, blur, noise and colour, for a batch at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dbsam_training.batches.rng import Draws
from dbsam_training.recipe import AugmentOptions

_CURVE_POINTS = 8
_BLUR_RADIUS = 4


def distort_batch(images: Tensor, draws: Draws, options: AugmentOptions) -> Tensor:
    """Distort a share of the images.

    Args:
        images: (B, 3, S, S), 0..255.
        draws: Source of every random choice.
        options: Shares.

    Returns:
        (B, 3, S, S), 0..255.
    """
    middle = torch.where(_each(draws.chance(0.7)), images[:, 1:2], images.mean(1, keepdim=True))
    images = torch.where(_each(draws.chance(options.repeat_channel)), middle, images)
    images = torch.where(_each(draws.chance(options.invert)), 255 - images, images)
    if options.intensity:
        images = torch.where(_each(draws.chance(options.intensity)), _distorted(images / 255, draws) * 255, images)
    return images.clamp(0, 255)


def _distorted(images: Tensor, draws: Draws) -> Tensor:
    for share, change in (
        (0.5, _gamma),
        (0.3, _window),
        (0.15, _curve),
        (0.3, _shading),
        (0.3, _blur),
        (0.4, _noise),
        (0.2, _channel_gains),
    ):
        chosen = _each(draws.chance(share))
        images = torch.where(chosen, change(images, draws), images)
    return images


def _each(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)


def _gamma(images: Tensor, draws: Draws) -> Tensor:
    return images.clamp(0, 1) ** _each(draws.uniform(-0.7, 0.7).exp())


def _window(images: Tensor, draws: Draws) -> Tensor:
    low, high = draws.uniform(-0.1, 1.1, 2).sort(1).values.unbind(1)
    stretched = ((images - _each(low)) / _each((high - low).clamp_min(1e-3))).clamp(0, 1)
    return torch.where(_each(high - low > 0.3), stretched, images)


def _curve(images: Tensor, draws: Draws) -> Tensor:
    """Grey levels through random points: contrasts of a modality that was never seen."""
    straight = torch.linspace(0, 1, _CURVE_POINTS, device=images.device)
    weight = draws.uniform(0.3, 1.0, 1)
    points = straight * (1 - weight) + draws.uniform(0, 1, _CURVE_POINTS) * weight
    place = images.clamp(0, 1).flatten(1) * (_CURVE_POINTS - 1)
    left = place.long().clamp_max(_CURVE_POINTS - 2)
    share = place - left
    return (points.gather(1, left) * (1 - share) + points.gather(1, left + 1) * share).view_as(images)


def _shading(images: Tensor, draws: Draws) -> Tensor:
    return images * smooth_field(draws, 0.6, 1.4, 3, images.shape[-1])


def smooth_field(draws: Draws, low: float, high: float, points: int, size: int) -> Tensor:
    """Random values at a few points, smooth between them, (B, 1, size, size)."""
    coarse = draws.uniform(low, high, 1, points, points)
    return F.interpolate(coarse, (size, size), mode="bicubic", align_corners=True)


def _blur(images: Tensor, draws: Draws) -> Tensor:
    """What a lower resolution leaves: a Gaussian of up to 2 pixels, one axis after the other."""
    steps = torch.arange(-_BLUR_RADIUS, _BLUR_RADIUS + 1, device=images.device)
    kernel = (-0.5 * (steps / draws.uniform(0.3, 2.0, 1)).square()).softmax(1)
    padded = F.pad(images, (_BLUR_RADIUS,) * 4, mode="replicate")
    return _weighted_shifts(_weighted_shifts(padded, kernel, 2), kernel, 3)


def _weighted_shifts(images: Tensor, kernel: Tensor, axis: int) -> Tensor:
    """Each image convolved along an axis by its own row of `kernel` (B, K); shorter by K - 1.

    Convolutions with as many groups as images are many times slower than so few sums.
    """
    size = images.shape[axis] - kernel.shape[1] + 1
    total = _each(kernel[:, 0]) * images.narrow(axis, 0, size)
    for place in range(1, kernel.shape[1]):
        total = total + _each(kernel[:, place]) * images.narrow(axis, place, size)
    return total


def _noise(images: Tensor, draws: Draws) -> Tensor:
    noise = draws.noise(images[0].numel()).view_as(images)
    noise = torch.where(_each(draws.chance(0.5)), noise[:, :1], noise) * _each(draws.uniform(0.0, 0.12))
    return images + torch.where(_each(draws.chance(0.3)), noise * images, noise)


def _channel_gains(images: Tensor, draws: Draws) -> Tensor:
    return images * draws.uniform(0.7, 1.3, 3, 1, 1)
