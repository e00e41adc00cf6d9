"""The curve from a model's own estimate of its masks to what they were measured to be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from cases import GEOMETRY, block_voxels, roi_box, write_tiny_weights

import dbsam
from dbsam.inference.calibration import Calibration
from dbsam.weights.checkpoint import load_checkpoint, save_checkpoint
from dbsam.weights.metadata import CheckpointError


def test_estimates_follow_the_curve_and_stay_at_its_ends_beyond_them():
    curve = Calibration((0.2, 0.6, 1.0), (0.1, 0.1, 0.9))
    np.testing.assert_allclose(curve(np.array([0.0, 0.4, 0.8, 1.2])), [0.1, 0.1, 0.5, 0.9], rtol=1e-6)
    assert Calibration.from_metrics({"calibration": curve.to_metric()}) == curve
    assert Calibration.from_metrics({}) is None


@pytest.mark.parametrize(
    "points",
    [((0.5,), (0.5,)), ((0.5, 0.4), (0.1, 0.2)), ((0.4, 0.5), (0.2, 0.1)), ((0.0, 1.0), (0.0, 1.1)),
     ((0.0, float("nan")), (0.0, 1.0)), ((0.0, 1.0, 2.0), (0.0, 1.0))],
)  # fmt: skip
def test_points_that_are_no_rising_curve_are_refused(points):
    with pytest.raises(ValueError, match="No calibration curve"):
        Calibration(*points)


def test_weights_with_a_curve_report_what_it_says_and_give_the_same_masks(tmp_path):
    write_tiny_weights(tmp_path / "plain.safetensors")
    model, info = load_checkpoint(tmp_path / "plain.safetensors")
    metric = {"calibration": {"predicted_iou": [-10.0, 10.0], "iou": [0.25, 0.25]}}
    save_checkpoint(tmp_path / "curved.safetensors", model, replace(info, metrics=metric))
    volume = dbsam.Volume(block_voxels(), GEOMETRY)
    plain, curved = (
        dbsam.segment(volume, roi_box(), dbsam.load_predictor(tmp_path / name, "cpu"), strategy="box")
        for name in ("plain.safetensors", "curved.safetensors")
    )
    assert {report.predicted_iou for report in curved.slices} == {0.25}
    assert {report.predicted_iou for report in plain.slices} != {0.25}
    np.testing.assert_array_equal(plain.mask_KJI, curved.mask_KJI)
    save_checkpoint(tmp_path / "broken.safetensors", model, replace(info, metrics={"calibration": [1, 2]}))
    with pytest.raises(CheckpointError, match="No calibration curve"):
        dbsam.load_predictor(tmp_path / "broken.safetensors", "cpu")
