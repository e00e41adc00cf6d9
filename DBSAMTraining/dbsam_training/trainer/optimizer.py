"""The optimizer of a run: AdamW, whose learning rate is set before every step."""

from __future__ import annotations

import torch
from torch import nn

from dbsam_training.recipe import OptimizerOptions


def make_optimizer(model: nn.Module, options: OptimizerOptions) -> torch.optim.AdamW:
    """AdamW over what is trained; vectors, as biases and norms, do not decay."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=options.betas)
