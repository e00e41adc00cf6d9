"""The optimizer of a run: AdamW, whose learning rate is set before every step."""

from __future__ import annotations

import torch

from dbsam.modeling.dbsam import DBSAM
from dbsam.weights.checkpoint import keys_beyond_sam, slice_view_keys
from dbsam_training.recipe import OptimizerOptions


def make_optimizer(model: DBSAM, options: OptimizerOptions) -> torch.optim.AdamW:
    """AdamW over what is trained; vectors, as biases and norms, do not decay.

    Each group's "factor" scales the learning rate of a step.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    new = slice_view_keys(model.config) or keys_beyond_sam(model.config)
    slower = trained.keys() - new if options.base_learning_rate_factor != 1 else set()
    groups = []
    for names, factor in ((trained.keys() - slower, 1.0), (slower, options.base_learning_rate_factor)):
        chosen = [p for name, p in trained.items() if name in names]
        if chosen:
            groups += [
                {"params": [p for p in chosen if p.ndim > 1], "weight_decay": options.weight_decay, "factor": factor},
                {"params": [p for p in chosen if p.ndim <= 1], "weight_decay": 0.0, "factor": factor},
            ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=options.betas)
