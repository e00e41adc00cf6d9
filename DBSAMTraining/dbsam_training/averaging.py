"""A running average of the weights, which generalises better than the last ones."""

from __future__ import annotations

import copy

import torch
from torch import nn


def averaged_copy(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose frozen weights are the model's own, so that a frozen ViT is not held twice."""
    frozen = {id(p): p for p in model.parameters() if not p.requires_grad}
    copied = copy.deepcopy(model, dict(frozen))
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    return copied.eval()


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move the average towards the model's weights and batch norm statistics.

    Args:
        average: From `averaged_copy`.
        model: What it averages.
        step: 0 for the first; early on the average follows faster.
        decay: Share that is kept.
    """
    decay = min(decay, (1 + step) / (10 + step))
    for kept, value in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.data_ptr() == value.data_ptr():
            continue
        if kept.is_floating_point():
            kept.lerp_(value, 1 - decay)
        else:
            kept.copy_(value)
