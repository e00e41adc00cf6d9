"""What a network is shown in use is what it was trained on, and a predictor leaves its network as it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_cases import tiny_recipe, tiny_store

from dbsam.inference.predictor import ModelPredictor
from dbsam.io.images import read_volume
from dbsam.modeling.builder import build_model
from dbsam.modeling.config import SYSTEMS, DBSAMConfig, named_config
from dbsam.modeling.dbsam import DBSAM
from dbsam_training.batches.augment import make_batch
from dbsam_training.batches.loader import reader
from dbsam_training.batches.rng import COUNT
from dbsam_training.data.nnunet import RawDataset
from dbsam_training.evaluate.segmenters import ModelSegmenter
from dbsam_training.recipe import AugmentOptions, DataOptions, PromptOptions, load_recipe
from dbsam_training.schema import SettingError
from dbsam_training.store.format import TrainingStore
from dbsam_training.store.prepare import prepare
from dbsam_training.trainer.checks import open_stores
from dbsam_training.trainer.validation import validation_prompts


def tiny(system: str) -> DBSAMConfig:
    """A system of one block on 8x8 tokens; its input is larger than the paper's grid, as at full size."""
    return replace(
        named_config(system), image_size=512, patch_size=64, embed_dim=24, depth=1, num_heads=2, deformable_heads=2,
        global_attn_indexes=(0,), stage_ends=(0,), conv_image_size=32, prompt_embed_dim=32, decoder_heads=2,
        decoder_mlp_dim=16, iou_head_hidden_dim=16, fusion_ratio=4, adapter_dropout=0.0, drop_path=0.0,
    )  # fmt: skip


def build(system: str) -> DBSAM:
    torch.manual_seed(0)
    return build_model(tiny(system)).eval()


def write_noise(folder: Path) -> Path:
    """An nnU-Net folder of one picture of 300x420 with detail that a grid of 256x256 can't hold."""
    rng = np.random.default_rng(0)
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True)
    label = np.zeros((300, 420), np.uint8)
    label[90:200, 110:300] = 1
    pixels = rng.integers(0, 256, label.shape).astype(np.uint8)
    pixels[:, ::2] //= 2
    Image.fromarray(pixels).save(folder / "imagesTr" / "one_0000.png")
    Image.fromarray(label).save(folder / "labelsTr" / "one.png")
    facts = {
        "labels": {"background": 0, "block": 1}, "channel_names": {"0": "photo"}, "file_ending": ".png",
        "modality": "Photograph", "dimension": 2, "licence": "CC0", "reference": "made for a test",
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(facts))
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["one"], "val": []}]))
    return folder


def test_training_evaluation_and_prediction_show_the_network_the_same_pixels(tmp_path):
    source = write_noise(tmp_path / "Dataset001_Noise")
    prepare([RawDataset(source)], tmp_path / "store", DataOptions(protocol="slices"))
    read = reader(TrainingStore(tmp_path / "store"), None)
    prompts = validation_prompts(PromptOptions(paper=1.0, whole_slice=True))["paper"]
    model = build("dbsam")
    size = model.config.image_size
    batch = make_batch(read(torch.tensor([0])), size, 256, torch.full((1, COUNT), 0.5), prompts, AugmentOptions())
    shown = []
    encode = model.encode
    model.encode = lambda images, valid: (shown.append((images, valid)), encode(images, valid))[1]
    predictor = ModelPredictor(model, "tiny")
    volume = read_volume(source / "imagesTr" / "one_0000.png")
    box_xyxy = np.array([100.0, 80.0, 310.0, 210.0])
    ModelSegmenter("tiny", predictor).segment_slices(volume, 2, [{0: box_xyxy}])
    grey = np.stack([volume.voxels[0]] * 3, -1)
    predictor.encode([grey], [predictor.region_for(box_xyxy, grey.shape[:2], (1.0, 1.0))])
    (in_evaluation, valid), (in_prediction, _) = shown
    # Coordinates in single precision may move a pixel of a 512 grid by a millionth of its side.
    torch.testing.assert_close(in_evaluation, batch.images, atol=0.01, rtol=0)
    assert torch.equal(in_prediction, in_evaluation)
    assert torch.equal(valid, batch.valid)


def test_the_papers_grid_belongs_to_dbsam_and_its_ablations_alone():
    grids = {name: config.source_grid for name, config in SYSTEMS.items()}
    assert {name for name, grid in grids.items() if grid == 256} == {
        "dbsam", "dbsam-channel-attention", "dbsam-bilateral",
    }  # fmt: skip
    assert grids["sam"] == grids["medsam"] == grids["compact"] == 0
    assert load_recipe("medsam").model.config.source_grid == 256, "trained on the paper's images"


def test_a_checkpoint_from_before_the_grid_is_used_as_it_was():
    values = named_config("dbsam").to_dict()
    del values["source_grid"]
    assert DBSAMConfig.from_dict(values).source_grid == 0


def test_a_grid_of_something_else_than_a_stretched_slice_is_refused():
    with pytest.raises(ValueError, match="source_grid 256 with input_region 'pad'"):
        replace(named_config("sam"), source_grid=256)


@pytest.mark.parametrize(
    ("protocol", "grid", "message"),
    [("slices", 0, "source_grid is 0, .*'slices' needs 256"), ("objects", 256, "is 256, .*'objects' needs 0")],
)
def test_a_model_is_not_trained_on_other_pixels_than_it_will_see(tmp_path, protocol, grid, message):
    settings = {"model__system": "medsam", "model__base": "", "model__settings": {"source_grid": grid}}
    recipe = load_recipe("medsam", {n.replace("__", "."): v for n, v in settings.items()} | {"data.protocol": protocol})
    with pytest.raises(SettingError, match=message):
        open_stores([tiny_store(tmp_path, tiny_recipe())], recipe)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_a_predictor_leaves_its_network_as_it_is(precision):
    model, untouched = build("dbsam"), build("dbsam")
    image = np.random.default_rng(0).integers(0, 255, (40, 50, 3)).astype(np.uint8)

    def embedding(network: DBSAM, precision: str) -> torch.Tensor:
        predictor = ModelPredictor(network, "tiny", precision)
        region = predictor.region_for(np.array([4.0, 5.0, 30.0, 20.0]), (40, 50), (1.0, 1.0))
        return predictor.encode([image], [region])[0].encoded.image_embedding

    embedding(model, precision)
    for name, value in untouched.state_dict().items():
        assert model.state_dict()[name].dtype == value.dtype, name
        assert torch.equal(model.state_dict()[name], value), name
    assert torch.equal(embedding(model, "float32"), embedding(untouched, "float32"))


def test_reduced_precision_copies_the_image_encoder_alone():
    model = build("dbsam")
    predictor = ModelPredictor(model, "tiny", "bfloat16")
    assert predictor.model.mask_decoder is model.mask_decoder
    assert next(predictor.model.image_encoder.patch_embed.parameters()).dtype == torch.bfloat16
    assert ModelPredictor(model, "tiny", "float32").model is model
