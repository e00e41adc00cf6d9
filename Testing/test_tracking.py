from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray
from threshold_predictor import ThresholdPredictor

from dbsam.geometry.grid import ImageGeometry, OrientedBox
from dbsam.inference.segmenter import Volume, VolumeSegmentation, VolumeSegmenter
from dbsam.inference.tracking import TrackingRule, grown, parts_touching

SIZE = 48

Square = tuple[int, int, int, int]


def mask_of(*rows: str) -> NDArray[np.bool_]:
    return np.array([[character == "#" for character in row] for row in rows])


def track(
    squares: dict[int, list[Square]],
    slices: int = 16,
    spacing_mm: tuple[float, float, float] = (1, 1, 1),
    predictor: ThresholdPredictor | None = None,
    rule: TrackingRule | None = None,
    **options: int,
) -> VolumeSegmentation:
    """Follows bright rectangles x0, y0, x1, y1 (pixels, included) through the K-slices of a dark volume."""
    voxels = np.full((slices, SIZE, SIZE), 20, np.uint8)
    for index, drawn in squares.items():
        for x0, y0, x1, y1 in drawn:
            voxels[index, y0 : y1 + 1, x0 : x1 + 1] = 200
    voxels[0, 0, 0] = 21  # never constant
    volume = Volume(voxels, ImageGeometry.from_spacing(spacing_mm, (SIZE, SIZE, slices)))
    box = OrientedBox.from_ijk((1, 1, 0), (SIZE - 2, SIZE - 2, slices - 1), volume.geometry)
    engine = VolumeSegmenter(predictor or ThresholdPredictor(), tracking=rule)
    return engine.segment(volume, box, axis=2, strategy="track", **options)


def found_slices(result: VolumeSegmentation) -> list[int]:
    return [report.index for report in result.slices if report.area_pixels]


def test_the_object_ends_after_two_empty_slices_and_what_lies_beyond_is_not_looked_at() -> None:
    square = [(10, 10, 25, 25)]
    result = track(dict.fromkeys((*range(5, 11), 13, 14), square))
    assert found_slices(result) == [5, 6, 7, 8, 9, 10]
    assert [report.index for report in result.slices] == list(range(3, 13))


def test_one_empty_slice_is_bridged() -> None:
    square = [(10, 10, 25, 25)]
    assert found_slices(track(dict.fromkeys((5, 6, 7, 8, 10, 11), square))) == [5, 6, 7, 8, 10, 11]


def test_patience_is_a_setting() -> None:
    square = [(10, 10, 25, 25)]
    result = track(dict.fromkeys((6, 7, 8, 10, 11), square), rule=TrackingRule(patience=1))
    assert found_slices(result) == [6, 7, 8]


def test_the_next_box_is_the_last_masks_box_plus_the_margin_within_the_prompt() -> None:
    predictor = ThresholdPredictor()
    rule = TrackingRule(margin_slice_distances=1, margin_share=0, margin_pixels=1)
    track(
        {8: [(10, 20, 19, 29)], 9: [(2, 20, 19, 29)]},
        slices=11,
        spacing_mm=(1, 2, 4),
        predictor=predictor,
        rule=rule,
        start_slice=8,
    )
    first, above = predictor.decoded[:2]
    assert first.tolist() == [0.5, 0.5, 46.5, 46.5]
    assert above.tolist() == [5.5, 17.5, 23.5, 31.5]  # 4 mm are 4 pixels along x and 2 along y


def test_an_object_that_moves_and_widens_by_up_to_the_margin_is_followed() -> None:
    squares = {k: [(4 + k, 6, 12 + 2 * k, 14)] for k in range(10)}
    result = track(squares, start_slice=2)
    assert [report.area_pixels for report in result.slices[:10]] == [9 * (9 + k) for k in range(10)]


def test_a_start_slice_without_the_object_is_replaced_by_one_that_shows_it() -> None:
    result = track({k: [(10, 10, 25, 25)] for k in (12, 13, 14)}, start_slice=3)
    assert found_slices(result) == [12, 13, 14]


