"""DSC and NSD against the published implementation and against numbers one can derive."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")
surface_distance = pytest.importorskip("surface_distance")

from scipy import ndimage  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402

from dbsam_training.evaluate.metrics import dice, scale_mask, score_masks, surface_dice  # noqa: E402


def random_object(rng: np.random.Generator, shape: tuple[int, ...], smoothness: float) -> np.ndarray:
    field = ndimage.gaussian_filter(rng.normal(size=shape), smoothness)
    return field > np.quantile(field, 0.85)


def published_nsd(
    truth: np.ndarray, prediction: np.ndarray, spacing_mm: tuple[float, ...], tolerance_mm: float
) -> float:
    distances = surface_distance.compute_surface_distances(truth, prediction, spacing_mm)
    return surface_distance.compute_surface_dice_at_tolerance(distances, tolerance_mm)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("shape", "spacing_mm"),
    [
        ((40, 50), (1.0, 1.0)),
        ((33, 64), (0.3, 0.7)),
        ((12, 30, 28), (5.0, 1.2, 0.7)),
        ((20, 20, 20), (0.2, 0.2, 0.2)),
        ((1, 9, 9), (3.0, 1, 1)),
    ],
)
def test_nsd_agrees_with_the_published_implementation(shape: tuple[int, ...], spacing_mm: tuple[float, ...]) -> None:
    rng = np.random.default_rng(len(shape) + shape[-1])
    for smoothness, tolerance_mm in ((1.0, 1.0), (2.0, 0.5), (3.0, 2.0)):
        truth = random_object(rng, shape, smoothness)
        prediction = random_object(rng, shape, smoothness) | (truth & (rng.random(shape) < 0.9))
        expected = published_nsd(truth, prediction, spacing_mm, tolerance_mm)
        assert surface_dice(truth, prediction, spacing_mm, tolerance_mm) == pytest.approx(expected, abs=1e-9)


def test_nsd_counts_contour_length_within_the_tolerance_of_the_nearest_contour_point() -> None:
    rng = np.random.default_rng(3)
    truth, prediction = random_object(rng, (30, 26), 2.0), random_object(rng, (30, 26), 2.0)
    spacing = np.array([0.8, 1.7])
    # A 2x2 block holds a corner cut (1 or 3 pixels set), a straight piece (2 beside each other) or two corner cuts.
    lengths = {"corner": np.hypot(*spacing) / 2, "along_x": spacing[1], "along_y": spacing[0]}

    def contour(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        padded, points, weights = np.pad(mask, 1).astype(int), [], []
        for y in range(padded.shape[0] - 1):
            for x in range(padded.shape[1] - 1):
                block = padded[y : y + 2, x : x + 2]
                if block.sum() in (1, 3):
                    weight = lengths["corner"]
                elif block.sum() == 2:
                    same_row = block[0, 0] == block[0, 1]
                    same_column = block[0, 0] == block[1, 0]
                    weight = (
                        lengths["along_x"] if same_row else lengths["along_y"] if same_column else 2 * lengths["corner"]
                    )
                else:
                    continue
                points.append((y * spacing[0], x * spacing[1]))
                weights.append(weight)
        return np.array(points), np.array(weights)

    (points_a, weights_a), (points_b, weights_b) = contour(truth), contour(prediction)
    near_a = cKDTree(points_b).query(points_a)[0] <= 1.0
    near_b = cKDTree(points_a).query(points_b)[0] <= 1.0
    expected = (weights_a[near_a].sum() + weights_b[near_b].sum()) / (weights_a.sum() + weights_b.sum())
    assert 0.05 < expected < 0.95
    assert surface_dice(truth, prediction, (0.8, 1.7), 1.0) == pytest.approx(expected, abs=1e-9)


def test_dice_of_two_of_four_shared_pixels_is_a_half() -> None:
    truth = np.array([[1, 1, 1, 1, 0, 0]], bool)
    prediction = np.array([[0, 0, 1, 1, 1, 1]], bool)
    assert dice(truth, prediction) == 0.5


@pytest.mark.parametrize(
    ("truth_set", "prediction_set", "expected"),
    [(False, False, 1.0), (True, False, 0.0), (False, True, 0.0), (True, True, 1.0)],
)
@pytest.mark.parametrize("spacing", [None, (1.0, 1.0, 1.0)])
def test_two_empty_masks_agree_and_one_empty_mask_does_not(
    truth_set: bool, prediction_set: bool, expected: float, spacing: tuple[float, float, float] | None
) -> None:
    object_mask = np.zeros((1, 8, 8), bool)
    object_mask[0, 2:5, 2:6] = True
    scores = score_masks(object_mask & truth_set, object_mask & prediction_set, spacing)
    assert (scores.dsc, scores.nsd) == (expected, expected)


def test_a_shift_of_one_voxel_is_within_tolerance_only_where_the_spacing_is_at_most_one_millimetre() -> None:
    truth = np.zeros((12, 12, 12), bool)
    truth[4:8, 4:8, 4:8] = True
    shifted = np.roll(truth, 1, axis=0)
    assert score_masks(truth, shifted, (1.0, 1.0, 1.0)).nsd == 1.0
    assert score_masks(truth, shifted, (1.0, 1.0, 3.0)).nsd < 0.9
    assert score_masks(truth, shifted, (3.0, 1.0, 1.0)).nsd == 1.0


def test_a_flat_volume_is_scored_as_a_picture_not_as_a_plate() -> None:
    rng = np.random.default_rng(0)
    truth, prediction = random_object(rng, (1, 30, 30), 2.0), random_object(rng, (1, 30, 30), 2.0)
    expected = surface_dice(truth[0], prediction[0], (0.5, 0.25), 1.0)
    assert score_masks(truth, prediction, (0.25, 0.5, 9.0)).nsd == expected


def test_without_spacing_the_tolerance_is_one_pixel_of_a_grid_with_longer_side_256() -> None:
    truth = np.zeros((1, 512, 1024), bool)
    truth[0, 100:300, 200:600] = True
    four_off = np.roll(truth, 4, axis=2)  # one pixel on the small grid
    twelve_off = np.roll(truth, 12, axis=2)
    assert score_masks(truth, four_off, None).nsd == 1.0
    assert score_masks(truth, twelve_off, None).nsd < 0.9


def test_scaling_a_mask_keeps_its_proportions() -> None:
    mask = np.zeros((100, 50), bool)
    mask[25:75, 10:40] = True
    scaled = scale_mask(mask, 200)
    assert scaled.shape == (200, 100)
    assert scaled.sum() == 4 * mask.sum()
    assert scale_mask(mask, 50).shape == (50, 25)


def test_a_volume_without_spacing_is_refused() -> None:
    with pytest.raises(ValueError, match="spacing"):
        score_masks(np.ones((2, 3, 3), bool), np.ones((2, 3, 3), bool), None)
