"""segment_anything's attention, computed without maps of all pairs of tokens, on its own modules and weights."""

from __future__ import annotations

from typing import Any

import torch
from segment_anything.modeling.image_encoder import (
    Attention,
    Block,
    get_rel_pos,
    window_partition,
    window_unpartition,
)
from torch import Tensor
from torch.nn import functional as F

from dbsam.modeling.tiled_attention import TiledAttention


def attend(attention: Attention, x: Tensor) -> Tensor:
    """What `Attention.forward` computes.

    Args:
        attention: segment_anything's module.
        x: Tokens, (B, H, W, C).

    Returns:
        (B, H, W, C).
    """
    return attention.proj(_mix(attention, attention.qkv(x)))


def block_forward(block: Block, x: Tensor) -> Tensor:
    """What `Block.forward` computes; x is (B, H, W, C)."""
    y = block.norm1(x)
    x = x + (_attend_in_windows(block, y) if block.window_size > 0 else attend(block.attn, y))
    return x + block.mlp(block.norm2(x))


def _attend_in_windows(block: Block, x: Tensor) -> Tensor:
    """Attention inside windows; the tokens that fill up the last ones cost no linear layer.

    segment_anything pads with zeros before the projection to queries, keys and values. What it makes of a zero token
    is the projection's bias, which stands in here, and the padded tokens' results are dropped before the last layer.
    """
    attention, size = block.attn, block.window_size
    batch, height, width, _ = x.shape
    qkv = attention.qkv(x)
    padded_hw = (-(-height // size) * size, -(-width // size) * size)
    if padded_hw != (height, width):
        padding = attention.qkv.bias.to(qkv.dtype)
        padded = qkv.new_empty(batch, *padded_hw, qkv.shape[-1])
        padded[:, :height, :width] = qkv
        padded[:, height:] = padding
        padded[:, :height, width:] = padding
        qkv = padded
    windows, _ = window_partition(qkv, size)
    mixed = window_unpartition(_mix(attention, windows), size, padded_hw, (height, width))
    return attention.proj(mixed)


def _mix(attention: Attention, qkv: Tensor) -> Tensor:
    """Softmax-weighted sums of values; qkv (B, H, W, 3C), result (B, H, W, C)."""
    batch, height, width, channels = qkv.shape
    heads = attention.num_heads
    qkv = qkv.view(batch, height * width, 3, heads, channels // (3 * heads))
    if not attention.use_rel_pos:
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2)
    else:
        tables = (_offset_table(attention.rel_pos_h, height), _offset_table(attention.rel_pos_w, width))
        mix: Any = TiledAttention.apply if qkv.device.type == "cpu" else attend_by_extra_channels
        mixed = mix(qkv, *(table.to(qkv.dtype) for table in tables), attention.scale)
    return mixed.reshape(batch, height, width, channels // 3)


def _offset_table(rel_pos: Tensor, size: int) -> Tensor:
    """Relative positions along one side, (2 size - 1, D): row j holds that of a key j - (size - 1) after its query."""
    pairs = get_rel_pos(size, size, rel_pos)
    return torch.cat([pairs[-1, :-1], pairs[0]])


def attend_by_extra_channels(qkv: Tensor, table_h: Tensor, table_w: Tensor, scale: float) -> Tensor:
    """Decomposed relative positions as further query and key channels, so that fused attention kernels apply.

    A query's bias for each key row and column is appended to the query, the key's row and column as one-hot vectors to
    the key: their product is the bias. Values are padded to the same width, and all to a multiple of eight, which the
    fastest kernels require.

    Args:
        qkv: (B, H * W, 3, heads, D).
        table_h: Relative positions along the height, see `_offset_table`, (2 H - 1, D).
        table_w: The same along the width, (2 W - 1, D).
        scale: Of the products of queries and keys.

    Returns:
        (B, H * W, heads, D).
    """
    height, width = (table_h.shape[0] + 1) // 2, (table_w.shape[0] + 1) // 2
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    batch, heads, tokens, dim = query.shape
    grid = query.reshape(batch, heads, height, width, dim)
    bias_h = torch.einsum("bnhwd,hkd->bnhwk", grid, table_h.unfold(0, height, 1).flip(0).transpose(1, 2))
    bias_w = torch.einsum("bnhwd,wkd->bnhwk", grid, table_w.unfold(0, width, 1).flip(0).transpose(1, 2))
    rows = torch.eye(height, dtype=key.dtype, device=key.device).repeat_interleave(width, 0)
    columns = torch.eye(width, dtype=key.dtype, device=key.device).repeat(height, 1)
    extra = height + width
    blank = -(dim + extra) % 8
    places = F.pad(torch.cat([rows, columns], -1), (0, blank)).expand(batch, heads, tokens, extra + blank)
    unused = query.new_zeros(1).expand(batch, heads, tokens, blank)
    query = torch.cat([query * scale, bias_h.flatten(2, 3), bias_w.flatten(2, 3), unused], -1)
    key, value = torch.cat([key, places], -1), F.pad(value, (0, extra + blank))
    return F.scaled_dot_product_attention(query, key, value, scale=1.0)[..., :dim].transpose(1, 2)
