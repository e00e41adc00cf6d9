"""Corrections by clicks, with a stand-in that adds or takes away the bright part a click lies on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from cases import write_tiny_weights
from numpy.typing import NDArray
from phantoms import centred_grid, random_rotation, whole_box
from scipy import ndimage
from threshold_predictor import ThresholdPredictor

import dbsam
from dbsam.cli.case import Case, run_case
from dbsam.cli.manifest import ManifestError, read_manifest
from dbsam.geometry.grid import ImageGeometry, OrientedBox, slice_axes
from dbsam.inference.predictor import ModelPredictor
from dbsam.inference.segmenter import (
    Cancelled,
    CancelToken,
    PointPrompt,
    Volume,
    VolumeSegmentation,
    VolumeSegmenter,
)
from dbsam.preprocess.intensity import parse_window
from dbsam.preprocess.prompts import PromptPlan, SliceBoxes

SIZE, SLICES = 48, 13
BODY, OTHER = (8, 8, 21, 21), (30, 30, 37, 37)  # x0, y0, x1, y1, included


def volume_of(squares: dict[int, list[tuple[int, int, int, int]]]) -> Volume:
    voxels = np.full((SLICES, SIZE, SIZE), 20, np.uint8)
    for index, drawn in squares.items():
        for x0, y0, x1, y1 in drawn:
            voxels[index, y0 : y1 + 1, x0 : x1 + 1] = 200
    return Volume(voxels, ImageGeometry.from_spacing((1, 1, 1), (SIZE, SIZE, SLICES)))


TWO = volume_of({key: [BODY, OTHER] for key in range(2, 11)})


def click(i: float, j: float, k: float, include: bool = False, volume: Volume = TWO) -> PointPrompt:
    return PointPrompt.from_ijk((i, j, k), volume.geometry, include)


def areas(result: VolumeSegmentation) -> list[int]:
    return result.labelmap_KJI().sum(axis=(1, 2)).tolist()


def first_result(engine: VolumeSegmenter, volume: Volume = TWO, box: OrientedBox | None = None) -> VolumeSegmentation:
    return engine.segment(volume, box or whole_box(volume), axis=2)


BOTH, ONE = 14 * 14 + 8 * 8, 14 * 14
NOTHING = [0, 0]


@pytest.mark.parametrize(
    ("spread", "expected"),
    [
        ("slice", [*NOTHING, *[BOTH] * 4, ONE, *[BOTH] * 4, *NOTHING]),
        ("ascending", [*NOTHING, *[BOTH] * 4, *[ONE] * 5, *NOTHING]),
        ("descending", [*NOTHING, *[ONE] * 5, *[BOTH] * 4, *NOTHING]),
        ("both", [*NOTHING, *[ONE] * 9, *NOTHING]),
    ],
)
def test_a_part_clicked_away_is_gone_on_the_slice_and_as_far_as_is_asked(spread: str, expected: list[int]) -> None:
    engine = VolumeSegmenter(ThresholdPredictor("slice"))
    former = first_result(engine)
    assert areas(former) == [*NOTHING, *[BOTH] * 9, *NOTHING]
    corrected = engine.correct(TWO, former, [click(33, 33, 6)], spread=spread)
    assert areas(corrected) == expected
    assert areas(former) == [*NOTHING, *[BOTH] * 9, *NOTHING]  # untouched
    assert [report.index for report in corrected.slices if report.clicks] == [6]


def test_clicks_are_rounds_each_with_the_mask_of_those_before() -> None:
    predictor = ThresholdPredictor("slice")
    engine = VolumeSegmenter(predictor)
    former = first_result(engine)
    predictor.clicks.clear()
    away, back = click(33, 33, 6), click(33, 33, 6, include=True)
    assert areas(engine.correct(TWO, former, [away, back]))[6] == BOTH
    assert predictor.clicks == [[0], [0, 1]]  # the rectangle's own mask was at hand


def test_a_further_click_costs_one_decoding_and_no_encoding() -> None:
    predictor = ThresholdPredictor("slice")
    engine = VolumeSegmenter(predictor)
    first = engine.correct(TWO, first_result(engine), [click(33, 33, 6)])
    encoded, decoded = predictor.encoded_slices, len(predictor.decoded)
    second = engine.correct(TWO, first, [click(34, 34, 6, include=True)])
    assert (predictor.encoded_slices - encoded, len(predictor.decoded) - decoded) == (0, 1)
    assert areas(second)[6] == BOTH
    assert second.points == (click(33, 33, 6), click(34, 34, 6, include=True))
    assert next(report for report in second.slices if report.index == 6).clicks == 2


def test_the_same_clicks_give_the_same_mask_whatever_was_asked_before() -> None:
    points = [click(33, 33, 6), click(12, 12, 4), click(12, 12, 4, include=True)]
    busy, fresh = VolumeSegmenter(ThresholdPredictor()), VolumeSegmenter(ThresholdPredictor())
    former = first_result(busy)
    for point in reversed(points):
        busy.correct(TWO, former, [point], spread="both")
    expected = fresh.correct(TWO, first_result(fresh), points, spread="both")
    again = busy.correct(TWO, former, points, spread="both")
    assert np.array_equal(again.labelmap_KJI(), expected.labelmap_KJI())
    assert again.slices == expected.slices


def test_earlier_clicks_stop_the_spread_and_new_ones_meet_half_way() -> None:
    engine = VolumeSegmenter(ThresholdPredictor("slice"))
    kept = engine.correct(TWO, first_result(engine), [click(33, 33, 4), click(33, 33, 4, include=True)])
    stopped = engine.correct(TWO, kept, [click(33, 33, 7)], spread="both")
    assert areas(stopped) == [*NOTHING, BOTH, BOTH, BOTH, *[ONE] * 6, *NOTHING]
    other = engine.correct(TWO, first_result(engine), [click(33, 33, 3), click(12, 12, 8)], spread="both")
    assert areas(other) == [*NOTHING, *[ONE] * 4, *[8 * 8] * 5, *NOTHING]  # 4 to 7 lie between: two slices each


def test_an_include_click_beside_the_box_widens_it_on_that_slice() -> None:
    engine = VolumeSegmenter(ThresholdPredictor("slice"))
    box = OrientedBox.from_ijk((5, 5, 1), (24, 24, 11), TWO.geometry)
    former = first_result(engine, box=box)
    assert areas(former)[6] == ONE
    corrected = engine.correct(TWO, former, [click(36, 36, 6, include=True)])
    assert areas(corrected) == [*NOTHING, *[ONE] * 4, BOTH, *[ONE] * 4, *NOTHING]
    assert former.extent_ijk[0] == (5, 24)
    assert corrected.extent_ijk[0] == (5, 39)


def test_an_include_click_beyond_the_boxs_slices_carries_the_box_on() -> None:
    engine = VolumeSegmenter(ThresholdPredictor("slice"))
    box = OrientedBox.from_ijk((5, 5, 1), (24, 24, 5), TWO.geometry)
    former = first_result(engine, box=box)
    assert areas(former) == [*NOTHING, *[ONE] * 4, *[0] * 7]
    point = click(15, 15, 8, include=True)
    assert areas(engine.correct(TWO, former, [point])) == [*NOTHING, *[ONE] * 4, 0, 0, ONE, *[0] * 4]
    assert areas(engine.correct(TWO, former, [point], spread="both"))[2:11] == [*[ONE] * 7, 0, 0]


def test_an_exclude_click_where_the_box_is_not_changes_nothing() -> None:
    engine = VolumeSegmenter(ThresholdPredictor("slice"))
    former = first_result(engine, box=OrientedBox.from_ijk((5, 5, 1), (24, 24, 5), TWO.geometry))
    corrected = engine.correct(TWO, former, [click(15, 15, 9)], spread="both")
    assert areas(corrected) == areas(former)
    assert corrected.extent_ijk == former.extent_ijk


def test_a_slice_clicked_empty_spreads_nothing() -> None:
    volume = volume_of({key: [BODY] for key in range(2, 11)})
    engine = VolumeSegmenter(ThresholdPredictor("slice"))
    corrected = engine.correct(volume, first_result(engine, volume), [click(12, 12, 6)], spread="both")
    assert areas(corrected) == [*NOTHING, *[ONE] * 4, 0, *[ONE] * 4, *NOTHING]


def test_where_the_corrected_object_ends_the_former_masks_go() -> None:
    longer = (26, 26, 41, 41)
    volume = volume_of({key: [longer] for key in range(2, 11)} | {key: [BODY, longer] for key in range(2, 7)})
    engine = VolumeSegmenter(ThresholdPredictor("slice"))
    former = first_result(engine, volume)
    assert areas(former)[7:11] == [16 * 16] * 4
    corrected = engine.correct(volume, former, [click(33, 33, 5)], spread="both")
    assert areas(corrected) == [*NOTHING, *[ONE] * 5, *[0] * 6]


@pytest.mark.parametrize("seed", range(5))
def test_a_click_belongs_to_the_slice_that_holds_it_in_oblique_frames(seed: int) -> None:
    rng = np.random.default_rng(seed)
    geometry = centred_grid(random_rotation(rng), (0.8, 1.1, 2.5), (SIZE, SIZE, SLICES))
    volume = Volume(TWO.voxels, geometry)
    engine = VolumeSegmenter(ThresholdPredictor("slice"))
    former = first_result(engine, volume)
    point = PointPrompt.from_ijk((33.3, 33.4, 6.45), geometry, include=False)
    assert np.linalg.norm(np.array(point.position_ras) - PointPrompt.from_ijk((33, 33, 6), geometry).position_ras) > 1
    assert areas(engine.correct(volume, former, [point])) == [*NOTHING, *[BOTH] * 4, ONE, *[BOTH] * 4, *NOTHING]


def test_each_slice_done_anew_is_told_with_its_whole_mask() -> None:
    engine = VolumeSegmenter(ThresholdPredictor("slice"))
    former = first_result(engine)
    told: dict[int, NDArray[np.uint8]] = {}
    corrected = engine.correct(
        TWO, former, [click(33, 33, 6)], spread="ascending", on_slice=lambda r, mask: told.update({r.index: mask})
    )
    assert sorted(told)[:5] == [6, 7, 8, 9, 10]
    assert all(np.array_equal(mask, corrected.labelmap_KJI()[index]) for index, mask in told.items())


def test_a_cancelled_correction_leaves_the_former_result_and_can_be_asked_again() -> None:
    predictor = ThresholdPredictor("slice")
    engine = VolumeSegmenter(predictor)
    former = first_result(engine)
    cancel = CancelToken()
    with pytest.raises(Cancelled):
        engine.correct(
            TWO, former, [click(33, 33, 6)], spread="both", cancel=cancel, on_slice=lambda report, mask: cancel.cancel()
        )
    assert areas(former) == [*NOTHING, *[BOTH] * 9, *NOTHING]
    assert areas(engine.correct(TWO, former, [click(33, 33, 6)], spread="both"))[2:11] == [ONE] * 9


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sees", ["box", "slice"])
def test_a_result_cut_to_a_slice_is_corrected_as_the_whole_is(axis: int, sees: Literal["box", "slice"]) -> None:
    rng = np.random.default_rng(axis)
    bright = ndimage.gaussian_filter(rng.normal(size=(20, 26, 32)), 2)
    volume = Volume(
        (60 + 400 * bright).clip(0, 255).astype(np.uint8) * 2, ImageGeometry.from_spacing((1, 1.3, 2), (32, 26, 20))
    )
    box = OrientedBox(
        (volume.geometry.ijk_to_ras @ [15.5, 12.5, 9.5, 1])[:3],
        random_rotation(rng) @ np.diag([11.0, 11.0, 13.0]),
    )
    engine = VolumeSegmenter(ThresholdPredictor(sees, threshold=120))
    former = engine.segment(volume, box, axis=axis, intensity=(127.5, 255.0))
    index = former.slices[len(former.slices) // 2].index
    xyxy = PromptPlan(box, volume.geometry, axis).boxes_xyxy[index]
    prompt = SliceBoxes(axis, {index: xyxy}, box)
    x_axis, y_axis = slice_axes(axis)
    for include in (False, True):
        ijk = np.zeros(3)
        ijk[[x_axis, y_axis, axis]] = (xyxy[0] + xyxy[2]) / 2, (xyxy[1] + xyxy[3]) / 2, index
        points = [PointPrompt.from_ijk(ijk, volume.geometry, include)]
        cut = former.on_slice(index, prompt)
        assert cut.mask_KJI.shape[2 - axis] == 1
        np.testing.assert_array_equal(
            np.take(cut.labelmap_KJI(), index, 2 - axis), np.take(former.labelmap_KJI(), index, 2 - axis)
        )
        on_slice = engine.correct(volume, cut, points)
        whole = engine.correct(volume, former, points)
        expected = np.take(whole.labelmap_KJI(), index, 2 - axis)
        np.testing.assert_array_equal(np.take(on_slice.labelmap_KJI(), index, 2 - axis), expected)
        assert on_slice.slices == [report for report in whole.slices if report.index == index]
        assert whole.on_slice(index, prompt).points == tuple(points)
        assert whole.on_slice(index, prompt).slices[0].clicks == 1


def test_a_rotated_box_is_widened_to_the_rectangle_round_the_click() -> None:
    half_axes = np.array([[10.0, 10.0, 0], [-10.0, 10.0, 0], [0, 0, 4.0]])  # a square on its corner
    box = OrientedBox(np.array([24.0, 24.0, 6.0]), half_axes)
    plain = PromptPlan(box, TWO.geometry, 2)
    beside = PromptPlan(box, TWO.geometry, 2, [click(6, 6, 6, include=True)])
    within = PromptPlan(box, TWO.geometry, 2, [click(24, 24, 6, include=True)])
    assert np.array_equal(within.inside(6), plain.inside(6))
    assert beside.boxes_xyxy[6].tolist() == pytest.approx([4, 4, 44, 44])  # its corner was at 4
    assert beside.inside(6).all()
    assert not plain.inside(6).all()
    assert np.array_equal(beside.inside(5), plain.inside(5))


@pytest.mark.parametrize(
    ("points", "options", "message"),
    [
        ([click(60, 10, 6)], {}, r"voxel \[60.0, 10.0, 6.0\] lies outside the volume of \(48, 48, 13\)"),
        ([PointPrompt((float("nan"), 0, 0))], {}, "outside the volume"),
        ([], {}, "no click"),
        ([click(10, 10, 6)], {"spread": "head"}, "Unknown spread 'head': use slice, both"),
    ],
)
def test_what_cannot_be_corrected_is_refused(points: list[PointPrompt], options: dict[str, str], message: str) -> None:
    engine = VolumeSegmenter(ThresholdPredictor("slice"))
    with pytest.raises(ValueError, match=message):
        engine.correct(TWO, first_result(engine), points, **options)


def test_a_model_without_clicks_says_so() -> None:
    engine = VolumeSegmenter(ThresholdPredictor("slice", takes_points=False))
    with pytest.raises(ValueError, match="wasn't trained with clicks"):
        engine.correct(TWO, first_result(engine), [click(33, 33, 6)])


def write_points(path: Path, *lists: dict[str, object]) -> Path:
    schema = "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    document = {"@schema": schema + "markups-schema-v1.0.3.json#", "markups": list(lists)}
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def control(label: str, position: list[float], status: str = "defined") -> dict[str, object]:
    return {"id": label, "label": label, "position": position, "positionStatus": status}


def test_a_point_list_of_slicer_gives_clicks_in_ras(tmp_path: Path) -> None:
    path = write_points(
        tmp_path / "clicks.mrk.json",
        {"type": "ROI", "center": [0, 0, 0], "size": [1, 1, 1]},
        {
            "type": "Fiducial",
            "coordinateSystem": "LPS",
            "controlPoints": [
                control("F-1", [1, 2, 3]),
                control("Exclude-1", [4, 5, 6]),
                control("F-2", [0, 0, 0], "preview"),
            ],
        },
        {"type": "Fiducial", "name": "exclude", "coordinateSystem": "RAS", "controlPoints": [control("", [7, 8, 9])]},
    )
    assert dbsam.read_points(path) == [
        PointPrompt((-1, -2, 3), include=True),
        PointPrompt((-4, -5, 6), include=False),
        PointPrompt((7, 8, 9), include=False),
    ]


@pytest.mark.parametrize(
    ("markup", "message"),
    [
        ({"type": "ROI"}, "holds no point .it holds: ROI"),
        ({"type": "Fiducial", "controlPoints": []}, "holds no point"),
        ({"type": "Fiducial", "controlPoints": [control("F-1", [1, 2])]}, "needs 3 numbers as 'position'"),
        ({"type": "Fiducial", "controlPoints": 3}, "as 'controlPoints'"),
        ({"type": "Fiducial", "coordinateSystem": "IJK", "controlPoints": [control("F-1", [1, 2, 3])]}, "'IJK'"),
    ],
)
def test_a_file_that_is_no_point_list_is_refused(tmp_path: Path, markup: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dbsam.read_points(write_points(tmp_path / "clicks.mrk.json", markup))


def written_case(folder: Path, **options: object) -> Case:
    geometry = TWO.geometry
    dbsam.write_labelmap(folder / "volume.nrrd", TWO.voxels, geometry)
    box = (0, 0, 0, SIZE - 1, SIZE - 1, SLICES - 1)
    case = Case(folder / "volume.nrrd", folder / "mask.nrrd", boxes_ijk=(box,), axis="k", **options)  # type: ignore[arg-type]
    run_case(case, lambda: ThresholdPredictor("slice"))
    return case


@pytest.mark.parametrize("way", ["exclude", "exclude_ijk", "points", "python"])
def test_clicks_come_by_every_door(tmp_path: Path, way: str) -> None:
    point = click(33, 33, 6)
    if way == "python":
        result = dbsam.segment(
            TWO, whole_box(TWO), ThresholdPredictor("slice"), axis=2, points=[point], spread="ascending"
        )
        labels = result.labelmap_KJI()
    else:
        x, y, z = point.position_ras
        path = write_points(
            tmp_path / "clicks.mrk.json", {"type": "Fiducial", "controlPoints": [control("exclude-1", [-x, -y, z])]}
        )
        options = {
            "exclude": {"exclude": (point.position_ras,)},
            "exclude_ijk": {"exclude_ijk": ((33.0, 33.0, 6.0),)},
            "points": {"point_files": (path,)},
        }[way]
        labels, _ = dbsam.read_labelmap(written_case(tmp_path, spread="ascending", **options).output)
    assert labels.sum(axis=(1, 2)).tolist() == [*NOTHING, *[BOTH] * 4, *[ONE] * 5, *NOTHING]


def test_clicks_for_several_structures_are_refused(tmp_path: Path) -> None:
    written_case(tmp_path)
    boxes = ((0, 0, 0, 20, 20, 9), (0, 0, 0, 30, 30, 9))
    case = Case(tmp_path / "volume.nrrd", tmp_path / "m.nrrd", boxes_ijk=boxes, include=((1.0, 1.0, 1.0),))
    with pytest.raises(ValueError, match=r"there are 2 .Segment_1, Segment_2"):
        run_case(case, lambda: ThresholdPredictor("slice"))


def test_a_table_has_columns_for_clicks(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text(
        "volume,output,box_ijk,include,exclude_ijk,points,spread\n"
        "v.nrrd,m.nrrd,0 0 0 9 9 9,-1 2.5 3; 4 5 6,1 2 3,a.mrk.json;b.mrk.json,slice\n"
    )
    [case] = read_manifest(table, parse_window)
    assert case.include == ((-1, 2.5, 3), (4, 5, 6))
    assert case.exclude_ijk == ((1, 2, 3),)
    assert case.inputs == (tmp_path / "v.nrrd", tmp_path / "a.mrk.json", tmp_path / "b.mrk.json")
    assert case.spread == "slice"
    table.write_text("volume,output,box_ijk,include\nv.nrrd,m.nrrd,0 0 0 9 9 9,1 nan 3\n")
    with pytest.raises(ManifestError, match="include needs 3 numbers, not '1 nan 3'"):
        read_manifest(table, parse_window)


def test_a_network_gets_clicks_in_its_own_pixels_and_its_former_logits(tmp_path: Path) -> None:
    write_tiny_weights(tmp_path / "tiny.safetensors")
    loaded = dbsam.load_predictor(tmp_path / "tiny.safetensors", "cpu").model
    assert not ModelPredictor(loaded, "tiny").takes_points
    loaded.config = replace(loaded.config, trained_clicks=True)
    predictor = ModelPredictor(loaded, "tiny")
    assert predictor.takes_points
    size, box_xyxy = loaded.config.image_size, np.array([10.0, 12.0, 29.0, 27.0])
    image = np.repeat(TWO.voxels[6][..., None], 3, axis=2)
    region = predictor.region_for(box_xyxy, (SIZE, SIZE), (1.0, 1.0))
    [embedding] = predictor.encode([image], [region])
    former = predictor.decode(embedding, box_xyxy[None])
    corrected = predictor.decode(
        embedding, box_xyxy[None], np.array([[[20.0, 15.0], [12.5, 26.0]]]), np.array([[1, 0]]), former.logits
    )
    scale = size / region.width

    def in_input(x: float, y: float) -> list[float]:  # pixel centres at whole numbers, there and here
        return [(x - region.x0) * scale - 0.5, (y - region.y0) * scale - 0.5]

    with torch.inference_mode():
        expected, _ = loaded.decode(
            embedding.encoded,
            torch.tensor([[*in_input(10, 12), *in_input(29, 27)]], dtype=torch.float32),
            torch.tensor([[in_input(20, 15), in_input(12.5, 26)]], dtype=torch.float32),
            torch.tensor([[1, 0]]),
            torch.from_numpy(former.logits)[:, None],
        )
    np.testing.assert_allclose(corrected.logits, expected.numpy(), atol=1e-5)
    assert not np.allclose(corrected.logits, former.logits, atol=1e-3)
    engine = VolumeSegmenter(predictor)
    result = engine.correct(TWO, first_result(engine), [click(12, 12, 6, include=True)])
    assert next(report for report in result.slices if report.index == 6).clicks == 1
