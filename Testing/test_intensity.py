from __future__ import annotations

import numpy as np
import pytest
from threshold_predictor import ThresholdPredictor

from dbsam.geometry.grid import ImageGeometry, OrientedBox
from dbsam.inference.segmenter import SliceBoxes, Volume, VolumeSegmenter
from dbsam.preprocess.intensity import CT_WINDOWS, IntensityRule, IntensityWindow, resolve_intensity, window_in_box


def test_a_window_maps_its_ends_to_0_and_255_and_clips_what_lies_beyond() -> None:
    window = resolve_intensity("ct-soft-tissue", np.array([[[-1000, 40, 3000]]], np.int16))
    assert (window.low, window.high) == (-160, 240)
    assert window.apply(np.array([-1000, -160, 40, 240, 3000], np.int16)).tolist() == [0, 0, 128, 255, 255]


@pytest.mark.parametrize("name", sorted(CT_WINDOWS))
def test_every_ct_window_is_its_level_and_width(name: str) -> None:
    level, width = CT_WINDOWS[name]
    window = resolve_intensity(name, np.array([[[-1024, 3000]]], np.int16))
    assert (window.name, window.low, window.high) == (name, level - width / 2, level + width / 2)


def test_an_explicit_level_and_width_is_used_as_given() -> None:
    window = resolve_intensity((100, 50), np.array([[[0, 200]]], np.int16))
    assert (window.name, window.low, window.high) == ("window", 75, 125)


@pytest.mark.parametrize(
    ("voxels", "expected", "reason"),
    [
        (np.array([[[3, 200]]], np.uint8), "as-is", "8 bits"),
        (np.array([[[[0, 9, 255]]]], np.uint16), "as-is", "in colour"),
        (np.array([[[[0, 9, 4000]]]], np.uint16), "percentile", "in colour"),
        (np.array([[[-1024, 60]]], np.int16), "ct-soft-tissue", "Hounsfield"),
        (np.array([[[-1024.0, 60.0]]], np.float64), "ct-soft-tissue", "Hounsfield"),
        (np.array([[[-1024.5, 60.0]]], np.float32), "percentile", "not whole numbers"),
        (np.array([[[0, 900]]], np.int16), "percentile", "not taken for Hounsfield"),
    ],
)
def test_auto_chooses_by_the_values_and_says_why(voxels: np.ndarray, expected: str, reason: str) -> None:
    window = resolve_intensity("auto", voxels)
    assert window.name == expected
    assert reason in window.reason


def test_percentiles_leave_out_zeros_because_background_is_not_tissue() -> None:
    voxels = np.zeros((1, 40, 101), np.int16)
    voxels[0, 0] = np.arange(100, 201)  # 100, 101 ... 200: percentile p is 100 + p
    window = resolve_intensity("percentile", voxels)
    assert (window.low, window.high) == (100.5, 199.5)


def test_percentiles_fall_back_to_the_range_where_the_nonzero_values_are_all_one() -> None:
    voxels = np.zeros((2, 2, 2), np.int16)
    voxels[0, 0, 0] = 7
    window = resolve_intensity("percentile", voxels)
    assert (window.low, window.high) == (0, 7)


def test_nan_and_infinite_values_neither_decide_the_range_nor_show() -> None:
    voxels = np.array([[[np.nan, np.inf, -np.inf, 10.0, 20.0]]], np.float32)
    window = resolve_intensity(IntensityRule("range", lower_percentile=0, upper_percentile=100), voxels)
    assert (window.low, window.high) == (10, 20)
    assert window.apply(voxels).tolist() == [[[0, 0, 0, 0, 255]]]


def test_as_is_keeps_8_bit_values_and_rounds_others() -> None:
    window = resolve_intensity("as-is", np.array([[[0, 255]]], np.uint8))
    levels = np.arange(256, dtype=np.uint8)
    assert window.apply(levels).tolist() == levels.tolist()
    assert window.apply(np.array([0.4, 99.6], np.float32)).tolist() == [0, 100]


def test_large_offsets_do_not_cost_precision() -> None:
    offset = 2**30
    window = IntensityWindow("window", offset, offset + 255, "test")
    assert window.apply(np.arange(offset, offset + 256, dtype=np.int32)).tolist() == list(range(256))


def test_a_permuted_volume_gets_the_same_window() -> None:
    voxels = np.random.default_rng(0).normal(500, 100, (30, 320, 330)).astype(np.float32)  # large enough to be sampled
    window = resolve_intensity("auto", voxels)
    permuted = resolve_intensity("auto", voxels.transpose(2, 0, 1))
    assert (window.low, window.high) == (permuted.low, permuted.high)
    assert window.low == pytest.approx(500 - 2.576 * 100, abs=2)  # the normal distribution's 0.5 percentile


def test_the_sample_of_a_large_colour_image_holds_all_three_colours() -> None:
    voxels = np.zeros((1, 1500, 1400, 3), np.uint16)
    voxels[..., 0], voxels[..., 1], voxels[..., 2] = 1000, 2000, 3000
    window = resolve_intensity("percentile", voxels)
    assert (window.low, window.high) == (1000, 3000)


