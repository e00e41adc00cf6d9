"""Several processes train as one: gloo on the CPU, batch norm included."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn
from training_cases import tiny_recipe, tiny_store

from dbsam_training.schema import SettingError
from dbsam_training.trainer import distributed
from dbsam_training.trainer.distributed import SynchronizedBatchNorm2d, launch, synchronize_batch_norm
from dbsam_training.trainer.init import init_model
from dbsam_training.trainer.log import read_log
from dbsam_training.trainer.run_folder import read_state

TRAIN = Path(__file__).parents[1] / "DBSAMTraining" / "dbsam_training" / "train.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def test_two_processes_with_half_the_batch_each_give_the_weights_of_one(tmp_path):
    recipe = tiny_recipe(run__steps=10, run__batch_size=8, run__validate_every=10, run__checkpoint_every=10)
    store = tiny_store(tmp_path, recipe)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.to_dict()))
    arguments = ["fit", "--config", tmp_path / "recipe.yaml", "--store", store, "--output"]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29577"]
    alone = subprocess.Popen([sys.executable, TRAIN, *arguments, tmp_path / "one"], env=ENVIRONMENT)
    subprocess.run([*torchrun, TRAIN, *arguments, tmp_path / "two"], env=ENVIRONMENT, check=True)
    assert alone.wait() == 0
    one, two = (read_state(tmp_path / name / "last.pt")["model"] for name in ("one", "two"))
    assert one.keys() == two.keys()
    assert any("running_var" in key for key in one)
    model = init_model(recipe)[0]
    start, weights = model.state_dict(), dict(model.named_parameters())
    moved, apart = (
        sum(float((a[key].double() - b[key].double()).square().sum()) for key in one if key in weights) ** 0.5
        for a, b in ((one, start), (one, two))
    )
    # Sums of float32 in another order; AdamW blows up what is left where the true gradient is nearly zero.
    assert apart < 0.03 * moved
    one_log, two_log = (read_log(tmp_path / name / "train.csv") for name in ("one", "two"))
    assert [row["loss"] for row in one_log] == pytest.approx([row["loss"] for row in two_log], abs=1e-3)
    assert one_log[0]["gradient_norm"] == pytest.approx(two_log[0]["gradient_norm"], rel=1e-5)
    scores = [read_log(tmp_path / name / "validation.csv")[0]["score"] for name in ("one", "two")]
    assert scores[0] == pytest.approx(scores[1], abs=5e-3)


def test_a_synchronized_batch_norm_alone_is_pytorchs():
    ours, theirs = nn.Sequential(nn.BatchNorm2d(3)), nn.BatchNorm2d(3)
    synchronize_batch_norm(ours)
    assert type(ours[0]) is SynchronizedBatchNorm2d
    images = torch.randn(4, 3, 5, 6) * 3 + 1
    assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize(("pays", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_bfloat16_is_left_out_on_a_cpu_without_arithmetic_for_it(monkeypatch, pays, precision):
    monkeypatch.setattr(distributed, "bfloat16_pays", lambda: pays)
    assert launch(tiny_recipe(run__precision="bf16-mixed").run).strategy.precision.precision == precision


def test_half_precision_on_a_cpu_is_refused_with_what_works():
    with pytest.raises(SettingError, match="16-mixed needs a GPU: use bf16-mixed or 32-true"):
        launch(tiny_recipe(run__precision="16-mixed").run)


def test_a_batch_that_does_not_split_is_refused_with_a_size_that_does():
    with pytest.raises(SettingError, match=r"batch_size 5 does not split .* use a multiple of 2"):
        launch(tiny_recipe(run__batch_size=5, run__gradient_accumulation_steps=2).run)
