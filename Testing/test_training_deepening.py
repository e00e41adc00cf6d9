"""A deeper network starts as the shallower one."""

from __future__ import annotations

import pytest
import torch
from training_cases import tiny_recipe

from dbsam.modeling.builder import build_model
from dbsam.weights.checkpoint import save_checkpoint
from dbsam.weights.metadata import CheckpointInfo
from dbsam_training.schema import SettingError
from dbsam_training.trainer.deepening import is_deeper
from dbsam_training.trainer.init import start_model


def deeper_recipe(base, **settings):
    named = {f"model__settings__{name}": value for name, value in settings.items()}
    return tiny_recipe(model__base=str(base), **named)


@pytest.fixture
def base(tmp_path):
    """Weights of a network of one block a stage, none of them zero."""
    model = build_model(tiny_recipe().model.config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    path = tmp_path / "base.safetensors"
    info = CheckpointInfo(name="base", version="1", config=model.config, licence="CC0-1.0", date="2026-01-01")
    save_checkpoint(path, model, info)
    return path


def outputs(model):
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(2, 3, 32, 32, generator=generator) * 255
    boxes = torch.tensor([[5.0, 6.0, 20.0, 25.0], [0.0, 3.0, 30.0, 31.0]])
    with torch.no_grad():
        return model.eval()(images, boxes, torch.ones(2, 1, 32, 32))


@pytest.mark.parametrize(
    "settings",
    [
        {"depth": 5, "stage_ends": [1, 4]},
        {"depth": 3, "stage_ends": [0, 1]},  # blocks after the last exchange
        {"conv_stage_depth": 3},
        {"depth": 4, "stage_ends": [2, 3], "conv_stage_depth": 2},
    ],
)
def test_a_deeper_network_computes_what_its_base_does_and_can_learn_more(base, settings):
    same, _ = start_model(tiny_recipe(model__base=str(base)))
    deeper, credits = start_model(deeper_recipe(base, **settings))
    assert credits["name"] == "base"
    assert sum(p.numel() for p in deeper.parameters()) > sum(p.numel() for p in same.parameters())
    for ours, theirs in zip(outputs(deeper), outputs(same), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    deeper.train()
    logits, _ = deeper(torch.rand(2, 3, 32, 32) * 255, torch.tensor([[5.0, 6.0, 20.0, 25.0]] * 2))
    logits.square().sum().backward()
    end = deeper.config.stage_ends[-1]
    for block in (deeper.image_encoder.blocks[end].mlp.lin2, deeper.image_encoder.conv_branch.stages[0][-1].body[-1]):
        assert block.weight.grad.abs().max() > 0


def test_a_shallower_or_wider_network_is_refused(base):
    with pytest.raises(SettingError, match="another architecture"):
        start_model(deeper_recipe(base, depth=1, stage_ends=[0, 0]))
    with pytest.raises(SettingError, match="another architecture"):
        start_model(deeper_recipe(base, depth=4, stage_ends=[1, 3], embed_dim=32))
    config = tiny_recipe().model.config
    assert not is_deeper(deeper_recipe(base, window_size=2, global_attn_indexes=[1]).model.config, config)
