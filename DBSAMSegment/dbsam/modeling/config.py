"""Every setting of a DB-SAM, as one object, and the systems that are selected by name.

The defaults are the paper's (MICCAI 2024, arXiv 2410.04172) and, where it is silent, its released configuration; only
`source_grid` is 0, as in files that were written before there was one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal


@dataclass(frozen=True)
class DBSAMConfig:
    """Architecture of one system.

    Attributes:
        system: Name under which the system is selected.
        backbone: The ViT branch: SAM's ("vit") or LiteMedSAM's ("tiny_vit"), whose sizes are the `stage_` settings.
        image_size: Side of the ViT branch's square input, in pixels.
        patch_size: Side of a ViT token, in pixels.
        embed_dim: Channels of a token (of a TinyViT, of its last stage).
        depth: Attention blocks of the ViT branch; of a TinyViT, those on the embedding's grid, where adapters sit.
        num_heads: Heads of each attention block.
        mlp_ratio: Hidden over token channels in each block's feed-forward layer.
        window_size: Side of the windows of local attention, in tokens.
        global_attn_indexes: Blocks whose attention spans all tokens.
        use_rel_pos: Whether attention adds SAM's decomposed relative positions.
        stage_channels: Channels of each stage of a TinyViT.
        stage_blocks: Blocks of each stage; the first stage's are convolutions.
        stage_heads: Heads of each further stage.
        stage_windows: Sides of the windows of each further stage, in tokens.
        channel_attention: Where channel attention blocks (eq. 1) sit: after every attention block (the paper's text),
            one at each stage's end (the released configuration), or nowhere.
        squeeze_ratio: Reduction of squeeze-and-excitation inside a channel attention block.
        bilateral: Whether the branches exchange features by bilateral deformable cross-attention.
        stage_ends: Blocks after which the branches interact.
        deformable_heads: Heads of the deformable attention.
        deformable_points: Sampling points per head.
        feed_forward_ratio: Hidden over token channels in the feed-forward layers of the bilateral blocks.
        fusion: Whether the ViT-Conv fusion block (eq. 2) blends the branches; else the ViT branch alone goes on.
        fusion_ratio: Squeeze of the fusion block's fully connected layers.
        fusion_gate_init: Initial logit of the fusion gate M; positive favours the ViT branch.
        conv_image_size: Side of the convolution branch's square input, in pixels.
        conv_channels: Output channels of the branch's 3x3 convolutions, each of stride 2.
        conv_stage_depth: Further residual 3x3 convolutions after each strided one (none in the paper).
        adapter_dropout: Dropout in the adapters.
        drop_path: Stochastic depth of the adapters' residual branches.
        prompt_embed_dim: Channels of the image embedding and of prompt tokens.
        mask_in_chans: Hidden channels of the prompt encoder's mask input.
        decoder_depth: Layers of the mask decoder's two-way transformer.
        decoder_heads: Heads of the two-way transformer.
        decoder_mlp_dim: Hidden channels of the two-way transformer.
        iou_head_hidden_dim: Hidden channels of the predicted-IoU head.
        high_res_features: Whether the convolution branch's maps at two and four times the token grid are added while
            the mask decoder upscales.
        decoder_refinement: Whether 3x3 convolutions follow each step of the mask decoder's upscaling.
        full_res_channels: Channels of the convolution branch's map at its input's resolution; 0 for none. With three
            strided convolutions the decoder upscales once more for it, to eight times the token grid.
        box_mask_prompt: Whether a box is also given to SAM's mask input, as its filled rectangle.
        pixel_norm: "sam" subtracts SAM's pixel mean and divides by its std; "region" standardises the input by the mean
            and standard deviation of its own pixels, so that brightness and contrast of a scanner drop out; "range"
            maps its least and greatest pixel to 0 and 1 (LiteMedSAM).
        input_region: What part of a slice the network sees: "pad" (whole slice, longer side to `image_size`, as SAM),
            "stretch" (whole slice to a square, as MedSAM and DB-SAM) or "box" (the box with `box_context`).
        box_context: Side of the region over the longer side of the box, with `input_region` "box".
        source_grid: Side in pixels to which the slice is reduced before it is enlarged to `image_size`, as in training
            on the paper's images of 256x256; 0 for straight from the slice. Only with `input_region` "stretch".
        slice_channels: Input channels of a grey slice: "repeat" or "neighbours" (the slice before, itself, the next).
        train_vit: Whether the ViT branch is trained.
        train_neck: Whether SAM's neck is trained (released configuration: yes).
        train_prompt_encoder: Whether the prompt encoder is trained.
        slice_view: Whether LiteMedSAM's frozen ViT sees the whole slice beside the region, and a region cuts its part
            out of the features. Only with `input_region` "box" and a ViT branch of the project's own.
        trained_clicks: Whether points and a former mask are prompts that the network was trained with; then the prompt
            encoder's embeddings of points and masks are trained, and those of boxes stay.
        train_adapters: Whether the adapters are trained.
    """

    system: str = "dbsam"
    backbone: Literal["vit", "tiny_vit"] = "vit"
    image_size: int = 1024
    patch_size: int = 16
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    window_size: int = 14
    global_attn_indexes: tuple[int, ...] = (2, 5, 8, 11)
    use_rel_pos: bool = True
    stage_channels: tuple[int, ...] = ()
    stage_blocks: tuple[int, ...] = ()
    stage_heads: tuple[int, ...] = ()
    stage_windows: tuple[int, ...] = ()
    channel_attention: Literal["block", "stage", "none"] = "block"
    squeeze_ratio: int = 16
    bilateral: bool = True
    stage_ends: tuple[int, ...] = (2, 5, 8, 11)
    deformable_heads: int = 12
    deformable_points: int = 4
    feed_forward_ratio: float = 1.0
    fusion: bool = True
    fusion_ratio: int = 12
    fusion_gate_init: float = 4.0
    conv_image_size: int = 256
    conv_channels: tuple[int, ...] = (64, 128)
    conv_stage_depth: int = 0
    adapter_dropout: float = 0.4
    drop_path: float = 0.4
    prompt_embed_dim: int = 256
    mask_in_chans: int = 16
    decoder_depth: int = 2
    decoder_heads: int = 8
    decoder_mlp_dim: int = 2048
    iou_head_hidden_dim: int = 256
    high_res_features: bool = False
    decoder_refinement: bool = False
    full_res_channels: int = 0
    box_mask_prompt: bool = False
    pixel_norm: Literal["sam", "region", "range"] = "sam"
    input_region: Literal["pad", "stretch", "box"] = "stretch"
    box_context: float = 1.75
    source_grid: int = 0
    slice_channels: Literal["repeat", "neighbours"] = "repeat"
    slice_view: bool = False
    trained_clicks: bool = False
    train_vit: bool = False
    train_neck: bool = True
    train_prompt_encoder: bool = False
    train_adapters: bool = True

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}.")
        if self.uses_conv_branch and self.conv_image_size != self.grid_size * 2 ** len(self.conv_channels):
            raise ValueError(
                f"conv_image_size {self.conv_image_size} does not land on the {self.grid_size}x{self.grid_size} token "
                f"grid with {len(self.conv_channels)} convolutions of stride 2: "
                f"use {self.grid_size * 2 ** len(self.conv_channels)}."
            )
        finer_maps = len(self.conv_channels) - 1 + bool(self.full_res_channels)
        if self.high_res_features and not (self.uses_conv_branch and finer_maps >= 2):
            raise ValueError(
                "high_res_features needs a convolution branch with maps at two and four times the token grid: three "
                "strided convolutions, or two and full_res_channels."
            )
        if self.full_res_channels and not (self.high_res_features and len(self.conv_channels) in (2, 3)):
            raise ValueError("full_res_channels needs high_res_features and two or three strided convolutions.")
        if self.backbone == "tiny_vit" and not (
            len(self.stage_channels) == len(self.stage_blocks) == len(self.stage_heads) + 1 == 4
            and len(self.stage_windows) == len(self.stage_heads)
        ):
            raise ValueError("A tiny_vit has four stages, of which the last three have heads and windows.")
        if self.slice_view and (self.backbone != "vit" or self.input_region != "box" or not self.high_res_features):
            raise ValueError(
                'slice_view needs input_region "box", backbone "vit" and high_res_features, not '
                f"{self.input_region!r}, {self.backbone!r} and {self.high_res_features}."
            )
        if self.source_grid < 0 or (self.source_grid and self.input_region != "stretch"):
            raise ValueError(
                f"source_grid {self.source_grid} with input_region {self.input_region!r}: a grid of whole pixels needs "
                "the slice stretched to a square ('stretch'), and 0 stands for none."
            )

    @property
    def grid_size(self) -> int:
        """Tokens along a side of the ViT branch's map."""
        return self.image_size // self.patch_size

    @property
    def mask_prompt_size(self) -> int:
        """Side of the prompt encoder's mask input: SAM's is four times the token grid."""
        return 4 * self.grid_size

    @property
    def upscales_thrice(self) -> bool:
        """Whether the decoder goes on to eight times the token grid, for a map of that size."""
        return self.full_res_channels > 0 and len(self.conv_channels) == 3

    @property
    def low_res_size(self) -> int:
        """Side of the low-res logits: SAM's decoder upscales the token grid four times, ours once more if asked to."""
        return (8 if self.upscales_thrice else 4) * self.grid_size

    @property
    def block_channels(self) -> tuple[int, ...]:
        """Channels of the tokens after each attention block on the grid of the image embedding."""
        if self.backbone == "vit":
            return (self.embed_dim,) * self.depth
        return tuple(c for c, n in zip(self.stage_channels[2:], self.stage_blocks[2:], strict=True) for _ in range(n))

    @property
    def uses_conv_branch(self) -> bool:
        """Whether any part needs the convolution branch."""
        return self.bilateral or self.fusion

    def to_dict(self) -> dict[str, Any]:
        """The settings as JSON-ready values."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DBSAMConfig:
        """Rebuild a configuration from `to_dict`'s values.

        Raises:
            ValueError: A setting is unknown, so the file was written by another version.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"Unknown model settings {unknown}: the file needs another version of dbsam.")
        settings: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**settings)


