"""Oriented boxes on image grids: numbers one can derive by hand, and the same physical region on every grid."""

import itertools
import time

import numpy as np
import pytest

from dbsam.geometry.bounds import index_bounds, mask_box_xyxy
from dbsam.geometry.grid import (
    ImageGeometry,
    OrientedBox,
    box_in_slices,
    interpolate_boxes,
    slice_axes,
    slice_boxes_xyxy,
    slice_polygon,
)

UNIT_GRID = ImageGeometry.from_spacing((1, 1, 1), (40, 30, 20))
I_AXIS, J_AXIS, K_AXIS = 0, 1, 2
SQRT2 = np.sqrt(2)


def upright_box(low_ras: tuple[float, ...], high_ras: tuple[float, ...]) -> OrientedBox:
    low, high = np.array(low_ras, float), np.array(high_ras, float)
    return OrientedBox((low + high) / 2, np.diag((high - low) / 2))


def diamond_box(center: tuple[float, ...], half_edge: float, half_height: float) -> OrientedBox:
    """A box turned by 45 degrees about S."""
    along = half_edge / SQRT2
    return OrientedBox(np.array(center), np.array([[along, along, 0], [-along, along, 0], [0, 0, half_height]]))


def random_rotation(generator: np.random.Generator) -> np.ndarray:
    q, r = np.linalg.qr(generator.normal(size=(3, 3)))
    q = q * np.sign(np.diag(r))
    return q * np.sign(np.linalg.det(q))


def inside_mask(box: OrientedBox, geometry: ImageGeometry, axis: int, index: int) -> np.ndarray:
    height, width = geometry.slice_hw(axis)
    return box_in_slices(box, geometry, axis).inside(index, range(height), range(width))


def inside_mask_KJI(box: OrientedBox, geometry: ImageGeometry, axis: int) -> np.ndarray:
    masks = [inside_mask(box, geometry, axis, n) for n in range(geometry.dimensions_ijk[axis])]
    return np.stack(masks, axis=2 - axis)


def test_slice_axes_are_the_two_other_axes_in_ascending_order():
    assert [slice_axes(axis) for axis in range(3)] == [(1, 2), (0, 2), (0, 1)]
    with pytest.raises(ValueError, match="not 3"):
        slice_axes(3)


@pytest.mark.parametrize(
    ("axis", "slices", "xyxy", "hw"),
    [(I_AXIS, (5, 9), [6.5, 11.5, 14.5, 13.5], (20, 30)),
     (J_AXIS, (7, 14), [4.5, 11.5, 9.5, 13.5], (20, 40)),
     (K_AXIS, (12, 13), [4.5, 6.5, 9.5, 14.5], (30, 40))],
)  # fmt: skip
def test_a_voxel_box_gives_its_inclusive_slices_and_pixel_edges_along_every_axis(axis, slices, xyxy, hw):
    box = OrientedBox.from_ijk((5, 7, 12), (9, 14, 13), UNIT_GRID)
    boxes = slice_boxes_xyxy(box, UNIT_GRID, axis)
    assert list(boxes) == list(range(slices[0], slices[1] + 1))
    for values in boxes.values():
        np.testing.assert_allclose(values, xyxy, atol=1e-9)
    expected = np.zeros(UNIT_GRID.shape_KJI, bool)
    expected[12:14, 7:15, 5:10] = True
    np.testing.assert_array_equal(inside_mask_KJI(box, UNIT_GRID, axis), expected)
    assert inside_mask(box, UNIT_GRID, axis, 0).shape == UNIT_GRID.slice_hw(axis) == hw


def test_spacing_and_origin_enter_the_box():
    # Voxels of 2 x 3 x 5 mm whose first centre is at R 100, A -50, S 10: R 110 is I 5, A -20 is J 10, S 60 is K 10.
    ijk_to_ras = np.array([[2.0, 0, 0, 100], [0, 3, 0, -50], [0, 0, 5, 10], [0, 0, 0, 1]])
    geometry = ImageGeometry(ijk_to_ras, (20, 20, 20))
    assert geometry.spacing_mm == (2, 3, 5)
    boxes = slice_boxes_xyxy(upright_box((110, -20, 48), (120, -11, 62)), geometry, K_AXIS)
    assert list(boxes) == [8, 9, 10]  # S 50, 55, 60
    np.testing.assert_allclose(boxes[9], [5, 10, 10, 13])


