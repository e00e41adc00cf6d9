"""The dual-branch image encoder: SAM's ViT with adapters, the convolution branch, and their fusion."""

from __future__ import annotations

from functools import partial
from typing import Any

from segment_anything.modeling import ImageEncoderViT
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dbsam.modeling.bilateral_attention import BilateralCrossAttention
from dbsam.modeling.channel_attention import ChannelAttentionBlock
from dbsam.modeling.config import DBSAMConfig
from dbsam.modeling.convolution_branch import ConvolutionBranch
from dbsam.modeling.fusion import ViTConvFusion
from dbsam.modeling.sam_attention import block_forward


def vit_arguments(config: DBSAMConfig) -> dict[str, Any]:
    """What segment_anything's `ImageEncoderViT` of a configuration's size is made with."""
    return {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "embed_dim": config.embed_dim,
        "depth": config.depth,
        "num_heads": config.num_heads,
        "mlp_ratio": config.mlp_ratio,
        "out_chans": config.prompt_embed_dim,
        "norm_layer": partial(nn.LayerNorm, eps=1e-6),
        "use_rel_pos": config.use_rel_pos,
        "window_size": config.window_size,
        "global_attn_indexes": config.global_attn_indexes,
    }


class DualBranchImageEncoder(ImageEncoderViT):
    """segment_anything's image encoder with DB-SAM's adapters beside it, under keys of their own.

    Without adapters it computes exactly what `ImageEncoderViT` does.

    Attributes:
        checkpointing: Whether, in training, the inside of each attention block is computed again in the backward pass
            instead of kept: the same gradients in less memory.
    """

    checkpointing = False

    def __init__(self, config: DBSAMConfig) -> None:
        super().__init__(**vit_arguments(config))
        self.conv_image_size = config.conv_image_size
        self.stage_ends = tuple(config.stage_ends)
        dim, dropout, drop_path = config.embed_dim, config.adapter_dropout, config.drop_path
        places = {"block": range(config.depth), "stage": config.stage_ends, "none": ()}[config.channel_attention]
        self.channel_attention = nn.ModuleDict(
            {str(i): ChannelAttentionBlock(dim, config.squeeze_ratio, dropout, drop_path) for i in places}
        )
        self.conv_branch: ConvolutionBranch | None = None
        self.bilateral = nn.ModuleDict()
        self.fusion: ViTConvFusion | None = None
        if config.uses_conv_branch:
            depth, full_res = config.conv_stage_depth, config.full_res_channels
            self.conv_branch = ConvolutionBranch(config.conv_channels, dim, depth, full_res)
        if config.bilateral:
            ends = config.stage_ends
            heads, points, ratio = config.deformable_heads, config.deformable_points, config.feed_forward_ratio
            self.bilateral = nn.ModuleDict(
                {str(i): BilateralCrossAttention(dim, heads, points, ratio, dropout, drop_path) for i in ends}
            )
        if config.fusion:
            self.fusion = ViTConvFusion(dim, config.fusion_ratio, config.fusion_gate_init)

    def adapters(self) -> list[nn.Module]:
        """The parts that are not SAM's."""
        parts = [self.channel_attention, self.conv_branch, self.bilateral, self.fusion]
        return [part for part in parts if part is not None]

    def forward_features(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Encode images.

        Args:
            x: Normalised images, (B, 3, image_size, image_size), float32.

        Returns:
            The image embedding (B, prompt_embed_dim, grid, grid), and the convolution branch's maps above the token
            grid's resolution, highest first (empty without that branch), in the precision of the weights.
        """
        dtype = self.patch_embed.proj.weight.dtype
        shallow, maps = None, []
        if self.conv_branch is not None:
            small = x
            if x.shape[-1] != self.conv_image_size:
                size = (self.conv_image_size, self.conv_image_size)
                small = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
            shallow, maps = self.conv_branch(small.to(dtype))
            shallow = shallow.contiguous()
        # A convolution's tokens lie channel by channel; every sum would keep that, and every layer norm would copy it.
        deep = self.patch_embed(x.to(dtype)).contiguous()
        if self.pos_embed is not None:
            deep = deep + self.pos_embed
        for index, block in enumerate(self.blocks):
            if self.checkpointing and self.training and deep.requires_grad:
                deep = checkpoint(block_forward, block, deep, use_reentrant=False)
            else:
                deep = block_forward(block, deep)
            key = str(index)
            if key in self.channel_attention:
                deep = self.channel_attention[key](deep)
            if key in self.bilateral:
                deep, shallow = self.bilateral[key](deep, shallow)
        if self.fusion is not None:
            deep = self.fusion(deep, shallow)
        return self.neck(deep.permute(0, 3, 1, 2).to(self.neck[0].weight.dtype)), maps

    def forward(self, x: Tensor) -> Tensor:
        """The image embedding alone, as `ImageEncoderViT.forward`."""
        return self.forward_features(x)[0]
