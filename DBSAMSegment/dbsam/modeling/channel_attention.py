"""The channel attention block (paper, eq. 1): an adapter after an attention block of the frozen ViT."""

from __future__ import annotations

from torch import Tensor, nn

from dbsam.modeling.common import DropPath


class SqueezeExcitation(nn.Module):
    """Weights channels by a gate computed from their means (Hu et al. 2018)."""

    def __init__(self, dim: int, ratio: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(dim, dim // ratio, 1)
        self.act = nn.ReLU()
        self.expand = nn.Conv2d(dim // ratio, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Gate x (B, C, H, W)."""
        gate = self.expand(self.act(self.reduce(x.mean((2, 3), keepdim=True))))
        return x * gate.sigmoid()


class ChannelAttentionBlock(nn.Module):
    """F_out = F_vit + Conv1x1(SE(DWConv3x3(LN(F_vit)))).

    The last convolution starts at zero, so that a new block is the identity.
    """

    def __init__(self, dim: int, squeeze_ratio: int, dropout: float, drop_path: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.depthwise = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.excitation = SqueezeExcitation(dim, squeeze_ratio)
        self.dropout = nn.Dropout(dropout)
        self.project = nn.Conv2d(dim, dim, 1)
        self.drop_path = DropPath(drop_path)
        nn.init.zeros_(self.project.weight)
        if self.project.bias is not None:
            nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Adapt tokens x (B, H, W, C)."""
        y = self.norm(x).permute(0, 3, 1, 2)
        y = self.project(self.dropout(self.excitation(self.depthwise(y))))
        return x + self.drop_path(y.permute(0, 2, 3, 1))
