"""A second run of a batch does what has changed, and nothing else."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from cases import GEOMETRY, block_voxels, roi_box, write_case
from test_dicom_stack import write_slice
from threshold_predictor import ThresholdPredictor

from dbsam.cli.batch import BatchModel, BatchSummary, run_batch
from dbsam.cli.case import Case
from dbsam.cli.manifest import read_manifest
from dbsam.io import images
from dbsam.io.roi_markups import MarkupsRoi, write_roi

BOX = (4, 3, 2, 15, 12, 5)


def run(folder: Path, *cases: Case, get_predictor: Callable[[], ThresholdPredictor] = ThresholdPredictor) -> list[bool]:
    """Whether each case was done, and not skipped."""
    summary = run_batch(cases, folder / "cases.csv.done.jsonl", BatchModel(get_predictor, "threshold", lambda: None))
    assert not summary.failed
    return [str(case.output) in summary.done for case in cases]


def test_the_working_folder_makes_no_difference(tmp_path, monkeypatch):
    write_case(tmp_path)
    (tmp_path / "cases.csv").write_text("volume,roi,output\nvolume.nrrd,block.mrk.json,out/a.nrrd\n")
    (tmp_path / "elsewhere").mkdir()

    def summary(manifest: str) -> BatchSummary:
        path = Path(manifest)
        records = path.with_name("cases.csv.done.jsonl")
        return run_batch(read_manifest(path, str), records, BatchModel(ThresholdPredictor, "m", lambda: None))

    monkeypatch.chdir(tmp_path)
    assert summary("cases.csv").done == [str(Path("out/a.nrrd"))]
    assert len(summary(str(tmp_path / "cases.csv")).skipped) == 1
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert len(summary("../cases.csv").skipped) == 1


def test_a_folder_that_was_moved_is_not_done_again(tmp_path):
    write_case(tmp_path)
    os.makedirs(tmp_path / "old")
    for name in ("volume.nrrd", "block.mrk.json"):
        shutil.move(tmp_path / name, tmp_path / "old" / name)
    for name, expected in (("old", True), ("new", False)):
        folder = tmp_path / name
        if name == "new":
            (tmp_path / "old").rename(folder)
        case = Case(folder / "volume.nrrd", folder / "a.nrrd", (folder / "block.mrk.json",))
        assert run(folder, case) == [expected]


def test_an_input_that_changes_while_its_case_is_done_is_noticed(tmp_path):
    volume, roi = write_case(tmp_path)
    case = Case(volume, tmp_path / "a.nrrd", (roi,))

    def load() -> ThresholdPredictor:
        # The inputs have been read when the model is loaded.
        write_roi(roi, MarkupsRoi("a longer name", roi_box(1)))
        return ThresholdPredictor()

    assert run(tmp_path, case, get_predictor=load) == [True]
    assert run(tmp_path, case) == [True]
    assert run(tmp_path, case) == [False]


def write_mhd(folder: Path) -> tuple[Path, Path]:
    images.write_volume(folder / "a.mha", block_voxels(), GEOMETRY)
    sitk.WriteImage(sitk.ReadImage(str(folder / "a.mha")), str(folder / "ct.mhd"))
    (folder / "ct.raw").rename(folder / "other name.raw")
    header = (folder / "ct.mhd").read_text(encoding="utf-8").replace("ct.raw", "other name.raw")
    (folder / "ct.mhd").write_text(header)
    return folder / "ct.mhd", folder / "other name.raw"


def write_nhdr(folder: Path) -> tuple[Path, Path]:
    images.write_volume(folder / "a.nrrd", block_voxels(), GEOMETRY)
    sitk.WriteImage(sitk.ReadImage(str(folder / "a.nrrd")), str(folder / "ct.nhdr"))
    return folder / "ct.nhdr", folder / "ct.raw"


def write_nhdr_in_slices(folder: Path) -> tuple[Path, Path]:
    header, data = write_nhdr(folder)
    content = data.read_bytes()
    size = len(content) // 8
    for number in range(8):
        (folder / f"slice{number + 1:03d}.raw").write_bytes(content[number * size : (number + 1) * size])
    data.unlink()
    header.write_text(header.read_text(encoding="utf-8").replace("data file: ct.raw", "data file: slice%03d.raw 1 8 1"))
    return header, folder / "slice005.raw"


def write_hdr(folder: Path) -> tuple[Path, Path]:
    images.write_volume(folder / "a.nii", block_voxels(), GEOMETRY)
    sitk.WriteImage(sitk.ReadImage(str(folder / "a.nii")), str(folder / "ct.hdr"))
    return folder / "ct.hdr", folder / "ct.img"


@pytest.mark.parametrize("write", [write_mhd, write_nhdr, write_nhdr_in_slices, write_hdr])
def test_a_change_of_voxels_in_a_file_of_their_own_is_noticed(tmp_path, write):
    header, data = write(tmp_path)
    case = Case(header, tmp_path / "ct.seg.nrrd", boxes_ijk=(BOX,))
    assert run(tmp_path, case) == [True]
    assert run(tmp_path, case) == [False]
    status = data.stat()
    os.utime(data, ns=(status.st_atime_ns, status.st_mtime_ns + 1_000_000_000))
    assert run(tmp_path, case) == [True]


def test_what_lies_beside_the_slices_of_a_dicom_folder_is_no_input(tmp_path):
    for number in range(3):
        write_slice(tmp_path, number, (0.0, 0.0, 3.0 * number))
    case = Case(tmp_path, tmp_path / "a.nrrd", boxes_ijk=((0, 0, 0, 5, 4, 2),), overlay=tmp_path / "a.png")
    other = replace(case, output=tmp_path / "b.nii.gz", overlay=tmp_path / "b.png")
    assert run(tmp_path, case, other) == [True, True]
    assert run(tmp_path, case, other) == [False, False]
    write_slice(tmp_path, 3, (0.0, 0.0, 9.0))
    assert run(tmp_path, case, other) == [True, True]
    assert np.unique(images.read_volume(tmp_path).voxels).tolist() == [0, 1, 2, 3]
