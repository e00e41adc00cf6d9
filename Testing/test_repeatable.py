"""The same input gives the same answer: over runs to the last bit, over threads and batch sizes by rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from endurance import slope
from repeatability import TOLERANCE, answer

import dbsam
from dbsam.weights.load import find_weights


@pytest.mark.skipif(find_weights("compact") is None, reason="no compact weights in this checkout")
def test_threads_and_batch_sizes_change_no_voxel_and_runs_change_no_bit():
    predictor = dbsam.load_predictor("compact", "cpu", precision="float32")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        first, again, batched = (answer(predictor, size, slices=3) for size in (1, 1, 3))
        torch.set_num_threads(2)
        threaded = answer(predictor, 3, slices=3)
    finally:
        torch.set_num_threads(before)
    assert first.mask_KJI.any()
    for name in ("logits", "predicted_iou", "mask_KJI"):
        np.testing.assert_array_equal(getattr(again, name), getattr(first, name))
    for other in (batched, threaded):
        np.testing.assert_allclose(other.logits, first.logits, atol=TOLERANCE, rtol=0)
        np.testing.assert_allclose(other.predicted_iou, first.predicted_iou, atol=TOLERANCE, rtol=0)
        np.testing.assert_array_equal(other.mask_KJI, first.mask_KJI)


def test_growth_is_the_slope_of_the_second_half():
    assert slope([0.0, 50.0, 90.0, 100.0, 100.5, 101.0]) == pytest.approx(0.5)
