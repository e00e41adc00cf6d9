"""segment_anything's attention, computed by fused kernels on its own modules and weights."""

from __future__ import annotations

from segment_anything.modeling.image_encoder import Attention, Block, window_partition, window_unpartition
from torch import Tensor
from torch.nn import functional as F


def attend(attention: Attention, x: Tensor) -> Tensor:
    """What `Attention.forward` computes, without a map of all pairs of tokens where no relative positions are added.

    Args:
        attention: segment_anything's module.
        x: Tokens, (B, H, W, C).

    Returns:
        (B, H, W, C).
    """
    if attention.use_rel_pos:
        return attention(x)
    batch, height, width, channels = x.shape
    heads = attention.num_heads
    qkv = attention.qkv(x).view(batch, height * width, 3, heads, channels // heads)
    query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    mixed = F.scaled_dot_product_attention(query, key, value)
    return attention.proj(mixed.transpose(1, 2).reshape(batch, height, width, channels))


def block_forward(block: Block, x: Tensor) -> Tensor:
    """What `Block.forward` computes, with `attend`; x is (B, H, W, C)."""
    y = block.norm1(x)
    if block.window_size > 0:
        height, width = y.shape[1:3]
        y, padded_hw = window_partition(y, block.window_size)
        y = attend(block.attn, y)
        y = window_unpartition(y, block.window_size, padded_hw, (height, width))
    else:
        y = attend(block.attn, y)
    x = x + y
    return x + block.mlp(block.norm2(x))