def test_a_diamond_is_cut_with_its_diagonal_as_width():
    # Edge 10: the diagonal is 10 * sqrt(2), so that the corners lie 5 * sqrt(2) from the centre.
    box = diamond_box((20, 15, 10), half_edge=5, half_height=3)
    polygon = slice_polygon(box, UNIT_GRID, K_AXIS, 10)
    reach = 5 * SQRT2
    corners = {(20 + reach, 15), (20, 15 + reach), (20 - reach, 15), (20, 15 - reach)}
    assert {tuple(np.round(corner, 9)) for corner in polygon} == {tuple(np.round(corner, 9)) for corner in corners}
    np.testing.assert_allclose(
        slice_boxes_xyxy(box, UNIT_GRID, K_AXIS)[10], [20 - reach, 15 - reach, 20 + reach, 15 + reach]
    )


def test_a_diamond_on_its_edge_is_cut_in_rectangles_that_grow_and_shrink():
    # The same diamond seen along J: the plane J = 15 + d cuts it over 2 * (5 * sqrt(2) - |d|) in I.
    boxes = slice_boxes_xyxy(diamond_box((20, 15, 10), half_edge=5, half_height=3), UNIT_GRID, J_AXIS)
    assert list(boxes) == list(range(8, 23))
    for index, (x_min, y_min, x_max, y_max) in boxes.items():
        half_width = 5 * SQRT2 - abs(index - 15)
        np.testing.assert_allclose([x_min, y_min, x_max, y_max], [20 - half_width, 7, 20 + half_width, 13])


def test_a_cube_cut_through_its_middle_across_the_space_diagonal_is_a_regular_hexagon():
    # The cube -1..1 with its diagonal (1, 1, 1) turned onto K: the middle cut has its corners sqrt(2) from the centre.
    diagonal = np.ones(3) / np.sqrt(3)
    side = np.array([1.0, -1.0, 0.0]) / SQRT2
    to_axes = np.stack([side, np.cross(diagonal, side), diagonal])
    box = OrientedBox(np.array([20.0, 15.0, 10.0]), to_axes.T)
    polygon = slice_polygon(box, UNIT_GRID, K_AXIS, 10)
    edges = np.roll(polygon, -1, axis=0) - polygon
    assert polygon.shape == (6, 2)
    np.testing.assert_allclose(np.linalg.norm(polygon - [20, 15], axis=1), SQRT2)
    np.testing.assert_allclose(np.linalg.norm(edges, axis=1), SQRT2)
    assert (edges[:, 0] * np.roll(edges, -1, axis=0)[:, 1] > edges[:, 1] * np.roll(edges, -1, axis=0)[:, 0]).all()
    # Half way to the tip, which is sqrt(3) away, the cut is a triangle.
    assert len(slice_polygon(box, UNIT_GRID, K_AXIS, 10 + np.sqrt(3) / 2)) == 3
    assert len(slice_polygon(box, UNIT_GRID, K_AXIS, 12)) == 0


def test_a_plane_through_a_face_cuts_it_and_one_that_touches_an_edge_does_not():
    box = upright_box((5, 5, 4), (9, 9, 6))
    assert list(slice_boxes_xyxy(box, UNIT_GRID, K_AXIS)) == [4, 5, 6]
    on_edge = OrientedBox(np.array([10.0, 10, 10]), np.array([[2.0, 0, 0], [0, 1, 1], [0, -1, 1]]))  # S from 8 to 12
    assert list(slice_boxes_xyxy(on_edge, UNIT_GRID, K_AXIS)) == [9, 10, 11]
    assert slice_polygon(on_edge, UNIT_GRID, K_AXIS, 12).shape == (0, 2)


