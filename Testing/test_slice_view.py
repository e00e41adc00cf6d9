"""The network with a view of the whole slice beside the region round a box."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training_cases import tiny_recipe

from dbsam.inference.predictor import ModelPredictor
from dbsam.modeling.builder import build_model
from dbsam.modeling.config import DBSAMConfig, named_config
from dbsam.modeling.dbsam import DBSAM
from dbsam.modeling.slice_view import SEEN_SIZE, SLICE_CHANNELS, SLICE_SIZE, cut_out
from dbsam.weights.load import load_model
from dbsam_training.batches.augment import make_batch
from dbsam_training.batches.loader import reader
from dbsam_training.batches.rng import COUNT
from dbsam_training.data.nnunet import RawDataset
from dbsam_training.recipe import AugmentOptions, DataOptions, PromptOptions, Recipe, load_recipe
from dbsam_training.schema import SettingError
from dbsam_training.store.format import TrainingStore
from dbsam_training.store.prepare import prepare
from dbsam_training.trainer.checks import open_stores
from dbsam_training.trainer.init import init_model
from dbsam_training.trainer.slice_maps import fill_slice_maps
from dbsam_training.trainer.validation import validation_prompts

BOX_XYXY = np.array([100.0, 80.0, 310.0, 210.0])


@pytest.fixture(scope="module")
def model() -> DBSAM:
    """Compact's weights with a random ViT beside them, and a blend that has learned something."""
    torch.manual_seed(0)
    two_view = build_model(named_config("two-view")).eval()
    two_view.load_state_dict(load_model("compact", "cpu").model.state_dict(), strict=False)
    return two_view


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """An nnU-Net folder of one picture of 300x420 with a block and noise."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "Dataset001_Noise"
    label = np.zeros((300, 420), np.uint8)
    label[90:200, 110:300] = 1
    pixels = (rng.integers(0, 100, label.shape) + 100 * label).astype(np.uint8)
    for part, name, values in (("imagesTr", "one_0000.png", pixels), ("labelsTr", "one.png", label)):
        (folder / part).mkdir(parents=True)
        Image.fromarray(values).save(folder / part / name)
    facts = {
        "labels": {"background": 0, "block": 1}, "channel_names": {"0": "photo"}, "file_ending": ".png",
        "modality": "Photograph", "dimension": 2, "licence": "CC0", "reference": "made for a test",
    }  # fmt: skip
    (folder / "dataset.json").write_text(json.dumps(facts))
    (folder / "splits_final.json").write_text(json.dumps([{"train": ["one"], "val": []}]))
    return folder


def blended(model: DBSAM) -> DBSAM:
    """The same with a blend that changes something."""
    torch.manual_seed(1)
    changed = build_model(model.config).eval()
    changed.load_state_dict(model.state_dict())
    blend = changed.image_encoder.slice_blend
    assert blend is not None
    for last in (blend.to_tokens, blend.to_embedding, blend.to_map[-1]):
        torch.nn.init.normal_(last.weight, std=0.02)
    return changed


def grey(pixels: np.ndarray) -> np.ndarray:
    return np.stack([pixels] * 3, -1)


def noise(seed: int) -> np.ndarray:
    return grey(np.random.default_rng(seed).integers(0, 256, (300, 420)).astype(np.uint8))


def test_before_training_it_gives_what_the_weights_under_it_give(model):
    compact = ModelPredictor(load_model("compact", "cpu").model, "compact")
    two_view = ModelPredictor(model, "two-view")
    region = two_view.region_for(BOX_XYXY, (300, 420), (0.7, 0.9))
    assert region == compact.region_for(BOX_XYXY, (300, 420), (0.7, 0.9))
    masks = [p.decode(p.encode([noise(0)], [region])[0], BOX_XYXY[None]) for p in (compact, two_view)]
    np.testing.assert_array_equal(masks[0].logits, masks[1].logits)
    changed = ModelPredictor(blended(model), "two-view")
    assert (
        np.abs(changed.decode(changed.encode([noise(0)], [region])[0], BOX_XYXY[None]).logits - masks[0].logits).max()
        > 0.01
    )


def test_a_region_cuts_out_what_lies_in_it_and_zero_beyond():
    cell = SLICE_SIZE // SEEN_SIZE
    centres = torch.arange(SEEN_SIZE) * cell + (cell - 1) / 2.0  # in pixels of the slice's input
    features = torch.stack([centres.expand(SEEN_SIZE, -1), centres[:, None].expand(-1, SEEN_SIZE)])[None]
    x0, y0, x1, y1 = 40.0, 80.0, 104.0, 112.0
    seen = cut_out(features, torch.tensor([[x0, y0, x1, y1]]))[0]
    step_x, step_y = (x1 - x0) / SEEN_SIZE, (y1 - y0) / SEEN_SIZE
    expected_x = x0 + step_x * (torch.arange(SEEN_SIZE) + 0.5)
    expected_y = y0 + step_y * (torch.arange(SEEN_SIZE) + 0.5)
    torch.testing.assert_close(seen[0], expected_x.expand(SEEN_SIZE, -1), atol=1e-3, rtol=0)
    torch.testing.assert_close(seen[1], expected_y[:, None].expand(-1, SEEN_SIZE), atol=1e-3, rtol=0)
    beyond = cut_out(torch.ones(1, 1, SEEN_SIZE, SEEN_SIZE), torch.tensor([[-128.5, -0.5, 127.5, 255.5]]))[0, 0]
    assert beyond[:, : SEEN_SIZE // 2 - 1].eq(0).all()
    assert beyond[:, SEEN_SIZE // 2 + 1 :].eq(1).all()


def test_a_slice_is_encoded_once_for_all_its_boxes(model):
    predictor = ModelPredictor(blended(model), "two-view")
    encode, encoded = predictor.model.encode_slice, []
    predictor.model.encode_slice = lambda *shown: (encoded.append(shown), encode(*shown))[1]
    regions = [predictor.region_for(BOX_XYXY + shift, (300, 420), (0.7, 0.9)) for shift in (0, 13.7)]
    first, second = (predictor.encode([noise(0)], [region])[0] for region in regions)
    assert len(encoded) == 1
    predictor.encode([noise(1)], regions[:1])
    assert len(encoded) == 2
    fresh = ModelPredictor(predictor.model, "two-view").encode([noise(0), noise(1)], [regions[1], regions[0]])
    assert torch.equal(fresh[0].encoded.image_embedding, second.encoded.image_embedding), "no matter what came before"
    assert not torch.equal(first.encoded.image_embedding, second.encoded.image_embedding)


def test_training_and_prediction_see_the_same_part_of_the_slice(model, picture, tmp_path):
    prepare([RawDataset(picture)], tmp_path / "store", DataOptions(protocol="objects", slice_views=True))
    store = TrainingStore(tmp_path / "store")
    maps = fill_slice_maps(store, model, torch.device("cpu"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store").rglob(maps)}
    assert len(before) == 1
    assert fill_slice_maps(store, model, torch.device("cpu")) == maps
    assert {path: path.stat().st_mtime_ns for path in before} == before, "what is there is not computed again"
    prompts = validation_prompts(PromptOptions(paper=1.0, whole_slice=False))["paper"]
    arrays = reader(store, None, maps)(torch.tensor([0]))
    size = model.config.image_size
    batch = make_batch(arrays, size, size, torch.full((1, COUNT), 0.5), prompts, AugmentOptions())
    predictor = ModelPredictor(model, "two-view")
    shown = []
    encode = predictor.model.image_encoder.forward_features
    predictor.model.image_encoder.forward_features = lambda x, seen: (shown.append(seen), encode(x, seen))[1]
    try:
        pixels = grey(np.asarray(Image.open(picture / "imagesTr" / "one_0000.png")))
        # The batch's box on the slice: its draws of 0.5 move each side by 10 pixels of the paper's grid.
        shift = 10 * 420 / 256
        box = np.array([109.5 - shift, 89.5 - shift, 299.5 + shift, 199.5 + shift])
        predictor.encode([pixels], [predictor.region_for(box, pixels.shape[:2], (1.0, 1.0))])
    finally:
        del predictor.model.image_encoder.forward_features
    assert batch.seen is not None
    assert batch.seen.shape == (1, SLICE_CHANNELS, SEEN_SIZE, SEEN_SIZE)
    # The store keeps whole grey values and features in 16 bits.
    correlation = np.corrcoef(batch.seen.flatten(), shown[0].flatten())[0, 1]
    assert correlation > 0.999, f"they see the same place: {correlation}"


def test_an_interrupted_encoding_goes_on_where_it_stopped(model, picture, tmp_path):
    prepare([RawDataset(picture)], tmp_path / "store", DataOptions(protocol="objects", slice_views=True))
    store = TrainingStore(tmp_path / "store")
    maps = fill_slice_maps(store, model, torch.device("cpu"))
    [path] = (tmp_path / "store").rglob(maps)
    whole = path.read_bytes()
    path.unlink()
    path.with_name(f"{maps}.part").write_bytes(whole[: len(whole) // 2])
    fill_slice_maps(store, model, torch.device("cpu"))
    assert path.read_bytes() == whole
    assert not path.with_name(f"{maps}.part").exists()


def two_view_recipe(**changes: object) -> Recipe:
    recipe = load_recipe("two-view")
    return replace(recipe, **{name: replace(getattr(recipe, name), **values) for name, values in changes.items()})


def test_a_run_starts_from_the_weights_under_it_and_from_the_vits_own(model, tmp_path):
    files = tmp_path / "own_lite.pth"
    lite = build_model(named_config("medsam-lite"))
    torch.save(lite.state_dict(), files)
    recipe = two_view_recipe(model={"slice_base": str(files)})
    started, base = init_model(recipe)
    assert base is not None
    assert base["name"] == "compact"
    assert base["slice_sha256"] == hashlib.sha256(files.read_bytes()).hexdigest()
    assert base["datasets"][-1]["name"] == "own_lite (weights)"
    state, compact = started.state_dict(), load_model("compact", "cpu").model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in compact.items())
    encoder = lite.image_encoder.state_dict()
    assert all(torch.equal(state[f"slice_encoder.{name}"], value) for name, value in encoder.items())
    assert not any(p.requires_grad for p in started.slice_encoder.parameters())
    assert all(p.requires_grad for p in started.image_encoder.slice_blend.parameters())


def test_what_a_slice_view_needs_is_asked_for(tmp_path):
    for changes, words in (
        ({"data": {"slice_views": False}}, "set data.slice_views to true"),
        ({"model": {"slice_base": "", "base": ""}}, "set model.slice_base to medsam-lite"),
        ({"run": {"store_on_gpu": True}}, "set run.store_on_gpu to false"),
    ):
        with pytest.raises(SettingError, match=words):
            open_stores([tmp_path], two_view_recipe(**changes))
    recipe = tiny_recipe()
    with pytest.raises(SettingError, match="has none: take it out"):
        open_stores([tmp_path], replace(recipe, model=replace(recipe.model, slice_base="medsam-lite")))
    with pytest.raises(ValueError, match="slice_view needs"):
        DBSAMConfig(slice_view=True)
