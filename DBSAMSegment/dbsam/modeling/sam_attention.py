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

from dbsam.modeling.cpu_attention import TiledAttention, view_by_key


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
    """Attention inside windows; on the CPU the tokens that fill up the last ones cost no linear layer.

    segment_anything pads with zeros before the projection to queries, keys and values. What it makes of a zero token
    is the projection's bias, which stands in here, and the padded tokens' results are dropped before the last layer.
    On a GPU moving the projected tokens, three times as wide, costs more than the arithmetic.
    """
    attention, size = block.attn, block.window_size
    batch, height, width, _ = x.shape
    if not _in_tiles(x):
        windows, padded_hw = window_partition(x, size)
        return window_unpartition(attend(attention, windows), size, padded_hw, (height, width))
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
        mix: Any = TiledAttention.apply if _in_tiles(qkv) else attend_by_extra_channels
        mixed = mix(qkv, *(table.to(qkv.dtype) for table in tables), attention.scale)
    return mixed.reshape(batch, height, width, channels // 3)


def _in_tiles(x: Tensor) -> bool:
    """Whether attention maps are computed in tiles that fit the processor's caches."""
    return x.device.type == "cpu"


def _offset_table(rel_pos: Tensor, size: int) -> Tensor:
    """Relative positions along one side, (2 size - 1, D): row j holds that of a key j - (size - 1) after its query."""
    pairs = get_rel_pos(size, size, rel_pos)
    return torch.cat([pairs[-1, :-1], pairs[0]])


def attend_by_extra_channels(qkv: Tensor, table_h: Tensor, table_w: Tensor, scale: float) -> Tensor:
    """Decomposed relative positions as further query and key channels, so that fused attention kernels apply.

    A query's bias for each key row and column is appended to the query, the key's row and column as one-hot vectors to
    the key: their product is the bias. Values are padded to the same width, and all to a multiple of eight, which the
    fastest kernels require. What memory has to move is what costs time here: queries, keys and values are read where
    the projection left them, and written once.

    Args:
        qkv: (B, H * W, 3, heads, D).
        table_h: Relative positions along the height, see `_offset_table`, (2 H - 1, D).
        table_w: The same along the width, (2 W - 1, D).
        scale: Of the products of queries and keys.

    Returns:
        (B, H * W, heads, D).
    """
    grid_hw = ((table_h.shape[0] + 1) // 2, (table_w.shape[0] + 1) // 2)
    query, key, value = qkv.unflatten(1, grid_hw).unbind(3)
    dim, extra = query.shape[-1], sum(grid_hw)
    blank = -(dim + extra) % 8
    biases = [_biases(query, table / scale, side) for side, table in enumerate((table_h, table_w))]
    # Made in 32 bits: torch 2.1 makes none in bfloat16.
    rows, columns = (torch.eye(side, device=key.device).to(key.dtype) for side in grid_hw)
    places = [rows[:, None, None].expand(*key.shape[:-1], -1), columns[:, None].expand(*key.shape[:-1], -1)]
    unused = query.new_zeros(1).expand(*query.shape[:-1], extra + blank)
    query = torch.cat([query, *biases, unused[..., :blank]], -1)
    key = torch.cat([key, *places, unused[..., :blank]], -1)
    value = torch.cat([value, unused], -1)
    query, key, value = (part.flatten(1, 2).transpose(1, 2) for part in (query, key, value))
    mixed = F.scaled_dot_product_attention(query, key, value, scale=scale)
    return mixed.transpose(1, 2)[..., :dim]


def _biases(query: Tensor, table: Tensor, side: int) -> Tensor:
    """Products of queries with the relative positions of all S key rows or columns.

    Args:
        query: (B, H, W, heads, D), as the projection left it: a batched product over the heads reads it in place.
        table: Relative positions along the side, see `_offset_table`, (2 S - 1, D).
        side: 0 along the height, 1 along the width.

    Returns:
        (B, H, W, heads, S).
    """
    batch, height, width, heads, dim = query.shape
    aligned = F.pad(table, (0, 0, 0, -len(table) % 8))
    products = torch.bmm(query.reshape(-1, heads, dim).transpose(0, 1), aligned.t().expand(heads, dim, -1))
    found = view_by_key(products.view(heads * batch, height * width, -1), (height, width), side)
    return found.unflatten(0, (heads, batch)).permute(1, 2, 3, 0, 4)
