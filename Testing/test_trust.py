"""What speaks for a mask, other starts where little does, and what is said of it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from numpy.typing import NDArray
from phantoms import stack_of_squares, whole_box
from threshold_predictor import ThresholdPredictor

from dbsam.geometry.grid import ImageGeometry, OrientedBox
from dbsam.inference.decoding import SliceMask
from dbsam.inference.doubts import doubts_about
from dbsam.inference.segmenter import TrackingRule, Volume, VolumeSegmentation, VolumeSegmenter
from dbsam.inference.trust import dice, trust_in

SIZE, SLICES = 48, 16
BODY, SPECK = (6, 8, 21, 31), (36, 20, 41, 27)  # 16 x 24 and 6 x 8 pixels, x0, y0, x1, y1, included
BODY_AREA, SPECK_AREA = 16 * 24, 6 * 8
BOTH_AREA = BODY_AREA + SPECK_AREA


def row(index: int, first: int, last: int, predicted_iou: float = 0.8) -> SliceMask:
    """A mask of one row of ten pixels."""
    mask = np.zeros((1, 10), bool)
    mask[0, first : last + 1] = True
    return SliceMask(index, np.array([-0.5, -0.5, 9.5, 0.5]), mask, predicted_iou, False)


def test_trust_is_the_mean_of_confidence_overlap_and_agreement() -> None:
    masks = {3: row(3, 0, 3, 0.9), 4: row(4, 0, 3, 0.7), 5: row(5, 2, 5, 0.5), 6: row(6, 5, 4)}
    looks = {3: row(3, 0, 9), 4: row(4, 0, 3), 5: row(5, 5, 8), 6: row(6, 0, 9)}
    trust = trust_in(masks, 10, looks, start=4)
    assert trust.confidence == pytest.approx(0.7)  # the empty slice doesn't count
    assert trust.overlap == pytest.approx((1 + 0.5) / 2)
    assert trust.agreement == pytest.approx((8 / 14 + 0.25) / 2)  # of 3 and 5: 4 is the start, 6 lies beyond the end
    assert trust.disagreeing == (5,)
    assert trust.value == pytest.approx((trust.confidence + trust.overlap + trust.agreement) / 3)


def test_what_is_not_known_of_a_mask_does_not_count() -> None:
    alone = trust_in({0: row(0, 0, 3, 0.6)}, 1)
    assert (alone.overlap, alone.agreement, alone.value) == (None, None, pytest.approx(0.6))
    one_of_many = trust_in({2: row(2, 0, 3, 0.6)}, 9, {2: row(2, 0, 3), 7: row(7, 0, 3)}, start=2)
    assert (one_of_many.overlap, one_of_many.agreement, one_of_many.value) == (0, 0, pytest.approx(0.2))
    assert trust_in({0: row(0, 5, 4)}, 3).value == 0
    assert dice(np.zeros(3, bool), np.zeros(3, bool)) == 1


def body_and_speck() -> Volume:
    """The body is missing on the middle slice alone, where only the speck is, which spans few slices."""
    voxels = np.full((SLICES, SIZE, SIZE), 20, np.uint8)
    for index in range(SLICES):
        for drawn, (x0, y0, x1, y1) in ((index != 8, BODY), (6 <= index <= 10, SPECK)):
            if drawn:
                voxels[index, y0 : y1 + 1, x0 : x1 + 1] = 200
    return Volume(voxels, ImageGeometry.from_spacing((1, 1, 1), (SIZE, SIZE, SLICES)))


def unsure() -> ThresholdPredictor:
    return ThresholdPredictor("slice", predicted_iou=lambda mask: 0.6)


def areas(result: VolumeSegmentation) -> list[int]:
    return result.labelmap_KJI().sum(axis=(1, 2)).tolist()


def test_a_start_that_other_slices_speak_against_gives_way() -> None:
    volume = body_and_speck()
    told: dict[int, NDArray[np.uint8]] = {}
    result = VolumeSegmenter(unsure()).segment(
        volume, whole_box(volume), axis=2, on_slice=lambda report, mask: told.update({report.index: mask})
    )
    both, speck = [BOTH_AREA] * 2, [SPECK_AREA]
    assert (
        areas(result) == [BODY_AREA] * 6 + both + speck + both + [BODY_AREA] * 5
    )  # from slice 6 or 10, which show both
    assert not result.likely_wrong
    assert [report.index for report in result.slices] == list(range(SLICES))
    for index, mask in told.items():  # what was told last is what is in the result
        assert np.array_equal(mask, result.labelmap_KJI()[index])


@pytest.mark.parametrize("way", ["start slice", "rule"])
def test_a_start_that_the_user_chose_stays_and_what_speaks_against_it_is_said(way: str) -> None:
    volume = body_and_speck()
    rule = TrackingRule(least_trust=0) if way == "rule" else None
    options = {"start_slice": 8} if way == "start slice" else {}
    result = VolumeSegmenter(unsure(), tracking=rule).segment(volume, whole_box(volume), axis=2, **options)
    assert areas(result) == [0] * 6 + [SPECK_AREA] * 5 + [0] * 5
    assert result.trust is not None
    # Slices 6 and 10 were looked at alone and show both; 8 is the start.
    assert result.trust.agreement == pytest.approx(2 * SPECK_AREA / (SPECK_AREA + BOTH_AREA))
    assert result.likely_wrong
    assert result.doubts[0].slices == (6, 10)
    assert "likely wrong" in result.doubts[0].text
    assert "slices 6, 10 alone show something else" in result.doubts[0].text


def test_where_all_starts_agree_the_object_is_followed_once() -> None:
    volume = stack_of_squares(dict.fromkeys(range(12), (10, 10, 25, 25)))
    predictor = ThresholdPredictor("slice")
    result = VolumeSegmenter(predictor).segment(volume, whole_box(volume), axis=2)
    assert result.trust is not None
    assert result.trust.value == pytest.approx((0.9 + 1 + 1) / 3)
    assert result.doubts == ()
    looks = 6  # 1, 3, 6, 8, 10 of the box, and 2, 6, 10 of what was found; 6 is the start, which was seen so
    assert len(predictor.decoded) == 12 + looks - 1
    assert predictor.encoded_slices == 12


def test_nothing_found_is_said() -> None:
    volume = stack_of_squares({0: (0, 0, 3, 3)})
    box = OrientedBox.from_ijk((10, 10, 2), (30, 30, 9), volume.geometry)
    result = VolumeSegmenter(ThresholdPredictor("slice")).segment(volume, box, axis=2)
    assert result.likely_wrong
    assert [doubt.text for doubt in result.doubts] == ["nothing was found in the box"]


def test_jumps_low_confidence_and_edges_are_named_by_slice() -> None:
    squares = dict.fromkeys(range(12), (4, 4, 15, 15)) | dict.fromkeys((5, 6), (13, 4, 24, 15))
    volume = stack_of_squares(squares)
    predictor = ThresholdPredictor("slice")
    box = OrientedBox.from_ijk((2, 2, 0), (24, 30, 11), volume.geometry)
    result = VolumeSegmenter(predictor).segment(volume, box, axis=2, strategy="box")
    texts = [doubt.text for doubt in result.doubts]
    assert "the mask jumps at slices 5, 7" in texts
    assert "the mask touches the edge of the box on slices 5 to 6; a larger box may be needed" in texts
    report = dataclasses.replace(result.slices[3], predicted_iou=0.4)
    slices = [report if one.index == 3 else one for one in result.slices]
    assert "low confidence on slice 3" in [d.text for d in doubts_about(dataclasses.replace(result, slices=slices))]


def test_voxels_that_are_no_numbers_are_counted() -> None:
    voxels = np.full((6, 30, 30), 100.0, np.float32)
    voxels[:, 10:20, 10:20] = 900.0
    voxels[2, 5:7, 5:8] = [[np.nan] * 3, [np.inf] * 3]
    voxels[0, 29, 29] = np.nan  # outside the box
    volume = Volume(voxels, ImageGeometry.from_spacing((1, 1, 1), (30, 30, 6)))
    box = OrientedBox.from_ijk((2, 2, 0), (27, 27, 5), volume.geometry)
    result = VolumeSegmenter(ThresholdPredictor("slice")).segment(volume, box, axis=2)
    assert "6 voxels of the box are no numbers (NaN or infinite); they were shown black" in [
        doubt.text for doubt in result.doubts
    ]
    assert not result.labelmap_KJI()[2, 5:7, 5:8].any()


def test_slices_done_anew_take_the_place_of_the_former_and_are_doubted_as_any_others() -> None:
    volume = stack_of_squares(dict.fromkeys(range(12), (10, 10, 25, 25)))
    segmenter = VolumeSegmenter(ThresholdPredictor("slice"))
    former = segmenter.segment(volume, whole_box(volume), axis=2)
    smaller = OrientedBox.from_ijk((10, 10, 5), (25, 15, 8), volume.geometry)
    redone = segmenter.segment(volume, smaller, axis=2)
    merged = former.with_slices_of(redone, range(6, 12))
    assert areas(merged) == [256] * 6 + [96] * 3 + [0] * 3
    assert [one.index for one in merged.slices] == list(range(9))
    assert areas(former) == [256] * 12
    assert merged.trust is None
    assert merged.doubts[0].text.startswith("the mask touches the edge of the box on slices 6 to 8;")
    with pytest.raises(ValueError, match="along another axis or on another volume"):
        former.with_slices_of(segmenter.segment(volume, smaller, axis=1), range(6, 12))
