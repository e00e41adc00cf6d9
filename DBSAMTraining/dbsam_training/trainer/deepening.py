"""Starts a network from a shallower one: what is added computes nothing at first, so training goes on from there."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from dbsam.modeling.config import DBSAMConfig
from dbsam.modeling.dbsam import DBSAM

_BLOCK = re.compile(r"^image_encoder\.(blocks|channel_attention|bilateral)\.(\d+)\.(.*)$")
_LAST_OF_RESIDUAL = ("attn.proj.", "mlp.lin2.", "project.")


def is_deeper(config: DBSAMConfig, base: DBSAMConfig) -> bool:
    """Whether `config` is `base` with more blocks in its stages or more convolutions in its branch, and no other."""
    same = replace(config, depth=base.depth, stage_ends=base.stage_ends, conv_stage_depth=base.conv_stage_depth)
    unlike = {"system", "adapter_dropout", "drop_path"}
    equal = all(value == base.to_dict()[name] for name, value in same.to_dict().items() if name not in unlike)
    sizes = zip(_stage_sizes(config), _stage_sizes(base), strict=False)
    deeper = len(config.stage_ends) == len(base.stage_ends) and all(ours >= theirs for ours, theirs in sizes)
    return equal and deeper and config.conv_stage_depth >= base.conv_stage_depth and not base.global_attn_indexes


@torch.no_grad()
def deepened(model: DBSAM, weights: Mapping[str, Tensor], base: DBSAMConfig) -> dict[str, Tensor]:
    """The state with which `model` computes what the shallower network does.

    New blocks stand at their stage's end, new convolutions at their resolution's; the last layer on their residual
    branch is zero.

    Args:
        model: New, `is_deeper` than `base`.
        weights: State of the shallower network.
        base: Its configuration.
    """
    moved = {_new_name(name, model.config, base): value for name, value in weights.items()}
    state = model.state_dict()
    for name in state.keys() - moved.keys():
        added = state[name]
        convolution_end = ".conv_branch." in name and name.endswith(("body.2.weight", "body.2.bias"))
        if convolution_end or any(part in name for part in _LAST_OF_RESIDUAL):
            added = torch.zeros_like(added)
        moved[name] = added
    return moved


def _stage_sizes(config: DBSAMConfig) -> list[int]:
    ends = [-1, *config.stage_ends, config.depth - 1]
    return [end - before for before, end in itertools.pairwise(ends)]


def _new_name(name: str, config: DBSAMConfig, base: DBSAMConfig) -> str:
    """Where a weight of the shallower network goes: blocks to their stage's front, exchanges to their stage's end."""
    found = _BLOCK.match(name)
    if not found:
        return name
    part, number, rest = found[1], int(found[2]), found[3]
    if part == "bilateral" or (part == "channel_attention" and base.channel_attention == "stage"):
        index = config.stage_ends[base.stage_ends.index(number)]
    else:
        stage = bisect.bisect_left(base.stage_ends, number)
        index = number + sum(_stage_sizes(config)[:stage]) - sum(_stage_sizes(base)[:stage])
    return f"image_encoder.{part}.{index}.{rest}"
