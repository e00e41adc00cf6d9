"""Builds the network of a run with the weights it starts from."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dbsam.modeling.builder import build_model
from dbsam.modeling.config import named_config
from dbsam.modeling.dbsam import DBSAM
from dbsam.weights.checkpoint import (
    keys_above_base,
    keys_beyond_sam,
    load_base,
    load_checkpoint,
    read_base,
    slice_view_keys,
)
from dbsam.weights.load import PICKLE_SUFFIXES, download, locate, weights_info
from dbsam.weights.metadata import BaseReference, CheckpointInfo, DatasetCredit
from dbsam.weights.registry import registered
from dbsam_training.recipe import ModelOptions, Recipe
from dbsam_training.schema import SettingError


def init_model(recipe: Recipe) -> tuple[DBSAM, dict[str, Any] | None]:
    """Build the network of a recipe.

    Returns:
        The network on the CPU, and what it stands on: "name", "sha256" (of a SAM file under the trained parts, else
        None), "weights_sha256" (in every case), "slice_sha256" (of the ViT that sees the whole slice, else None),
        "licence" and "datasets"; None for new weights.

    Raises:
        SettingError: The base has another architecture.
        CheckpointError: The base is missing, damaged or unknown.
    """
    torch.manual_seed(recipe.run.seed)
    config = recipe.model.config
    options = recipe.model
    model = build_model(config)
    if not (options.base or options.slice_base):
        return model, None
    known = _take_base(model, options) if options.base else dict.fromkeys(("name", "licence", "weights_sha256"), "")
    facts: dict[str, Any] = {"sha256": None, "datasets": [], "slice_sha256": None, **known}
    if options.slice_base:
        view = _take_slice_encoder(model, base_file(options.slice_base))
        facts["slice_sha256"] = view.tensors_sha256
        source = registered("medsam-lite").source
        facts["datasets"].append(asdict(DatasetCredit(f"{view.name} (weights)", view.licence, source)))
    return model, facts


def _take_base(model: DBSAM, options: ModelOptions) -> dict[str, Any]:
    """Load the weights to start from; returns what `init_model` tells of them."""
    path = base_file(options.base)
    info = weights_info(path)
    sha256: str | None = None
    if path.suffix in PICKLE_SUFFIXES:
        sha256 = load_base(model, path)
    else:
        start, _ = load_checkpoint(path)
        _take_over(model, start.state_dict(), options)
    return {
        "name": info.name,
        "sha256": sha256,
        "weights_sha256": sha256 or info.tensors_sha256,
        "licence": info.licence,
        "datasets": [asdict(credit) for credit in info.datasets],
    }


def _take_over(model: DBSAM, weights: dict[str, Tensor], options: ModelOptions) -> None:
    """Load weights of the same architecture, or of it without its slice view, or of the SAM inside it.

    What they don't hold keeps its new values.
    """
    beyond = keys_beyond_sam(model.config)
    view = slice_view_keys(model.config)
    if view.isdisjoint(weights):
        weights = {key: value for key, value in model.state_dict().items() if key in view} | weights
    if beyond.isdisjoint(weights):
        weights = {key: value for key, value in model.state_dict().items() if key in beyond} | weights
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise SettingError(
            f"model.base {options.base} has another architecture than model.system {options.system} with its settings: "
            f"{str(error).splitlines()[1].strip()}"
        ) from error


def _take_slice_encoder(model: DBSAM, path: Path) -> CheckpointInfo:
    """Load the ViT that sees the whole slice from a file of LiteMedSAM's weights; returns whose they are."""
    prefix = "image_encoder."
    weights = read_base(path, named_config("medsam-lite"))
    encoder = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    assert model.slice_encoder is not None, "model.slice_base was checked against the system"
    model.slice_encoder.load_state_dict(encoder)
    return weights_info(path)


def base_file(name_or_path: str) -> Path:
    """The file of the weights to start from, downloaded if it is published and not here.

    Raises:
        CheckpointError: There are no such weights.
    """
    path = locate(name_or_path)
    return path if path is not None else download(name_or_path)


def base_reference(base: dict[str, Any] | None) -> BaseReference | None:
    """What a checkpoint names as its base: a SAM file of which the frozen weights are taken, or nothing."""
    if base is None or base["sha256"] is None:
        return None
    return BaseReference(base["name"], base["sha256"])


def kept_weights(model: DBSAM, base: dict[str, Any] | None) -> dict[str, Tensor]:
    """What of a network's state has to be saved: all that does not come from a SAM file."""
    state = model.state_dict()
    if base_reference(base) is None or model.config.train_vit:
        return state
    keys = keys_above_base(model.config)
    return {key: value for key, value in state.items() if key in keys}
