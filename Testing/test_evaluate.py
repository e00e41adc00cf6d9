"""`dbsam-train evaluate` on data sets it has never seen, against figures computed independently here."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

sitk = pytest.importorskip("SimpleITK")
Image = pytest.importorskip("PIL.Image")
surface_distance = pytest.importorskip("surface_distance")
pytest.importorskip("matplotlib")

from dbsam.geometry.grid import ImageGeometry, OrientedBox  # noqa: E402
from dbsam.inference.predictor import DecodedMasks  # noqa: E402
from dbsam.preprocess.sampling import Region, box_region, resample_slice, slice_region  # noqa: E402
from dbsam.preprocess.volume import Volume  # noqa: E402
from dbsam_training.cli import main  # noqa: E402
from dbsam_training.data.nnunet import RawDataset  # noqa: E402
from dbsam_training.evaluate.evaluate import Settings, evaluate  # noqa: E402
from dbsam_training.evaluate.found import Found  # noqa: E402
from dbsam_training.evaluate.prompts import slice_stack  # noqa: E402
from dbsam_training.evaluate.segmenters import ModelSegmenter  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the published surface-distance package


def write_json(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def ellipse(shape: tuple[int, ...], center: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    offsets = [(axis - c) / r for axis, c, r in zip(np.indices(shape), center, radii, strict=True)]
    return sum(offset**2 for offset in offsets) <= 1


@pytest.fixture
def rgb_folder(tmp_path: Path) -> Path:
    """2D RGB of 90x150 pixels, two cases, nothing in dataset.json but nnU-Net's own keys."""
    folder = tmp_path / "raw" / "Dataset801_Rgb"
    channels = {"0": "R", "1": "G", "2": "B"}
    write_json(
        folder / "dataset.json",
        {"channel_names": channels, "labels": {"background": 0, "polyp": 1, "tool": 2}, "file_ending": ".png"},
    )
    write_json(folder / "splits_final.json", [{"train": [], "val": ["a", "b"]}])
    rng = np.random.default_rng(0)
    for case, shift in (("a", 0), ("b", 9)):
        labels = np.zeros((90, 150), np.uint8)
        labels[ellipse(labels.shape, (40, 50 + shift), (22, 30))] = 1
        labels[60:85, 100 + shift : 130] = 2
        image = rng.integers(0, 60, (90, 150, 3)) + 60 * labels[..., None].astype(int)
        for name, array in ((f"imagesTr/{case}_0000", image.astype(np.uint8)), (f"labelsTr/{case}", labels)):
            (folder / name).parent.mkdir(exist_ok=True)
            Image.fromarray(array).save(folder / f"{name}.png")
    return folder


@pytest.fixture
def oblique_folder(tmp_path: Path) -> Path:
    """3D, oblique axes, slices 2.5 mm apart along J, one class inside another by `nested`, no splits."""
    folder = tmp_path / "raw" / "Dataset802_Oblique"
    write_json(
        folder / "dataset.json",
        {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "liver": 1, "tumour": 2},
            "nested": {"liver": [1, 2]},
            "modality": "CT",
            "dimension": 3,
        },
    )
    labels = np.zeros((40, 14, 44), np.uint8)
    labels[ellipse(labels.shape, (20, 7, 21), (14, 5, 15))] = 1
    labels[ellipse(labels.shape, (24, 6, 25), (6, 2, 5))] = 2
    image = np.random.default_rng(1).normal(-900, 20, labels.shape) + 500.0 * labels
    a, b = np.deg2rad((25, 40))
    turn_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    for name, array in (("imagesTr/case1_0000", image.astype(np.int16)), ("labelsTr/case1", labels)):
        file = sitk.GetImageFromArray(array)
        file.SetSpacing((1.0, 2.5, 0.8))
        file.SetDirection((turn_z @ turn_x).ravel().tolist())
        file.SetOrigin((-30.0, 12.0, 55.0))
        (folder / name).parent.mkdir(exist_ok=True)
        sitk.WriteImage(file, str(folder / f"{name}.nii.gz"))
    return folder


@pytest.fixture
def instance_folder(tmp_path: Path) -> Path:
    """2D grey, ids number cells, ill-posed by declaration."""
    folder = tmp_path / "raw" / "Dataset803_Cells"
    write_json(
        folder / "dataset.json",
        {
            "channel_names": {"0": "Microscopy"},
            "labels": {"background": 0, "cell": 1},
            "file_ending": ".png",
            "instances": True,
            "ill_posed_for_one_box": True,
        },
    )
    labels = np.zeros((128, 100), np.uint8)
    for number, (y, x, radius) in enumerate([(20, 20, 9), (60, 70, 12), (100, 30, 15)]):
        labels[ellipse(labels.shape, (y, x), (radius, radius + 3))] = 7 + number
    for name, array in (("imagesTr/c_0000", np.where(labels > 0, 200, 40).astype(np.uint8)), ("labelsTr/c", labels)):
        (folder / name).parent.mkdir(exist_ok=True)
        Image.fromarray(array).save(folder / f"{name}.png")
    return folder


