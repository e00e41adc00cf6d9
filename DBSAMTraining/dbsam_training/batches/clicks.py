"""Simulated corrections, as SAM trains them: one click a round, in the largest wrong part of the mask so far."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from dbsam_training.batches.augment import Batch
from dbsam_training.batches.click_rule import place_of_click
from dbsam_training.recipe import Recipe

_CLICKS = 4
"""Tells the random numbers of clicks from those of sampling, prompts and dropout."""


class SimulatedClicks:
    """Clicks on the masks of a batch, one more for each sample whenever it is called.

    Args:
        masks: The true masks (B, M, M), 0 or 1.
        valid: (B, M, M), 1 inside the slice; nobody clicks beyond it.
        input_size: Side of the network's input in pixels.
        rng: Chooses the place inside the wrong part; None for its centre, as in evaluation.
    """

    def __init__(self, masks: Tensor, valid: Tensor, input_size: int, rng: np.random.Generator | None = None) -> None:
        self._truth = masks.cpu().numpy() > 0.5
        self._valid = valid.cpu().numpy() > 0.5
        self._scale = input_size / masks.shape[-1]
        self._rng = rng
        self._points: list[NDArray[np.float32]] = []
        self._labels: list[NDArray[np.int64]] = []

    def __call__(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """All clicks so far, after a new one on each mask.

        Args:
            logits: Low-res logits (B, h, w) of the masks to correct; scaled to the size of the true masks.

        Returns:
            Points (B, P, 2) in input pixels, and labels (B, P): 1 to include, 0 to exclude, -1 where nothing is wrong.
        """
        size = self._truth.shape[-1]
        if logits.shape[-1] != size:
            logits = F.interpolate(logits[:, None].float(), (size, size), mode="bilinear")[:, 0]
        found = (logits.detach() > 0).cpu().numpy()
        points = np.zeros((len(found), 2), np.float32)
        labels = np.full(len(found), -1, np.int64)
        for n, mask in enumerate(found):
            known = np.where(self._valid[n], mask, self._truth[n])
            place = place_of_click(self._truth[n], known, rng=self._rng)
            if place is not None:
                points[n] = (np.array(place[::-1]) + 0.5) * self._scale - 0.5
                labels[n] = int(self._truth[n][place])
        self._points.append(points)
        self._labels.append(labels)
        device = logits.device
        return (
            torch.from_numpy(np.stack(self._points, 1)).to(device),
            torch.from_numpy(np.stack(self._labels, 1)).to(device),
        )


def correction(batch: Batch, recipe: Recipe, step: int) -> tuple[SimulatedClicks | None, int]:
    """Who corrects the masks of a batch, and for how many rounds on this step; nobody for none.

    Clicks are found on the CPU, so a step without them must not wait for the masks of a GPU.
    """
    rng = np.random.default_rng([_CLICKS, recipe.run.seed, step])
    rounds = int(rng.choice(len(recipe.prompts.click_rounds), p=recipe.prompts.click_rounds))
    if rounds == 0:
        return None, 0
    return SimulatedClicks(batch.masks, batch.mask_valid, batch.images.shape[-1], rng), rounds
