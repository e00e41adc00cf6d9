"""The weights that ship, on what a user tries first: plain shapes without texture."""

from __future__ import annotations

import numpy as np
import pytest

import dbsam
from dbsam.geometry.grid import ImageGeometry, OrientedBox

SHAPE_KJI = (12, 64, 64)
HALF_KJI = np.array([4.0, 9.0, 14.0])
CENTER_KJI = np.array([5.5, 33.5, 29.5])


@pytest.fixture(scope="module")
def predictor():
    return dbsam.load_predictor("compact", "cpu")


def ellipsoid():
    return (_from_centre() ** 2).sum(0) < 1


def block():
    return (np.abs(_from_centre()) < 1).all(0)


def _from_centre():
    return (np.indices(SHAPE_KJI) - CENTER_KJI[:, None, None, None]) / HALF_KJI[:, None, None, None]


@pytest.mark.parametrize("margin", [1.0, 3.0])
@pytest.mark.parametrize(("inside", "outside"), [(300, -500), (-500, 300)], ids=["bright", "dark"])
@pytest.mark.parametrize("shape", [block, ellipsoid])
def test_a_plain_shape_in_a_loose_roi_is_found(predictor, shape, inside, outside, margin):
    truth = shape()
    volume = dbsam.Volume(
        np.where(truth, inside, outside).astype(np.int16), ImageGeometry.from_spacing((1, 1, 1), SHAPE_KJI[::-1])
    )
    box = OrientedBox(CENTER_KJI[::-1].copy(), np.diag(HALF_KJI[::-1] + margin))
    found = dbsam.segment(volume, box, predictor, axis="K").labelmap_KJI() > 0
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.9
