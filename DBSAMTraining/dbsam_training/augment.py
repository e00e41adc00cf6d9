"""Prompts and augmentation of a batch of patches: what a user's box and an unknown scanner may do to a slice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dbsam_training.recipes import AugmentOptions, PromptOptions
from dbsam_training.store import PATCH_SIZE


@dataclass(frozen=True)
class Batch:
    """What the training step takes.

    Attributes:
        images: (B, 3, S, S), 0..255.
        valid: (B, 1, S, S), 1 inside the slice.
        boxes_xyxy: (B, 4) in pixels of `images`.
        masks: (B, M, M), 0 or 1.
        mask_valid: (B, M, M), 1 inside the slice.
    """

    images: Tensor
    valid: Tensor
    boxes_xyxy: Tensor
    masks: Tensor
    mask_valid: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same batch on a device."""
        return Batch(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which copies to a GPU do not wait (called by the DataLoader)."""
        return Batch(*(getattr(self, field.name).pin_memory() for field in fields(self)))


def make_batch(
    arrays: dict[str, NDArray[Any]],
    size: int,
    mask_size: int,
    rngs: Sequence[np.random.Generator],
    prompts: PromptOptions,
    augment: AugmentOptions,
) -> Batch:
    """Draws a prompt and an augmentation for each sample and samples the network's input.

    Args:
        arrays: A batch of the store.
        size: Side S of the network's input.
        mask_size: Side M of the masks.
        rngs: Source of every random choice, one a sample: what becomes of it does not depend on the rest of the batch.
        prompts: How boxes are drawn.
        augment: How images are changed.
    """
    count = len(arrays["images"])
    thetas = np.empty((count, 2, 3), np.float32)
    boxes = np.empty((count, 4), np.float32)
    for n, rng in enumerate(rngs):
        matrix = _random_affine(rng) if rng.random() < augment.geometric else np.eye(2)
        thetas[n], boxes[n] = _place(arrays, n, matrix, size, rng, prompts)
    images, valid = _sample(arrays, torch.from_numpy(thetas), size)
    masks, mask_valid = _sample_masks(arrays, torch.from_numpy(thetas), mask_size)
    images = torch.stack([_augment_intensity(image, rng, augment) for image, rng in zip(images, rngs, strict=True)])
    return Batch(images, valid, torch.from_numpy(boxes), masks, mask_valid)


def _random_affine(rng: np.random.Generator) -> NDArray[np.float64]:
    """Quarter turn, flip, small rotation and anisotropic scale, as a 2x2 matrix about the patch's centre."""
    angle = rng.integers(4) * np.pi / 2 + (rng.uniform(-0.4, 0.4) if rng.random() < 0.5 else 0.0)
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    stretch = np.exp(rng.uniform(-0.2, 0.2))
    return rotation @ np.diag([stretch * rng.choice([-1.0, 1.0]), 1.0 / stretch])


def _place(
    arrays: dict[str, NDArray[Any]],
    n: int,
    matrix: NDArray[np.float64],
    size: int,
    rng: np.random.Generator,
    prompts: PromptOptions,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The affine from the output's to the patch's normalised coordinates, and the box in output pixels."""
    centre = (PATCH_SIZE - 1) / 2
    x0, y0, x1, y1 = arrays["prompts"][n]
    whole = (np.array([[x0, y0], [x1, y0], [x0, y1], [x1, y1]]) - centre) @ matrix.T
    hull = (arrays["hulls"][n] - centre) @ matrix.T
    box = _draw_box(hull, whole, float(arrays["pixels"][n]), rng, prompts)
    if prompts.whole_slice:
        sx0, sy0, sx1, sy1 = arrays["slices"][n]
        edges = (np.array([[sx0, sy0], [sx1, sy0], [sx0, sy1], [sx1, sy1]]) - centre) @ matrix.T
        middle, side = (edges.min(0) + edges.max(0)) / 2, np.ptp(edges, axis=0).max()
        box = np.clip(box, np.tile(edges.min(0), 2), np.tile(edges.max(0), 2))
    else:
        longest = max(box[2] - box[0], box[3] - box[1], 8.0)
        side = longest * prompts.context * rng.uniform(*prompts.context_jitter)
        slack = (side - longest) / 2 * 0.6
        middle = np.array([box[0] + box[2], box[1] + box[3]]) / 2 + rng.uniform(-slack, slack, 2)
    scale = size / side
    box_out = (box.reshape(2, 2) - middle) * scale + (size - 1) / 2
    inverse = np.linalg.inv(matrix)
    theta = np.empty((2, 3))
    theta[:, :2] = inverse * (side / PATCH_SIZE)
    theta[:, 2] = inverse @ middle * (2 / PATCH_SIZE)
    return theta.astype(np.float32), box_out.reshape(4).astype(np.float32)


def _draw_box(
    hull: NDArray[np.float64],
    whole: NDArray[np.float64],
    pixel: float,
    rng: np.random.Generator,
    prompts: PromptOptions,
) -> NDArray[np.float64]:
    ended = bool(np.isnan(hull).any())
    tight = np.concatenate([whole.min(0), whole.max(0)]) if ended else np.concatenate([hull.min(0), hull.max(0)])
    extent = np.tile(tight[2:] - tight[:2], 2)
    outwards = np.array([-1.0, -1.0, 1.0, 1.0])
    kind = rng.random()
    if kind < prompts.paper and not ended:
        return tight + outwards * rng.uniform(0, 20, 4) * pixel
    if kind < prompts.paper + prompts.loose or ended:
        rectangle = np.concatenate([whole.min(0), whole.max(0)])
        if np.allclose(rectangle, tight, atol=2.0) and not ended:
            return tight + outwards * rng.uniform(0, 0.6, 4) * extent
        if (
            ended and rng.random() < 0.5
        ):  # a box carried over from the neighbouring slice is smaller than the whole object
            middle, half = (rectangle[:2] + rectangle[2:]) / 2, (rectangle[2:] - rectangle[:2]) / 2
            half = half * rng.uniform(0.4, 1.0)
            rectangle = np.concatenate([middle - half, middle + half])
        return rectangle + outwards * rng.uniform(0, 6, 4) * pixel
    if kind < prompts.paper + prompts.loose + prompts.cut:
        return tight - outwards * rng.uniform(0, 0.05, 4) * extent
    return tight + outwards * (rng.uniform(0, 0.15, 4) * extent + rng.uniform(0, 1.5, 4) * pixel)


def _sample(arrays: dict[str, NDArray[Any]], thetas: Tensor, size: int) -> tuple[Tensor, Tensor]:
    images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).float()
    grid = F.affine_grid(thetas, [len(images), 1, size, size], align_corners=False)
    sampled = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return sampled, _inside(arrays, grid).unsqueeze(1)


def _sample_masks(arrays: dict[str, NDArray[Any]], thetas: Tensor, size: int) -> tuple[Tensor, Tensor]:
    masks = torch.from_numpy(arrays["masks"]).unsqueeze(1).float() / 255
    grid = F.affine_grid(thetas, [len(masks), 1, size, size], align_corners=False)
    sampled = F.grid_sample(masks, grid, padding_mode="border", align_corners=False)[:, 0]
    valid = _inside(arrays, grid)
    return (sampled >= 0.5).float() * valid, valid


def _inside(arrays: dict[str, NDArray[Any]], grid: Tensor) -> Tensor:
    pixels = (grid + 1) * PATCH_SIZE / 2 - 0.5
    edges = torch.from_numpy(arrays["slices"]).view(-1, 1, 1, 4).clamp(-0.5, PATCH_SIZE - 0.5)
    return ((pixels >= edges[..., :2]) & (pixels <= edges[..., 2:])).all(-1).float()


def _augment_intensity(image: Tensor, rng: np.random.Generator, options: AugmentOptions) -> Tensor:
    if rng.random() < options.repeat_channel:
        image = image[1:2].expand(3, -1, -1) if rng.random() < 0.7 else image.mean(0, keepdim=True).expand(3, -1, -1)
    if rng.random() < options.invert:
        image = 255 - image
    if rng.random() < options.intensity:
        image = _distort(image, rng)
    return image.clamp(0, 255)


def _distort(image: Tensor, rng: np.random.Generator) -> Tensor:
    size = image.shape[-1]
    image = image / 255
    if rng.random() < 0.5:
        image = image.clamp(0, 1) ** float(np.exp(rng.uniform(-0.7, 0.7)))
    if rng.random() < 0.3:
        low, high = np.sort(rng.uniform(-0.1, 1.1, 2))
        if high - low > 0.3:
            image = ((image - low) / (high - low)).clamp(0, 1)
    if rng.random() < 0.3:
        field = torch.from_numpy(rng.uniform(0.6, 1.4, (1, 1, 3, 3)).astype(np.float32))
        image = image * F.interpolate(field, (size, size), mode="bicubic", align_corners=True)[0]
    if rng.random() < 0.3:
        factor = float(rng.uniform(0.3, 0.9))
        small = F.interpolate(image[None], scale_factor=factor, mode="bilinear", antialias=True)
        image = F.interpolate(small, (size, size), mode="bilinear")[0]
    if rng.random() < 0.4:
        noise = rng.standard_normal((1, size, size) if rng.random() < 0.5 else (3, size, size), dtype=np.float32)
        deviation = float(rng.uniform(0.0, 0.12))
        image = image + torch.from_numpy(noise) * deviation * (image if rng.random() < 0.3 else 1.0)
    if rng.random() < 0.2:
        image = image * torch.from_numpy(rng.uniform(0.7, 1.3, (3, 1, 1)).astype(np.float32))
    return image * 255
