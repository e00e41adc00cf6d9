"""Settings out of range and failing disks end in words and an exit code, and leave nothing half written."""

from __future__ import annotations

import errno
import os

import pytest
import yaml
from training_cases import tiny_recipe, tiny_store, write_pictures

from dbsam_training.cli import main
from dbsam_training.recipe import load_recipe
from dbsam_training.schema import SettingError
from dbsam_training.trainer.log import CsvLog


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store(tmp_path_factory.mktemp("data"), tiny_recipe())


def recipe_file(folder):
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe().to_dict()))
    return str(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"run.steps": 0}, "run.steps must be at least 1, not 0"),
        ({"run.epochs": 0.0}, "run.epochs must be above 0"),
        ({"run.seed": -1}, "run.seed must be at least 0, not -1"),
        ({"run.validate_every": -5}, "run.validate_every must be at least 0, not -5"),
        ({"optimizer.ema": 1.0}, "optimizer.ema must be at least 0 and less than 1, not 1.0"),
        ({"optimizer.ema": -0.1}, "optimizer.ema"),
        ({"optimizer.power": -1.0}, "optimizer.power must be at least 0, not -1.0"),
        ({"optimizer.learning_rate": float("nan")}, "optimizer.learning_rate"),
        ({"data.balance": float("inf")}, "data.balance must be a finite number"),
        ({"data.train_per_dataset": -1}, "data.train_per_dataset must be at least 0, not -1"),
        ({"data.intensity": "percentiles"}, "data.intensity is 'percentiles': did you mean 'percentile'"),
        ({"data.dataset_weights": {"A": "much"}}, "data.dataset_weights.A must be a number, not 'much'"),
        ({"data.dataset_weights": {"A": None}}, "data.dataset_weights.A must be a number, not None"),
        ({"data.dataset_weights": {"A": float("inf")}}, "data.dataset_weights.A must be a finite number, not inf"),
    ],
)
def test_a_setting_out_of_range_is_refused_by_name(settings, message):
    with pytest.raises(SettingError, match=message):
        load_recipe("compact", settings)


@pytest.mark.parametrize(
    ("old", "says"),
    [
        ("run.accumulate", "is now called 'run.gradient_accumulation_steps'"),
        ("run.resident", "is now called 'run.store_on_gpu'"),
        ("optimizer.clip_norm", "is now called 'optimizer.max_grad_norm'"),
        ("run.graphed", "is gone: take it out"),
    ],
)
def test_a_setting_of_an_earlier_version_is_refused_with_its_new_name(old, says):
    with pytest.raises(SettingError, match=f"'{old}' {says}"):
        load_recipe("compact", {old: 1})


def test_a_setting_that_is_no_yaml_is_refused(store, tmp_path, capsys):
    command = ["fit", "--config", "compact", "--store", str(store), "--output", str(tmp_path / "run")]
    assert main([*command, "--set", "run.steps=[1"]) == 2
    assert "--set run.steps: '[1' is not valid YAML" in capsys.readouterr().err


def test_an_output_that_is_a_file_is_refused_in_words(store, tmp_path, capsys):
    data, config = str(write_pictures(tmp_path / "Dataset001_Discs")), ["--config", recipe_file(tmp_path)]
    (tmp_path / "file").write_text("mine")
    for command in (["prepare", *config, "--data", data], ["fit", *config, "--store", str(store)]):
        for output in ("file", "file/below"):
            assert main([*command, "--output", str(tmp_path / output)]) == 2
            assert str(tmp_path / "file") in capsys.readouterr().err
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_a_full_disk_ends_in_words_and_leaves_nothing_half_written(tmp_path, monkeypatch, capsys):
    data, config = str(write_pictures(tmp_path / "Dataset001_Discs")), recipe_file(tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("dbsam_training.store.writer.os.fsync", full)
    assert main(["prepare", "--config", config, "--data", data, "--output", str(tmp_path / "store")]) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert not [path for path in (tmp_path / "store").rglob("*") if path.name.endswith(".tmp")]


def test_a_log_that_cannot_be_written_leaves_no_temporary_file(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("dbsam.io.files.os.replace", full)
    with pytest.raises(OSError, match="No space"):
        CsvLog(tmp_path / "train.csv", ("step", "loss"), 0)
    assert list(tmp_path.iterdir()) == []
