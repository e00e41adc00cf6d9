"""The ViT-Conv fusion block (paper, eq. 2)."""

from __future__ import annotations

from torch import Tensor, nn


class FusionLogits(nn.Module):
    """Fully connected squeeze, GELU, fully connected restore: one branch's share of the gate."""

    def __init__(self, dim: int, ratio: int, gate_init: float) -> None:
        super().__init__()
        self.squeeze = nn.Linear(dim, dim // ratio)
        self.act = nn.GELU()
        self.restore = nn.Linear(dim // ratio, dim)
        nn.init.zeros_(self.restore.weight)
        nn.init.constant_(self.restore.bias, gate_init)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, H, W, C) to gate logits (B, H, W, C)."""
        return self.restore(self.act(self.squeeze(x)))


class ViTConvFusion(nn.Module):
    """M = sigmoid(A_d + A_s); F_out = F_d * M + F_s * (1 - M), element-wise."""

    def __init__(self, dim: int, ratio: int, gate_init: float) -> None:
        super().__init__()
        self.deep_logits = FusionLogits(dim, ratio, gate_init / 2)
        self.shallow_logits = FusionLogits(dim, ratio, gate_init / 2)

    def forward(self, deep: Tensor, shallow: Tensor) -> Tensor:
        """Blend F_d and F_s, each (B, H, W, C)."""
        gate = (self.deep_logits(deep) + self.shallow_logits(shallow)).sigmoid()
        return deep * gate + shallow * (1 - gate)
