"""Cases on worker processes: the same files as from one process, whatever happens to a worker."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from cases import write_case, write_tiny_weights
from threshold_predictor import ThresholdPredictor

from dbsam.cli.batch import BatchModel, BatchSummary, run_batch
from dbsam.cli.case import Case
from dbsam.cli.cluster import ClusterError, Workers
from dbsam.cli.main import ExitCode, main
from dbsam.progress import Cancelled, CancelToken
from dbsam.weights.metadata import CheckpointError
from dbsam_training.cli import main as train

distributed = pytest.importorskip("distributed")


def slow_predictor(loads: Path) -> ThresholdPredictor:
    """Takes 5 ms a slice, so that a death comes in the middle of a case, and notes which process loaded it."""
    with loads.open("a", encoding="utf-8") as file:
        file.write(f"{os.getpid()}\n")
    return ThresholdPredictor(seconds_per_slice=0.005)


def no_predictor() -> ThresholdPredictor:
    raise CheckpointError("There is no weights file.")


def double(number: int) -> int:
    return 2 * number


def die_at_three(number: int) -> int:
    if number == 3:
        os._exit(1)
    return number


def sleep_long(number: int) -> None:
    time.sleep(60)


def cases_in(folder: Path, count: int) -> list[Case]:
    if not folder.exists():
        folder.mkdir()
        write_case(folder)
    volume, roi = folder / "volume.nrrd", folder / "block.mrk.json"
    return [Case(volume, folder / "out" / f"{n:02d}.nrrd", (roi,)) for n in range(count)]


def contents(folder: Path) -> dict[str, bytes]:
    """What a reader of the results sees; a killed process may leave a hidden folder that nobody takes for one."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


def run(folder: Path, count: int, workers: Workers | None, on_case: Callable = lambda *_: None) -> BatchSummary:
    cases = cases_in(folder, count)
    predictor = partial(slow_predictor, folder / "loads.txt")
    records = folder / "done.jsonl"
    return run_batch(cases, records, BatchModel(predictor, "threshold", lambda: None), on_case=on_case, workers=workers)


