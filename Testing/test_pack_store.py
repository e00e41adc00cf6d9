"""A store as one small file, and back."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
from pack_store import main, pack, unpack
from training_cases import grey_and_colour_store

from dbsam_training.store.format import StoreError, TrainingStore


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return grey_and_colour_store(tmp_path_factory.mktemp("data"))


def test_a_packed_store_comes_back_with_its_masks_and_nearly_its_images(store, tmp_path):
    assert main(["pack", str(store), "--output", str(tmp_path / "store.zip"), "--quality", "90"]) == 0
    assert main(["unpack", str(tmp_path / "store.zip"), "--output", str(tmp_path / "back")]) == 0
    before, after = TrainingStore(store), TrainingStore(tmp_path / "back")
    after.verify()
    assert after.signature != before.signature
    assert after.datasets == before.datasets
    wanted, found = before.batch(range(len(before))), after.batch(range(len(after)))
    for name, values in wanted.items():
        if name != "images":
            np.testing.assert_array_equal(found[name], values)
    assert np.abs(found["images"].astype(int) - wanted["images"]).mean() < 4
    size = sum(path.stat().st_size for path in store.rglob("*.bin"))
    assert (tmp_path / "store.zip").stat().st_size < size / 10


def test_a_split_can_be_left_out(store, tmp_path):
    pack(store, tmp_path / "store.zip", 50, "train")
    unpack(tmp_path / "store.zip", tmp_path / "back")
    found = TrainingStore(tmp_path / "back")
    assert bool(found.is_train.all())
    assert len(found) == len(TrainingStore(store).indices("train"))


def test_a_store_is_not_overwritten_and_a_damaged_file_leaves_none(store, tmp_path):
    file = tmp_path / "store.zip"
    pack(store, file, 50)
    with pytest.raises(StoreError, match="exists already"):
        unpack(file, store)
    whole = file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        members = [member for member in archive.infolist() if member.compress_size]
    for member in members:
        content = bytearray(whole)
        content[member.header_offset + 30 + len(member.filename) + member.compress_size // 2] ^= 0xFF
        file.write_bytes(content)
        with pytest.raises(StoreError, match="damaged"):
            unpack(file, tmp_path / "back")
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(StoreError, match="damaged"):
        unpack(file, tmp_path / "back")
    file.write_bytes(b"no archive")
    with pytest.raises(StoreError, match="no packed training store"):
        unpack(file, tmp_path / "back")
    assert {path.name for path in tmp_path.iterdir()} == {"store.zip"}


def test_a_part_can_not_leave_its_folder(store, tmp_path):
    file = tmp_path / "store.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("store.json", json.dumps({"parts": ["../../elsewhere"]}))
    with pytest.raises(StoreError, match="elsewhere"):
        unpack(file, tmp_path / "back")
    with pytest.raises(ValueError, match="from 1 to 100, not 0"):
        pack(store, file, 0)
