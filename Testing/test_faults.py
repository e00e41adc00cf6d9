"""Writers that are killed or run out of disk: the old file or the whole new one, and the next run finishes the work."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from cases import GEOMETRY, roi_box, truth_KJI, write_tiny_weights

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL, fork and limits on the size of files")


faults = pytest.importorskip("faults", exc_type=ImportError)  # of benchmarks, which does the same more often


def test_a_killed_writer_or_a_full_disk_leaves_the_old_file_or_the_whole_new_one(tmp_path, monkeypatch):
    from threshold_predictor import ThresholdPredictor

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    chance = random.Random(0)
    with faults.serving(tmp_path) as url:
        for writing in faults.writings(tmp_path, url, ThresholdPredictor):
            for outcome in (faults.kill_at_random(writing, 2, chance), faults.fill_disk(writing, 2, chance)):
                assert outcome.old + outcome.new == 2 * len(writing.outputs)


def test_a_run_of_training_goes_on_after_kills_and_after_its_disk_was_full(tmp_path):
    (tmp_path / "kills").mkdir()
    (tmp_path / "full").mkdir()
    assert faults.kill_training(tmp_path / "kills", 2, random.Random(0)).faults == 2
    outcome = faults.kill_training(tmp_path / "full", 6, random.Random(3), full_disk=True)
    assert outcome.in_time >= 3
    assert all("cannot be written" in error or "Cannot write" in error for error in outcome.errors), outcome.errors


def test_every_writer_says_that_the_disk_is_full_and_leaves_the_old_file(tmp_path):
    from dbsam.cli.batch_log import BatchRecords
    from dbsam.io.images import write_png
    from dbsam.io.roi_markups import MarkupsRoi, write_roi
    from dbsam.weights.checkpoint import load_checkpoint, save_checkpoint

    write_tiny_weights(tmp_path / "tiny.safetensors")
    model, info = load_checkpoint(tmp_path / "tiny.safetensors")
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8)
    writers: dict[str, Callable[[Path], object]] = {
        "mine.safetensors": lambda path: save_checkpoint(path, model, info),
        "overlay.png": lambda path: write_png(path, noise),
        "roi.mrk.json": lambda path: write_roi(path, MarkupsRoi("roi", roi_box())),
        "log.jsonl": lambda path: BatchRecords(path).add("out.nrrd", {"status": "x" * 1000}),
    }
    (tmp_path / "out").mkdir()
    old = b'{"output": "former.nrrd"}\n'
    for name, write in writers.items():
        path = tmp_path / "out" / name
        path.write_bytes(old)
        error = faults.in_a_full_disk(lambda write=write, path=path: write(path), 500)
        assert name in error or "too large" in error, f"{name}: {error!r}"
        assert path.read_bytes().startswith(old), name
        assert name == "log.jsonl" or path.read_bytes() == old
    assert sorted(os.listdir(tmp_path / "out")) == sorted(writers)
    records = BatchRecords(tmp_path / "out" / "log.jsonl")
    assert records.get("former.nrrd") == {"output": "former.nrrd"}
    records.add("out.nrrd", {"status": "done"})
    assert BatchRecords(tmp_path / "out" / "log.jsonl").get("out.nrrd")["status"] == "done"


def test_a_segment_survives_a_full_disk(tmp_path):
    import dbsam

    path = tmp_path / "mask.seg.nrrd"
    dbsam.write_segmentation(path, [dbsam.Segment("block", truth_KJI())], GEOMETRY)
    former = path.read_bytes()
    noise = np.random.default_rng(0).integers(0, 2, GEOMETRY.shape_KJI)
    error = faults.in_a_full_disk(lambda: dbsam.write_segmentation(path, [dbsam.Segment("x", noise)], GEOMETRY), 300)
    assert "mask.seg.nrrd: cannot be written" in error
    assert path.read_bytes() == former