def test_where_no_slice_is_trusted_the_best_one_is_still_shown() -> None:
    predictor = ThresholdPredictor(predicted_iou=lambda mask: 0.3 if mask.mean() > 0.04 else 0.2)
    result = track({5: [(10, 10, 20, 20)], 9: [(10, 10, 30, 30)]}, predictor=predictor)
    assert found_slices(result) == [9]


def test_a_small_trusted_mask_does_not_replace_a_large_start_that_is_not_trusted() -> None:
    predictor = ThresholdPredictor(predicted_iou=lambda mask: 0.3 if mask.mean() > 0.04 else 0.6)
    body, speck = [(8, 8, 37, 37)], [(20, 20, 24, 24)]
    result = track({7: body, 8: body, 9: body, 3: speck}, predictor=predictor, start_slice=8)
    assert found_slices(result) == [7, 8, 9]


def test_a_model_that_never_trusts_its_masks_still_follows_the_object() -> None:
    predictor = ThresholdPredictor("slice", predicted_iou=lambda mask: 0.05)
    result = track({k: [(10, 10, 25, 25)] for k in range(3, 12)}, predictor=predictor)
    assert found_slices(result) == list(range(3, 12))


def test_an_empty_prompt_gives_an_empty_mask_with_a_report_on_every_slice() -> None:
    result = track({})
    assert not result.labelmap_KJI().any()
    assert [report.index for report in result.slices] == list(range(16))


def test_slices_that_the_model_does_not_trust_end_the_object_and_are_left_empty() -> None:
    predictor = ThresholdPredictor(predicted_iou=lambda mask: 0.9 if mask.any(axis=0).sum() > 50 else 0.1)
    wide, narrow = [(6, 10, 41, 25)], [(6, 10, 14, 25)]
    squares = dict.fromkeys(range(4, 9), wide) | dict.fromkeys(range(9, 16), narrow)
    result = track(squares, predictor=predictor, start_slice=6)
    assert found_slices(result) == [4, 5, 6, 7, 8]


def test_near_the_start_less_trust_is_enough_than_towards_the_end_of_the_prompt() -> None:
    def trust(mask: NDArray[np.bool_]) -> float:
        return 0.9 if mask.any(axis=0).sum() > 50 else 0.3

    wide, narrow = [(6, 10, 41, 25)], [(6, 10, 14, 25)]
    squares = dict.fromkeys(range(5, 9), wide) | dict.fromkeys(range(9, 24), narrow)
    result = track(squares, slices=24, predictor=ThresholdPredictor(predicted_iou=trust), start_slice=6)
    assert found_slices(result) == list(range(5, 15))  # half of the way from 6 to 23 ends at 14
    rule = TrackingRule(near_share=0)
    result = track(squares, slices=24, predictor=ThresholdPredictor(predicted_iou=trust), rule=rule, start_slice=6)
    assert found_slices(result) == [5, 6, 7, 8]


def test_a_slice_that_shows_only_a_piece_does_not_narrow_the_box_of_those_after_it() -> None:
    body, piece = [(10, 10, 29, 29)], [(10, 10, 17, 17)]
    result = track(dict.fromkeys(range(4, 12), body) | {9: piece}, start_slice=7)
    assert [report.area_pixels for report in result.slices if report.area_pixels] == [400] * 5 + [64] + [400] * 2


def test_small_leftovers_in_a_row_are_dropped_but_a_small_last_section_is_kept() -> None:
    body, speck = [(10, 10, 29, 29)], [(18, 18, 20, 20)]
    leftovers = dict.fromkeys(range(5, 10), body) | dict.fromkeys(range(10, 15), speck)
    assert found_slices(track(leftovers)) == [5, 6, 7, 8, 9]
    tip = dict.fromkeys(range(5, 10), body) | {10: speck}
    assert found_slices(track(tip)) == [5, 6, 7, 8, 9, 10]


def test_a_weak_last_slice_of_the_prompt_is_kept_since_the_object_has_not_ended() -> None:
    squares = {k: [(10, 10, 29, 29)] for k in range(4, 15)} | {15: [(18, 18, 20, 20)]}
    assert found_slices(track(squares)) == list(range(4, 16))


