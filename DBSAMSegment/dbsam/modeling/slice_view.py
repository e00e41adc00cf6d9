"""The second view of a network that sees the region round a box: the whole slice, through LiteMedSAM's frozen ViT.

The slice is encoded once; every box on it cuts its region out of the features, so that a further box costs no more than
the light branches. Where a region shows edges, the slice shows what organ they belong to.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dbsam.modeling.config import DBSAMConfig

SLICE_SIZE = 256
"""Side of the ViT's square input, in pixels."""
SEEN_SIZE = 64
"""Side of the features that a region cuts out, in cells."""
SLICE_CHANNELS = 256


class SliceBlend(nn.Module):
    """Blends a region's part of the slice's features into the other branches; it changes nothing before training.

    The features join the tokens of the region's ViT, its image embedding, and, at their own resolution, the convolution
    branch's map of that size.
    """

    def __init__(self, config: DBSAMConfig) -> None:
        super().__init__()
        dim, cells = config.prompt_embed_dim, SEEN_SIZE // config.grid_size
        self.reduce = nn.Sequential(nn.Conv2d(SLICE_CHANNELS, dim, cells, stride=cells), nn.GELU())
        self.to_tokens = nn.Conv2d(dim, config.embed_dim, 1)
        self.to_embedding = nn.Conv2d(dim, dim, 3, padding=1)
        fine = config.conv_channels[0]
        self.to_map = nn.Sequential(
            nn.Conv2d(SLICE_CHANNELS, 2 * fine, 1), nn.GELU(), nn.Conv2d(2 * fine, fine, 3, padding=1)
        )
        for last in (self.to_tokens, self.to_embedding, self.to_map[-1]):
            nn.init.zeros_(last.get_parameter("weight"))
            nn.init.zeros_(last.get_parameter("bias"))

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What is added to the region's own features.

        Args:
            seen: The region's part of the slice's features, (B, SLICE_CHANNELS, SEEN_SIZE, SEEN_SIZE).

        Returns:
            For the tokens (B, grid, grid, C), the image embedding (B, C, grid, grid) and the map of SEEN_SIZE.
        """
        reduced = self.reduce(seen)
        return self.to_tokens(reduced).permute(0, 2, 3, 1), self.to_embedding(reduced), self.to_map(seen)


def cut_out(features: Tensor, regions_xyxy: Tensor) -> Tensor:
    """Sample the features of slices in one region each, bilinear as RoIAlign; zero beyond the features.

    Args:
        features: (B, C, h, w) over the ViT's square input.
        regions_xyxy: (B, 4) edges in pixels of that input, pixel centres at integers.

    Returns:
        (B, C, SEEN_SIZE, SEEN_SIZE).
    """
    x0, y0, x1, y1 = ((regions_xyxy + 0.5) * (2 / SLICE_SIZE) - 1).unbind(1)
    zero = torch.zeros_like(x0)
    theta = torch.stack([(x1 - x0) / 2, zero, (x0 + x1) / 2, zero, (y1 - y0) / 2, (y0 + y1) / 2], 1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [len(theta), 1, SEEN_SIZE, SEEN_SIZE], align_corners=False)
    return F.grid_sample(features.float(), grid, padding_mode="zeros", align_corners=False)
