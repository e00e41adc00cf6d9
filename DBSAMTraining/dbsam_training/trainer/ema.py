"""A running average of the weights, which generalises better than the last ones."""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

Module = TypeVar("Module", bound=nn.Module)


def ema_copy(model: Module) -> Module:
    """A copy in evaluation mode whose frozen weights are the model's own, so that a frozen ViT is not held twice."""
    frozen = {id(p): p for p in model.parameters() if not p.requires_grad}
    copied = copy.deepcopy(model, dict(frozen))
    for parameter in copied.parameters():
        parameter.requires_grad_(False)
    return copied.eval()


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move the average towards the model's weights and batch norm statistics.

    Args:
        ema: From `ema_copy`.
        model: What it averages.
        step: 0 for the first; early on the average follows faster.
        decay: Share that is kept.
    """
    pairs = zip(ema.state_dict().values(), model.state_dict().values(), strict=True)
    moving = [(kept, value) for kept, value in pairs if kept.data_ptr() != value.data_ptr()]
    floating = [pair for pair in moving if pair[0].is_floating_point()]
    blend = get_ema_multi_avg_fn(min(decay, (1 + step) / (10 + step)))
    blend([kept for kept, _ in floating], [value for _, value in floating], step)
    for kept, value in moving:
        if not kept.is_floating_point():
            kept.copy_(value)
