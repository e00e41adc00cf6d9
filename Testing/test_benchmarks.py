"""What the scripts behind the documentation's figures compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from ablation import main as ablation
from ablation import mean_of_seeds
from gpu import network_flops
from gpu_traffic import Count
from run_all import SCRIPTS
from scaling import exponent
from training_cases import tiny_recipe, tiny_store
from unseen_sources import folds_of, runs_of

from dbsam.modeling import sam_attention
from dbsam_training.data.dataset_info import DatasetInfo
from dbsam_training.evaluate.bootstrap import Row
from dbsam_training.trainer.export import ExportOptions, export_run
from dbsam_training.trainer.loop import train

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


def test_every_script_of_the_table_is_there():
    assert [name for name in SCRIPTS if not (BENCHMARKS / f"{name}.py").is_file()] == []


def test_the_exponent_of_a_power_law_is_found():
    assert exponent({n: 0.3 * n**1.7 for n in (1, 10, 1000)}) == pytest.approx(1.7)


def test_the_data_sets_of_a_source_are_left_out_together_and_each_once():
    infos = {
        f"{modality}{n}": DatasetInfo(f"{modality}{n}", modality, reference=reference)
        for modality, references in {"CT": ("a", "b", "", "c"), "MR": ("a", "d", "d")}.items()
        for n, reference in enumerate(references)
    }
    folds = folds_of(infos, 3)
    assert sorted(name for fold in folds for name in fold) == sorted(infos)
    assert any({"CT0", "MR0"} <= set(fold) for fold in folds)
    assert any({"MR1", "MR2"} <= set(fold) for fold in folds)
    assert all(any(name.startswith("CT") for name in fold) for fold in folds)


def test_the_open_run_leaves_out_what_restricts_use_and_the_first_run_nothing():
    licences = {"a": "CC BY 4.0", "b": "not stated", "c": "CC BY-NC 4.0", "d": "CC0 (as stated)"}
    infos = {name: DatasetInfo(name, "CT", licence=licence) for name, licence in licences.items()}
    runs = runs_of(infos, 2)
    assert list(runs) == ["all", "1", "2", "open"]
    assert runs["all"] == []
    assert runs["open"] == ["b", "c"]


def test_the_ablation_averages_the_seeds_of_an_object():
    def row(model, structure, dsc):
        return Row("set", "case", structure, "CT", 3, model, "paper", dsc, dsc / 2)

    seeds = [[row("a", "liver", 0.4), row("b", "liver", 0.6)], [row("a", "liver", 0.8), row("a", "kidney", 0.1)]]
    means = {(one.model, one.structure): (one.dsc, one.nsd) for one in mean_of_seeds(seeds)}
    assert means["a", "liver"] == pytest.approx((0.6, 0.3))
    assert means["a", "kidney"] == pytest.approx((0.1, 0.05))
    assert means["b", "liver"] == pytest.approx((0.6, 0.3))


def test_attention_counts_without_the_channels_that_carry_positions():
    tokens, heads, dim = 16, 2, 8
    qkv = torch.empty(1, tokens, 3, heads, dim, device="meta")
    table = torch.empty(7, dim, device="meta")
    products = 2 * heads * tokens * tokens * dim * 2  # queries by keys, weights by values
    positions = 2 * heads * tokens * dim * (4 + 4)
    in_use = sam_attention.attend_by_extra_channels
    counted = network_flops(lambda: sam_attention.attend_by_extra_channels(qkv, table, table, 0.3))
    assert counted == products + positions
    assert sam_attention.attend_by_extra_channels is in_use  # only for the count was it another


def test_traffic_counts_what_is_read_and_written_and_no_views():
    x = torch.zeros(4, 8)
    with Count() as count:
        row = x.t()[:, :1]
        x + row.t().expand(4, 8)
    assert count.nbytes == {"add": 4 * (32 + 8 + 32)}
    assert count.operations == 1


def test_the_ablation_trains_what_is_missing_and_prints_the_form_of_table_3(tmp_path, capsys):
    recipe = tiny_recipe(run__steps=1, run__validate_every=1)
    store = tiny_store(tmp_path, recipe)
    for name in ("base", "recipe"):
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    train(recipe, [store], tmp_path / "base", callbacks=())
    export_run(tmp_path / "base", tmp_path / "released.safetensors", tmp_path / "card.md", ExportOptions(state="last"))
    command = ["--data", str(tmp_path / "Dataset001_Discs"), "--store", str(store), "--output", str(tmp_path / "out")]
    command += ["--recipe", str(tmp_path / "recipe.yaml"), "--base", str(tmp_path / "released.safetensors")]
    command += ["--seeds", "0", "1", "--prompts", "paper"]
    systems = dict.fromkeys(("decoder", "fusion"), "compact")
    ablation(command, systems)
    made = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
    assert {str(path.relative_to(tmp_path / "out")) for path in made} == {
        f"{seed}/{row}.safetensors" for seed in (0, 1) for row in systems
    }
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows[2:9]] == [
        "as released", "decoder only (MedSAM's way)", "+ final fusion (DB-SAM)", "the paper's: MedSAM",
        "the paper's: + channel attention", "the paper's: + bilateral cross-attention",
        "the paper's: + final fusion (DB-SAM)",
    ]  # fmt: skip
    assert "85.25" in rows[6]
    ablation(command, systems)
    assert made == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.safetensors")}
