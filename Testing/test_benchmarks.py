"""What the scripts behind the documentation's figures compute."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gpu import network_flops
from gpu_traffic import Count
from ladder import mean_of_seeds
from run_all import SCRIPTS
from scaling import exponent
from unseen_sources import folds_of, runs_of

from dbsam.modeling import sam_attention
from dbsam_training.data.dataset_info import DatasetInfo
from dbsam_training.evaluate.bootstrap import Row

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


def test_the_ladder_averages_the_seeds_of_an_object():
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
