"""TinyViT as LiteMedSAM uses it: convolutions at full and half resolution, then attention in windows.

Wu et al. 2022, "TinyViT"; LiteMedSAM makes every pixel a patch and ends on 64x64 tokens. Parameters carry LiteMedSAM's
names, so that its file loads as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvNorm(nn.Sequential):
    """A convolution without bias and its batch norm; where its statistics are settled, one convolution does both."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        padding = kernel // 2
        self.c = nn.Conv2d(in_channels, out_channels, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / stride, W / stride)."""
        if self.training:
            return self.bn(self.c(x))
        mean, variance = self.bn.get_buffer("running_mean"), self.bn.get_buffer("running_var")
        scale = self.bn.weight * (variance + self.bn.eps).rsqrt()
        weight, bias = self.c.weight * scale[:, None, None, None], self.bn.bias - mean * scale
        return F.conv2d(x, weight, bias, self.c.stride, self.c.padding, groups=self.c.groups)


class PatchEmbed(nn.Module):
    """Two 1x1 convolutions: every pixel is a patch."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.seq = nn.Sequential(ConvNorm(3, channels // 2), nn.GELU(), ConvNorm(channels // 2, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 3, H, W) to (B, C, H, W)."""
        return self.seq(x)


class MBConv(nn.Module):
    """Widen, depthwise 3x3, narrow, with a residual round the three and GELU after the sum."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, hidden)
        self.conv2 = ConvNorm(hidden, hidden, 3, groups=hidden)
        self.conv3 = ConvNorm(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to the same shape."""
        y = F.gelu(self.conv1(x))
        y = F.gelu(self.conv2(y))
        return F.gelu(x + self.conv3(y))


class PatchMerging(nn.Module):
    """To the channels of the next stage, and to half the size where `stride` is 2."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = ConvNorm(channels, out_channels)
        self.conv2 = ConvNorm(out_channels, out_channels, 3, stride, groups=out_channels)
        self.conv3 = ConvNorm(out_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C', H / stride, W / stride)."""
        return self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))


def offset_ids(window: int) -> Tensor:
    """Which bias a pair of tokens of a window reads: offsets (|dy|, |dx|) numbered as they first occur, (N, N)."""
    places = [(y, x) for y in range(window) for x in range(window)]
    numbers: dict[tuple[int, int], int] = {}
    ids = [numbers.setdefault((abs(a[0] - b[0]), abs(a[1] - b[1])), len(numbers)) for a in places for b in places]
    return torch.tensor(ids).view(len(places), len(places))


_WINDOWS_AT_ONCE = 8
"""Windows whose attention maps are computed together in the backward pass: together they stay in a core's cache."""


class _MixOnCpu(torch.autograd.Function):
    """PyTorch's fused kernel, with a backward pass that is some ten times as fast as its own on a CPU."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
        mixed = F.scaled_dot_product_attention(query, key, value, bias)
        ctx.save_for_backward(query, key, value, bias, mixed)
        return mixed

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, bias, mixed = (part.contiguous() for part in ctx.saved_tensors)
        grad = grads[0].contiguous()
        scale = query.shape[-1] ** -0.5
        kept = (grad * mixed).sum(-1, keepdim=True)
        outputs = [torch.empty_like(part) for part in (query, key, value)]
        for start in range(0, len(query), _WINDOWS_AT_ONCE):
            some = slice(start, start + _WINDOWS_AT_ONCE)
            weights = (query[some] @ key[some].transpose(-1, -2)).mul_(scale).add_(bias).softmax(-1)
            grad_scores = (grad[some] @ value[some].transpose(-1, -2)).sub_(kept[some]).mul_(weights).mul_(scale)
            outputs[0][some] = grad_scores @ key[some]
            outputs[1][some] = grad_scores.transpose(-1, -2) @ query[some]
            outputs[2][some] = weights.transpose(-1, -2) @ grad[some]
        return outputs[0], outputs[1], outputs[2], None


def mix_values(query: Tensor, key: Tensor, value: Tensor, bias: Tensor) -> Tensor:
    """softmax(q k / sqrt(D) + bias) v in each window.

    Args:
        query: (windows, heads, N, D); key and value alike.
        key: See `query`.
        value: See `query`.
        bias: (1, heads, N, N).

    Returns:
        (windows, heads, N, D).
    """
    if query.device.type == "cpu" and query.requires_grad and not bias.requires_grad:
        mixed: Tensor = _MixOnCpu.apply(query, key, value, bias)
        return mixed
    return F.scaled_dot_product_attention(query, key, value, bias)


class WindowAttention(nn.Module):
    """Attention inside windows, with its own layer norm and a learned bias for each absolute offset."""

    offset_ids: Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))
        self.register_buffer("offset_ids", offset_ids(window), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix the tokens of each window of x (B, H, W, C).

        Windows that reach beyond the map are filled with zeros before the norm, as in training, so that a filling token
        is the norm's bias.
        """
        batch, height, width, channels = x.shape
        size, heads = self.window, self.heads
        rows, columns = -(-height // size), -(-width // size)
        x = F.pad(x, (0, 0, 0, columns * size - width, 0, rows * size - height))
        windows = x.view(batch, rows, size, columns, size, channels).transpose(2, 3).reshape(-1, size * size, channels)
        # Interleaved by head: the query, key and value of a head lie side by side.
        qkv = self.qkv(self.norm(windows)).view(-1, size * size, heads, 3, channels // heads)
        query, key, value = qkv.permute(3, 0, 2, 1, 4).unbind(0)
        bias = self.attention_biases[:, self.offset_ids].unsqueeze(0).to(query.dtype)
        mixed = mix_values(query, key, value, bias)
        mixed = self.proj(mixed.transpose(1, 2).reshape(-1, size * size, channels))
        mixed = mixed.view(batch, rows, columns, size, size, channels).transpose(2, 3)
        return mixed.reshape(batch, rows * size, columns * size, channels)[:, :height, :width]


class Mlp(nn.Module):
    """Layer norm and two linear layers with GELU between."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.fc1 = nn.Linear(channels, hidden)
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., C) to (..., C)."""
        return self.fc2(F.gelu(self.fc1(self.norm(x))))


class TinyViTBlock(nn.Module):
    """Window attention, a depthwise 3x3 convolution without residual, and an MLP."""

    def __init__(self, channels: int, heads: int, window: int, mlp_ratio: float) -> None:
        super().__init__()
        self.attn = WindowAttention(channels, heads, window)
        self.mlp = Mlp(channels, int(channels * mlp_ratio))
        self.local_conv = ConvNorm(channels, channels, 3, groups=channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, H, W, C) to the same shape."""
        x = x + self.attn(x)
        x = self.local_conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return x + self.mlp(x)


class Stage(nn.Module):
    """Blocks and, but for the last stage, a merging to the next stage's channels."""

    def __init__(self, blocks: Sequence[nn.Module], downsample: PatchMerging | None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.downsample = downsample