_PAPER = DBSAMConfig(source_grid=256)
_SAM = replace(
    _PAPER,
    system="sam",
    channel_attention="none",
    bilateral=False,
    fusion=False,
    input_region="pad",
    source_grid=0,
    train_neck=False,
    train_adapters=False,
)
_COMPACT = DBSAMConfig(
    system="compact",
    image_size=128,
    patch_size=8,
    embed_dim=128,
    depth=8,
    num_heads=4,
    mlp_ratio=3.0,
    window_size=0,
    global_attn_indexes=(),
    use_rel_pos=False,
    squeeze_ratio=8,
    stage_ends=(3, 7),
    deformable_heads=4,
    feed_forward_ratio=1.0,
    fusion_ratio=4,
    fusion_gate_init=0.0,
    conv_image_size=128,
    conv_channels=(32, 64, 128),
    conv_stage_depth=3,
    adapter_dropout=0.0,
    drop_path=0.0,
    prompt_embed_dim=128,
    decoder_heads=4,
    decoder_mlp_dim=512,
    iou_head_hidden_dim=128,
    high_res_features=True,
    decoder_refinement=True,
    full_res_channels=16,
    box_mask_prompt=True,
    pixel_norm="region",
    input_region="box",
    train_vit=True,
    train_prompt_encoder=True,
)

