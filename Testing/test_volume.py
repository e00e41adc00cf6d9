from __future__ import annotations

import itertools

import numpy as np
import pytest
from phantoms import (
    BRIGHT,
    DARK,
    assert_is_the_pear_in_the_box,
    centred_grid,
    centres_ras,
    pear_volume,
    random_rotation,
    rotated_box,
    segmenter,
    stack_of_squares,
    whole_box,
)
from threshold_predictor import ThresholdPredictor

from dbsam.geometry.grid import ImageGeometry, OrientedBox
from dbsam.inference.segmenter import SliceBoxes, Volume


@pytest.mark.parametrize("strategy", ["box", "track"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_object_stays_where_it_is_however_the_axes_are_permuted_and_flipped(
    strategy: str, order: tuple[int, int, int]
) -> None:
    rng = np.random.default_rng(5)
    geometry = centred_grid(np.eye(3), (0.9, 1.1, 2.5), (56, 46, 18))
    volume = pear_volume(geometry)
    box = rotated_box(random_rotation(rng), (15.0, 17.0, 19.0))
    for flips in itertools.product((False, True), repeat=3):
        # New axis n of the array [k, j, i] is the old axis order[n], backwards where flips[n].
        steps = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
        to_old = np.zeros((4, 4))
        to_old[3, 3] = 1
        for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
            to_old[2 - old, 2 - new] = -1 if flip else 1
            to_old[2 - old, 3] = geometry.shape_KJI[old] - 1 if flip else 0
        voxels = volume.voxels.transpose(order)[steps]
        moved = Volume(voxels, ImageGeometry(geometry.ijk_to_ras @ to_old, voxels.shape[::-1]))
        result = segmenter().segment(moved, box, strategy=strategy)
        assert result.axis == 2 - order.index(0)  # still along the largest spacing
        assert_is_the_pear_in_the_box(result, box)


@pytest.mark.parametrize("sees", ["box", "slice"])
@pytest.mark.parametrize("seed", range(20))
def test_the_object_stays_where_it_is_in_oblique_frames(seed: int, sees: str) -> None:
    rng = np.random.default_rng(seed)
    spacing = (rng.uniform(0.8, 1.6), rng.uniform(0.8, 1.6), rng.uniform(1.7, 3.0))
    dimensions = (int(56 / spacing[0]), int(52 / spacing[1]), int(50 / spacing[2]))
    volume = pear_volume(centred_grid(random_rotation(rng), spacing, dimensions))
    box = rotated_box(random_rotation(rng), (16.0, 18.0, 20.0))
    for strategy in ("box", "track"):
        result = segmenter(ThresholdPredictor(sees)).segment(volume, box, strategy=strategy)  # type: ignore[arg-type]
        assert_is_the_pear_in_the_box(result, box)


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_any_axis_can_be_asked_for_and_pixels_need_not_be_square(axis: str) -> None:
    volume = pear_volume(centred_grid(np.eye(3), (0.6, 1.9, 3.0), (80, 26, 16)))
    box = rotated_box(np.eye(3), (19.0, 17.0, 17.0))
    predictor = ThresholdPredictor()
    result = segmenter(predictor).segment(volume, box, axis=axis)
    assert result.axis == {"axial": 2, "coronal": 1, "sagittal": 0}[axis]
    assert_is_the_pear_in_the_box(result, box)
    spacing_x, spacing_y = volume.slice_spacing_xy(result.axis)
    for _, region in itertools.chain(*predictor.encoded):
        assert region.width * spacing_x == pytest.approx(region.height * spacing_y)  # square in mm


def test_exactly_the_voxels_with_their_centre_in_a_rotated_box_can_be_set() -> None:
    geometry = ImageGeometry.from_spacing((0.8, 1.0, 2.0), (40, 36, 12))
    voxels = np.full(geometry.shape_KJI, BRIGHT, np.uint8)
    voxels[0, 0, 0] = DARK
    box = OrientedBox(np.array([16.0, 17.0, 11.0]), random_rotation(np.random.default_rng(1)) * 9)
    result = segmenter().segment(Volume(voxels, geometry), box, strategy="box")
    assert np.array_equal(result.labelmap_KJI() > 0, box.contains_ras(centres_ras(geometry)))


def test_the_mask_covers_only_the_extent_that_the_box_needs() -> None:
    volume = stack_of_squares(dict.fromkeys(range(12), (10, 12, 20, 18)))
    box = OrientedBox.from_ijk((8, 9, 3), (22, 21, 7), volume.geometry)
    result = segmenter().segment(volume, box, axis=2)
    assert result.extent_ijk == ((8, 22), (9, 21), (3, 7))
    assert result.mask_KJI.shape == (5, 13, 15)
    assert result.labelmap_KJI().sum() == 5 * 11 * 7
    assert [(report.index, report.area_pixels) for report in result.slices] == [(k, 77) for k in range(3, 8)]


def test_a_colour_image_is_segmented_in_its_own_colours() -> None:
    pixels = np.zeros((50, 60, 3), np.uint8)
    pixels[..., 0] = 250  # red everywhere; the stand-in looks at the middle channel, green
    pixels[10:30, 20:45, 1] = 255
    image = Volume.from_image2d(pixels, (0.5, 0.25))
    result = segmenter(ThresholdPredictor(channels="neighbours")).segment(
        image, SliceBoxes(2, {0: (10, 5, 55, 40)}), strategy="track"
    )
    assert result.intensity.name == "as-is"
    assert np.array_equal(result.labelmap_KJI()[0] > 0, pixels[..., 1] == 255)


def test_neighbouring_slices_become_the_channels_where_the_model_wants_them() -> None:
    volume = stack_of_squares({2: (10, 10, 20, 20)}, slices=5)
    levels = np.array([10, 20, 0, 40, 50], np.uint8)
    volume.voxels[:, 0, 0] = levels  # type: ignore[index]
    predictor = ThresholdPredictor(channels="neighbours")
    segmenter(predictor).segment(volume, whole_box(volume), axis=2, strategy="box")
    seen = {tuple(int(level) for level in image[0, 0]) for image, _ in itertools.chain(*predictor.encoded)}
    assert seen == {(10, 10, 20), (10, 20, 0), (20, 0, 40), (0, 40, 50), (40, 50, 50)}


def test_rectangles_between_key_slices_are_interpolated_and_none_lie_beyond() -> None:
    volume = stack_of_squares(dict.fromkeys(range(12), (5, 5, 34, 34)))
    prompt = SliceBoxes(2, {2: (4.5, 4.5, 14.5, 14.5), 8: (10.5, 4.5, 26.5, 14.5)})
    result = segmenter().segment(volume, prompt, strategy="box")
    assert [report.index for report in result.slices] == [2, 3, 4, 5, 6, 7, 8]
    assert result.slices[3].box_xyxy == (7.5, 4.5, 20.5, 14.5)
    middle = np.argwhere(result.labelmap_KJI()[5])
    assert (middle.min(axis=0).tolist(), middle.max(axis=0).tolist()) == ([5, 8], [14, 20])


def test_rectangles_can_be_clipped_by_a_box_and_are_clipped_by_the_image() -> None:
    volume = stack_of_squares(dict.fromkeys(range(12), (0, 0, 39, 38)))
    clip = OrientedBox.from_ijk((0, 3, 4), (30, 20, 6), volume.geometry)
    result = segmenter().segment(volume, SliceBoxes(2, {2: (-9, -9, 60, 60), 8: (-9, -9, 60, 60)}, clip))
    expected = np.zeros((12, 40, 40), bool)
    expected[4:7, 3:21, 0:31] = True
    assert np.array_equal(result.labelmap_KJI() > 0, expected)


def test_a_coronal_rectangle_has_the_axes_of_coronal_slices() -> None:
    volume = stack_of_squares(dict.fromkeys(range(3, 9), (10, 15, 20, 25)))
    result = segmenter().segment(volume, SliceBoxes(1, {15: (5, 0, 25, 11), 25: (5, 0, 25, 11)}))
    assert result.axis == 1
    assert np.array_equal(result.labelmap_KJI() > 0, volume.voxels == BRIGHT)


def test_the_edge_flag_tells_where_the_object_may_go_on_outside() -> None:
    volume = stack_of_squares(dict.fromkeys(range(12), (0, 10, 20, 20)))
    loose = segmenter().segment(volume, OrientedBox.from_ijk((0, 8, 3), (23, 22, 6), volume.geometry), axis=2)
    assert not any(report.touches_edge for report in loose.slices)  # the image's left border is nobody's fault
    tight = segmenter().segment(volume, OrientedBox.from_ijk((0, 8, 3), (20, 22, 6), volume.geometry), axis=2)
    assert all(report.touches_edge for report in tight.slices)


def test_predicted_iou_is_reported_per_slice() -> None:
    volume = stack_of_squares({4: (10, 10, 19, 19), 5: (10, 10, 29, 19)})
    predictor = ThresholdPredictor(predicted_iou=lambda mask: 0.5 if mask.mean() < 0.09 else 0.8)
    box = OrientedBox.from_ijk((5, 5, 4), (34, 34, 5), volume.geometry)
    result = segmenter(predictor).segment(volume, box, axis=2, strategy="box")
    assert [report.predicted_iou for report in result.slices] == pytest.approx([0.5, 0.8])


def test_nan_voxels_are_background() -> None:
    voxels = np.full((6, 30, 30), 100.0, np.float32)
    voxels[:, 10:20, 10:20] = 900.0
    voxels[:, 10:20, 15:25] = np.nan
    volume = Volume(voxels, ImageGeometry.from_spacing((1, 1, 1), (30, 30, 6)))
    result = segmenter().segment(volume, whole_box(volume), axis=2, strategy="box")
    expected = np.zeros((6, 30, 30), bool)
    expected[:, 10:20, 10:15] = True
    assert np.array_equal(result.labelmap_KJI() > 0, expected)
    assert result.intensity.name == "percentile"


def test_the_content_decides_the_identity_of_a_volume() -> None:
    first, same = stack_of_squares({3: (1, 1, 5, 5)}), stack_of_squares({3: (1, 1, 5, 5)})
    other = stack_of_squares({3: (1, 1, 5, 6)})
    assert first.identity == same.identity != other.identity
    assert Volume(first.voxels.astype(np.int16), first.geometry).identity != first.identity
    assert Volume(first.voxels, first.geometry, "node7").identity == "node7"


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        (lambda g: OrientedBox.from_ijk((50, 0, 0), (60, 9, 9), g), {}, "outside the volume"),
        (lambda g: OrientedBox(np.array([5.5, 5.5, 5.5]), np.eye(3) * 0.2), {}, "centre of no voxel"),
        (lambda g: SliceBoxes(2, {12: (0, 0, 5, 5)}), {}, "slices 0 to 11"),
        (lambda g: SliceBoxes(2, {3: (50, 0, 60, 5)}), {}, "outside the volume"),
        (lambda g: SliceBoxes(2, {}), {}, "No rectangle"),
        (lambda g: SliceBoxes(2, {3: (0, 0, 5, 5)}), {"axis": "I"}, "along K"),
        (lambda g: OrientedBox.from_ijk((5, 5, 3), (9, 9, 6), g), {"axis": 2, "start_slice": 7}, "slices 3 to 6"),
        (lambda g: OrientedBox.from_ijk((5, 5, 3), (9, 9, 6), g), {"strategy": "both"}, "track or box"),
        (lambda g: OrientedBox.from_ijk((5, 5, 3), (9, 9, 6), g), {"axis": "oblique"}, "Unknown slice axis"),
        (lambda g: OrientedBox.from_ijk((5, 5, 3), (9, 9, 6), g), {"intensity": "ct-lung"}, "ct-lung"),
    ],
)
def test_what_cannot_be_done_is_refused_with_what_is_wrong(prompt, options: dict, message: str) -> None:
    volume = stack_of_squares(dict.fromkeys(range(12), (10, 10, 20, 20)))
    voxels = volume.voxels.astype(np.int16) + 1000
    with pytest.raises(ValueError, match=message):
        segmenter().segment(Volume(voxels, volume.geometry), prompt(volume.geometry), **options)


def test_a_constant_image_is_refused() -> None:
    volume = Volume(np.full((4, 8, 8), 7, np.int16), ImageGeometry.from_spacing((1, 1, 1), (8, 8, 4)))
    with pytest.raises(ValueError, match="All values of the image are 7"):
        segmenter().segment(volume, whole_box(volume))


@pytest.mark.parametrize("shape", [(4, 8), (4, 8, 8, 4), (1, 4, 8, 8, 3)])
def test_arrays_that_are_no_volume_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="A volume is"):
        Volume(np.zeros(shape, np.uint8), ImageGeometry.from_spacing((1, 1, 1), (8, 8, 4)))


def test_voxels_must_fill_the_grid() -> None:
    with pytest.raises(ValueError, match=r"\(4, 8, 9\).*\(4, 8, 8\)"):
        Volume(np.zeros((4, 8, 9), np.uint8), ImageGeometry.from_spacing((1, 1, 1), (8, 8, 4)))