def expected_scores(truth_KJI: np.ndarray, axis: int, spacing_ijk: tuple[float, ...] | None) -> tuple[float, float]:
    """DSC and NSD of the ellipsoid in the loose ROI, from the definitions, with the published NSD implementation."""
    found = np.argwhere(truth_KJI)[:, ::-1]
    loose = np.full(3, 3)
    loose[axis] = 1
    size = np.array(truth_KJI.shape[::-1])
    low = np.maximum(found.min(axis=0) - loose, 0)
    high = np.minimum(found.max(axis=0) + loose, size - 1)
    center, half = (low + high) / 2, (high - low + 1) / 2
    guess = ellipse(truth_KJI.shape, tuple(center[::-1]), tuple(half[::-1]))
    dsc = 2 * (guess & truth_KJI).sum() / (guess.sum() + truth_KJI.sum())
    if spacing_ijk is None:
        height, width = truth_KJI.shape[1:]
        factor = 256 / max(height, width)
        scaled_size = (round(width * factor), round(height * factor))
        truth, guess = (
            np.array(Image.fromarray(mask[0]).resize(scaled_size, Image.Resampling.NEAREST))
            for mask in (truth_KJI, guess)
        )
        spacing: tuple[float, ...] = (1.0, 1.0)
    else:
        truth, spacing = truth_KJI, spacing_ijk[::-1]
    distances = surface_distance.compute_surface_distances(truth, guess, spacing)
    return float(dsc), float(surface_distance.compute_surface_dice_at_tolerance(distances, 1.0))


