"""What is refused before a run starts, and what an interrupted or failing command leaves behind."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from training_cases import tiny_recipe, tiny_store, write_pictures

from dbsam_training.cli import main
from dbsam_training.data.nnunet import RawDataset
from dbsam_training.data.nnunet_writer import RawCase, write_raw_dataset
from dbsam_training.schema import SettingError
from dbsam_training.store.format import TrainingStore
from dbsam_training.store.prepare import prepare
from dbsam_training.trainer.export import ExportOptions, export_run
from dbsam_training.trainer.loop import train
from dbsam_training.trainer.run_folder import read_state


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_store(tmp_path_factory.mktemp("data"), tiny_recipe())


def recipe_file(folder: Path, **settings) -> str:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe(**settings).to_dict()))
    return str(path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data__protocol": "slices", "prompts__whole_slice": True}, "data.protocol 'objects', and .* has 'slices'"),
        ({"data__neighbours": True}, "data.neighbours False, and .* has True"),
        ({"data__dataset_weights": {"Dataset001_Disc": 2}}, "'Dataset001_Disc'.*did you mean 'Dataset001_Discs'"),
    ],
)
def test_a_store_that_does_not_fit_the_recipe_is_refused(store, tmp_path, settings, message):
    with pytest.raises(SettingError, match=message):
        train(tiny_recipe(**settings), [store], tmp_path, callbacks=())


def test_licence_open_holds_for_a_store_that_was_prepared_without_it(tmp_path, capsys):
    recipe = tiny_recipe()
    sources = [
        RawDataset(write_pictures(tmp_path / f"Dataset00{n}_D", 6, licence=licence))
        for n, licence in enumerate(("CC0", "CC BY-NC 4.0"))
    ]
    prepare(sources, tmp_path / "store", recipe.data)
    command = ["fit", "--config", recipe_file(tmp_path), "--store", str(tmp_path / "store"), "--licence", "open"]
    assert main([*command, "--output", str(tmp_path / "run")]) == 2
    assert "Dataset001_D (CC BY-NC 4.0)" in capsys.readouterr().err
    prepare(sources[:1], tmp_path / "store", recipe.data)
    train(tiny_recipe(data__licence="open", run__steps=1), [tmp_path / "store"], tmp_path / "run", callbacks=())


def test_a_run_without_validation_says_so_and_its_last_state_is_exported(tmp_path, caplog):
    recipe = tiny_recipe(run__steps=2, run__batch_size=2)
    folder = write_pictures(tmp_path / "Dataset001_Discs")
    (folder / "splits_final.json").write_text('[{"train": ["case0", "case1"], "val": []}]')
    prepare([RawDataset(folder)], tmp_path / "store", recipe.data)
    train(recipe, [tmp_path / "store"], tmp_path / "run", callbacks=())
    assert "no validation sample" in caplog.text
    export_run(tmp_path / "run", tmp_path / "a.safetensors", tmp_path / "a.md", ExportOptions())
    (tmp_path / "run/best.pt").unlink()  # as runs of earlier versions
    export_run(tmp_path / "run", tmp_path / "b.safetensors", tmp_path / "b.md", ExportOptions())
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_few_cases_of_a_scene_are_all_for_training(tmp_path):
    from dbsam.geometry.grid import ImageGeometry

    voxels = np.arange(24).reshape(2, 3, 4).astype(np.int16)
    geometry = ImageGeometry(np.diag([-1.0, -1.0, 1.0, 1.0]), (4, 3, 2))
    cases = [RawCase(name, voxels, (voxels > 9).astype(np.uint8), geometry) for name in ("a", "b", "c")]
    for count, expected in ((1, (["a"], [])), (2, (["a", "b"], [])), (3, (["a", "b"], ["c"]))):
        write_raw_dataset(tmp_path / str(count), cases[:count], ["x"])
        dataset = RawDataset(tmp_path / str(count))
        assert (dataset.list_cases("train"), dataset.list_cases("val")) == expected


HOLDS = "import sys, time; from pathlib import Path; from dbsam_training.store.locks import sole_use\n"
HOLDS += "with sole_use(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_a_second_process_is_refused_while_the_first_lives(store, tmp_path, capsys):
    data = str(write_pictures(tmp_path / "Dataset001_Discs"))
    config = ["--config", recipe_file(tmp_path)]
    commands = {
        tmp_path / "run": ["fit", *config, "--store", str(store)],
        tmp_path / "store": ["prepare", *config, "--data", data],
    }
    for folder, command in commands.items():
        holder = subprocess.Popen([sys.executable, "-c", HOLDS, str(folder)], stdout=subprocess.PIPE)
        try:
            assert holder.stdout.readline()
            assert main([*command, "--output", str(folder)]) == 2
            assert f"Another process is at work in {folder}" in capsys.readouterr().err
        finally:
            holder.kill()
            holder.communicate()
        assert main([*command, "--output", str(folder)]) == 0  # what was killed holds nothing


def test_new_data_do_not_replace_the_store_of_a_run(tmp_path, capsys):
    folder = write_pictures(tmp_path / "Dataset001_Discs", 6)
    command = ["fit", "--config", recipe_file(tmp_path, run__steps=2), "--data", str(folder)]
    command += ["--output", str(tmp_path / "run")]
    assert main(command) == 0
    before = TrainingStore(tmp_path / "run/store").signature
    splits = (folder / "splits_final.json").read_text(encoding="utf-8")
    (folder / "splits_final.json").write_text(splits.replace('"case2", ', ""))
    assert main(command) == 2
    assert "holds a run on other data: Dataset001_Discs.train would change" in capsys.readouterr().err
    assert TrainingStore(tmp_path / "run/store").signature == before
    (folder / "splits_final.json").write_text(splits)
    os.utime(folder / "labelsTr/case2.png", ns=(1, 1))
    assert main(command) == 0
    (folder / "labelsTr/case2.png").write_bytes((folder / "labelsTr/case3.png").read_bytes())
    assert main(command) == 2
    assert read_state(tmp_path / "run/last.pt")["step"] == 2


def test_a_run_goes_on_with_its_data_in_another_place(tmp_path):
    folder = write_pictures(tmp_path / "here/Dataset001_Discs", 6)
    moved = tmp_path / "there/Dataset001_Discs"
    for steps, data in ((1, folder), (2, moved)):
        if data is moved:
            shutil.copytree(folder, moved)
            shutil.rmtree(folder)
        config = recipe_file(tmp_path, run__steps=steps)
        assert main(["fit", "--config", config, "--data", str(data), "--output", str(tmp_path / "run")]) == 0
        assert read_state(tmp_path / "run/last.pt")["step"] == steps
