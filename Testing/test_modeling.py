"""The network against segment_anything's own, and each adapter against its definition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
import torch
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from dbsam.modeling.builder import build_model
from dbsam.modeling.channel_attention import ChannelAttentionBlock
from dbsam.modeling.config import SYSTEMS, DBSAMConfig, named_config
from dbsam.modeling.dbsam import DBSAM
from dbsam.modeling.deformable_attention import DeformableAttention, sample_by_bags, sample_by_grid
from dbsam.modeling.fusion import ViTConvFusion

TINY = {
    "image_size": 128,
    "patch_size": 16,
    "embed_dim": 48,
    "depth": 4,
    "num_heads": 4,
    "window_size": 3,
    "global_attn_indexes": (1, 3),
    "stage_ends": (1, 3),
    "deformable_heads": 4,
    "fusion_ratio": 4,
    "conv_image_size": 32,
    "conv_channels": (16, 24),
    "prompt_embed_dim": 32,
    "decoder_heads": 4,
    "decoder_mlp_dim": 64,
}
BOXES = torch.tensor([[10.0, 20.0, 90.0, 70.0], [3.5, 0.0, 127.0, 60.25]])


def tiny(system: str, **changes: object) -> DBSAMConfig:
    return replace(named_config(system), **{**TINY, **changes})


def stock_sam(config: DBSAMConfig) -> Sam:
    """segment_anything's own model at the configuration's size, built from its own classes."""
    grid = config.grid_size
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=config.image_size,
            patch_size=config.patch_size,
            embed_dim=config.embed_dim,
            depth=config.depth,
            num_heads=config.num_heads,
            out_chans=config.prompt_embed_dim,
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=config.window_size,
            global_attn_indexes=config.global_attn_indexes,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=config.prompt_embed_dim,
            image_embedding_size=(grid, grid),
            input_image_size=(config.image_size, config.image_size),
            mask_in_chans=config.mask_in_chans,
        ),
        mask_decoder=MaskDecoder(
            transformer_dim=config.prompt_embed_dim,
            transformer=TwoWayTransformer(
                depth=2,
                embedding_dim=config.prompt_embed_dim,
                num_heads=config.decoder_heads,
                mlp_dim=config.decoder_mlp_dim,
            ),
        ),
    )


def randomise(module: nn.Module, seed: int = 0) -> None:
    """Random values everywhere, zero-initialised relative positions included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)


def stock_logits(sam: Sam, embedding: torch.Tensor, box: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    sparse, dense = sam.prompt_encoder(points=None, boxes=box, masks=None)
    return sam.mask_decoder(
        image_embeddings=embedding,
        image_pe=sam.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        multimask_output=False,
    )


@torch.no_grad()
def assert_equal_to_stock(model: DBSAM, sam: Sam, boxes: torch.Tensor) -> None:
    size = model.config.image_size
    images = torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(1)) * 255
    encoded = model.encode(images)
    embedding = sam.image_encoder(sam.preprocess(images))
    assert (encoded.image_embedding - embedding).abs().max() < 1e-4
    logits, predicted_iou = model.decode(encoded, boxes)
    expected_logits, expected_iou = stock_logits(sam, embedding, boxes)
    assert (logits - expected_logits[:, 0]).abs().max() < 1e-4
    assert (predicted_iou - expected_iou[:, 0]).abs().max() < 1e-4


def test_sam_equals_segment_anything_on_the_same_random_weights() -> None:
    config = tiny("sam")
    sam, model = stock_sam(config).eval(), build_model(config).eval()
    randomise(sam)
    model.load_state_dict(sam.state_dict())
    assert_equal_to_stock(model, sam, BOXES)


def test_sam_at_its_true_size_equals_segment_anything_and_loads_its_state_strictly() -> None:
    torch.manual_seed(0)
    sam = sam_model_registry["vit_b"]().eval()
    model = build_model(named_config("sam")).eval()
    model.load_state_dict(sam.state_dict())
    assert_equal_to_stock(model, sam, BOXES[:1] * 8)


@pytest.mark.parametrize("system", ["dbsam", "dbsam-bilateral", "dbsam-channel-attention"])
def test_untrained_adapters_without_fusion_equal_sam(system: str) -> None:
    config = tiny(system, fusion=False)
    sam, model = stock_sam(config).eval(), build_model(config).eval()
    randomise(sam)
    missing, unexpected = model.load_state_dict(sam.state_dict(), strict=False)
    assert unexpected == []
    assert all(".channel_attention." in k or ".bilateral." in k or ".conv_branch." in k for k in missing)
    assert_equal_to_stock(model, sam, BOXES)


@pytest.mark.parametrize("system", [name for name, c in SYSTEMS.items() if c.embed_dim == 768])
def test_the_frozen_part_keeps_the_keys_and_shapes_of_segment_anything(system: str) -> None:
    with torch.device("meta"):
        expected = {k: v.shape for k, v in sam_model_registry["vit_b"]().state_dict().items()}
        model = build_model(named_config(system))
    shapes = {k: v.shape for k, v in model.state_dict().items()}
    assert {k: shapes[k] for k in expected} == expected