@pytest.mark.parametrize(
    ("rule", "voxels", "message"),
    [
        ("auto", np.full((2, 2, 2), 5, np.int16), "All values of the image are 5"),
        ("ct-lung", np.full((2, 2, 2), 5, np.int16), "nothing to segment"),
        ("auto", np.full((2, 2, 2), np.nan, np.float32), "no finite value"),
        ("as-is", np.array([[[-1, 255]]], np.int16), "-1 to 255"),
        ("ct-soft-tissue", np.array([[[1000, 3000]]], np.int16), "all black or all white"),
        ("ct-spleen", np.array([[[0, 1]]], np.int16), "Unknown intensity rule 'ct-spleen'"),
        ((40, 0), np.array([[[0, 1]]], np.int16), "width above 0"),
        ((40, 400, 1), np.array([[[0, 1]]], np.int16), "level, width"),
        ("auto", np.array([[[1j, 2j]]]), "complex128"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_its_values(rule: object, voxels: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        resolve_intensity(rule, voxels)  # type: ignore[arg-type]


def ct(bone_share: float = 0.05) -> IntensityWindow:
    """A CT's window as "auto" chooses it, of a body with so much bone."""
    voxels = np.full(1000, 40, np.int16)
    voxels[: round(1000 * bone_share)] = 1200
    return resolve_intensity("auto", np.concatenate([voxels, np.full(3000, -1000, np.int16)])[None, None])


def box_of(**shares: float) -> np.ndarray:
    """A thousand voxels: lung -800, air -1000, fat -90, brain 30, organ 110, bone 600."""
    values = {"lung": -800, "air": -1000, "fat": -90, "brain": 30, "organ": 110, "bone": 600}
    return np.concatenate([np.full(round(1000 * share), values[tissue]) for tissue, share in shares.items()])


@pytest.mark.parametrize(
    ("values", "skull", "expected", "reason"),
    [
        (box_of(lung=0.5, organ=0.4, fat=0.1), 0.05, "ct-lung", "50% of the box is lung"),
        (box_of(lung=0.3, organ=0.6, fat=0.1), 0.05, "ct-soft-tissue", "Hounsfield"),  # a heart between lungs
        (box_of(air=0.6, organ=0.3, fat=0.1), 0.05, "ct-soft-tissue", "Hounsfield"),  # a breast, or bowel gas
        (box_of(bone=0.3, organ=0.5, fat=0.2), 0.05, "ct-bone", "30% of the box is bone"),
        (box_of(bone=0.15, organ=0.7, fat=0.15), 0.05, "ct-soft-tissue", "Hounsfield"),  # a vertebra in muscle
        (box_of(brain=0.8, bone=0.15, fat=0.05), 0.2, "ct-brain", "80% of the box has the values of brain, in a head"),
        (box_of(brain=0.8, bone=0.15, fat=0.05), 0.1, "ct-soft-tissue", "Hounsfield"),  # liver without contrast agent
        (box_of(brain=0.6, fat=0.4), 0.2, "ct-soft-tissue", "Hounsfield"),  # a face
    ],
)
def test_what_a_box_of_a_ct_holds_decides_its_window(
    values: np.ndarray, skull: float, expected: str, reason: str
) -> None:
    window = window_in_box(ct(skull), values)
    assert window.name == expected
    assert reason in window.reason
    level, width = CT_WINDOWS[expected]
    assert (window.low, window.high) == (level - width / 2, level + width / 2)


@pytest.mark.parametrize("rule", ["ct-soft-tissue", "percentile", (40, 400)])
def test_a_window_that_the_user_chose_stays(rule: object) -> None:
    window = resolve_intensity(rule, np.array([[[-1024, 60, 900]]], np.int16))  # type: ignore[arg-type]
    assert window_in_box(window, box_of(lung=1)) == window


def test_what_is_no_ct_keeps_its_window_and_no_number_decides_nothing() -> None:
    window = resolve_intensity("auto", np.array([[[0, 900]]], np.int16))
    assert window_in_box(window, np.full(9, -800)) == window
    values = np.concatenate([box_of(lung=0.5, organ=0.5), np.full(5000, np.nan)])
    assert window_in_box(ct(), values).name == "ct-lung"
    assert window_in_box(ct(), np.full(9, np.nan)).name == "ct-soft-tissue"


def test_each_box_of_a_ct_has_its_own_window() -> None:
    voxels = np.full((8, 60, 60), -1000, np.int16)
    voxels[:, 5:55, 5:55] = 50  # the body
    voxels[:, 10:30, 10:50] = -820  # a lung
    voxels[:, 40:50, 10:50] = 120  # a liver
    volume = Volume(voxels, ImageGeometry.from_spacing((1, 1, 1), (60, 60, 8)))
    engine = VolumeSegmenter(ThresholdPredictor("slice"))
    names = []
    for low, high in (((8, 8, 0), (52, 32, 7)), ((8, 38, 0), (52, 52, 7)), ((8, 8, 0), (52, 32, 7))):
        box = OrientedBox.from_ijk(low, high, volume.geometry)
        engine.prefetch(volume, box, axis=2)
        result = engine.segment(volume, box, axis=2)
        assert result.cache_hits == 8  # what was prepared has the same window
        names.append(result.intensity.name)
    assert names == ["ct-lung", "ct-soft-tissue", "ct-lung"]
    lung = OrientedBox.from_ijk((8, 8, 0), (52, 32, 7), volume.geometry)
    wall = SliceBoxes(2, {3: (31.0, 8.0, 32.0, 30.0)}, clip=lung)  # a rectangle without lung, in the lung's box
    assert engine.segment(volume, wall).intensity.name == "ct-lung"