@pytest.mark.parametrize(("low", "high", "nearest"), [(7.1, 7.4, 7), (7.6, 7.9, 8), (7.2, 7.8, 7), (-0.4, -0.1, 0)])
def test_a_thin_box_between_two_slices_is_projected_onto_the_nearest(low, high, nearest):
    box = upright_box((5, 6, low), (9, 12, high))
    boxes = slice_boxes_xyxy(box, UNIT_GRID, K_AXIS)
    assert list(boxes) == [nearest]
    np.testing.assert_allclose(boxes[nearest], [5, 6, 9, 12])
    mask = inside_mask(box, UNIT_GRID, K_AXIS, nearest)
    assert mask[6:13, 5:10].all()
    assert mask.sum() == 7 * 5
    assert not inside_mask(box, UNIT_GRID, K_AXIS, nearest + 1).any()
    assert len(slice_polygon(box, UNIT_GRID, K_AXIS, nearest)) == 0  # the plane itself misses it


def test_a_thin_tilted_box_is_projected_with_its_whole_shadow():
    # A diamond that is also thin and sheared along S: the shadow is the diamond.
    box = OrientedBox(np.array([20, 15, 7.5]), np.array([[5.0, 5, 0.1], [-5, 5, 0.1], [0, 0, 0.1]]))
    np.testing.assert_allclose(slice_boxes_xyxy(box, UNIT_GRID, K_AXIS)[7], [10, 5, 30, 25])
    mask = inside_mask(box, UNIT_GRID, K_AXIS, 7)
    y, x = np.mgrid[0:30, 0:40]
    np.testing.assert_array_equal(mask, abs(x - 20) + abs(y - 15) <= 10)


def test_a_2d_image_is_cut_by_any_box_that_reaches_its_slice():
    image = ImageGeometry.from_spacing((0.5, 0.5, 1), (100, 80, 1))
    for low, high in [(-10, 10), (0.1, 0.3), (-0.45, -0.2)]:
        boxes = slice_boxes_xyxy(upright_box((5, 10, low), (20, 30, high)), image, image.default_axis())
        np.testing.assert_allclose(boxes.pop(0), [10, 20, 40, 60])
        assert not boxes


def test_what_lies_outside_the_volume_is_cut_off():
    boxes = slice_boxes_xyxy(upright_box((-10, 20, 15), (5, 100, 50)), UNIT_GRID, K_AXIS)
    assert list(boxes) == [15, 16, 17, 18, 19]
    np.testing.assert_allclose(boxes[19], [-0.5, 20, 5, 29.5])
    # A diamond around the corner pixel's edge: only a triangle of it, 3 pixels long, is in the image.
    corner = diamond_box((-0.5, -0.5, 5), half_edge=3 / SQRT2, half_height=1)
    np.testing.assert_allclose(slice_boxes_xyxy(corner, UNIT_GRID, K_AXIS)[5], [-0.5, -0.5, 2.5, 2.5])


def test_the_rectangle_encloses_only_the_part_of_a_turned_box_that_is_in_the_volume():
    # The diamond |x + 5| + |y - 10| <= 10 has x >= -0.5 only where |y - 10| <= 5.5.
    box = diamond_box((-5, 10, 5), half_edge=10 / SQRT2, half_height=1)
    np.testing.assert_allclose(slice_boxes_xyxy(box, UNIT_GRID, K_AXIS)[5], [-0.5, 4.5, 5, 15.5])


@pytest.mark.parametrize(
    "box",
    [upright_box((5, 5, 30), (9, 9, 40)), upright_box((5, 5, -9), (9, 9, -0.6)), upright_box((-9, 5, 5), (-0.5, 9, 9)),
     upright_box((5, 5, -0.9), (9, 9, -0.6)), diamond_box((-4, -4, 5), half_edge=3, half_height=2)],
)  # fmt: skip
def test_a_box_outside_the_volume_has_no_slices(box):
    assert slice_boxes_xyxy(box, UNIT_GRID, K_AXIS) == {}
    assert not inside_mask_KJI(box, UNIT_GRID, K_AXIS).any()