def test_only_what_the_paper_trains_has_gradients() -> None:
    with torch.device("meta"):
        model = build_model(named_config("dbsam"))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    parts = ("channel_attention", "conv_branch", "bilateral", "fusion", "neck")
    allowed = (*(f"image_encoder.{part}." for part in parts), "mask_decoder.")
    assert trained == {name for name, _ in model.named_parameters() if name.startswith(allowed)}


def test_a_new_channel_attention_block_is_the_identity() -> None:
    x = torch.randn(2, 4, 5, 32)
    assert torch.equal(ChannelAttentionBlock(32, 8, 0.0, 0.0)(x), x)


def test_the_fusion_gate_blends_element_wise_and_starts_in_favour_of_the_vit_branch() -> None:
    deep, shallow = torch.ones(1, 2, 2, 8), torch.zeros(1, 2, 2, 8)
    assert torch.allclose(ViTConvFusion(8, 4, 4.0)(deep, shallow), torch.full_like(deep, 1 / (1 + 2.718281828**-4)))
    assert torch.allclose(ViTConvFusion(8, 4, 0.0)(deep, shallow), torch.full_like(deep, 0.5))


def naive_sample(value: torch.Tensor, locations: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    batch, heads, dim, height, width = value.shape
    out = torch.zeros(batch, locations.shape[2], heads, dim, dtype=value.dtype)
    for b, h, q, p in torch.cartesian_prod(*(torch.arange(n) for n in weights.shape)).tolist():
        x, y = locations[b, h, q, p].tolist()
        for column in (int(x // 1), int(x // 1) + 1):
            for row in (int(y // 1), int(y // 1) + 1):
                if 0 <= column < width and 0 <= row < height:
                    share = (1 - abs(x - column)) * (1 - abs(y - row)) * weights[b, h, q, p]
                    out[b, q, h] += share * value[b, h, :, row, column]
    return out.flatten(2)


@pytest.mark.parametrize("sample", [sample_by_bags, sample_by_grid])
def test_deformable_sampling_equals_a_naive_loop_and_reads_zero_outside(sample: Callable[..., torch.Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 3, 4, 5, 6, generator=generator, dtype=torch.float64)
    locations = torch.rand(2, 3, 7, 4, 2, generator=generator, dtype=torch.float64) * 9 - 1.5
    weights = torch.rand(2, 3, 7, 4, generator=generator, dtype=torch.float64)
    expected = naive_sample(value, locations, weights)
    assert torch.allclose(sample(value, locations, weights), expected)
    half = sample(value.bfloat16(), locations.float(), weights.float())
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.double(), expected, atol=0.1)


@pytest.mark.parametrize("sample", [sample_by_bags, sample_by_grid])
def test_places_keep_their_precision_beside_maps_in_half_precision(sample: Callable[..., torch.Tensor]) -> None:
    ramp = (torch.arange(64.0) - 50).expand(1, 1, 1, 64, 64).bfloat16()
    locations = torch.tensor([50.1, 8.0]).view(1, 1, 1, 1, 2)  # 50.0 in bfloat16
    weights = torch.ones(1, 1, 1, 1)
    assert sample(ramp, locations, weights).item() == pytest.approx(0.1, abs=0.002)
    with torch.inference_mode():
        assert sample(ramp, locations, weights).item() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("sample", [sample_by_bags, sample_by_grid])
def test_deformable_sampling_passes_gradcheck(sample: Callable[..., torch.Tensor]) -> None:
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(1, 2, 2, 3, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    # Away from integers, where bilinear interpolation has no derivative.
    locations = (torch.randint(0, 2, (1, 2, 3, 2, 2), generator=generator) + 0.3).double().requires_grad_()
    weights = torch.rand(1, 2, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(sample, (value, locations, weights))


def test_new_deformable_attention_looks_along_one_ray_a_head() -> None:
    layer = DeformableAttention(32, heads=4, points=3)
    offsets = layer.sampling_offsets.bias.detach().view(4, 3, 2)
    assert torch.allclose(offsets[0], torch.tensor([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]]), atol=1e-6)
    assert torch.allclose(offsets[1], torch.tensor([[0.0, 1.0], [0.0, 2.0], [0.0, 3.0]]), atol=1e-6)


def test_a_batch_of_images_gives_what_each_gives_alone() -> None:
    model = build_model(tiny("dbsam")).eval()
    randomise(model)
    images = torch.rand(2, 3, 128, 128) * 255
    with torch.no_grad():
        together, _ = model(images, BOXES)
        alone = torch.cat([model(images[n : n + 1], BOXES[n : n + 1])[0] for n in range(2)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_the_compact_model_ignores_brightness_and_contrast_of_the_region() -> None:
    model = build_model(named_config("compact")).eval()
    images = torch.rand(1, 3, 128, 128) * 100 + 20
    with torch.no_grad():
        plain, _ = model(images, BOXES[:1])
        brighter, _ = model(images * 1.5 + 30, BOXES[:1])
    assert torch.allclose(plain, brighter, atol=1e-3)


def test_unknown_settings_and_impossible_grids_are_refused() -> None:
    with pytest.raises(ValueError, match="another version"):
        DBSAMConfig.from_dict({"colour": 1})
    with pytest.raises(ValueError, match="conv_image_size 200"):
        replace(named_config("dbsam"), conv_image_size=200)
    config = named_config("compact")
    assert DBSAMConfig.from_dict(config.to_dict()) == config
