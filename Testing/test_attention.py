"""Attention without attention maps against segment_anything's own, gradients included."""

from __future__ import annotations

import pytest
import torch
from segment_anything.modeling.image_encoder import Attention, Block

from dbsam.modeling import cpu_attention, sam_attention
from dbsam.modeling.sam_attention import attend, block_forward

PATHS = ["tiles", "extra channels"]


def choose(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    """GPUs take the path of extra channels: let the CPU take it too."""
    if path == "extra channels":
        monkeypatch.setattr(sam_attention, "_in_tiles", lambda x: False)


def random_weights(module: torch.nn.Module) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module.double()


def tokens(batch: int, height: int, width: int, channels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, height, width, channels, generator=generator, dtype=torch.float64, requires_grad=True)


def assert_same_with_gradients(
    module: torch.nn.Module, x: torch.Tensor, actual: torch.Tensor, expected: torch.Tensor
) -> None:
    assert torch.allclose(actual, expected, atol=1e-10)
    weights = torch.linspace(-1, 1, actual.numel(), dtype=actual.dtype).view_as(actual)
    inputs = [x, *module.parameters()]
    found = torch.autograd.grad((actual * weights).sum(), inputs)
    for gradient, wanted in zip(found, torch.autograd.grad((expected * weights).sum(), inputs), strict=True):
        assert torch.allclose(gradient, wanted, atol=1e-9)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("tile_elements", [1, 100, 1 << 20])
@pytest.mark.parametrize(("height", "width"), [(5, 7), (4, 4), (1, 3)])
def test_attention_and_its_gradients_equal_segment_anything(
    monkeypatch: pytest.MonkeyPatch, path: str, tile_elements: int, height: int, width: int
) -> None:
    choose(monkeypatch, path)
    monkeypatch.setattr(cpu_attention, "TILE_ELEMENTS", tile_elements)
    module = random_weights(Attention(12, num_heads=3, use_rel_pos=True, input_size=(height, width)))
    x = tokens(2, height, width, 12)
    assert_same_with_gradients(module, x, attend(module, x), module(x))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("window", [0, 3, 4, 9])
def test_a_block_equals_segment_anything_where_windows_fill_the_grid_and_where_they_are_padded(
    monkeypatch: pytest.MonkeyPatch, path: str, window: int
) -> None:
    choose(monkeypatch, path)
    block = random_weights(Block(12, 3, use_rel_pos=True, window_size=window, input_size=(8, 6)))
    x = tokens(2, 8, 6, 12)
    assert_same_with_gradients(block, x, block_forward(block, x), block(x))


@pytest.mark.parametrize("path", PATHS)
def test_tables_of_another_grid_are_interpolated_as_segment_anything_does(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    choose(monkeypatch, path)
    module = random_weights(Attention(8, num_heads=2, use_rel_pos=True, input_size=(4, 4)))
    x = tokens(1, 6, 6, 8)
    assert_same_with_gradients(module, x, attend(module, x), module(x))


def test_attention_without_relative_positions_equals_segment_anything() -> None:
    module = random_weights(Attention(12, num_heads=3))
    x = tokens(2, 4, 5, 12)
    assert_same_with_gradients(module, x, attend(module, x), module(x))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("window", [0, 5])
def test_bfloat16_attention_stays_within_its_precision(monkeypatch: pytest.MonkeyPatch, path: str, window: int) -> None:
    choose(monkeypatch, path)
    block = random_weights(Block(24, 3, use_rel_pos=True, window_size=window, input_size=(8, 8))).float()
    x = tokens(1, 8, 8, 24).detach().float()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found, stock = block_forward(block, x), block(x)
    with torch.no_grad():
        exact = block(x)
    assert found.dtype == stock.dtype
    assert (found - exact).abs().mean() <= 1.5 * (stock - exact).abs().mean()