def test_fifty_cases_are_as_from_one_process_when_a_worker_is_killed_in_the_middle(tmp_path):
    def kill_at_the_twentieth(number: int, case: Case, outcome: str) -> None:
        told.append(number)
        if len(told) == 20:
            multiprocessing.active_children()[0].kill()

    told: list[int] = []
    one, two = tmp_path / "one", tmp_path / "two"
    run(one, 50, None)
    summary = run(two, 50, Workers(2), kill_at_the_twentieth)
    assert sorted(told) == list(range(50)), "each case is told once"
    assert (len(summary.done), summary.failed) == (50, {})
    assert contents(two / "out") == contents(one / "out")
    records = [json.loads(line) for line in (two / "done.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [record["status"] for record in records] == ["done"] * 50
    loads = (two / "loads.txt").read_text(encoding="utf-8").split()
    assert len(loads) == len(set(loads)) == 3, "one model for each of two workers and the killed one's successor"
    assert str(os.getpid()) not in loads

    (two / "out" / "07.nrrd").unlink()
    again = run(two, 50, Workers(1))
    assert (again.done, len(again.skipped)) == ([str(two / "out" / "07.nrrd")], 49)
    assert contents(two / "out") == contents(one / "out")


def test_a_broken_case_is_told_and_the_others_go_on(tmp_path):
    cases_in(tmp_path / "batch", 3)
    broken = Case(tmp_path / "missing.nrrd", tmp_path / "out.nrrd", boxes_ijk=((0, 0, 0, 1, 1, 1),))
    cases = [broken, *cases_in(tmp_path / "batch", 3)]
    records = tmp_path / "done.jsonl"
    summary = run_batch(cases, records, BatchModel(ThresholdPredictor, "threshold", lambda: None), workers=Workers(1))
    assert len(summary.done) == 3
    assert "missing.nrrd: no such file" in summary.failed[str(broken.output)]


def test_weights_that_cannot_be_used_end_the_batch(tmp_path):
    cases = cases_in(tmp_path / "batch", 3)
    with pytest.raises(CheckpointError, match="There is no weights file"):
        run_batch(cases, tmp_path / "done.jsonl", BatchModel(no_predictor, "m", lambda: None), workers=Workers(1))


def test_a_task_that_kills_its_workers_is_given_up_and_the_others_are_done():
    results, errors = [], {}
    for task, finish in Workers(1).run(die_at_three, range(6)):
        try:
            results.append(finish())
        except Exception as error:
            errors[task] = str(error)
    assert sorted(results) == [0, 1, 2, 4, 5]
    assert "workers died" in errors[3]


def test_tasks_are_made_when_a_worker_is_free_for_them():
    made, waiting = 0, []

    def tasks() -> Iterator[int]:
        nonlocal made
        for number in range(50):
            made += 1
            yield number

    results = []
    for ended, (_, finish) in enumerate(Workers(1).run(double, tasks())):
        waiting.append(made - ended)
        results.append(finish())
    assert sorted(results) == list(range(0, 100, 2))
    assert max(waiting) == 1


def test_cancelling_does_not_wait_for_the_cases():
    cancel = CancelToken()

    def tasks() -> Iterator[int]:
        yield 0
        cancel.cancel()  # asked for by the second worker, while the first sleeps
        yield 1

    with closing(Workers(2).run(sleep_long, tasks(), cancel)) as ended, pytest.raises(Cancelled):
        next(ended)
    assert multiprocessing.active_children() == []


def test_the_command_uses_the_workers_of_a_scheduler_with_relative_paths(tmp_path, monkeypatch, capsys):
    write_case(tmp_path)
    write_tiny_weights(tmp_path / "tiny.safetensors")
    rows = [f"volume.nrrd,block.mrk.json,{{0}}/{n}.seg.nrrd" for n in range(3)]
    for name in ("one", "many"):
        (tmp_path / f"{name}.csv").write_text("\n".join(["volume,roi,output", *rows]).format(name))
    options = ["--model", "tiny.safetensors", "--device", "cpu"]
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=":0") as cluster:
        monkeypatch.chdir(tmp_path)  # the worker started elsewhere
        address = cluster.scheduler_address.removeprefix("tcp://")
        assert main(["batch", "many.csv", *options, "--scheduler", address]) == ExitCode.DONE
    assert "many/1.seg.nrrd: done" in capsys.readouterr().out
    assert main(["batch", "one.csv", *options]) == ExitCode.DONE
    assert contents(tmp_path / "many") == contents(tmp_path / "one")


def test_a_store_made_by_workers_is_the_same(tmp_path, monkeypatch):
    from training_cases import write_pictures

    write_pictures(tmp_path / "data" / "Dataset001_Discs", cases=8)
    monkeypatch.chdir(tmp_path)
    for store, options in {"one": [], "two": ["--workers", "2"]}.items():
        assert train(["prepare", "--data", "data", "--config", "compact", "--output", store, *options]) == 0
    files = {path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*")}
    assert {path.relative_to(tmp_path / "two") for path in (tmp_path / "two").rglob("*")} == files
    assert all(
        (Path("one") / f).read_bytes() == (Path("two") / f).read_bytes() for f in files if Path("one", f).is_file()
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "0"], "--workers: must be a whole number of at least 1, not '0'"),
        (["--workers", "two"], "--workers: must be a whole number of at least 1, not 'two'"),
        (["--scheduler", "foo"], "--scheduler: 'foo' is no address of a host and a port, such as tcp://host:8786"),
        (["--scheduler", "tcp://host"], "'tcp://host' is no address"),
        (["--scheduler", "tcp://host:port"], "'tcp://host:port' is no address"),
        (["--scheduler", "localhost:99999"], "'localhost:99999' is no address"),
        (["--scheduler", ""], "'' is no address"),
    ],
)
def test_workers_that_make_no_sense_are_wrong_arguments(capsys, options, message):
    for command in (main, train):
        with pytest.raises(SystemExit) as exit_info:
            command(["batch", "cases.csv", *options] if command is main else ["prepare", "--data", "x", *options])
        assert exit_info.value.code == ExitCode.USAGE
        assert message in capsys.readouterr().err


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "127.0.0.1:9"])
def test_a_scheduler_that_does_not_answer_is_told(tmp_path, monkeypatch, capsys, address):
    monkeypatch.setattr("dbsam.cli.cluster._CONNECT_SECONDS", 0.5)
    write_case(tmp_path)
    (tmp_path / "cases.csv").write_text("volume,roi,output\nvolume.nrrd,block.mrk.json,out.nrrd\n")
    assert main(["batch", str(tmp_path / "cases.csv"), "--scheduler", address]) == ExitCode.FILES
    assert f"No Dask scheduler answers at {address!r}" in capsys.readouterr().err


def test_a_missing_device_ends_the_batch(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_case(tmp_path)
    write_tiny_weights(tmp_path / "tiny.safetensors")
    Path("cases.csv").write_text("volume,roi,output\nvolume.nrrd,block.mrk.json,out.nrrd\n")
    arguments = ["batch", "cases.csv", "--model", "tiny.safetensors", "--device", "cuda:99", "--workers", "1"]
    assert main(arguments) == ExitCode.DEVICE
    assert "dbsam: The device 'cuda:99' cannot be used" in capsys.readouterr().err


def test_a_lost_scheduler_is_told(monkeypatch):
    monkeypatch.setattr("dbsam.cli.cluster._CONNECT_SECONDS", 3)
    with distributed.LocalCluster(n_workers=1, dashboard_address=":0") as cluster:
        ended = Workers(scheduler=cluster.scheduler_address).run(double, range(1000))
        next(ended)
        cluster.close()
        with pytest.raises(ClusterError, match="The same command goes on from here"):
            list(ended)


def test_without_the_package_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match=r"pip install 'dbsam\[cluster\]'"):
        next(Workers(1).run(double, [1]))


def test_one_process_does_without_the_package():
    unwanted = {"distributed", "dask", "torch"}
    code = f"import dbsam.cli.main, dbsam.cli.cluster, sys; assert not {unwanted} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