def test_a_slice_that_the_volume_has_not_is_refused():
    box = upright_box((5, 5, -4), (9, 9, 30))
    assert inside_mask(box, UNIT_GRID, K_AXIS, 19).any()
    for index in (-1, 20):
        with pytest.raises(ValueError, match=rf"Slice {index} is outside the volume \(0 to 19\)"):
            inside_mask(box, UNIT_GRID, K_AXIS, index)


def test_the_mask_of_a_part_of_a_slice_is_that_part_of_the_mask():
    box = diamond_box((20, 15, 8), half_edge=9, half_height=3)
    part = box_in_slices(box, UNIT_GRID, K_AXIS).inside(8, range(4, 17), range(11, 20))
    np.testing.assert_array_equal(part, inside_mask(box, UNIT_GRID, K_AXIS, 8)[4:17, 11:20])
    assert 0 < part.sum() < part.size


def test_the_mask_is_the_set_of_voxel_centres_in_the_box_and_the_rectangle_holds_all_of_them():
    generator = np.random.default_rng(5)
    k, j, i = np.indices(UNIT_GRID.shape_KJI)
    centres_ras = np.stack([i, j, k], axis=-1).astype(float)
    for _ in range(10):
        box = OrientedBox(generator.uniform(0, 20, 3), generator.normal(size=(3, 3)) * 6)  # sheared, partly outside
        expected = box.contains_ras(centres_ras)
        assert expected.any()
        for axis in range(3):
            np.testing.assert_array_equal(inside_mask_KJI(box, UNIT_GRID, axis), expected)
            boxes = slice_boxes_xyxy(box, UNIT_GRID, axis)
            for index in range(UNIT_GRID.dimensions_ijk[axis]):
                rows, columns = np.nonzero(inside_mask(box, UNIT_GRID, axis, index))
                if len(rows):
                    x_min, y_min, x_max, y_max = boxes[index]
                    assert x_min <= columns.min() <= columns.max() <= x_max
                    assert y_min <= rows.min() <= rows.max() <= y_max


def signed_permutations() -> list[np.ndarray]:
    return [
        np.eye(3)[list(order)] * np.array(signs)[:, None]
        for order in itertools.permutations(range(3))
        for signs in itertools.product((1.0, -1.0), repeat=3)
    ]


def centred_grid(direction: np.ndarray, spacing_mm: np.ndarray, dimensions_ijk: tuple[int, int, int]) -> ImageGeometry:
    """A grid whose middle is the origin of RAS."""
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = direction * spacing_mm
    ijk_to_ras[:3, 3] = -ijk_to_ras[:3, :3] @ ((np.array(dimensions_ijk) - 1) / 2)
    return ImageGeometry(ijk_to_ras, dimensions_ijk)


def volume_and_centroid(box: OrientedBox, geometry: ImageGeometry, axis: int) -> tuple[float, np.ndarray]:
    """Volume in mm3 and centroid in RAS of the voxels in the box."""
    k, j, i = np.nonzero(inside_mask_KJI(box, geometry, axis))
    centroid = geometry.ijk_to_ras @ [i.mean(), j.mean(), k.mean(), 1.0]
    return len(i) * abs(np.linalg.det(geometry.ijk_to_ras)), centroid[:3]


def test_all_48_axis_permutations_and_flips_select_the_same_voxels():
    # The same 24 x 30 x 36 mm of space in voxels of 1 x 1.5 x 2 mm along R, A, S, stored in every axis order.
    spacing_ras, size_ras = np.array([1.0, 1.5, 2.0]), np.array([24, 20, 18])
    box = OrientedBox(np.array([1.0, -2, 3]), random_rotation(np.random.default_rng(1)) * np.array([[6], [8], [10.0]]))
    reference_volume, reference_centroid = volume_and_centroid(
        box, centred_grid(np.eye(3), spacing_ras, tuple(size_ras)), K_AXIS
    )
    orientations = signed_permutations()
    assert len(orientations) == 48
    for direction in orientations:
        ras_axes = np.abs(direction).argmax(axis=0)
        geometry = centred_grid(direction, spacing_ras[ras_axes], tuple(size_ras[ras_axes]))
        for axis in range(3):
            volume, centroid = volume_and_centroid(box, geometry, axis)
            assert volume == pytest.approx(reference_volume)
            np.testing.assert_allclose(centroid, reference_centroid, atol=1e-9)
        axes = [geometry.axis_index(name) for name in ("sagittal", "coronal", "axial")]
        np.testing.assert_array_equal(ras_axes[axes], [0, 1, 2])