def test_figures_on_foreign_data_are_those_of_an_independent_computation(
    tmp_path: Path, rgb_folder: Path, oblique_folder: Path, instance_folder: Path
) -> None:
    report = tmp_path / "report"
    arguments = ["evaluate", "--data", str(rgb_folder.parent), "--split", "all", "--model", "box-ellipse", "otsu"]
    assert main([*arguments, "--prompt", "roi", "paper", "--report", str(report)]) == 0

    with (report / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["dataset", "case", "structure", "modality", "dimension", "model", "prompt", "dsc", "nsd",
                             "draw", "warned"]  # fmt: skip
    scores = {
        (row["dataset"], row["case"], row["structure"]): (float(row["dsc"]), float(row["nsd"]))
        for row in rows
        if (row["model"], row["prompt"]) == ("box-ellipse", "roi")
    }
    expected = {}
    for case in "ab":
        labels = np.array(Image.open(rgb_folder / f"labelsTr/{case}.png"))[None]
        for label_id, name in ((1, "polyp"), (2, "tool")):
            expected[rgb_folder.name, case, name] = expected_scores(labels == label_id, 2, None)
    file = sitk.ReadImage(str(oblique_folder / "labelsTr/case1.nii.gz"))
    labels = sitk.GetArrayFromImage(file)
    for ids, name in (((1, 2), "liver"), ((2,), "tumour")):
        expected[oblique_folder.name, "case1", name] = expected_scores(np.isin(labels, ids), 1, file.GetSpacing())
    labels = np.array(Image.open(instance_folder / "labelsTr/c.png"))[None]
    for label_id in (7, 8, 9):
        expected[instance_folder.name, "c", f"cell #{label_id}"] = expected_scores(labels == label_id, 2, None)
    assert scores.keys() == expected.keys()
    for key, (dsc, nsd) in expected.items():
        assert scores[key] == (pytest.approx(dsc, abs=1e-9), pytest.approx(nsd, abs=1e-6)), key
        assert 0.3 < dsc < 1
    assert {(row["dataset"], row["dimension"], row["modality"]) for row in rows} == {
        (rgb_folder.name, "2", "R"),
        (oblique_folder.name, "3", "CT"),
        (instance_folder.name, "2", "Microscopy"),
    }

    summary = json.loads((report / "summary.json").read_text(encoding="utf-8"))
    means = {(m["prompt"], m["model"], m["group"]): m["dsc"] for m in summary["means"]}
    by_dataset = {
        name: np.mean([dsc for key, (dsc, _) in expected.items() if key[0] == name]) for name, _, _ in expected
    }
    well_posed = [by_dataset[rgb_folder.name], by_dataset[oblique_folder.name]]
    assert means["roi", "box-ellipse", "all"]["value"] == pytest.approx(np.mean(well_posed))
    assert means["roi", "box-ellipse", "2d"]["value"] == pytest.approx(by_dataset[rgb_folder.name])
    assert means["roi", "box-ellipse", "3d"]["value"] == pytest.approx(by_dataset[oblique_folder.name])
    assert means["roi", "box-ellipse", "ill-posed"]["value"] == pytest.approx(by_dataset[instance_folder.name])
    assert means["roi", "box-ellipse", "all"]["objects"] == 6
    text = (report / "report.md").read_text(encoding="utf-8")
    assert f"{100 * np.mean(well_posed):.2f}" in text
    assert "Liver CT" in text  # the paper's task beside ours
    for prompt in ("paper", "roi"):
        with Image.open(report / f"cases-{prompt}.png") as sheet:
            assert min(sheet.size) > 200


def test_the_sheet_of_the_worst_shows_those_with_the_lowest_score_first(rgb_folder: Path) -> None:
    settings = Settings(prompts=("paper",), sheet="worst", sheet_rows=2)
    result = evaluate([RawDataset(rgb_folder)], [FillsItsBox()], settings)
    shown = result.examples.chosen("paper")
    assert [example.dsc["fills-its-box"] for example in shown] == sorted(row.dsc for row in result.rows)[:2]
    with pytest.raises(ValueError, match="datasets or worst"):
        Settings(sheet="best")


def test_only_data_sets_whose_licence_is_open_are_scored_if_asked_for(
    tmp_path: Path, rgb_folder, instance_folder
) -> None:
    for folder, licence in ((rgb_folder, "CC BY-NC 4.0"), (instance_folder, "CC BY 4.0")):
        facts = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        write_json(folder / "dataset.json", {**facts, "licence": licence})
    arguments = ["evaluate", "--data", str(rgb_folder.parent), "--model", "box-ellipse", "--licence", "open"]
    arguments += ["--split", "all"]
    assert main([*arguments, "--sheet-rows", "1", "--report", str(tmp_path / "report")]) == 0
    with (tmp_path / "report" / "cases.csv").open(newline="") as file:
        assert {row["dataset"] for row in csv.DictReader(file)} == {instance_folder.name}


class FillsItsBox:
    """Marks every pixel of each slice's box, so that masks show the prompts."""

    name = "fills-its-box"
    takes_clicks = False

    def segment_slices(self, volume, axis, prompts):
        masks = []
        for boxes in prompts:
            mask_KJI = np.zeros(volume.geometry.shape_KJI, bool)
            for index, (x0, y0, x1, y1) in boxes.items():
                rows, columns = slice(round(y0 + 0.5), round(y1 + 0.5)), slice(round(x0 + 0.5), round(x1 + 0.5))
                slice_stack(mask_KJI, axis)[index, rows, columns] = True
            masks.append(Found(mask_KJI))
        return masks

    def segment_rois(self, volume, axis, boxes):
        raise ValueError("no 3D boxes here")


def test_the_paper_prompt_is_a_loose_box_on_every_slice_with_object_and_on_no_other(oblique_folder: Path) -> None:
    result = evaluate([RawDataset(oblique_folder)], [FillsItsBox()], Settings(split="all"))
    assert [row.structure for row in result.rows] == ["liver", "tumour"]
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(oblique_folder / "labelsTr/case1.nii.gz")))
    truth = np.moveaxis(labels > 0, 1, 0)
    loosest = tightest = 0
    for plane in truth[truth.any(axis=(1, 2))]:
        rows, columns = np.flatnonzero(plane.any(axis=1)), np.flatnonzero(plane.any(axis=0))
        tightest += (rows[-1] - rows[0] + 1) * (columns[-1] - columns[0] + 1)
        most_x, most_y = 20 * 44 / 256, 20 * 40 / 256
        loosest += (rows[-1] - rows[0] + 2 + 2 * most_y) * (columns[-1] - columns[0] + 2 + 2 * most_x)
    dice_of_size = lambda size: 2 * truth.sum() / (truth.sum() + size)  # noqa: E731
    assert dice_of_size(loosest) < result.rows[0].dsc < dice_of_size(tightest)


def test_the_same_seed_gives_the_same_figures_and_another_seed_others(rgb_folder: Path) -> None:
    def figures(seed: int) -> list[float]:
        return [row.dsc for row in evaluate([RawDataset(rgb_folder)], [FillsItsBox()], Settings(seed=seed)).rows]

    assert figures(0) == figures(0) != figures(1)


def test_broken_cases_are_named_and_the_others_go_on(rgb_folder: Path, tmp_path: Path) -> None:
    (rgb_folder / "imagesTr/a_0000.png").write_bytes(b"")
    report = tmp_path / "report"
    arguments = ["evaluate", "--data", str(rgb_folder), "--report", str(report), "--model"]
    assert main([*arguments, "box-ellipse"]) == 0
    summary = json.loads((report / "summary.json").read_text(encoding="utf-8"))
    assert [(p["case"], p["skipped"]) for p in summary["problems"]] == [("a", True)]
    assert "| a |" in (report / "report.md").read_text(encoding="utf-8")
    assert summary["datasets"][0]["cases"] == 1
    Image.fromarray(np.full((90, 150), 5, np.uint8)).save(rgb_folder / "imagesTr/b_0000.png")
    assert main([*arguments, "box-ellipse"]) == 1


