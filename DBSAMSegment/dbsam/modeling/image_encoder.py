"""The dual-branch image encoders: a ViT with adapters, the convolution branch, and their fusion."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from segment_anything.modeling import ImageEncoderViT
from segment_anything.modeling.common import LayerNorm2d
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from dbsam.modeling.bilateral_attention import BilateralCrossAttention
from dbsam.modeling.channel_attention import ChannelAttentionBlock
from dbsam.modeling.config import DBSAMConfig
from dbsam.modeling.convolution_branch import ConvolutionBranch
from dbsam.modeling.fusion import ViTConvFusion
from dbsam.modeling.sam_attention import block_forward
from dbsam.modeling.slice_view import SliceBlend
from dbsam.modeling.tiny_vit import MBConv, PatchEmbed, PatchMerging, Stage, TinyViTBlock


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


class AdaptedEncoder(nn.Module):
    """What DB-SAM puts beside a ViT, under keys of its own: adapters, the convolution branch and the fusion block.

    Attributes:
        checkpointing: Whether, in training, the inside of each attention block is computed again in the backward pass
            instead of kept: the same gradients in less memory.
    """

    checkpointing = False

    def add_adapters(self, config: DBSAMConfig) -> None:
        """Make the parts that a configuration asks for."""
        self.conv_image_size = config.conv_image_size
        dims, ends = config.block_channels, config.stage_ends
        dropout, drop_path = config.adapter_dropout, config.drop_path
        places = {"block": range(len(dims)), "stage": ends, "none": ()}[config.channel_attention]
        self.channel_attention = nn.ModuleDict(
            {str(i): ChannelAttentionBlock(dims[i], config.squeeze_ratio, dropout, drop_path) for i in places}
        )
        self.conv_branch: ConvolutionBranch | None = None
        self.shallow_merging = nn.ModuleDict()
        self.bilateral = nn.ModuleDict()
        self.fusion: ViTConvFusion | None = None
        if config.uses_conv_branch:
            depth, full_res = config.conv_stage_depth, config.full_res_channels
            self.conv_branch = ConvolutionBranch(config.conv_channels, dims[ends[0]], depth, full_res)
            self.shallow_merging = nn.ModuleDict(
                {str(b): nn.Linear(dims[a], dims[b]) for a, b in itertools.pairwise(ends) if dims[a] != dims[b]}
            )
        if config.bilateral:
            heads, points, ratio = config.deformable_heads, config.deformable_points, config.feed_forward_ratio
            unread = None if config.fusion else ends[-1]
            self.bilateral = nn.ModuleDict(
                {
                    str(i): BilateralCrossAttention(dims[i], heads, points, ratio, dropout, drop_path, i == unread)
                    for i in ends
                }
            )
        if config.fusion:
            self.fusion = ViTConvFusion(dims[-1], config.fusion_ratio, config.fusion_gate_init)
        self.slice_blend = SliceBlend(config) if config.slice_view else None

    def adapters(self) -> list[nn.Module]:
        """The parts that are not the ViT's."""
        blends = self.fusion, self.slice_blend
        parts = [self.channel_attention, self.conv_branch, self.shallow_merging, self.bilateral, *blends]
        return [part for part in parts if part is not None]

    def shallow_features(self, x: Tensor, dtype: torch.dtype) -> tuple[Tensor | None, list[Tensor]]:
        """The convolution branch's tokens (B, H, W, C) and finer maps of normalised images; nothing without it."""
        if self.conv_branch is None:
            return None, []
        if x.shape[-1] != self.conv_image_size:
            size = (self.conv_image_size, self.conv_image_size)
            x = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
        shallow, maps = self.conv_branch(x.to(dtype))
        return shallow.contiguous(), maps

    def run_block(self, forward: Callable[[Tensor], Tensor], deep: Tensor) -> Tensor:
        """An attention block of the ViT, computed again in the backward pass where `checkpointing` asks for it."""
        if self.checkpointing and self.training and deep.requires_grad:
            again: Tensor = checkpoint(forward, deep, use_reentrant=False)
            return again
        return forward(deep)

    def adapt(self, index: int, deep: Tensor, shallow: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What follows attention block `index`: channel attention, and the exchange of the branches."""
        key = str(index)
        if key in self.channel_attention:
            deep = self.channel_attention[key](deep)
        if key in self.shallow_merging:
            shallow = self.shallow_merging[key](shallow)
        if key in self.bilateral:
            deep, shallow = self.bilateral[key](deep, shallow)
        return deep, shallow


class DualBranchImageEncoder(AdaptedEncoder, ImageEncoderViT):
    """segment_anything's image encoder with DB-SAM's adapters beside it.

    Without adapters it computes exactly what `ImageEncoderViT` does.
    """

    patch_embed: Any
    pos_embed: Any
    blocks: Any
    neck: Any

    def __init__(self, config: DBSAMConfig) -> None:
        super().__init__(**vit_arguments(config))
        self.add_adapters(config)

    def forward_features(self, x: Tensor, seen: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """Encode images.

        Args:
            x: Normalised images, (B, 3, image_size, image_size), float32.
            seen: Their parts of the slices' features, for a configuration with a `slice_view` (`slice_view.cut_out`).

        Returns:
            The image embedding (B, prompt_embed_dim, grid, grid), and the convolution branch's maps above the token
            grid's resolution, highest first (empty without that branch), in the precision of the weights.
        """
        dtype = self.patch_embed.proj.weight.dtype
        shallow, maps = self.shallow_features(x, dtype)
        # A convolution's tokens lie channel by channel; every sum would keep that, and every layer norm would copy it.
        deep = self.patch_embed(x.to(dtype)).contiguous()
        if self.pos_embed is not None:
            deep = deep + self.pos_embed
        if self.slice_blend is not None:
            assert seen is not None, "a configuration with a slice view is given what the view shows"
            to_tokens, to_embedding, to_map = self.slice_blend(seen.to(dtype))
            deep = deep + to_tokens
            maps = [each + to_map if each.shape[-1] == to_map.shape[-1] else each for each in maps]
        for index, block in enumerate(self.blocks):
            deep = self.run_block(partial(block_forward, block), deep)
            deep, shallow = self.adapt(index, deep, shallow)
        if self.fusion is not None:
            deep = self.fusion(deep, shallow)
        embedding = self.neck(deep.permute(0, 3, 1, 2).to(self.neck[0].weight.dtype))
        return (embedding if self.slice_blend is None else embedding + to_embedding), maps

    def forward(self, x: Tensor) -> Tensor:
        """The image embedding alone, as `ImageEncoderViT.forward`."""
        return self.forward_features(x)[0]


class TinyViTImageEncoder(AdaptedEncoder):
    """LiteMedSAM's image encoder with DB-SAM's adapters beside it, from the first block on 64x64 tokens on.

    Without adapters it computes exactly what LiteMedSAM's does. What comes before the adapters is frozen for good.
    """

    def __init__(self, config: DBSAMConfig) -> None:
        super().__init__()
        channels, blocks = config.stage_channels, config.stage_blocks
        self.patch_embed = PatchEmbed(channels[0])
        layers = [
            Stage(
                [MBConv(channels[0], 4 * channels[0]) for _ in range(blocks[0])],
                PatchMerging(channels[0], channels[1], stride=2),
            )
        ]
        strides = (2, 1)  # the last two stages share a grid
        for stage in range(1, len(channels)):
            heads, window = config.stage_heads[stage - 1], config.stage_windows[stage - 1]
            last = stage == len(channels) - 1
            layers.append(
                Stage(
                    [TinyViTBlock(channels[stage], heads, window, config.mlp_ratio) for _ in range(blocks[stage])],
                    None if last else PatchMerging(channels[stage], channels[stage + 1], strides[stage - 1]),
                )
            )
        self.layers = nn.ModuleList(layers)
        out = config.prompt_embed_dim
        self.neck = nn.Sequential(
            nn.Conv2d(channels[-1], out, 1, bias=False),
            LayerNorm2d(out),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            LayerNorm2d(out),
        )
        self.add_adapters(config)

    def forward_features(self, x: Tensor, seen: Tensor | None = None) -> tuple[Tensor, list[Tensor]]:
        """See `DualBranchImageEncoder.forward_features`; there is no slice view beside this ViT."""
        dtype = next(self.patch_embed.parameters()).dtype
        shallow, maps = self.shallow_features(x, dtype)
        deep = self.stem(x.to(dtype, memory_format=torch.channels_last))
        index = 0
        stages: Any = self.layers[2:]
        for stage in stages:
            for block in stage.blocks:
                deep = self.run_block(block, deep)
                deep, shallow = self.adapt(index, deep, shallow)
                index += 1
            deep = merged(stage, deep)
        if self.fusion is not None:
            deep = self.fusion(deep, shallow)
        return self.neck(deep.permute(0, 3, 1, 2).to(next(self.neck.parameters()).dtype)), maps

    def stem(self, x: Tensor) -> Tensor:
        """From normalised images (B, 3, S, S) to the first tokens on the embedding's grid, (B, S / 4, S / 4, C)."""
        layers: Any = self.layers
        convolutions, attention = layers[:2]
        x = self.patch_embed(x)
        for block in convolutions.blocks:
            x = block(x)
        deep = merged(convolutions, x.permute(0, 2, 3, 1))
        for block in attention.blocks:
            deep = block(deep)
        return merged(attention, deep)

    def forward(self, x: Tensor) -> Tensor:
        """The image embedding alone."""
        return self.forward_features(x)[0]


def merged(stage: Any, tokens: Tensor) -> Tensor:
    """Tokens (B, H, W, C) after a stage's merging, if it has one."""
    if stage.downsample is None:
        return tokens
    after: Tensor = stage.downsample(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
    return after