_LITE = DBSAMConfig(
    system="dbsam-lite",
    backbone="tiny_vit",
    image_size=256,
    patch_size=4,
    embed_dim=320,
    depth=8,
    stage_channels=(64, 128, 160, 320),
    stage_blocks=(2, 2, 6, 2),
    stage_heads=(4, 5, 10),
    stage_windows=(7, 14, 7),
    channel_attention="stage",
    squeeze_ratio=8,
    stage_ends=(5, 7),
    deformable_heads=5,
    feed_forward_ratio=1.0,
    fusion_ratio=8,
    fusion_gate_init=4.0,
    conv_channels=(32, 96),
    conv_stage_depth=1,
    adapter_dropout=0.0,
    drop_path=0.0,
    high_res_features=True,
    full_res_channels=16,
    pixel_norm="range",
    input_region="box",
    trained_clicks=True,
)
_LITE_DECODER = replace(
    _LITE,
    system="dbsam-lite-decoder",
    channel_attention="none",
    bilateral=False,
    fusion=False,
    high_res_features=False,
    full_res_channels=0,
    train_neck=False,
)

SYSTEMS: Mapping[str, DBSAMConfig] = {
    "sam": _SAM,
    "medsam": replace(_SAM, system="medsam", input_region="stretch"),
    "dbsam": _PAPER,
    "dbsam-channel-attention": replace(_PAPER, system="dbsam-channel-attention", bilateral=False, fusion=False),
    "dbsam-bilateral": replace(_PAPER, system="dbsam-bilateral", fusion=False),
    "compact": _COMPACT,
    "two-view": replace(_COMPACT, system="two-view", slice_view=True, trained_clicks=True),
    "medsam-lite": replace(
        _LITE_DECODER, system="medsam-lite", input_region="pad", trained_clicks=False, train_adapters=False
    ),
    "dbsam-lite": _LITE,
    "dbsam-lite-decoder": _LITE_DECODER,
    "dbsam-lite-channel-attention": replace(
        _LITE_DECODER, system="dbsam-lite-channel-attention", channel_attention="stage", train_neck=True
    ),
    "dbsam-lite-bilateral": replace(_LITE, system="dbsam-lite-bilateral", fusion=False),
}
"""The systems of the paper's Tables 1 and 3, the same on LiteMedSAM, and our compact one, by name."""


def named_config(name: str) -> DBSAMConfig:
    """The configuration of a system.

    Raises:
        ValueError: No system has that name.
    """
    if name not in SYSTEMS:
        raise ValueError(f"Unknown system {name!r}: choose one of {', '.join(SYSTEMS)}.")
    return SYSTEMS[name]