def test_a_model_that_refuses_a_case_is_named_and_the_others_are_scored(rgb_folder: Path) -> None:
    result = evaluate([RawDataset(rgb_folder)], [FillsItsBox()], Settings(prompts=("paper", "roi")))
    assert {row.prompt for row in result.rows} == {"paper"}
    assert {problem.reason for problem in result.problems} == {"fills-its-box: no 3D boxes here"}


def test_wrong_command_lines_end_with_code_2_and_say_why(
    rgb_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = ["--report", str(tmp_path / "report")]
    assert main(["evaluate", "--data", str(tmp_path / "nowhere"), "--model", "otsu", *report]) == 3
    assert "nowhere" in capsys.readouterr().err
    assert main(["evaluate", "--data", str(rgb_folder), "--model", "no-such-model", *report]) == 2
    assert "no-such-model" in capsys.readouterr().err
    assert main(["evaluate", "--data", str(rgb_folder), "--model", "otsu", "otsu", *report]) == 2
    assert "twice" in capsys.readouterr().err


@dataclass(frozen=True)
class PixelEmbedding:
    image: np.ndarray
    region: Region
    nbytes: int = 1


class BrightPixels:
    """A stand-in model: inside is what is brighter than half; it sees the whole slice or the box's surroundings."""

    signature = "bright"
    channels = "repeat"
    takes_points = False

    def __init__(self, whole_slices: bool) -> None:
        self.whole_slices = whole_slices
        self.encoded = 0

    def region_for(self, box_xyxy, slice_hw, spacing_xy):
        return slice_region(slice_hw, spacing_xy, True) if self.whole_slices else box_region(box_xyxy, spacing_xy, 2.0)

    def reusable(self, region, box_xyxy):
        return region.contains(box_xyxy)

    def encode(self, images, regions):
        self.encoded += len(images)
        return [
            PixelEmbedding(resample_slice(image, region, 256)[0][..., 0] - 127.5, region)
            for image, region in zip(images, regions, strict=True)
        ]

    def decode(self, embedding, boxes_xyxy):
        logits = np.repeat(embedding.image[None], len(boxes_xyxy), axis=0)
        return DecodedMasks(logits.astype(np.float32), np.ones(len(boxes_xyxy), np.float32))


@pytest.mark.parametrize("whole_slices", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_model_is_asked_for_every_object_on_every_slice_and_stays_in_its_boxes(whole_slices: bool, axis: int) -> None:
    geometry = ImageGeometry.from_spacing((1.0, 1.5, 2.0), (40, 36, 30))
    objects = [ellipse(geometry.shape_KJI, center, (6.0, 7.0, 8.0)) for center in ((10, 12, 12), (18, 24, 26))]
    voxels = np.where(objects[0] | objects[1], 220, 30).astype(np.uint8)
    volume = Volume(voxels, geometry)
    prompts = []
    for mask in objects:
        stack = slice_stack(mask, axis)
        boxes = {}
        for index in np.flatnonzero(stack.any(axis=(1, 2))).tolist():
            rows, columns = np.flatnonzero(stack[index].any(axis=1)), np.flatnonzero(stack[index].any(axis=0))
            boxes[index] = np.array([columns[0] - 0.5, rows[0] - 0.5, columns[-1] + 0.5, rows[-1] + 0.5])
        prompts.append(boxes)
    predictor = BrightPixels(whole_slices)
    found = ModelSegmenter("bright", predictor, batch_size=3).segment_slices(volume, axis, prompts)
    for mask, (result, *_) in zip(objects, found, strict=True):
        disagreeing = result ^ (mask | (result & voxels.astype(bool) & (voxels > 127)))
        assert np.count_nonzero(disagreeing) <= 0.03 * mask.sum()
    used_slices = [len(boxes) for boxes in prompts]
    assert predictor.encoded == (len(set(prompts[0]) | set(prompts[1])) if whole_slices else sum(used_slices))


def test_a_model_gets_3d_boxes_through_the_engine(tmp_path: Path) -> None:
    geometry = ImageGeometry.from_spacing((1.0, 1.0, 3.0), (40, 36, 12))
    truth = ellipse(geometry.shape_KJI, (6, 18, 20), (3, 9, 11))
    volume = Volume(np.where(truth, 220, 30).astype(np.uint8), geometry)
    box = OrientedBox.from_ijk((6, 6, 2), (34, 30, 10), geometry)
    for strategy in ("box", "track"):
        ((found, *_),) = ModelSegmenter("bright", BrightPixels(False), strategy).segment_rois(volume, 2, [box])
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.95
