"""train.py under python and inside the application: the exit code is right in every case."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from dbsam_training.cli import main
from dbsam_training.recipe import load_recipe, recipe_names
from dbsam_training.schema import SettingError

TRAIN = Path(__file__).parents[1] / "DBSAMTraining" / "dbsam_training" / "train.py"

# A stand-in of what the script uses of Slicer: the application stays alive until slicer.util.exit is called.
IN_SLICER = """
    import os, runpy, sys, types
    slicer = types.ModuleType("slicer")
    slicer.app = object()
    slicer.util = types.SimpleNamespace(exit=lambda code: (sys.stderr.flush(), os._exit(40 + code)))
    sys.modules["slicer"] = slicer
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
    os._exit(99)
"""


def run(arguments, in_slicer=False):
    start = ["-c", textwrap.dedent(IN_SLICER)] if in_slicer else []
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *start, TRAIN, *arguments], env=environment, capture_output=True, text=True)


@pytest.mark.parametrize(("in_slicer", "base"), [(False, 0), (True, 40)], ids=["python", "Slicer"])
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["recipes"], 0, "compact"),
        (["--help"], 0, "prepare"),
        (["fit", "--config", "compact", "--output", "x"], 2, "Give --store"),
        (["fit", "--config", "compact", "--output", "x", "--store", "/nowhere"], 2, "no finished training store"),
        (["fit", "--confg", "compact"], 2, "required"),
    ],
)  # fmt: skip
def test_the_exit_code_is_the_commands(tmp_path, monkeypatch, arguments, code, says, in_slicer, base):
    monkeypatch.chdir(tmp_path)
    done = run(arguments, in_slicer)
    assert done.returncode == base + code
    assert says in done.stdout + done.stderr


def test_its_own_folder_does_not_hide_pythons_statistics(tmp_path):
    code = f"import runpy, sys; sys.argv = ['train.py', 'recipes']; sys.path.insert(0, {str(TRAIN.parent)!r})\n"
    code += f"try: runpy.run_path({str(TRAIN)!r}, run_name='__main__')\nexcept SystemExit: pass\n"
    code += "import statistics; assert statistics.mean([1, 3]) == 2"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_every_recipe_can_be_read_and_says_what_it_is_for():
    names = {path.stem for path in (TRAIN.parents[1] / "Resources/Recipes").glob("*.yaml")}
    assert set(recipe_names()) == names >= {"compact", "compact-open", "paper", "finetune"}
    assert all(len(load_recipe(name).description) > 30 for name in recipe_names())


def test_the_paper_recipe_has_the_papers_numbers():
    recipe = load_recipe("paper")
    config = recipe.model.config
    assert (config.image_size, config.conv_image_size, config.embed_dim, config.depth) == (1024, 256, 768, 12)
    assert (config.adapter_dropout, config.drop_path) == (0.4, 0.4)
    assert (config.train_vit, config.train_prompt_encoder, config.train_neck) == (False, False, True)
    assert (recipe.run.epochs, recipe.run.devices, recipe.optimizer.learning_rate) == (12, "4", 1e-4)
    assert (recipe.optimizer.warm_up_from, recipe.optimizer.weight_decay) == (1e-7, 0.01)
    assert (recipe.prompts.paper, recipe.data.protocol, recipe.loss.resolution) == (1.0, "slices", "low_res")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"optimizer.learningrate": 1}, r"'optimizer\.learningrate': did you mean 'learning_rate'"),
        ({"model.system": "compct"}, "Unknown system 'compct'"),
        ({"model.settings": {"embeddim": 1}}, "did you mean 'embed_dim'"),
        ({"run.precision": "bf16"}, r"run\.precision is 'bf16': choose one of 32-true, bf16-mixed, 16-mixed"),
        ({"run.batch_size": "many"}, r"run\.batch_size must be a whole number, not 'many'"),
        ({"run.batch_size": 0}, r"run\.batch_size must be at least 1, not 0"),
        ({"prompts.context_jitter": [1]}, r"context_jitter must hold 2 values, not 1"),
        ({"prompts.paper": 0.9}, "exceed 1 together"),
        ({"runs": {}}, "'runs': did you mean 'run'"),
    ],
)
def test_a_wrong_setting_is_refused_by_name_with_what_is_possible(settings, message):
    with pytest.raises(SettingError, match=message):
        load_recipe("compact", settings)


def test_a_recipe_that_extends_another_keeps_what_it_does_not_replace(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: compact\nname: mine\noptimizer:\n  power: 2.0\n")
    mine, compact = load_recipe(tmp_path / "mine.yaml"), load_recipe("compact")
    assert (mine.name, mine.optimizer.power) == ("mine", 2.0)
    assert mine.optimizer.learning_rate == compact.optimizer.learning_rate
    assert mine.run == compact.run


def test_a_recipe_that_extends_itself_is_refused(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b\n")
    (tmp_path / "b.yaml").write_text("extends: a\n")
    with pytest.raises(SettingError, match="extends itself"):
        load_recipe(tmp_path / "a.yaml")


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "yaml", None)
    monkeypatch.delitem(sys.modules, "dbsam_training.recipe")
    assert main(["recipes"]) == 1
    assert "the package yaml is missing: pip install 'dbsam[train]'" in capsys.readouterr().err
