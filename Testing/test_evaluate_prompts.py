"""Evaluation with prompts that vary: loose and moved boxes, clicks, and what models think of their masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from threshold_predictor import ThresholdPredictor
from training_cases import tiny_recipe, tiny_store, write_pictures

from dbsam.geometry.grid import ImageGeometry, OrientedBox
from dbsam.inference.calibration import Calibration
from dbsam.preprocess.volume import Volume
from dbsam.weights.checkpoint import load_checkpoint
from dbsam_training.cli import main
from dbsam_training.data.nnunet import RawDataset
from dbsam_training.evaluate.bootstrap import Row, read_rows
from dbsam_training.evaluate.calibration import Judgement, calibration_error, fit_calibration, summarise_judgements
from dbsam_training.evaluate.click_curve import ClickCurve, summarise_clicks
from dbsam_training.evaluate.evaluate import Settings, evaluate
from dbsam_training.evaluate.found import Found
from dbsam_training.evaluate.prompts import Click, next_click, roi_box
from dbsam_training.evaluate.segmenters import ModelSegmenter
from dbsam_training.evaluate.summary import summarise
from dbsam_training.trainer.loop import train

GEOMETRY = ImageGeometry.from_spacing((1.0, 1.0, 3.0), (40, 30, 12))


def block() -> np.ndarray:
    mask = np.zeros(GEOMETRY.shape_KJI, bool)
    mask[5:8, 10:20, 12:25] = True
    return mask


def bounds_ijk(box, geometry=GEOMETRY) -> tuple[np.ndarray, np.ndarray]:
    corners = box.corners_ras() @ geometry.ras_to_ijk[:3, :3].T + geometry.ras_to_ijk[:3, 3]
    return corners.min(0), corners.max(0)


@pytest.mark.parametrize(("looseness", "slices"), [(1, 1), (3, 1), (6, 2), (10, 3)])
def test_a_box_is_as_loose_as_asked_and_a_third_of_it_along_the_slices(looseness, slices):
    low, high = bounds_ijk(roi_box(block(), GEOMETRY, 2, looseness))
    np.testing.assert_allclose(low, [12 - looseness - 0.5, max(10 - looseness, 0) - 0.5, 5 - slices - 0.5])
    np.testing.assert_allclose(high, [24 + looseness + 0.5, min(19 + looseness, 29) + 0.5, 7 + slices + 0.5])


def test_moved_boxes_differ_hold_the_object_and_come_back_by_their_name():
    boxes = [bounds_ijk(roi_box(block(), GEOMETRY, 2, 1, f"a/{n}")) for n in range(20)]
    lows, highs = (np.array(ends) for ends in zip(*boxes, strict=True))
    assert (lows <= [11.5, 9.5, 4.5]).all()
    assert (highs >= [24.5, 19.5, 7.5]).all()
    assert (np.ptp(lows, axis=0) > 0.3).all()
    assert (lows >= [11.5 - 3, 9.5 - 3, 4.5 - 2]).all()
    np.testing.assert_array_equal(bounds_ijk(roi_box(block(), GEOMETRY, 2, 1, "a/7")), boxes[7])


def test_a_click_goes_to_the_middle_of_the_largest_wrong_part():
    truth, found = block(), block()
    found[6, 12:17, 14:19] = False  # missing: 25 voxels, the middle at (16, 14, 6)
    found[9, 2:5, 2:5] = True  # too much: 9 voxels
    assert next_click(truth, found, (1.0, 1.0, 3.0)) == Click((16, 14, 6), True)
    found[6] = truth[6]
    assert next_click(truth, found, (1.0, 1.0, 3.0)) == Click((3, 3, 9), False)
    assert next_click(truth, truth, (1.0, 1.0, 3.0)) is None


def test_what_is_missing_and_what_is_too_much_are_two_parts_also_where_they_touch():
    truth, found = np.zeros((1, 20, 20), bool), np.zeros((1, 20, 20), bool)
    truth[0, 1:6, 1:5] = True  # 20 voxels missing, and beside them
    found[0, 1:6, 5:9] = True  # 20 too much
    found[0, 10:15, 10:15] = True  # 25 too much
    assert next_click(truth, found, (1.0, 1.0, 9.0)) == Click((12, 12, 0), False)


class Learner:
    """Finds the left half of its box by the box alone; each click gives it a quarter of the truth more."""

    name, takes_clicks = "learner", True

    def __init__(self, truth):
        self.truth, self.asked = truth, []

    def segment_rois(self, volume, axis, boxes):
        half = self.truth.copy()
        half[..., half.shape[-1] // 2 :] = False
        return [Found(half, {0: 0.9}) for _ in boxes]

    def segment_clicks(self, volume, axis, box, next_click, most):
        [found] = self.segment_rois(volume, axis, [box])
        yield found
        mask = found.mask_KJI.copy()
        for _ in range(most):
            click = next_click(mask)
            if click is None:
                return
            self.asked.append(click)
            missing = np.argwhere(self.truth & ~mask)
            mask[tuple(missing[: max(1, len(missing) // 2)].T)] = True
            yield Found(mask.copy(), {0: 0.9})


class Stubborn(Learner):
    name, takes_clicks = "stubborn", False


@pytest.fixture
def picture(tmp_path):
    folder = write_pictures(tmp_path / "Dataset001_Discs")
    truth = np.array(Image.open(folder / "labelsTr/case0.png"))[None] > 0
    return RawDataset(folder), truth


def test_clicks_are_given_until_nothing_is_wrong_and_scored_beside_the_box_alone(picture):
    source, truth = picture
    learner = Learner(truth)
    result = evaluate([source], [learner, Stubborn(truth)], Settings(prompts=("clicks",), clicks=4))
    scores = {(row.model, row.prompt): row.dsc for row in result.rows}
    assert list(scores) == [("learner", f"clicks-{n}") for n in (0, 1, 3)] + [("stubborn", "clicks-0")]
    assert scores["learner", "clicks-0"] == scores["stubborn", "clicks-0"]
    half = truth[..., : truth.shape[-1] // 2].sum()
    assert scores["learner", "clicks-0"] == pytest.approx(2 * half / (half + truth.sum()))
    assert all(click.include and truth[click.ijk[::-1]] for click in learner.asked)
    [curve] = result.click_curves
    assert len(curve.dsc) == 5
    assert sorted(curve.dsc) == list(curve.dsc)
    assert result.judgements == []


def test_clicks_to_a_goal_are_counted_and_data_sets_count_the_same():
    curves = [
        ClickCurve("A", "1", "x", "m", (0.5, 0.93, 0.99), (0.1, 0.5, 0.9)),  # IoU 0.87 after one, 0.98 after two
        ClickCurve("A", "2", "x", "m", (0.96, 0.96, 0.96), (1.0, 1.0, 1.0)),  # IoU 0.92 by the box
        ClickCurve("B", "3", "x", "m", (0.2, 0.3, 0.4), (0.0, 0.0, 0.0)),
    ]
    assert [curve.clicks_to(0.85) for curve in curves] == [1, 0, 2]
    summary = summarise_clicks(curves)
    assert summary.clicks_to == {"85": pytest.approx((0.5 + 2) / 2), "90": pytest.approx((1 + 2) / 2)}
    assert summary.reached == {"85": pytest.approx(0.5), "90": pytest.approx(0.5)}
    assert summary.dsc[0] == pytest.approx(((0.5 + 0.96) / 2 + 0.2) / 2)
    assert summary.dsc_worst_half == pytest.approx([0.2, 0.3, 0.4])


class ByTheBox:
    """Its mask is a share of the truth that hangs on the first voxel of the box."""

    name, takes_clicks = "by-the-box", False

    def segment_rois(self, volume, axis, boxes):
        found = []
        for box in boxes:
            corner, _ = bounds_ijk(box, volume.geometry)
            mask = np.zeros(volume.geometry.shape_KJI, bool)
            mask[:, 5:35, 5 : 15 + int(10 * (corner[0] % 1))] = True
            found.append(Found(mask, {0: 0.7}))
        return found


def test_several_boxes_an_object_give_mean_spread_and_worst(picture):
    source, _ = picture
    result = evaluate([source], [ByTheBox()], Settings(prompts=("roi",), looseness=(1, 6), jitter=3))
    rows = {prompt: [row.dsc for row in result.rows if row.prompt == prompt] for prompt in ("roi-1", "roi-6")}
    assert [len(values) for values in rows.values()] == [3, 3]
    assert [row.draw for row in result.rows] == [0, 1, 2, 0, 1, 2]
    summary = summarise(result)
    [found] = [entry for entry in summary.spreads if (entry.prompt, entry.group) == ("roi-6", "all")]
    assert (found.boxes, found.mean) == (3, pytest.approx(np.mean(rows["roi-6"])))
    assert (found.deviation, found.worst) == (pytest.approx(np.std(rows["roi-6"], ddof=1)), min(rows["roi-6"]))
    [mean] = [entry for entry in summary.means if (entry.prompt, entry.group) == ("roi-1", "all")]
    assert (mean.dsc.objects, mean.dsc.value) == (1, pytest.approx(np.mean(rows["roi-1"])))


def judged(count=400, seed=0):
    """Slices of two data sets on which a model says 0.9 of everything that is 0.5, and 0.3 of what is 0.3."""
    rng = np.random.default_rng(seed)
    found = []
    for n in range(count):
        sure = n % 2
        measured = np.clip((0.5 if sure else 0.3) + rng.normal(0, 0.05), 0, 1)
        predicted = (0.9 if sure else 0.3) + rng.normal(0, 0.02)
        found.append(Judgement("AB"[n % 4 // 2], f"{n % 20}", "m", float(predicted), float(measured)))
    return found


def test_the_calibration_error_is_the_mean_distance_over_bins():
    predicted, measured = np.array([0.95, 0.91, 0.15]), np.array([0.5, 0.9, 0.25])
    error = calibration_error(predicted, measured, np.array([1.0, 1.0, 2.0]))
    assert error == pytest.approx((abs(0.45 + 0.01) + 2 * 0.1) / 4)


def test_a_fitted_curve_rises_and_mends_what_it_was_not_fitted_on():
    curve = fit_calibration(judged())
    assert curve(np.array([0.3, 0.9])) == pytest.approx([0.3, 0.5], abs=0.03)
    summary = summarise_judgements(judged(), [])
    assert summary.error == pytest.approx(0.2, abs=0.02)
    assert summary.error_corrected < 0.03
    assert Calibration.from_metrics({"calibration": summary.curve}) is not None
    assert summarise_judgements(judged(20), []).curve is None


def test_the_shares_that_are_warned_of_are_those_of_bad_and_of_good_masks():
    figures = [(0.4, True), (0.3, False), (0.2, True), (0.1, None), (0.7, True), (0.9, False), (0.95, False)]
    figures.append((0.99, True))
    rows = [Row("A", str(n), "x", "CT", 3, "m", "roi", dsc, dsc, warned=w) for n, (dsc, w) in enumerate(figures)]
    summary = summarise_judgements(judged(), rows)
    assert (summary.bad, summary.bad_warned) == (3, pytest.approx(2 / 3))
    assert (summary.good, summary.good_warned) == (3, pytest.approx(1 / 3))


def test_the_command_writes_every_prompt_and_refuses_what_makes_no_sense(picture, tmp_path, capsys):
    source, _ = picture
    command = ["evaluate", "--data", str(source.folder), "--model", "box-ellipse", "--report", str(tmp_path / "report")]
    assert main([*command, "--prompt", "roi", "clicks", "--looseness", "1", "6", "--jitter", "2"]) == 0
    found = [(row.prompt, row.draw, row.warned) for row in read_rows(tmp_path / "report/cases.csv")]
    boxes = [("roi-1", 0), ("roi-1", 1), ("roi-6", 0), ("roi-6", 1), ("clicks-0", 0)]
    assert found == [(*box, None) for box in boxes]
    summary = json.loads((tmp_path / "report/summary.json").read_text(encoding="utf-8"))
    assert {entry["boxes"] for entry in summary["spreads"]} == {2}
    report = (tmp_path / "report/report.md").read_text(encoding="utf-8")
    assert "6 voxels loose in plane and 2 slices beyond each end" in report
    assert main([*command, "--prompt", "paper", "--looseness", "1"]) == 2
    assert "add the prompt roi" in capsys.readouterr().err
    assert main([*command, "--prompt", "roi", "--looseness", "-1"]) == 2
    assert main([*command, "--prompt", "roi", "--jitter", "0"]) == 2


def test_the_curve_of_an_evaluation_goes_into_the_weights_that_were_evaluated(tmp_path, capsys):
    recipe = tiny_recipe(run__steps=2, run__validate_every=2)
    train(recipe, [tiny_store(tmp_path, recipe)], tmp_path / "run", callbacks=())
    weights, report = tmp_path / "mine.safetensors", tmp_path / "report"
    export = ["export", str(tmp_path / "run"), "--output", str(weights)]
    assert main(export) == 0
    assert main(["evaluate", "--data", str(tmp_path), "--model", str(weights), "--report", str(report)]) == 0
    path = report / "summary.json"
    summary = json.loads(path.read_text(encoding="utf-8"))
    assert summary["calibration"]["mine"]["curve"] is None  # of one slice
    curve = {"predicted_iou": [-100.0, 100.0], "iou": [0.25, 0.25]}
    summary["calibration"]["mine"]["curve"] = curve
    path.write_text(json.dumps(summary))
    assert main([*export, "--metrics", str(path)]) == 0
    assert load_checkpoint(weights)[1].metrics["calibration"] == curve
    summary["weights"]["mine"] = "0" * 64
    path.write_text(json.dumps(summary))
    assert main([*export, "--metrics", str(path)]) == 0
    assert "calibration" not in load_checkpoint(weights)[1].metrics
    assert "no calibration of these weights (mine)" in capsys.readouterr().err


def test_a_model_is_clicked_by_the_engine_until_only_its_object_is_left():
    geometry = ImageGeometry.from_spacing((1.0, 1.0, 2.0), (48, 48, 12))
    truth, other = np.zeros((2, *geometry.shape_KJI), bool)
    truth[3:9, 8:18, 8:18] = True
    other[3:9, 30:36, 30:36] = True
    volume = Volume(np.where(truth | other, 200, 20).astype(np.uint8), geometry)
    box = OrientedBox.from_ijk((4, 4, 2), (40, 40, 9), geometry)
    model = ModelSegmenter("threshold", ThresholdPredictor("slice"))
    assert model.takes_clicks
    found = list(model.segment_clicks(volume, 2, box, lambda mask: next_click(truth, mask, (1, 1, 2)), 3))
    assert np.array_equal(found[0].mask_KJI, truth | other)
    assert np.array_equal(found[-1].mask_KJI, truth)
    assert len(found) == 2  # one click, followed to both sides, and nothing is wrong any more
    assert found[0].predicted_iou == dict.fromkeys(range(3, 9), pytest.approx(0.9))
    assert found[0].warned is False