def test_twenty_oblique_grids_select_the_same_region_within_a_voxel():
    generator = np.random.default_rng(2)
    box = OrientedBox(np.array([2.0, 1, -3]), random_rotation(generator) * np.array([[9.0], [12.0], [7.0]]))
    for _ in range(20):
        spacing = generator.uniform(0.5, 1.5, 3)
        geometry = centred_grid(random_rotation(generator), spacing, (70, 71, 72))
        volume, centroid = volume_and_centroid(box, geometry, int(generator.integers(3)))
        assert volume == pytest.approx(18 * 24 * 14, rel=0.02)
        np.testing.assert_allclose(centroid, box.center_ras, atol=spacing.min() / 2)


def test_rectangles_do_not_depend_on_where_the_volume_lies_in_space():
    generator = np.random.default_rng(4)
    box = OrientedBox.from_ijk((3, 4, 5), (20, 15, 12), UNIT_GRID)
    expected = slice_boxes_xyxy(box, UNIT_GRID, K_AXIS)
    for _ in range(20):
        moved = np.eye(4)
        moved[:3, :3], moved[:3, 3] = random_rotation(generator), generator.uniform(-500, 500, 3)
        geometry = ImageGeometry(moved @ UNIT_GRID.ijk_to_ras, UNIT_GRID.dimensions_ijk)
        boxes = slice_boxes_xyxy(box.transformed(moved), geometry, K_AXIS)
        assert list(boxes) == list(expected)
        for index in boxes:
            np.testing.assert_allclose(boxes[index], expected[index], atol=1e-9)


@pytest.mark.parametrize(
    ("spacing", "dimensions", "axis"),
    [((1, 1, 3), (64, 64, 20), K_AXIS), ((1, 3, 1), (64, 20, 64), J_AXIS), ((3, 1, 1), (20, 64, 64), I_AXIS),
     ((1, 1, 1), (64, 64, 64), K_AXIS), ((1.005, 1, 1), (64, 64, 64), K_AXIS), ((2, 2, 1), (64, 64, 64), K_AXIS),
     ((3, 1, 1), (64, 64, 1), K_AXIS)],
)  # fmt: skip
def test_the_default_axis_is_the_acquisition_axis(spacing, dimensions, axis):
    geometry = ImageGeometry.from_spacing(spacing, dimensions)
    assert geometry.default_axis() == geometry.axis_index("auto") == axis


def test_axis_names_follow_the_anatomy_and_not_the_storage_order():
    # I runs to the inferior, J to the right, K to the anterior, tilted by 20 degrees about R.
    tilt = np.deg2rad(20)
    rotation = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = rotation @ np.array([[0, 1, 0], [0, 0, 1], [-1, 0, 0]])
    geometry = ImageGeometry(ijk_to_ras, (10, 10, 10))
    assert [geometry.axis_index(name) for name in ("axial", "Coronal", "sagittal")] == [I_AXIS, K_AXIS, J_AXIS]
    assert [geometry.axis_index(name) for name in ("I", "j", "K", 0, 1, 2)] == [0, 1, 2, 0, 1, 2]
    assert [geometry.axis_index(name) for name in ("0", "1", "2")] == [0, 1, 2], "as typed on a command line"
    assert geometry.default_axis() == I_AXIS
    for unknown in ("transverse", 3, -1, True, None):
        with pytest.raises(ValueError, match="Unknown slice axis"):
            geometry.axis_index(unknown)


