"""The bilateral cross-attention block: the two branches read each other."""

from __future__ import annotations

from torch import Tensor, nn

from dbsam.modeling.common import DropPath, FeedForward
from dbsam.modeling.deformable_attention import DeformableAttention


class CrossAttentionLayer(nn.Module):
    """One direction: deformable attention, layer norm, feed-forward, a residual around each of the two."""

    def __init__(
        self, dim: int, heads: int, points: int, feed_forward_ratio: float, dropout: float, drop_path: float
    ) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(dim)
        self.key_norm = nn.LayerNorm(dim)
        self.attn = DeformableAttention(dim, heads, points)
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, int(dim * feed_forward_ratio), dropout)
        self.drop_path = DropPath(drop_path)

    def forward(self, query: Tensor, key_value: Tensor) -> Tensor:
        """Adapt query (B, H, W, C) by what key_value (B, H, W, C) holds."""
        attended = self.attn(self.query_norm(query), self.key_norm(key_value))
        query = query + self.drop_path(self.dropout(attended))
        return query + self.drop_path(self.feed_forward(self.norm(query)))


class BilateralCrossAttention(nn.Module):
    """Both directions at once: deep features query shallow ones and shallow ones query deep ones.

    Where nothing reads the shallow ones any more, `last` leaves out their side.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        points: int,
        feed_forward_ratio: float,
        dropout: float,
        drop_path: float,
        last: bool = False,
    ) -> None:
        super().__init__()
        self.vit_side = CrossAttentionLayer(dim, heads, points, feed_forward_ratio, dropout, drop_path)
        self.conv_side: CrossAttentionLayer | None = None
        if not last:
            self.conv_side = CrossAttentionLayer(dim, heads, points, feed_forward_ratio, dropout, drop_path)

    def forward(self, deep: Tensor, shallow: Tensor) -> tuple[Tensor, Tensor]:
        """Exchange between F_d and F_s, each (B, H, W, C)."""
        exchanged = shallow if self.conv_side is None else self.conv_side(shallow, deep)
        return self.vit_side(deep, shallow), exchanged
