"""Deformable attention (Zhu et al. 2021, Deformable DETR) on one level, in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def deformable_sample(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Weighted sum of bilinear samples of a map.

    Args:
        value: (B, heads, D, H, W).
        locations: Sampling points as (x, y) in token units, centres at integers, (B, heads, N, points, 2).
            Samples outside the map read zero.
        weights: (B, heads, N, points).

    Returns:
        (B, N, heads * D).
    """
    sample = sample_by_bags if value.device.type == "cpu" else sample_by_grid
    return sample(value, locations, weights)


def sample_by_grid(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """`deformable_sample` where `grid_sample` is one fast kernel: on GPUs.

    It wants map and places in one type: that of the places, which bfloat16 would move by up to a sixteenth of a token.
    For a map in half precision without gradients that is float16, which halves what memory has to move and keeps places
    within a hundredth of a token; gradients add up too many small numbers for it, and autocast to bfloat16 refuses it.
    """
    batch, heads, dim, height, width = value.shape
    queries = locations.shape[2]
    # Filled on the device: numbers from the computer's memory would be a copy, which no CUDA graph can hold.
    size = torch.stack([locations.new_full((), width), locations.new_full((), height)])
    narrow = value.element_size() == 2 and not torch.is_grad_enabled() and not torch.is_autocast_enabled()
    dtype = torch.float16 if narrow else locations.dtype
    grid = ((locations + 0.5) * 2 / size - 1).flatten(0, 1).to(dtype)
    maps = value.flatten(0, 1).to(dtype)
    sampled = F.grid_sample(maps, grid, mode="bilinear", align_corners=False)
    mixed = (sampled * weights.flatten(0, 1).unsqueeze(1).to(dtype)).sum(-1)
    return mixed.view(batch, heads * dim, queries).transpose(1, 2).to(value.dtype)


def sample_by_bags(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """`deformable_sample` on the CPU, where a weighted sum of table rows takes a third of `grid_sample`'s time.

    A query is a bag of the four tokens around each of its points.
    """
    batch, heads, dim, height, width = value.shape
    queries = locations.shape[2]
    low = locations.floor()
    corners = torch.tensor([[0, 0], [1, 0], [0, 1], [1, 1]], device=value.device)
    x, y = (low.unsqueeze(-2).long() + corners).unbind(-1)
    beyond = (locations - low).unsqueeze(-2)
    shares = torch.where(corners.bool(), beyond, 1 - beyond).prod(-1) * weights.unsqueeze(-1)
    shares = shares * ((x >= 0) & (x < width) & (y >= 0) & (y < height))
    maps = torch.arange(batch * heads, device=value.device).view(batch, heads, 1, 1, 1) * (height * width)
    rows = maps + y.clamp(0, height - 1) * width + x.clamp(0, width - 1)
    # Bags of bfloat16 rows have given NaN (torch 2.14).
    table = value.permute(0, 1, 3, 4, 2).reshape(-1, dim).to(torch.promote_types(value.dtype, torch.float32))
    bags = batch * heads * queries
    mixed = F.embedding_bag(
        rows.reshape(bags, -1), table, per_sample_weights=shares.reshape(bags, -1).to(table.dtype), mode="sum"
    )
    return mixed.view(batch, heads, queries, dim).transpose(1, 2).flatten(2).to(value.dtype)


class DeformableAttention(nn.Module):
    """Each query token reads `points` places of the other branch's map around its own position.

    The output projection starts at zero: with a residual around it, a new layer is the identity.
    """

    def __init__(self, dim: int, heads: int, points: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"{dim} channels do not split into {heads} heads.")
        self.heads, self.points = heads, points
        self.sampling_offsets = nn.Linear(dim, heads * points * 2)
        self.attention_weights = nn.Linear(dim, heads * points)
        self.value_proj = nn.Linear(dim, dim)
        self.output_proj = nn.Linear(dim, dim)
        self._reset()

    def _reset(self) -> None:
        """Offsets start as rays, one direction a head, one step a point (Deformable DETR, appendix A.4)."""
        angles = torch.arange(self.heads, dtype=torch.float32) * (2.0 * math.pi / self.heads)
        rays = torch.stack([angles.cos(), angles.sin()], -1)
        rays = rays / rays.abs().max(-1, keepdim=True).values
        steps = torch.arange(1, self.points + 1, dtype=torch.float32)
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_((rays[:, None, :] * steps[None, :, None]).flatten())
        for layer in (self.attention_weights, self.output_proj):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.value_proj.weight)
        nn.init.zeros_(self.value_proj.bias)

    def forward(self, query: Tensor, key_value: Tensor) -> Tensor:
        """Attend from query (B, H, W, C) to key_value (B, H, W, C) of the same grid.

        Returns:
            (B, H, W, C).
        """
        batch, height, width, dim = query.shape
        tokens = height * width
        value = self.value_proj(key_value).permute(0, 3, 1, 2)
        value = value.reshape(batch, self.heads, dim // self.heads, height, width)
        offsets = self.sampling_offsets(query).view(batch, tokens, self.heads, self.points, 2).transpose(1, 2)
        weights = self.attention_weights(query).view(batch, tokens, self.heads, self.points).softmax(-1)
        rows, columns = torch.meshgrid(
            torch.arange(height, device=query.device), torch.arange(width, device=query.device), indexing="ij"
        )
        reference_points = torch.stack([columns, rows], -1).view(1, 1, tokens, 1, 2)
        mixed = deformable_sample(value, reference_points + offsets.float(), weights.transpose(1, 2))
        return self.output_proj(mixed).view(batch, height, width, dim)