def test_a_part_that_appears_away_from_the_last_mask_is_dropped() -> None:
    # The corners of a thin frame are near its box's corners; the speck inside it is in the box but far from the frame.
    frame = [(8, 8, 40, 10), (8, 38, 40, 40), (8, 8, 10, 40), (38, 8, 40, 40)]
    speck = (22, 22, 26, 26)
    result = track({7: frame, 8: frame, 9: [*frame, speck]}, start_slice=8)
    assert not result.labelmap_KJI()[9, 22:27, 22:27].any()
    assert [report.area_pixels for report in result.slices if report.area_pixels] == [360, 360, 360]


def test_all_parts_of_the_start_slice_are_followed() -> None:
    two = [(8, 8, 14, 14), (30, 30, 38, 38)]
    result = track(dict.fromkeys(range(6, 11), two), start_slice=8)
    assert [report.area_pixels for report in result.slices if report.area_pixels] == [49 + 81] * 5


def test_an_object_that_leaves_the_prompt_ends_there() -> None:
    geometry = ImageGeometry.from_spacing((1, 1, 1), (SIZE, SIZE, 12))
    voxels = np.full(geometry.shape_KJI, 20, np.uint8)
    voxels[:, 4:10, 4:10] = 200
    sheared = np.array([[9.0, 0, 0], [0, 9.0, 0], [24.0, 24.0, 6.0]])  # its cut wanders from one corner to the other
    box = OrientedBox(np.array([24.0, 24.0, 5.5]), sheared)
    engine = VolumeSegmenter(ThresholdPredictor())
    result = engine.segment(Volume(voxels, geometry), box, axis=2, strategy="track")
    inside = result.labelmap_KJI() > 0
    k, j, i = np.nonzero(inside)
    assert len(k)
    assert box.contains_ras(np.stack([i, j, k], axis=-1).astype(float)).all()
    assert max(k) <= 4


def test_reports_of_dropped_slices_say_that_nothing_touches() -> None:
    squares = {k: [(10, 10, 29, 29)] for k in range(5, 10)}
    assert not any(report.touches_edge for report in track(squares).slices if report.area_pixels == 0)


def test_a_rule_that_could_not_follow_anything_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one slice"):
        TrackingRule(patience=0)
    with pytest.raises(ValueError, match="at least one attempt"):
        TrackingRule(start_attempts=0)


def test_only_parts_that_overlap_the_anchor_are_kept_and_corners_connect() -> None:
    mask = mask_of(
        "##...#",
        "..#..#",
        "..#...",
        "#..##.",
        "#....#",
    )
    anchor = np.zeros_like(mask)
    anchor[0, 0] = True
    expected = mask_of(
        "##....",
        "..#...",
        "..#...",
        "...##.",
        ".....#",
    )
    assert np.array_equal(parts_touching(mask, anchor), expected)
    assert not parts_touching(mask, np.zeros_like(mask)).any()
    assert np.array_equal(parts_touching(mask, mask), mask)


@pytest.mark.parametrize("seed", range(5))
def test_parts_agree_with_a_flood_fill(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask, anchor = rng.random((30, 37)) < 0.45, rng.random((30, 37)) < 0.01
    kept = mask & anchor
    while True:
        larger = mask & grown(kept, 1, 1)
        if (larger == kept).all():
            break
        kept = larger
    assert np.array_equal(parts_touching(mask, anchor), kept)


def test_a_noisy_mask_takes_no_noticeable_time() -> None:
    mask = np.random.default_rng(0).random((512, 512)) < 0.4
    anchor = np.zeros_like(mask)
    anchor[200:300, 200:300] = True
    started = time.perf_counter()
    parts_touching(mask, anchor)
    assert time.perf_counter() - started < 2  # 0.06 s on a slow laptop


def test_growing_reaches_so_many_pixels_along_each_axis() -> None:
    mask = np.zeros((5, 8), bool)
    mask[2, 1] = True
    expected = mask_of("........", "####....", "####....", "####....", "........")
    assert np.array_equal(grown(mask, 1, 2), expected)
