"""The optimizer of a run: AdamW, whose rate is set before every step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dbsam_training.recipe import OptimizerOptions


def make_optimizer(model: nn.Module, options: OptimizerOptions, graphed_on: torch.device | None) -> torch.optim.AdamW:
    """AdamW over what is trained; vectors, as biases and norms, do not decay.

    Args:
        model: The network.
        options: Rate, decay, betas.
        graphed_on: The device of a step that is recorded as a CUDA graph, which reads the rate from its memory.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    rate = torch.tensor(options.learning_rate, device=graphed_on) if graphed_on else options.learning_rate
    return torch.optim.AdamW(groups, lr=rate, betas=options.betas, capturable=graphed_on is not None)


def set_rate(groups: Sequence[dict[str, Any]], rate: float) -> None:
    """Set the learning rate of an optimizer's groups, in place where a graph reads it."""
    for group in groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def move_rate(groups: Sequence[dict[str, Any]], device: torch.device) -> None:
    """Bring rates that were loaded from a file to a device, where a graph reads them."""
    for group in groups:
        if isinstance(group["lr"], Tensor):
            group["lr"] = group["lr"].to(device)


def parameters_of(groups: Sequence[Mapping[str, Any]]) -> list[nn.Parameter]:
    """All parameters of an optimizer's groups."""
    return [parameter for group in groups for parameter in group["params"]]
