"""The baselines on images whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy")

from dbsam.geometry.bounds import mask_box_xyxy
from dbsam.geometry.grid import ImageGeometry, OrientedBox
from dbsam.preprocess.volume import Volume
from dbsam_training.evaluate.baselines import (
    BASELINES,
    BoxEllipse,
    GrabCut,
    OtsuLargestComponent,
    largest_component,
)
from dbsam_training.evaluate.prompts import paper_boxes, roi_box, slice_stack


def disc_image(colour: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc on a noisy dark ground and its mask, (H,W) or (H,W,3)."""
    y, x = np.mgrid[:64, :80]
    disc = (x - 40) ** 2 + (y - 30) ** 2 <= 12**2
    noise = np.random.default_rng(0).integers(0, 20, disc.shape)
    image = (60 + 120 * disc + noise).astype(np.uint8)
    return (np.stack([image, image // 2, image // 3], axis=-1) if colour else image), disc


@pytest.mark.parametrize("name", ["otsu", "grabcut"])
@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("dark_object", [False, True])
def test_a_disc_of_clear_contrast_is_found_exactly_in_a_loose_box(name: str, colour: bool, dark_object: bool) -> None:
    if name == "grabcut":
        pytest.importorskip("cv2")
    image, disc = disc_image(colour)
    image = 255 - image if dark_object else image
    ((found, *_),) = BASELINES[name]().segment_slices(
        Volume.from_image2d(image), 2, [{0: np.array([24.5, 12.5, 58.5, 46.5])}]
    )
    assert np.array_equal(found[0], disc)


def test_the_ellipse_fills_pi_quarters_of_its_box_and_touches_its_sides() -> None:
    volume = Volume.from_image2d(np.eye(200, 300, dtype=np.uint8))
    ((found, *_),) = BoxEllipse().segment_slices(volume, 2, [{0: np.array([49.5, 19.5, 249.5, 119.5])}])
    assert found.sum() == pytest.approx(np.pi / 4 * 200 * 100, rel=0.005)
    assert mask_box_xyxy(found[0]).tolist() == [49.5, 19.5, 249.5, 119.5]


def test_the_ellipsoid_of_a_rotated_box_has_its_volume_and_stays_inside() -> None:
    geometry = ImageGeometry.from_spacing((0.5, 0.5, 1.0), (80, 80, 40))
    angle = np.deg2rad(35)
    axes = np.array([[np.cos(angle), np.sin(angle), 0], [-np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    box = OrientedBox(np.array([20.0, 20.0, 20.0]), axes * np.array([[14.0], [8.0], [10.0]]))
    ((found, *_),) = BoxEllipse().segment_rois(Volume(np.zeros(geometry.shape_KJI, np.uint8), geometry), 2, [box])
    assert found.sum() * 0.25 == pytest.approx(4 / 3 * np.pi * 14 * 8 * 10, rel=0.01)
    indices = np.argwhere(found)[:, ::-1]
    assert box.contains_ras(indices * [0.5, 0.5, 1.0]).all()


def test_the_ellipsoid_of_a_flat_image_is_the_ellipse() -> None:
    volume = Volume.from_image2d(np.eye(40, 50, dtype=np.uint8))
    box_xyxy = np.array([9.5, 4.5, 30.5, 20.5])
    in_3d = BoxEllipse().segment_rois(volume, 2, [OrientedBox.from_ijk((10, 5, 0), (30, 20, 0), volume.geometry)])
    (in_2d,) = BoxEllipse().segment_slices(volume, 2, [{0: box_xyxy}])
    assert np.array_equal(in_3d[0].mask_KJI, in_2d.mask_KJI)


def test_otsu_uses_one_threshold_for_a_whole_roi_and_keeps_the_largest_component() -> None:
    voxels = np.zeros((5, 12, 12), np.int16)
    voxels[1:4, 3:8, 3:8] = 500
    voxels[2, 10, 10] = 500
    geometry = ImageGeometry.from_spacing((1.0, 1.0, 2.0), (12, 12, 5))
    box = OrientedBox.from_ijk((0, 0, 0), (11, 11, 4), geometry)
    ((found, *_),) = OtsuLargestComponent().segment_rois(Volume(voxels, geometry), 2, [box])
    expected = voxels > 0
    expected[2, 10, 10] = False
    assert np.array_equal(found, expected)


def test_otsu_parts_the_values_where_the_classes_vary_most_between_them() -> None:
    values = np.random.default_rng(1).normal([60, 150], [20, 30], (500, 2)).clip(0, 255).astype(np.uint8).ravel()
    between = []
    for threshold in range(255):
        low, high = values[values <= threshold].astype(float), values[values > threshold].astype(float)
        weight = len(low) * len(high)
        between.append(weight * (low.mean() - high.mean()) ** 2 if weight else 0.0)
    bright = values > int(np.argmax(between))
    # A middle that is bright makes the bright side the object; in one row, its longest run is the largest part.
    row = np.concatenate([np.sort(values), np.sort(values)[::-1]])[None]
    found = OtsuLargestComponent().segment_slice(row, np.array([-0.5, -0.5, row.shape[1] - 0.5, 0.5]))
    assert found.sum() == 2 * bright.sum()


def test_only_the_larger_of_two_parts_is_kept() -> None:
    assert largest_component(np.array([[1, 0, 1, 1]], bool)).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("name", sorted(BASELINES))
def test_nothing_is_set_outside_the_box_or_on_other_slices(name: str) -> None:
    if name == "grabcut":
        pytest.importorskip("cv2")
    rng = np.random.default_rng(2)
    geometry = ImageGeometry.from_spacing((1.0, 1.0, 3.0), (30, 28, 6))
    volume = Volume(rng.integers(0, 255, geometry.shape_KJI).astype(np.uint8), geometry)
    allowed = np.zeros(geometry.shape_KJI, bool)
    allowed[2:4, 5:16, 4:21] = True
    prompts = [{k: np.array([3.5, 4.5, 20.5, 15.5]) for k in (2, 3)}]
    ((in_slices, *_),) = BASELINES[name]().segment_slices(volume, 2, prompts)
    box = OrientedBox.from_ijk((4, 5, 2), (20, 15, 3), geometry)
    ((in_roi, *_),) = BASELINES[name]().segment_rois(volume, 2, [box])
    for found in (in_slices, in_roi):
        assert found.any()
        assert not (found & ~allowed).any()


def test_grabcut_copes_with_a_box_that_fills_the_image_and_with_a_single_pixel() -> None:
    pytest.importorskip("cv2")
    image = disc_image()[0]
    whole = GrabCut().segment_slice(image, np.array([-0.5, -0.5, 79.5, 63.5]))
    assert whole.shape == image.shape
    assert GrabCut().segment_slice(image, np.array([9.5, 9.5, 10.5, 10.5])).tolist() == [[True]]


def test_paper_boxes_hold_the_object_and_are_at_most_20_pixels_of_a_256_grid_loose() -> None:
    mask = np.zeros((3, 128, 512), bool)
    mask[1, 40:60, 200:300] = True
    boxes = [paper_boxes(mask, 2, f"case {n}")[1] for n in range(200)]
    loose = np.abs(np.array(boxes) - [199.5, 39.5, 299.5, 59.5])
    assert (np.array(boxes) * [1, 1, -1, -1] <= np.array([199.5, 39.5, -299.5, -59.5])).all()
    np.testing.assert_allclose(loose.max(axis=0), [40, 10, 40, 10], rtol=0.05)
    np.testing.assert_allclose(loose.mean(axis=0), [20, 5, 20, 5], rtol=0.15)


def test_paper_boxes_repeat_exist_only_where_the_object_is_and_stay_on_the_slice() -> None:
    mask = np.zeros((4, 20, 20), bool)
    mask[[0, 2], 0:3, 17:20] = True
    boxes = paper_boxes(mask, 2, "a")
    assert sorted(boxes) == [0, 2]
    assert all(np.array_equal(boxes[k], paper_boxes(mask, 2, "a")[k]) for k in boxes)
    assert not np.array_equal(boxes[0], boxes[2])
    assert not np.array_equal(boxes[0], paper_boxes(mask, 2, "b")[0])
    assert (boxes[0][1], boxes[0][2]) == (-0.5, 19.5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_roi_is_three_voxels_loose_in_plane_and_one_slice_along_the_axis(axis: int) -> None:
    geometry = ImageGeometry.from_spacing((1.0, 1.0, 1.0), (30, 30, 30))
    mask = np.zeros((30, 30, 30), bool)
    mask[10:15, 10:15, 10:15] = True
    box = roi_box(mask, geometry, axis)
    expected = np.full(3, 2.5 + 3)
    expected[axis] = 2.5 + 1
    np.testing.assert_allclose(np.diag(box.half_axes_ras), expected)


def test_a_slice_stack_is_a_view_with_x_and_y_in_ascending_order_of_ijk() -> None:
    volume_KJI = np.arange(24).reshape(2, 3, 4)
    assert slice_stack(volume_KJI, 2)[1, 2, 3] == volume_KJI[1, 2, 3]
    assert slice_stack(volume_KJI, 1)[2, 1, 3] == volume_KJI[1, 2, 3]
    assert slice_stack(volume_KJI, 0)[3, 1, 2] == volume_KJI[1, 2, 3]
    assert np.shares_memory(slice_stack(volume_KJI, 0), volume_KJI)
