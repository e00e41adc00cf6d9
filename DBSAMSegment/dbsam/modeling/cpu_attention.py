"""Attention with decomposed relative positions on the CPU: tiles of the attention map that stay in its caches.

Compared on the CPU with the alternatives: a fused kernel with the positions as further channels spends three times the
arithmetic, and one with a mask has to have the whole map in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

TILE_ELEMENTS = 1 << 20
"""Size of a tile: large enough for full matrix rate, small enough for a second- or third-level cache."""


class TiledAttention(torch.autograd.Function):
    """softmax(scale * q k + bias) v, where the bias of a pair of tokens is q's product with their relative position.

    Neither the map nor the bias is ever whole in memory, in the forward or in the backward pass.
    """

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def forward(ctx: Any, qkv: Tensor, table_h: Tensor, table_w: Tensor, scale: float) -> Tensor:
        """Mix the values.

        Args:
            ctx: Keeps what the backward pass needs.
            qkv: Queries, keys and values, (B, H * W, 3, heads, D).
            table_h: Relative positions along the height, (2 H - 1, D): row j is that of a key j - (H - 1) rows below.
            table_w: The same along the width, (2 W - 1, D).
            scale: Of the products of queries and keys.

        Returns:
            (B, H * W, heads, D).
        """
        mixed = torch.empty_like(qkv[:, :, 0], memory_format=torch.contiguous_format)
        tiles = _Tiles(qkv, table_h, table_w, scale)
        for head in range(qkv.shape[3]):
            tiles.choose(head)
            for images, queries in tiles:
                weights = tiles.weights(images, queries)
                mixed[images, queries, head] = torch.bmm(weights, tiles.value[images])
        ctx.save_for_backward(qkv, table_h, table_w, mixed)
        ctx.scale = scale
        return mixed

    @staticmethod
    @torch.autocast("cpu", enabled=False)
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Gradients of qkv and of the tables; each tile is computed again."""
        qkv, table_h, table_w, mixed = ctx.saved_tensors
        grad = grads[0]
        grad_qkv = torch.zeros_like(qkv, memory_format=torch.contiguous_format)
        grad_tables = [torch.zeros_like(table) for table in (table_h, table_w)]
        tiles = _Tiles(qkv, table_h, table_w, ctx.scale)
        for head in range(qkv.shape[3]):
            tiles.choose(head)
            grad_query, grad_key, grad_value = (grad_qkv[:, :, n, head] for n in range(3))
            grad_biases = [qkv.new_empty(*qkv.shape[:2], side) for side in tiles.grid_hw]
            for images, queries in tiles:
                weights = tiles.weights(images, queries)
                grad_mixed = grad[images, queries, head]
                grad_value[images] += weights.transpose(1, 2) @ grad_mixed
                kept = (grad_mixed * mixed[images, queries, head]).sum(-1, keepdim=True)
                grad_scores = (grad_mixed @ tiles.value[images].transpose(1, 2)).sub_(kept).mul_(weights)
                grad_query[images, queries] += grad_scores @ tiles.key[images] * ctx.scale
                grad_key[images] += grad_scores.transpose(1, 2) @ tiles.query[images, queries] * ctx.scale
                pairs = grad_scores.view(*grad_scores.shape[:2], *tiles.grid_hw)
                grad_biases[0][images, queries] = pairs.sum(3)
                grad_biases[1][images, queries] = pairs.sum(2)
            for side, (table, grad_table) in enumerate(zip((table_h, table_w), grad_tables, strict=True)):
                grad_products = qkv.new_zeros(*qkv.shape[:2], table.shape[0])
                by_key = view_by_key(grad_products, tiles.grid_hw, side)
                by_key.copy_(grad_biases[side].view_as(by_key))
                grad_query += grad_products @ table
                grad_table += torch.einsum("bqj,bqd->jd", grad_products, tiles.query)
        return grad_qkv, grad_tables[0], grad_tables[1], None


class _Tiles:
    """The tiles of one head's attention maps: some images (or windows) whole, or some queries of one image.

    Attributes:
        grid_hw: Height and width of the grid of tokens.
        query: (B, H * W, D) of the chosen head; key and value alike.
    """

    def __init__(self, qkv: Tensor, table_h: Tensor, table_w: Tensor, scale: float) -> None:
        self.grid_hw = ((table_h.shape[0] + 1) // 2, (table_w.shape[0] + 1) // 2)
        self._qkv, self._tables, self._scale = qkv, (table_h, table_w), scale
        self._batch, self._tokens = qkv.shape[:2]
        images = min(self._batch, max(1, TILE_ELEMENTS // self._tokens**2))
        queries = min(self._tokens, max(1, TILE_ELEMENTS // self._tokens))
        self._step = (images, queries)
        self._buffer = qkv.new_empty(images * queries * self._tokens)

    def choose(self, head: int) -> None:
        """Turn to a head."""
        # Matrix products in bfloat16 would copy strided operands for every tile.
        self.query, self.key, self.value = self._qkv[:, :, :, head].permute(2, 0, 1, 3).contiguous().unbind(0)
        self._biases = [
            view_by_key((self.query @ table.t()).contiguous(), self.grid_hw, side).flatten(1, 2)
            for side, table in enumerate(self._tables)
        ]

    def __iter__(self) -> Iterator[tuple[slice, slice]]:
        """Images and queries of each tile."""
        images, queries = self._step
        for image in range(0, self._batch, images):
            for query in range(0, self._tokens, queries):
                yield slice(image, image + images), slice(query, query + queries)

    def weights(self, images: slice, queries: slice) -> Tensor:
        """A tile of the map after the softmax, (images, queries, H * W); valid until the next call."""
        query = self.query[images, queries]
        shape = (*query.shape[:2], self._tokens)
        tile = self._buffer[: shape[0] * shape[1] * shape[2]].view(shape)
        bias_h, bias_w = (bias[images, queries] for bias in self._biases)
        torch.add(bias_h.unsqueeze(-1), bias_w.unsqueeze(-2), out=tile.view(*shape[:2], *self.grid_hw))
        torch.baddbmm(tile, query, self.key[images].transpose(1, 2), alpha=self._scale, out=tile)
        return torch.softmax(tile, -1, out=tile)


def view_by_key(products: Tensor, grid_hw: tuple[int, int], side: int) -> Tensor:
    """Queries' products with all relative positions along one side, as a view by key row or column.

    A query in row r of S finds key rows 0 to S - 1 from place S - 1 - r on: one step back a row.

    Args:
        products: (B, H * W, 2 S - 1), contiguous.
        grid_hw: Height and width.
        side: 0 along the height, 1 along the width.

    Returns:
        (B, H, W, S).
    """
    (height, width), (batch, tokens, places) = grid_hw, products.shape
    strides = [tokens * places, width * places, places, 1]
    strides[1 + side] -= 1
    return products.as_strided((batch, height, width, grid_hw[side]), strides, grid_hw[side] - 1)
