"""Training: what is trained, exact resume, clear failures."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from training_cases import TINY_MODEL, tiny_recipe, tiny_store, write_pictures

from dbsam.modeling.builder import build_model
from dbsam.modeling.dbsam import DBSAM
from dbsam.weights.checkpoint import load_checkpoint, save_checkpoint
from dbsam_training.batches.sampling import Sampler, learning_rate_at
from dbsam_training.data.nnunet import RawDataset
from dbsam_training.schema import SettingError
from dbsam_training.store.format import TrainingStore
from dbsam_training.store.prepare import prepare
from dbsam_training.trainer import loop
from dbsam_training.trainer.callbacks import Callback
from dbsam_training.trainer.checks import TrainingError
from dbsam_training.trainer.ema import ema_copy, update_ema
from dbsam_training.trainer.export import ExportOptions, export_run
from dbsam_training.trainer.init import init_model
from dbsam_training.trainer.log import CsvLog, read_log
from dbsam_training.trainer.run_folder import StateError, read_state, write_state


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As in the processes started here: with another number of threads, sums are in another order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store(tmp_path_factory.mktemp("data"), tiny_recipe())


@pytest.fixture(scope="module")
def slices(tmp_path_factory):
    return tiny_store(
        tmp_path_factory.mktemp("slices"), tiny_recipe(data__protocol="slices", prompts__whole_slice=True)
    )


class AsksToStop(Callback):
    """Puts the file there that asks a run to stop, when its first step was written."""

    asked = False

    def on_step(self, run, row):
        if not self.asked:  # the last step is told of when the run has ended
            self.asked = True
            (run.folder / "stop").touch()


def test_a_run_that_is_asked_to_stop_is_saved_after_its_step_and_goes_on_as_if_nothing_had_been(store, tmp_path):
    recipe = tiny_recipe(run__steps=4, run__checkpoint_every=100, run__validate_every=100)
    train(recipe, [store], tmp_path / "stopped", callbacks=[AsksToStop()])
    assert read_state(tmp_path / "stopped" / "last.pt")["step"] == 2  # a step is told of when the next is taken
    assert not (tmp_path / "stopped" / "stop").exists()
    train(recipe, [store], tmp_path / "stopped", callbacks=[])
    train(recipe, [store], tmp_path / "straight", callbacks=[])
    losses = [[row["loss"] for row in read_log(tmp_path / name / "train.csv")] for name in ("stopped", "straight")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 4


class StopsAfter(Callback):
    """Interrupts a run when a step, the first being 1, has been written."""

    def __init__(self, step):
        self.step = step

    def on_step(self, run, row):
        if row["step"] == self.step:
            raise KeyboardInterrupt


class Keeps(Callback):
    """Keeps a run, and the weights it begins with."""

    def on_start(self, run):
        self.run = run
        self.before = {key: value.clone() for key, value in run.model.state_dict().items()}


def train(recipe, stores, folder, callbacks=()):
    """Without pictures, which take longer than the steps of so small a network."""
    return loop.train(recipe, stores, folder, callbacks=callbacks)


def losses(folder):
    return {int(row["step"]): row["loss"] for row in read_log(folder / "train.csv")}


def test_the_loss_falls_and_validation_dsc_rises(store, tmp_path):
    recipe = tiny_recipe(
        run__steps=50, run__batch_size=8, run__validate_every=25, optimizer__learning_rate=6e-3, optimizer__ema=0.9
    )
    loop.train(recipe, [store], tmp_path)
    found = list(losses(tmp_path).values())
    assert np.mean(found[-10:]) < 0.8 * np.mean(found[:10])
    first, last = read_log(tmp_path / "validation.csv")
    assert last["score"] > first["score"]
    assert {p.name for p in tmp_path.iterdir()} == {
        "best.pt", "last.pt", "learning_curve.png", "overlays.png", "recipe.yaml", "train.csv", "validation.csv",
        "validation.json",
    }  # fmt: skip


def test_a_run_that_stopped_goes_on_with_the_losses_of_one_that_did_not(store, tmp_path):
    recipe = tiny_recipe(model__settings={**tiny_recipe().model.settings, "adapter_dropout": 0.3, "drop_path": 0.3})
    train(recipe, [store], tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(recipe, [store], tmp_path / "parts", callbacks=[StopsAfter(5)])
    assert read_state(tmp_path / "parts" / "last.pt")["step"] == 4
    train(recipe, [store], tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    whole, parts = (read_state(tmp_path / name / "last.pt") for name in ("whole", "parts"))
    assert all(torch.equal(whole["model"][key], parts["model"][key]) for key in whole["model"])
    assert all(torch.equal(whole["exported"][key], parts["exported"][key]) for key in whole["exported"])


def test_a_killed_run_leaves_a_readable_state_and_goes_on_with_the_same_losses(store, tmp_path):
    recipe = tiny_recipe(run__steps=14, run__validate_every=14, run__checkpoint_every=2)
    train(recipe, [store], tmp_path / "whole")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    run = tmp_path / "killed"
    command = [
        sys.executable, "-c", "import sys; from dbsam_training.cli import main; sys.exit(main())", "fit",
        "--config", str(tmp_path / "recipe.yaml"), "--store", str(store), "--output", str(run),
    ]  # fmt: skip
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while len(losses(run)) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert 0 < read_state(run / "last.pt")["step"] < 14
    train(recipe, [store], run)
    assert losses(run) == pytest.approx(losses(tmp_path / "whole"), abs=1e-5)


def test_a_truncated_state_is_refused_by_name(tmp_path):
    path = tmp_path / "last.pt"
    write_state(path, {"step": 1, "weights": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(StateError, match=r"last\.pt is damaged"):
        read_state(path)


def test_a_log_drops_the_steps_that_will_be_done_again_and_a_torn_last_line(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,0.5\n2,0.25\n3,0.125\n4,0.0")
    log = CsvLog(path, ("step", "loss"), last_step=2)
    log.add({"step": 3, "loss": 0.75})
    log.close()
    assert list(csv.reader(path.open())) == [["step", "loss"], ["1", "0.5"], ["2", "0.25"], ["3", "0.75"]]


def test_a_run_folder_of_another_model_is_refused_with_the_setting_that_differs(store, tmp_path):
    train(tiny_recipe(run__steps=2), [store], tmp_path)
    with pytest.raises(SettingError, match=r"another data\.balance"):
        train(tiny_recipe(run__steps=2, data__balance=0.25), [store], tmp_path)


@pytest.mark.parametrize(
    ("system", "parts"),
    [
        ("dbsam", ("image_encoder.channel_attention", "image_encoder.conv_branch", "image_encoder.bilateral",
                   "image_encoder.fusion", "image_encoder.neck", "mask_decoder")),
        ("dbsam-channel-attention", ("image_encoder.channel_attention", "image_encoder.neck", "mask_decoder")),
        ("dbsam-bilateral", ("image_encoder.channel_attention", "image_encoder.conv_branch", "image_encoder.bilateral",
                             "image_encoder.neck", "mask_decoder")),
        ("medsam", ("mask_decoder",)),
    ],
)  # fmt: skip
def test_ten_steps_change_only_what_the_paper_trains(slices, tmp_path, system, parts):
    settings = {
        "image_size": 64, "conv_image_size": 16, "conv_channels": [8, 8], "embed_dim": 16, "depth": 2, "num_heads": 2,
        "window_size": 2, "global_attn_indexes": [1], "stage_ends": [0, 1], "deformable_heads": 2, "squeeze_ratio": 4,
        "prompt_embed_dim": 16, "decoder_heads": 2, "decoder_mlp_dim": 16, "iou_head_hidden_dim": 16, "fusion_ratio": 4,
        "source_grid": 256,
    }  # fmt: skip
    recipe = tiny_recipe(
        "paper", model__settings=settings, model__system=system, model__base="", run__steps=10, run__devices="1",
        run__workers=0, data__sampling="balanced", loss__iou_weight=1.0, optimizer__learning_rate=1e-2,
        optimizer__warm_up_epochs=0, run__validate_every=10,
    )  # fmt: skip
    kept = Keeps()
    train(recipe, [slices], tmp_path, callbacks=[kept])
    before, after = kept.before, kept.run.model.state_dict()
    changed = {key for key in before if not torch.equal(before[key], after[key])}
    assert all(key.startswith(parts) for key in changed)
    weights = {name for name, weight in kept.run.model.named_parameters() if weight.requires_grad}
    # Mask tokens beyond the first belong to SAM's multimask output, which a box prompt does not use.
    unused = {name for name in weights if ".output_hypernetworks_mlps." in name and "mlps.0." not in name}
    if system == "dbsam-bilateral":  # without fusion, nobody reads the convolution branch after the last exchange
        unused |= {name for name in weights if name.startswith("image_encoder.bilateral.1.conv_side")}
    assert weights - changed == unused


def test_what_lies_before_the_first_adapter_of_a_frozen_vit_keeps_no_activations():
    model = build_model(tiny_recipe("paper", model__settings={"image_size": 64, "conv_image_size": 16, "embed_dim": 16,
        "depth": 2, "num_heads": 2, "window_size": 2, "global_attn_indexes": [1], "stage_ends": [0, 1],
        "deformable_heads": 2, "squeeze_ratio": 4, "fusion_ratio": 4}, model__base="").model.config)  # fmt: skip
    seen = {}
    for name, part in (("first", model.image_encoder.blocks[0].mlp), ("second", model.image_encoder.blocks[1].mlp)):
        part.register_forward_hook(lambda _, __, output, name=name: seen.__setitem__(name, output.requires_grad))
    model(torch.zeros(1, 3, 64, 64), torch.tensor([[1.0, 1.0, 9.0, 9.0]]))
    assert seen == {"first": False, "second": True}


def test_checkpointing_gives_the_same_gradients():
    recipe = tiny_recipe()
    torch.manual_seed(0)
    model = build_model(recipe.model.config)
    image, box = torch.rand(2, 3, 32, 32) * 255, torch.tensor([[4.0, 4.0, 20.0, 20.0]] * 2)
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad()
        model.image_encoder.checkpointing = checkpointing
        model(image, box)[0].square().mean().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 50
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_accumulated_parts_give_the_same_step_as_the_whole_batch(store, tmp_path):
    # Batch norm sees the parts one by one, so the network here is without.
    without = {"bilateral": False, "fusion": False, "high_res_features": False, "decoder_refinement": False}
    settings = {**tiny_recipe().model.settings, **without, "full_res_channels": 0}
    for parts in (1, 2):
        recipe = tiny_recipe(model__settings=settings, run__steps=3, run__gradient_accumulation_steps=parts)
        train(recipe, [store], tmp_path / str(parts))
    one, two = (losses(tmp_path / name) for name in ("1", "2"))
    assert one == pytest.approx(two, abs=1e-5)


def test_a_loss_that_is_not_finite_names_the_cases_and_keeps_the_last_state(store, tmp_path):
    train(tiny_recipe(run__steps=2), [store], tmp_path)
    good = (tmp_path / "last.pt").read_bytes()

    class Spoils(Callback):
        def on_start(self, run):
            with torch.no_grad():
                run.model.mask_decoder.iou_token.weight.fill_(float("nan"))

    with pytest.raises(TrainingError, match=r"loss is not finite at step 2, on samples of case\d.*learning_rate"):
        train(tiny_recipe(run__steps=20, run__checkpoint_every=1), [store], tmp_path, callbacks=[Spoils()])
    assert (tmp_path / "last.pt").read_bytes() == good


def test_running_out_of_memory_says_which_settings_need_less(store, tmp_path, monkeypatch):
    def fails(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(DBSAM, "encode", fails)
    with pytest.raises(TrainingError, match=r"Memory ran out.*run\.gradient_accumulation_steps: 2.*run\.checkpointing"):
        train(tiny_recipe(), [store], tmp_path)


def test_the_rate_warms_up_and_falls_to_zero_by_a_power():
    options = replace(tiny_recipe().optimizer, learning_rate=1.0, warm_up_steps=4, warm_up_from=0.0, power=2.0)
    rates = [learning_rate_at(step, 14, 100, options) for step in (0, 3, 4, 9, 14)]
    assert rates == pytest.approx([0.25, 1.0, 1.0, 0.25, 0.0])


def test_an_epoch_shows_every_sample_once(store):
    opened = TrainingStore(store)
    data = tiny_recipe(data__sampling="epochs").data
    sampler = Sampler(opened, data, batch_size=1, seed=3)
    count = sampler.steps_per_epoch
    first = [int(sampler.batch(step)[0]) for step in range(count)]
    second = [int(sampler.batch(step)[0]) for step in range(count, 2 * count)]
    assert sorted(first) == sorted(second) == opened.indices("train").tolist()
    assert first != second


@pytest.mark.parametrize(
    "factor", [{"data__dataset_weights": {"Dataset002_Rare": 0.25}}, {"data__ill_posed_weight": 0.25}], ids=str
)
def test_a_data_set_is_drawn_in_proportion_to_its_factor(factor, tmp_path):
    recipe = tiny_recipe(**{"data__ill_posed_weight": 1.0} | factor)
    folders = (
        write_pictures(tmp_path / "Dataset001_Usual", 6),
        write_pictures(tmp_path / "Dataset002_Rare", 6, ill_posed_for_one_box=True),
    )
    prepare([RawDataset(folder) for folder in folders], tmp_path / "store", recipe.data)
    opened = TrainingStore(tmp_path / "store")
    sampler = Sampler(opened, recipe.data, batch_size=64, seed=0)
    seen = np.concatenate([opened.dataset[sampler.batch(step)] for step in range(50)])
    assert np.mean(seen == opened.dataset_names.index("Dataset002_Rare")) == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize(
    ("factor", "named"),
    [
        ({"data__dataset_weights": {"Dataset002_Rare": -1}}, r"weights\.Dataset002_Rare must be at least 0, not -1"),
        ({"data__ill_posed_weight": -0.5}, r"data\.ill_posed_weight must be at least 0, not -0\.5"),
    ],
    ids=["one", "ill-posed"],
)
def test_a_factor_below_zero_is_refused(factor, named):
    with pytest.raises(SettingError, match=named):
        tiny_recipe(**factor)


def test_the_average_shares_frozen_weights_and_follows_the_others():
    model = torch.nn.Sequential(torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False))
    model[0].requires_grad_(False)
    average = ema_copy(model)
    assert average[0].weight.data_ptr() == model[0].weight.data_ptr()
    old = float(average[1].weight)
    with torch.no_grad():
        model[1].weight.add_(1.0)
    update_ema(average, model, step=10**6, decay=0.75)
    assert float(average[1].weight) == pytest.approx(old + 0.25)


def test_an_exported_run_comes_back_bit_for_bit_with_its_provenance(store, tmp_path):
    recipe = tiny_recipe(run__steps=4)
    kept = Keeps()
    train(recipe, [store], tmp_path / "run", callbacks=[kept])
    output = tmp_path / "weights.safetensors"
    export_run(tmp_path / "run", output, tmp_path / "card.md", ExportOptions(state="last", licence="MIT"))
    model, info = load_checkpoint(output)
    wanted = kept.run.exported.state_dict()
    assert all(torch.equal(value, wanted[key]) for key, value in model.state_dict().items())
    assert (info.name, info.licence, info.recipe["trained_steps"]) == ("compact", "MIT", 4)
    assert [(d.name, d.licence, d.cases) for d in info.datasets] == [("Dataset001_Discs", "CC0", 5)]
    card = (tmp_path / "card.md").read_text(encoding="utf-8")
    assert "| Dataset001_Discs | CC0 | made for a test | 5 |" in card
    assert info.tensors_sha256 in card


def test_a_half_precision_export_is_smaller_and_predicts_nearly_the_same(store, tmp_path):
    train(tiny_recipe(run__steps=4), [store], tmp_path / "run")
    files = [tmp_path / "whole.safetensors", tmp_path / "half.safetensors"]
    for file, half in zip(files, (False, True), strict=True):
        export_run(tmp_path / "run", file, file.with_suffix(".md"), ExportOptions(half=half))
    assert files[1].stat().st_size < 0.8 * files[0].stat().st_size
    image, box = torch.rand(1, 3, 32, 32) * 255, torch.tensor([[4.0, 4.0, 20.0, 20.0]])
    whole, half = (load_checkpoint(file)[0](image, box)[0] for file in files)
    assert (whole - half).abs().max() < 0.05


def test_a_blended_export_lies_between_the_start_and_the_trained_weights(store, tmp_path):
    train(tiny_recipe(run__steps=2), [store], tmp_path / "first")
    base = tmp_path / "base.safetensors"
    export_run(tmp_path / "first", base, base.with_suffix(".md"), ExportOptions(state="last"))
    train(tiny_recipe(run__steps=4, run__seed=1, model__base=str(base)), [store], tmp_path / "second")
    states = {}
    for share in (1.0, 0.25):
        file = tmp_path / f"{share}.safetensors"
        info = export_run(tmp_path / "second", file, file.with_suffix(".md"), ExportOptions(state="last", blend=share))
        assert ("validation" in info.metrics) == (share == 1)  # those scores are of the whole step
        states[share] = load_checkpoint(file)[0].state_dict()
    start = load_checkpoint(base)[0].state_dict()
    key = "image_encoder.blocks.0.mlp.lin1.weight"
    assert not torch.equal(states[1.0][key], start[key])
    torch.testing.assert_close(states[0.25][key], 0.75 * start[key] + 0.25 * states[1.0][key])
    assert "Blended: 0.25 of the trained weights" in (tmp_path / "0.25.md").read_text(encoding="utf-8")
    with pytest.raises(SettingError, match=r"this one's model\.base is empty"):
        export_run(tmp_path / "first", tmp_path / "x.safetensors", tmp_path / "x.md", ExportOptions(blend=0.5))
    with pytest.raises(SettingError, match=r"at most 1, not 1\.5"):
        export_run(tmp_path / "second", tmp_path / "x.safetensors", tmp_path / "x.md", ExportOptions(blend=1.5))


def _exported_base(store, tmp_path, **settings):
    """Weights of the plain SAM inside the tiny network."""
    plain = {
        "channel_attention": "none",
        "bilateral": False,
        "fusion": False,
        "high_res_features": False,
        "decoder_refinement": False,
        "full_res_channels": 0,
    }
    recipe = tiny_recipe(run__steps=1, model__settings=TINY_MODEL | plain | settings)
    train(recipe, [store], tmp_path / "base")
    weights = tmp_path / "base.safetensors"
    export_run(tmp_path / "base", weights, weights.with_suffix(".md"), ExportOptions())
    return weights


def test_adapters_start_on_a_plain_sam(store, tmp_path):
    base = _exported_base(store, tmp_path)
    model, stands_on = init_model(tiny_recipe(model__base=str(base)))
    weights = load_checkpoint(base)[0].state_dict()
    state = model.state_dict()
    assert weights.keys() < state.keys()
    assert all(torch.equal(state[key], value) for key, value in weights.items())
    assert stands_on["sha256"] is None
    assert stands_on["datasets"]


def test_a_plain_sam_of_another_size_is_no_base(store, tmp_path):
    base = _exported_base(store, tmp_path, decoder_mlp_dim=24)
    with pytest.raises(SettingError, match=r"base.safetensors has another architecture .*mlp"):
        init_model(tiny_recipe(model__base=str(base)))


def test_a_run_does_not_go_on_with_another_base_of_the_same_name(store, tmp_path):
    base = _exported_base(store, tmp_path)
    recipe = tiny_recipe(run__steps=2, run__validate_every=2, model__base=str(base))
    train(recipe, [store], tmp_path / "run")
    former = base.read_bytes()
    model, info = load_checkpoint(base)
    with torch.no_grad():
        model.mask_decoder.iou_token.weight.add_(1)
    save_checkpoint(base, model, info)
    longer = replace(recipe, run=replace(recipe.run, steps=3))
    with pytest.raises(SettingError, match=r"on other weights than '.*base\.safetensors' names now: their SHA-256"):
        train(longer, [store], tmp_path / "run")
    base.write_bytes(former)
    train(longer, [store], tmp_path / "run")
    assert read_state(tmp_path / "run/last.pt")["step"] == 3
