"""Bad input by every door it can come in by: each refuses it with the reason and the file, and writes nothing."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from dicom_files import frames_along_z, write_enhanced, write_series
from PIL import Image
from test_read_formats import DATA, FRAME, VOXELS, meta, nifti, nrrd
from threshold_predictor import ThresholdPredictor

import dbsam
from dbsam.cli.batch import BatchModel, run_batch
from dbsam.cli.main import ExitCode, main
from dbsam.cli.manifest import read_manifest
from dbsam.geometry.grid import ImageGeometry
from dbsam.io.dicom_seg import write_dicom_seg
from dbsam.io.images import write_labelmap
from dbsam.io.seg_nrrd import Segment
from dbsam.preprocess.intensity import parse_window
from dbsam_training.data.discover import find_sources
from dbsam_training.recipe import DataOptions
from dbsam_training.store.prepare import BrokenDataError, prepare

GRID = ImageGeometry(FRAME, (6, 5, 4))
PACKED = zlib.compress(DATA)
PACKED_LINES = ("CompressedData = True", f"CompressedDataSize = {len(PACKED)}")


def cut(path: Path, left: int) -> Path:
    path.write_bytes(path.read_bytes()[:left])
    return path


def flipped(path: Path, place: int) -> Path:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)
    return path


def series(folder: Path, frames, damage: Callable[[list[Path]], object] = lambda paths: None) -> Path:
    paths = write_series(folder / "ct", frames)
    damage(paths)
    return folder / "ct"


def photo(path: Path, pixels: np.ndarray, **options) -> Path:
    tifffile.imwrite(path, pixels, **options)
    return path


# name: (what makes the input in a folder, the reason that is given)
BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "empty": (lambda f: cut(nifti(f / "a.nii.gz"), 0), "empty"),
    "cut nifti": (lambda f: cut(nifti(f / "a.nii"), 500), "does not hold all its voxels"),
    "cut packed nifti": (lambda f: cut(nifti(f / "a.nii.gz"), 200), "does not hold all its voxels"),
    "flipped packed nifti": (lambda f: flipped(nifti(f / "a.nii.gz"), -30), "damaged"),
    "nifti that is too long": (lambda f: nifti(f / "a.nii", at42=("h", 5)), "bytes more"),
    "4D nifti": (lambda f: nifti(f / "a.nii.gz", voxels=np.stack([VOXELS] * 2, -1)), "--stack N"),
    "nifti of vectors": (lambda f: nifti(f / "a.nii", voxels=np.zeros((6, 5, 4, 1, 3), np.uint8)), "--component N"),
    "NaN in a nifti's place": (lambda f: nifti(f / "a.nii", at280=("f", float("nan"))), "holds NaN"),
    "Analyze": (lambda f: nifti(f / "a.nii", at344=("4s", b"\0" * 4)), "Analyze 7.5"),
    "flipped packed nrrd": (
        lambda f: flipped(nrrd(f / "a.nrrd", "encoding: gzip", data=gzip.compress(DATA)), -20), "cannot be unpacked",
    ),
    "nrrd in feet": (lambda f: nrrd(f / "a.nrrd", 'space units: "ft" "ft" "ft"'), "unit of length"),
    "nrrd in no space": (lambda f: nrrd(f / "a.nrrd", "space: 3D-left-handed"), "which side is left"),
    "nrrd of a list": (
        lambda f: nrrd(
            f / "a.nrrd", "kinds: list domain domain domain", "space directions: none (1,0,0) (0,1,0) (0,0,1)",
            sizes="3 5 4 2",
        ), "of the kind 'list'",
    ),
    "flipped packed mha": (
        lambda f: flipped(meta(f / "a.mha", *PACKED_LINES, data=PACKED), -20),
        "cannot be unpacked",
    ),
    "mha without its length": (lambda f: meta(f / "a.mha", "CompressedData = True", data=PACKED), "CompressedDataSize"),
    "mha that contradicts itself": (lambda f: meta(f / "a.mha", "Position = 1 2 3"), "contradicts itself"),
    "mha with an origin of two numbers": (lambda f: meta(f / "a.mha", "Offset = 1 2"), "instead of 3 numbers"),
    "mha with an origin in another spelling": (lambda f: meta(f / "a.mha", "offset = 1 2 3", "Offset = "), "'offset'"),
    "mha to be scaled": (
        lambda f: meta(f / "a.mha", "ElementToIntensityFunctionSlope = 2"), "ElementToIntensityFunction",
    ),
    "header without voxels": (lambda f: meta(f / "a.mhd", "ElementDataFile = b.raw", data=b""), "which is not there"),
    "TIFF of channels": (
        lambda f: photo(f / "a.tif", np.zeros((5, 6, 2), np.uint8), photometric="minisblack", planarconfig="contig"),
        "does not say what they are",
    ),
    "cut JPEG": (lambda f: cut(_jpeg(f / "a.jpg"), 700), "cut short"),
    "CMYK JPEG": (lambda f: _jpeg(f / "a.jpg", "CMYK"), "colours of kind CMYK"),
    "text": (lambda f: _text(f / "a.nrrd"), "not an image"),
    "slices missing": (lambda f: series(f, frames_along_z([0, 1, 2, 5, 6])), "mm apart"),
    "tilted gantry": (
        lambda f: series(f, [_shifted(frame) for frame in frames_along_z([0, 3, 6, 9])]), "tilted gantry",
    ),
    "a slice twice": (
        lambda f: series(f, frames_along_z([0, 1, 2]), lambda p: (f / "ct/copy.dcm").write_bytes(p[1].read_bytes())),
        "at one position",
    ),
    "first slice cut": (lambda f: series(f, frames_along_z([0, 1, 2]), lambda p: cut(p[0], 700)), "cut short"),
    "no positions": (
        lambda f: series(f, [replace(frame, position=None) for frame in frames_along_z([0, 1])]), "--slice-spacing MM",
    ),
    "two frames of reference": (
        lambda f: series(f, [_in_system(frame) for frame in frames_along_z([0, 1])]), "2 frames of reference",
    ),
    "a slope of 0": (
        lambda f: series(f, [replace(frame, slope=0.0) for frame in frames_along_z([0, 1])]), "RescaleSlope is 0",
    ),
    "a slope that is NaN": (
        lambda f: series(f, [replace(frame, facts={"RescaleSlope": "nan"}) for frame in frames_along_z([0, 1])]),
        "RescaleSlope is",
    ),
    "two sizes": (lambda f: series(f, [*frames_along_z([0, 1]), *frames_along_z([2], (7, 8))]), "different sizes"),
    "two times in a file": (
        lambda f: write_enhanced(f / "a.dcm", frames_along_z([0, 1]) + frames_along_z([0, 1])), "--stack N",
    ),
    "too large": (lambda f: nrrd(f / "a.nrrd", sizes="60000 60000 60000"), "GiB of memory"),
}  # fmt: skip


def _jpeg(path: Path, mode: str = "L") -> Path:
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50)).astype(np.uint8)
    Image.fromarray(pixels).convert("RGB").convert(mode).save(path)
    return path


def _text(path: Path) -> Path:
    path.write_text("no image\n" * 50)
    return path


def _in_system(frame):
    return replace(frame, facts={"FrameOfReferenceUID": f"1.2.{frame.position[2]:.0f}"})


def _shifted(frame):
    return replace(frame, position=(-10.0, -20.0 + 0.2 * frame.position[2], frame.position[2]))


@pytest.fixture(params=BAD)
def bad(request, tmp_path) -> tuple[Path, str, Path]:
    """The input, the reason, and the output that is not to come to be."""
    make, reason = BAD[request.param]
    (tmp_path / "in").mkdir()
    return make(tmp_path / "in"), reason, tmp_path / "out.nrrd"


def errors(reason: str) -> type[Exception]:
    return MemoryError if "memory" in reason else dbsam.ImageFileError


def no_model() -> ThresholdPredictor:
    raise AssertionError("the inputs are read first")


def test_the_reader_and_the_library_refuse_it(bad):
    path, reason, _ = bad
    with pytest.raises(errors(reason), match=reason) as caught:
        dbsam.read_volume(path)
    assert str(path) in str(caught.value)
    box = dbsam.OrientedBox(np.zeros(3), 5 * np.eye(3))
    with pytest.raises(errors(reason), match=reason):
        dbsam.segment(path, box, ThresholdPredictor())


def test_the_command_line_refuses_it(bad, capsys):
    path, reason, output = bad
    code = main(["segment", str(path), "--box-ijk", "0", "0", "0", "2", "2", "1", "--output", str(output)])
    told = capsys.readouterr().err
    assert code == (ExitCode.DEVICE if "memory" in reason else ExitCode.FILES)
    assert reason in told
    assert str(path) in told
    assert "Traceback" not in told
    assert not output.exists()


def test_a_batch_tells_it_and_goes_on(bad, tmp_path):
    path, reason, _ = bad
    good = nifti(tmp_path / "good.nii.gz", voxels=np.kron(VOXELS, np.ones((1, 8, 8), np.int16)))
    table = tmp_path / "cases.csv"
    rows = [f"{path},0 0 0 2 2 1,bad.nrrd", f"{good},3 3 0 30 30 2,good.nrrd"]
    table.write_text("\n".join(["volume,box_ijk,output", *rows]) + "\n")
    model = BatchModel(ThresholdPredictor, "stand-in", lambda: None)
    summary = run_batch(read_manifest(table, parse_window), tmp_path / "done.jsonl", model)
    assert summary.done == [str(tmp_path / "good.nrrd")]
    [told] = summary.failed.values()
    assert reason in told
    assert not (tmp_path / "bad.nrrd").exists()


def test_training_refuses_it(bad, tmp_path):
    path, reason, _ = bad
    if path.suffix == ".dcm":
        pytest.skip("training takes DICOM by the folder")
    root = tmp_path / "set"
    if path.is_dir():
        _dicom_cases(path, root)
    else:
        (root / "images").mkdir(parents=True)
        (root / "labels").mkdir()
        for part in path.parent.iterdir():
            part.rename(root / "images" / part.name)
        write_labelmap(root / "labels" / f"{path.name.split('.')[0]}.nrrd", (VOXELS > 30).astype(np.uint8), GRID)
    if "memory" in reason:
        with pytest.raises((MemoryError, BrokenDataError), match=reason):
            prepare(find_sources([root]), tmp_path / "store", DataOptions(protocol="slices"))
        return
    with pytest.raises(BrokenDataError) as caught:
        prepare(find_sources([root]), tmp_path / "store", DataOptions(protocol="slices"))
    assert reason in str(caught.value)


def _dicom_cases(damaged: Path, root: Path) -> None:
    """The damaged folder as a case of its own, with a segmentation made on sound slices."""
    write_series(root / "a", frames_along_z([0, 1, 2]), series="1.2.9")
    sound = dbsam.read_volume(root / "a")
    mask = np.ones((3, 5, 6), np.uint8)
    write_dicom_seg(damaged / "seg.dcm", [Segment("x", mask)], sound.geometry, root / "a")
    for path in (root / "a").iterdir():
        path.unlink()
    (root / "a").rmdir()
    damaged.rename(root / "a")