def test_anatomical_names_stay_apart_on_a_grid_tilted_by_45_degrees():
    tilt = np.deg2rad(45)
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = [[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    geometry = ImageGeometry(ijk_to_ras, (10, 10, 10))
    assert [geometry.axis_index(name) for name in ("sagittal", "coronal", "axial")] == [0, 1, 2]


def test_a_box_without_volume_is_refused():
    for half_axes in (np.diag([1.0, 0.0, 1.0]), np.array([[1.0, 0, 0], [0, 1, 0], [1, 1, 0]]), np.zeros((3, 3))):
        with pytest.raises(ValueError, match="The box is flat"):
            OrientedBox(np.zeros(3), half_axes)
    with pytest.raises(ValueError, match="center_ras must be"):
        OrientedBox(np.array([0, np.nan, 0]), np.eye(3))
    with pytest.raises(ValueError, match=r"min <= max, not \(5, 5, 5\) to \(9, 4, 9\)"):
        OrientedBox.from_ijk((5, 5, 5), (9, 4, 9), UNIT_GRID)


def test_a_grid_without_volume_is_refused():
    with pytest.raises(ValueError, match="span no volume"):
        ImageGeometry(np.diag([1.0, 0.0, 1.0, 1.0]), (4, 4, 4))
    with pytest.raises(ValueError, match="three positive numbers"):
        ImageGeometry(np.eye(4), (4, 0, 4))
    with pytest.raises(ValueError, match="last row"):
        ImageGeometry(np.ones((4, 4)), (4, 4, 4))


def test_corners_and_containment_follow_a_shearing_transform():
    shear = np.array([[1.0, 0.5, 0, 10], [0, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    box = upright_box((-1, -1, -1), (1, 1, 1)).transformed(shear)
    corners = {tuple(corner) for corner in box.corners_ras()}
    assert corners == {(10 + r + 0.5 * a, 2 * a, s) for r in (-1, 1) for a in (-1, 1) for s in (-1, 1)}
    inside = box.contains_ras([[[10, 0, 0], [11.5, 2, 1]], [[11.6, 2, 1], [11.5, -2, 0]]])
    np.testing.assert_array_equal(inside, [[True, True], [False, False]])


def test_boxes_between_key_slices_are_linear_and_none_lie_outside_them():
    boxes = interpolate_boxes({8: [4, 4, 24, 14], 4: [0, 0, 10, 10], 10: [4, 4, 24, 14]})
    assert list(boxes) == [4, 5, 6, 7, 8, 9, 10]
    np.testing.assert_allclose(boxes[5], [1, 1, 13.5, 11])
    np.testing.assert_allclose(boxes[9], [4, 4, 24, 14])
    assert list(interpolate_boxes({3: [0, 0, 1, 1]})) == [3]
    assert interpolate_boxes({}) == {}
    with pytest.raises(ValueError, match=r"slice 3 has no area: x 5\.0 to 5\.0"):
        interpolate_boxes({3: [5, 0, 5, 1]})


def test_300_slices_of_512_by_512_take_well_under_a_second():
    geometry = ImageGeometry.from_spacing((1, 1, 1), (512, 512, 300))
    box = OrientedBox(np.array([256.0, 256, 150]), random_rotation(np.random.default_rng(0)) * 180)
    start = time.process_time()
    boxes = slice_boxes_xyxy(box, geometry, K_AXIS)
    inside_mask_KJI(box, geometry, K_AXIS)
    assert time.process_time() - start < 2  # about 0.3 s on one core of 2020; the margin is for busy test machines
    assert len(boxes) == 300


def test_the_bounds_of_a_mask_are_its_first_and_last_indices_along_each_axis():
    mask_KJI = np.zeros((5, 6, 7), np.uint8)
    mask_KJI[1, 5, 2] = mask_KJI[3, 0, 4] = 2
    first, last = index_bounds(mask_KJI)
    assert (first.tolist(), last.tolist()) == ([1, 0, 2], [3, 5, 4])
    assert mask_box_xyxy(mask_KJI[1]).tolist() == [1.5, 4.5, 2.5, 5.5]
    with pytest.raises(ValueError, match="An empty mask has no box"):
        mask_box_xyxy(mask_KJI[0])
