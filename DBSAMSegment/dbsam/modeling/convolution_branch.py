"""The light-weight convolution block: shallow features on the ViT's token grid."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import Tensor, nn


def conv_norm_act(in_channels: int, out_channels: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Convolution that keeps or divides the size, batch norm and ReLU."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def residual_body(channels: int, hidden: int) -> nn.Sequential:
    """Two 3x3 convolutions with batch norm for a residual branch; nothing follows the second norm."""
    return nn.Sequential(
        conv_norm_act(channels, hidden, 3),
        nn.Conv2d(hidden, channels, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels),
    )


class _ResidualConvolution(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = residual_body(channels, channels)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x + self.body(x))


class ConvolutionBranch(nn.Module):
    """3x3 convolutions of stride 2, then three 1x1 ones; batch norm and ReLU after each but the last.

    With two 3x3 convolutions this is the paper's block: 256x256 lands on 64x64 tokens. `stage_depth` adds residual
    pairs of 3x3 convolutions after each strided one, and `full_res_channels` a map beside them at the input's own
    resolution, for the mask decoder alone (settings of our compact model).
    """

    def __init__(self, channels: Sequence[int], embed_dim: int, stage_depth: int, full_res_channels: int = 0) -> None:
        super().__init__()
        widths = [3, *channels]
        self.stages = nn.ModuleList(
            nn.Sequential(
                conv_norm_act(before, after, 3, stride=2),
                *(_ResidualConvolution(after) for _ in range(stage_depth)),
            )
            for before, after in itertools.pairwise(widths)
        )
        self.full_res: nn.Sequential | None = None
        if full_res_channels:
            self.full_res = nn.Sequential(
                conv_norm_act(3, full_res_channels, 3), _ResidualConvolution(full_res_channels)
            )
        self.project = nn.Sequential(
            conv_norm_act(widths[-1], embed_dim, 1),
            conv_norm_act(embed_dim, embed_dim, 1),
            nn.Conv2d(embed_dim, embed_dim, 1),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Extract shallow features.

        Args:
            x: Normalised image, (B, 3, S, S).

        Returns:
            Tokens (B, H, W, C), and the maps at the resolutions above theirs, highest first.
        """
        maps: list[Tensor] = [] if self.full_res is None else [self.full_res(x)]
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return self.project(x).permute(0, 2, 3, 1), maps[:-1]
