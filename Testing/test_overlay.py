"""Overlays show slices as radiologists are used to, whatever the order and direction of the volume's axes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dbsam.geometry.grid import ImageGeometry, OrientedBox
from dbsam.io.overlay import PANEL_PIXELS, render_overlay
from dbsam.io.seg_nrrd import Segment
from dbsam.preprocess.volume import Volume

SIZE = 24
RED = (1.0, 0.0, 0.0)


def as_it_is(values: np.ndarray) -> np.ndarray:
    return values.astype(np.uint8)


def frame(order: tuple[int, ...], flips: tuple[int, ...]) -> ImageGeometry:
    """A cube of 24 mm centred on the origin, I, J, K along the RAS axes `order`, reversed where `flips` is -1."""
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = np.eye(3)[:, list(order)] * flips
    ijk_to_ras[:3, 3] = -ijk_to_ras[:3, :3] @ np.full(3, (SIZE - 1) / 2)
    return ImageGeometry(ijk_to_ras, (SIZE, SIZE, SIZE))


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_right_anterior_superior_is_left_and_up(order, flips):
    geometry = frame(order, flips)
    k, j, i = np.indices(geometry.shape_KJI)
    points_ras = np.stack([i, j, k], axis=-1) @ geometry.ijk_to_ras[:3, :3].T + geometry.ijk_to_ras[:3, 3]
    mask = (np.abs(points_ras - (6, 6, 6)) < 3).all(axis=-1)
    box = OrientedBox(np.zeros(3), np.eye(3) * 11)
    volume = Volume(np.zeros(geometry.shape_KJI, np.uint8), geometry)
    picture = render_overlay(volume, [Segment("x", mask, color_rgb=RED)], [box], as_it_is)
    red = (picture[..., 0] > 200) & (picture[..., 1] < 60)
    for name, start in zip(("axial", "coronal", "sagittal"), (0, 388, 776), strict=True):
        y, x = np.nonzero(red[:, start : start + PANEL_PIXELS])
        # The panel spans the 24 mm of the slice; the block's centre is 6 mm from its middle: at a quarter.
        assert (x.mean(), y.mean()) == pytest.approx((PANEL_PIXELS / 4, PANEL_PIXELS / 4), abs=2), name


def test_the_box_is_drawn_where_the_slice_cuts_it():
    geometry = ImageGeometry.from_spacing((1.0, 1.0, 1.0), (SIZE, SIZE, 1))
    box = OrientedBox.from_ijk((6, 8, 0), (17, 15, 0), geometry)
    volume = Volume(np.zeros((1, SIZE, SIZE), np.uint8), geometry)
    picture = render_overlay(volume, [Segment("nothing", np.zeros((1, SIZE, SIZE)))], [box], as_it_is)
    assert picture.shape == (PANEL_PIXELS, PANEL_PIXELS, 3)
    y, x = np.nonzero(picture.max(axis=2) > 100)
    # 1.6 times the box's 12 pixels: a panel of 19.2 pixels, at 20 picture pixels each, round (11.5, 11.5).
    assert (x.min(), x.max()) == pytest.approx((192 - 120, 192 + 120), abs=2)
    assert (y.min(), y.max()) == pytest.approx((192 - 80, 192 + 80), abs=2)


def test_several_segments_get_a_row_each_in_their_colours():
    geometry = frame((0, 1, 2), (1, 1, 1))
    mask = np.ones((6, 6, 6), np.uint8)
    segments = [Segment("a", mask, (4, 4, 4), RED), Segment("b", mask, (14, 14, 14), (0.0, 1.0, 0.0))]
    boxes = [OrientedBox.from_ijk((n, n, n), (n + 5, n + 5, n + 5), geometry) for n in (4, 14)]
    volume = Volume(np.zeros(geometry.shape_KJI, np.uint8), geometry)
    picture = render_overlay(volume, segments, boxes, as_it_is)
    assert picture.shape == (2 * PANEL_PIXELS + 4, 3 * PANEL_PIXELS + 8, 3)
    first, second = picture[:PANEL_PIXELS], picture[-PANEL_PIXELS:]
    assert (first == (255, 0, 0)).all(axis=-1).any()
    assert (second == (0, 255, 0)).all(axis=-1).any()


def test_a_colour_image_keeps_its_colours():
    geometry = ImageGeometry.from_spacing((1.0, 1.0, 1.0), (SIZE, SIZE, 1))
    pixels = np.broadcast_to(np.array([10, 120, 60], np.uint8), (1, SIZE, SIZE, 3))
    box = OrientedBox.from_ijk((6, 8, 0), (17, 15, 0), geometry)
    picture = render_overlay(Volume(pixels, geometry), [Segment("x", np.zeros((1, 1, 1)))], [box], as_it_is)
    assert picture[192, 192].tolist() == [10, 120, 60]
