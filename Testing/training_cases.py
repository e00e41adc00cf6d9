"""Small data sets and a small network for the tests of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dbsam_training.data.nnunet import RawDataset
from dbsam_training.recipe import Recipe, load_recipe
from dbsam_training.store.prepare import prepare

TINY_MODEL = {
    "image_size": 32,
    "conv_image_size": 32,
    "conv_channels": [8, 8, 8],
    "conv_stage_depth": 1,
    "embed_dim": 16,
    "depth": 2,
    "num_heads": 2,
    "stage_ends": [0, 1],
    "deformable_heads": 2,
    "prompt_embed_dim": 16,
    "decoder_heads": 2,
    "decoder_mlp_dim": 16,
    "iou_head_hidden_dim": 16,
    "adapter_dropout": 0.0,
    "drop_path": 0.0,
}


def tiny_recipe(base: str = "compact", **overrides: Any) -> Recipe:
    """The recipe `compact` with a network of some thousand weights; overrides by name with `__` for the dot."""
    values = {
        "model.settings": dict(TINY_MODEL),
        "data.superpixel_slices": [0, 0],
        "run.batch_size": 4,
        "run.steps": 6,
        "run.precision": "32-true",
        "run.accelerator": "cpu",
        "run.store_on_gpu": False,
        "run.validate_every": 3,
        "run.validate_per_dataset": 2,
        "run.checkpoint_every": 2,
        "optimizer.warm_up_steps": 2,
        "augment.insert": 0.0,
    }
    return load_recipe(base, values | {name.replace("__", "."): value for name, value in overrides.items()})


def write_pictures(folder: Path, cases: int = 4, seed: int = 0, colour: bool = False, **facts: Any) -> Path:
    """An nnU-Net folder of grey or colour pictures of 40x48 with a bright disc each, a quarter for validation."""
    rng = np.random.default_rng(seed)
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    ys, xs = np.mgrid[:40, :48]
    names = [f"case{n}" for n in range(cases)]
    for name in names:
        y, x, radius = rng.uniform(14, 26), rng.uniform(14, 34), rng.uniform(6, 11)
        disc = (ys - y) ** 2 + (xs - x) ** 2 < radius**2
        image = np.where(disc, 190, 60) + rng.normal(0, 8, disc.shape)
        pixels = image.clip(0, 255).astype(np.uint8)
        picture = np.stack([pixels, pixels // 2, pixels // 3], -1) if colour else pixels
        Image.fromarray(picture).save(folder / "imagesTr" / f"{name}_0000.png")
        Image.fromarray(disc.astype(np.uint8)).save(folder / "labelsTr" / f"{name}.png")
    described = {
        "labels": {"background": 0, "disc": 1},
        "channel_names": {"0": "photo"},
        "file_ending": ".png",
        "modality": "Photograph",
        "dimension": 2,
        "licence": "CC0",
        "reference": "made for a test",
        **facts,
    }
    (folder / "dataset.json").write_text(json.dumps(described))
    held = max(1, cases // 4)
    (folder / "splits_final.json").write_text(json.dumps([{"train": names[held:], "val": names[:held]}]))
    return folder


def grey_and_colour_store(folder: Path) -> Path:
    """A store of two small data sets, one of grey and one of colour pictures."""
    sources = [
        RawDataset(write_pictures(folder / "Dataset001_Grey", 6)),
        RawDataset(write_pictures(folder / "Dataset002_Colour", 6, seed=1, colour=True)),
    ]
    prepare(sources, folder / "store", tiny_recipe().data)
    return folder / "store"


def tiny_store(folder: Path, recipe: Recipe, cases: int = 6) -> Path:
    """A store of one small data set, made by the recipe's protocol."""
    source = RawDataset(write_pictures(folder / "Dataset001_Discs", cases))
    prepare([source], folder / "store", recipe.data)
    return folder / "store"
