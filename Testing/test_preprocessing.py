"""Slices to network input and logits back."""

from __future__ import annotations

import numpy as np
import pytest

from dbsam.preprocess.sampling import Region, box_region, logits_to_slice, resample_slice, slice_region


def test_a_region_on_the_pixel_grid_is_copied_exactly() -> None:
    image = np.arange(48, dtype=np.float32).reshape(6, 8)
    sampled, valid = resample_slice(image, Region(1.5, 0.5, 5.5, 4.5), 4)
    assert np.array_equal(sampled, image[1:5, 2:6])
    assert valid.all()


def test_shrinking_averages_what_a_pixel_covers() -> None:
    image = np.zeros((16, 16), np.float32)
    image[:, ::2] = 100.0
    sampled, _ = resample_slice(image, Region(-0.5, -0.5, 15.5, 15.5), 4)
    assert np.allclose(sampled[:, 1:3], 50.0, atol=1.0)


def test_pixels_beyond_the_slice_are_invalid() -> None:
    _, valid = resample_slice(np.ones((4, 4), np.float32), Region(-4.5, -0.5, 3.5, 7.5), 8)
    expected = np.zeros((8, 8), np.float32)
    expected[:4, 4:] = 1.0
    assert np.array_equal(valid, expected)


def test_colour_channels_are_sampled_alike() -> None:
    image = np.random.default_rng(0).integers(0, 255, (9, 7, 3)).astype(np.uint8)
    region = Region(0.2, 1.3, 6.1, 8.4)
    sampled, _ = resample_slice(image, region, 5)
    for channel in range(3):
        assert np.allclose(sampled[..., channel], resample_slice(image[..., channel], region, 5)[0])


def test_boxes_land_where_the_pixels_land() -> None:
    region = Region(9.5, 19.5, 41.5, 51.5)
    boxes = region.boxes_to_input(np.array([[9.5, 19.5, 25.5, 51.5]]), 64)
    assert np.allclose(boxes, [[-0.5, -0.5, 31.5, 63.5]])


@pytest.mark.parametrize("spacing_xy", [(1.0, 1.0), (0.5, 2.0)])
def test_the_region_round_a_box_is_physically_square(spacing_xy: tuple[float, float]) -> None:
    region = box_region(np.array([100.0, 50.0, 140.0, 60.0]), spacing_xy, context=1.5)
    assert region.width * spacing_xy[0] == pytest.approx(region.height * spacing_xy[1])
    assert region.width * spacing_xy[0] == pytest.approx(1.5 * max(40 * spacing_xy[0], 10 * spacing_xy[1]))
    assert (region.x0 + region.x1, region.y0 + region.y1) == (pytest.approx(240), pytest.approx(110))


def test_whole_slice_regions_pad_or_stretch() -> None:
    assert slice_region((100, 200), (1.0, 1.0), square=True) == Region(-0.5, -0.5, 199.5, 199.5)
    assert slice_region((100, 200), (1.0, 1.0), square=False) == Region(-0.5, -0.5, 199.5, 99.5)


def test_a_disc_survives_the_way_to_the_input_and_back() -> None:
    rows, columns = np.mgrid[:120, :150]
    signed = 20.0 - np.hypot(rows - 61.3, columns - 80.7)
    region = box_region(np.array([60.0, 41.0, 101.0, 82.0]), (1.0, 1.0), context=1.75)
    low_res, _ = resample_slice(signed.astype(np.float32), region, 64)
    logits, (row_range, column_range) = logits_to_slice(low_res, region, signed.shape)
    restored = np.zeros(signed.shape, bool)
    restored[row_range, column_range] = logits > 0
    disc = signed > 0
    assert 2 * (restored & disc).sum() / (restored.sum() + disc.sum()) > 0.995


def test_a_region_beside_the_slice_gives_no_logits() -> None:
    logits, (rows, columns) = logits_to_slice(np.ones((4, 4), np.float32), Region(200.0, 0.0, 220.0, 20.0), (64, 64))
    assert logits.size == 0
    assert (rows.stop - rows.start) * (columns.stop - columns.start) == 0


def test_a_region_without_area_is_refused() -> None:
    with pytest.raises(ValueError, match="no area"):
        Region(1.0, 1.0, 1.0, 2.0)
