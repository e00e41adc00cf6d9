"""Cases from files to files, one and many, with a predictor whose result is known."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cases import GEOMETRY, block_voxels, roi_box, truth_KJI, write_case
from threshold_predictor import ThresholdPredictor

from dbsam.cli.batch import BatchModel, run_batch
from dbsam.cli.case import Case, run_case
from dbsam.cli.manifest import ManifestError, read_manifest
from dbsam.geometry.grid import ImageGeometry
from dbsam.inference.doubts import index_ranges
from dbsam.io import images
from dbsam.io.image_file import ImageFileError
from dbsam.io.roi_markups import MarkupsRoi, write_roi
from dbsam.preprocess.intensity import parse_window
from dbsam.progress import Cancelled, CancelToken
from dbsam.weights.metadata import CheckpointError


@pytest.fixture
def case(tmp_path: Path) -> Case:
    volume, roi = write_case(tmp_path)
    return Case(volume, tmp_path / "out" / "block.nrrd", (roi,))


def as_name(text: str) -> str:
    return text


def manifest(folder: Path, *rows: str, header: str = "volume,roi,output") -> Path:
    path = folder / "cases.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def no_model() -> ThresholdPredictor:
    raise AssertionError("not needed")


def test_the_labelmap_is_the_object_in_the_grid_of_its_volume(case):
    report = run_case(case, ThresholdPredictor)
    labels, geometry = images.read_labelmap(case.output)
    np.testing.assert_array_equal(labels, truth_KJI())
    np.testing.assert_allclose(geometry.ijk_to_ras, GEOMETRY.ijk_to_ras)
    [segment] = report["segments"]
    assert (segment["name"], segment["label"], segment["axis"]) == ("block", 1, "K")
    assert segment["voxels"] == 8 * 6 * 4
    assert segment["volume_ml"] == pytest.approx(8 * 6 * 4 * 2 / 1000, abs=5e-4)
    assert sorted(row["index"] for row in segment["slices"] if row["area_pixels"]) == [2, 3, 4, 5]
    assert {row["area_pixels"] for row in segment["slices"]} <= {0, 48}
    json.dumps(report)


def test_every_roi_becomes_a_segment_with_its_name_and_colour(case, tmp_path):
    write_roi(tmp_path / "left.mrk.json", MarkupsRoi("left half", roi_box(), (0.0, 0.0, 1.0)))
    output = tmp_path / "two.seg.nrrd"
    case = replace(case, roi_files=(*case.roi_files, tmp_path / "left.mrk.json"), output=output)
    run_case(case, ThresholdPredictor)
    header = output.read_bytes().split(b"\n\n", 1)[0].decode()
    assert "Segment0_Name:=block\n" in header
    assert "Segment0_Color:=1 0.5 0\n" in header
    assert "Segment1_Name:=left half\n" in header
    assert "Segment1_Layer:=1\n" in header, "the two overlap"


def test_a_labelmap_tells_where_segments_overlap(case, caplog):
    case = replace(case, roi_files=case.roi_files * 2)
    with caplog.at_level(logging.WARNING):
        run_case(case, ThresholdPredictor)
    assert f"{8 * 6 * 4} voxels belong to several segments" in caplog.text


def test_a_box_of_voxels_includes_both_ends(case):
    case = replace(case, roi_files=(), boxes_ijk=((6, 5, 2, 9, 7, 5),))
    report = run_case(case, ThresholdPredictor)
    assert report["segments"][0]["voxels"] == 4 * 3 * 4


def test_a_rectangle_is_for_an_image_of_one_slice(case, tmp_path):
    images.write_png(tmp_path / "image.png", (block_voxels()[3]).astype(np.uint8))
    flat = Case(tmp_path / "image.png", tmp_path / "mask.png", boxes_xyxy=((4, 3, 15, 12),))
    run_case(flat, ThresholdPredictor)
    np.testing.assert_array_equal(images.read_labelmap(flat.output)[0][0], truth_KJI()[3])
    with pytest.raises(ValueError, match=r"no 2D image but a volume of \(24, 20, 8\) voxels: give a box of voxels"):
        run_case(replace(case, roi_files=(), boxes_xyxy=((4, 3, 15, 12),)), ThresholdPredictor)


def test_the_overlay_shows_three_planes_of_a_volume_and_one_of_an_image(case, tmp_path):
    overlay = tmp_path / "overlay.png"
    run_case(replace(case, overlay=overlay), ThresholdPredictor)
    picture = images.read_volume(overlay).voxels[0]
    assert picture.shape == (384, 3 * 384 + 2 * 4, 3)
    orange = (picture[..., 0] > 240) & (np.abs(picture[..., 1].astype(int) - 128) < 12) & (picture[..., 2] < 12)
    panels = [orange[:, n * 388 : n * 388 + 384] for n in range(3)]
    assert all(panel.sum() > 200 for panel in panels), "the contour has the ROI's colour in each panel"
    # Axial: the panel spans 1.6 x 12 mm (the box) = 19.2 mm, so the 8 mm of the block along I are 160 pixels wide.
    columns = np.flatnonzero(panels[0].any(axis=0))
    assert columns[-1] - columns[0] + 1 == pytest.approx(160, abs=4)


def test_a_box_outside_the_volume_says_so_before_a_model_is_loaded(case):
    far = replace(case, roi_files=(), boxes_ijk=((100, 5, 2, 110, 9, 4),))
    with pytest.raises(ValueError, match=r"'Segment_1' \(centre .*\) lies outside the volume of \(24, 20, 8\) voxels"):
        run_case(far, no_model)


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        ("folder.nrrd", IsADirectoryError, r"folder\.nrrd: a folder, where a file is to be written"),
        ("volume.nrrd/mask.nrrd", NotADirectoryError, r"mask\.nrrd: .*volume\.nrrd is a file and can hold no other"),
        ("volume.nrrd/a/mask.seg.nrrd", NotADirectoryError, r"volume\.nrrd is a file"),
        ("mask.png", ValueError, r"mask\.png: \.png holds a single slice, not 8; use \.nrrd"),
        ("mask.TIF", ValueError, r"mask\.TIF: \.tif holds a single slice"),
    ],
)
def test_what_cannot_be_written_is_told_before_a_model_is_loaded(case, tmp_path, output, error, message):
    (tmp_path / "folder.nrrd").mkdir()
    with pytest.raises(error, match=message):
        run_case(replace(case, output=tmp_path / output), no_model)


def test_a_place_for_the_overlay_is_looked_for_too(case, tmp_path):
    (tmp_path / "overlay.png").mkdir()
    with pytest.raises(IsADirectoryError, match=r"overlay\.png: a folder"):
        run_case(replace(case, overlay=tmp_path / "overlay.png"), no_model)


def test_a_sheared_volume_is_not_segmented_for_nifti(case, tmp_path):
    sheared = np.array([[1.0, 0, 0.2, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    images.write_volume(case.volume, block_voxels(), ImageGeometry(sheared, GEOMETRY.dimensions_ijk))
    with pytest.raises(ValueError, match=r"mask\.nii\.gz: the volume is sheared.*use \.nrrd"):
        run_case(replace(case, output=tmp_path / "mask.nii.gz"), no_model)


def test_a_cancelled_case_writes_nothing(case):
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        run_case(case, ThresholdPredictor, cancel=cancel)
    assert not case.output.exists()


def test_slices_to_look_at_are_told_as_ranges():
    assert index_ranges([3, 5, 6, 7, 8, 11, 12]) == "3, 5 to 8, 11 to 12"
    assert index_ranges([]) == ""


def test_a_manifest_is_relative_to_itself_and_empty_cells_mean_the_default(tmp_path):
    path = manifest(
        tmp_path,
        "a.nrrd,a.mrk.json; b.mrk.json,out/a.seg.nrrd,,ct-lung",
        "/data/b.nrrd,c.mrk.json,b.nrrd,coronal,",
        "",
        header="volume,roi,output,axis,window",
    )
    first, second = read_manifest(path, as_name)
    assert first.roi_files == (tmp_path / "a.mrk.json", tmp_path / "b.mrk.json")
    assert (first.output, first.axis, first.intensity) == (tmp_path / "out" / "a.seg.nrrd", "auto", "ct-lung")
    assert (second.volume, second.axis, second.intensity) == (Path("/data/b.nrrd"), "coronal", "auto")


def test_a_manifest_holds_boxes_too(tmp_path):
    path = manifest(tmp_path, "a.nrrd,1 2 3 4 5 6;7 8 9 10 11 12,a.seg.nrrd", header="volume,box_ijk,output")
    assert read_manifest(path, as_name)[0].boxes_ijk == ((1, 2, 3, 4, 5, 6), (7, 8, 9, 10, 11, 12))


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("volume,roi,outptu", "a,b,c", "unknown columns outptu"),
        ("volume,roi,output,axis", "a,b,c.nrrd,diagonal", "axis 'diagonal' is none of auto, axial"),
        ("roi,output", "a,b", "no column volume"),
        ("volume,roi,output", "a.nrrd,,a.nrrd", "line 2: Nothing says where the structure is"),
        ("volume,roi,output", "a.nrrd,a.mrk.json,a.txt", "line 2: .*a.txt: unknown ending"),
        ("volume,roi,output", "a.nrrd,a.mrk.json,", "line 2: column output is empty"),
        ("volume,box_ijk,output", "a.nrrd,1 2 3,a.nrrd", "line 2: column box_ijk needs 6 whole numbers, not '1 2 3'"),
        ("volume,roi,output", "a.nrrd,a.mrk.json,a.nrrd,x", "line 2: more cells than columns"),
        ("volume,roi,output", "", "no cases below the header"),
        ("volume,roi,output,output", "a,b,c.nrrd,d.nrrd", "cases.csv: the column output is there more than once"),
        ("volume,roi,output", '"a.nrrd","' + 140_000 * "x", r"cases.csv: no CSV file that can be read \(field larger"),
    ],
)
def test_a_manifest_that_cannot_be_understood_names_the_line(tmp_path, header, row, message):
    with pytest.raises(ManifestError, match=message):
        read_manifest(manifest(tmp_path, row, header=header), as_name)


PLAIN = [("a.nrrd", ("a.mrk.json", "b.mrk.json"), "out/a.nrrd"), ("c.nrrd", ("c.mrk.json",), "out/c.nrrd")]


@pytest.mark.parametrize(
    "text",
    [
        "volume,roi,output\na.nrrd,a.mrk.json;b.mrk.json,out/a.nrrd\nc.nrrd,c.mrk.json,out/c.nrrd\n",
        'volume;roi;output\na.nrrd;"a.mrk.json;b.mrk.json";out/a.nrrd\nc.nrrd;c.mrk.json;out/c.nrrd',
        "volume\troi\toutput\na.nrrd\ta.mrk.json;b.mrk.json\tout/a.nrrd\nc.nrrd\tc.mrk.json\tout/c.nrrd\n",
        'sep=;\r\nVolume;ROI;Output\r\na.nrrd;"a.mrk.json; b.mrk.json";out/a.nrrd\r\nc.nrrd;c.mrk.json;out/c.nrrd\r\n',
        "Volume,ROI,OUTPUT\na.nrrd,a.mrk.json;b.mrk.json,out/a.nrrd\nc.nrrd,c.mrk.json,out/c.nrrd\n",
        "volume,roi,output,\na.nrrd,a.mrk.json;b.mrk.json,out/a.nrrd,\nc.nrrd,c.mrk.json,out/c.nrrd,\n",
        "volume,roi,output\na.nrrd,a.mrk.json;b.mrk.json,out/a.nrrd,,\nc.nrrd,c.mrk.json,out/c.nrrd\n",
        'comment,volume,roi,output,Note\n"late, of Tuesday\nor Wednesday",a.nrrd,a.mrk.json;b.mrk.json,out/a.nrrd\n'
        ",c.nrrd,c.mrk.json,out/c.nrrd,5 mm\n",
        "# of the first week\n\nvolume,roi,output\na.nrrd,a.mrk.json;b.mrk.json,out/a.nrrd\n# c.nrrd,x,y\n,,\n"
        "c.nrrd,c.mrk.json,out/c.nrrd\n",
        '\ufeff"volume";"roi";"output";\n"a.nrrd";"a.mrk.json;b.mrk.json";"out/a.nrrd";\n"c.nrrd";"c.mrk.json";"out/c.nrrd";',
    ],
    ids=[
        "commas",
        "semicolons",
        "tabs",
        "excel",
        "capitals",
        "trailing comma",
        "in one row",
        "comments",
        "#",
        "quotes",
    ],
)
def test_a_table_is_read_as_spreadsheets_and_people_write_it(tmp_path, text):
    path = tmp_path / "cases.csv"
    path.write_bytes(text.encode("utf-8"))
    rows = [
        (str(case.volume.relative_to(tmp_path)), tuple(file.name for file in case.roi_files),
         case.output.relative_to(tmp_path).as_posix())
        for case in read_manifest(path, as_name)
    ]  # fmt: skip
    assert rows == PLAIN


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("volume;roi;output\na.nrrd;a.mrk.json;b.mrk.json;c.nrrd\n", "line 2: more cells than .* that hold semicolons"),
        ("volume,roi,output,\na.nrrd,a.mrk.json,c.nrrd,lost\n", "line 2: more cells than columns"),
        ('volume,roi,output,comment\na.nrrd,a.mrk.json,c.nrrd,"open\nb.nrrd,b.mrk.json,d.nrrd,\n', "left open"),
        ('volume,roi,output\na.nrrd,"a.mrk.json,c.nrrd\nb.nrrd,"b.mrk.json,d.nrrd\n', "left open"),
        ("volume,roi,output,Volume\na.nrrd,a.mrk.json,c.nrrd,b.nrrd\n", "the column volume is there more than once"),
        ("volume,box_mm,output\na.nrrd,1 2 3 4 5,c.nrrd\n", "column box_mm needs 6 numbers, not '1 2 3 4 5'"),
        ("volume,roi,output,margin\na.nrrd,a.mrk.json,c.nrrd,5\n", "line 2: A margin of 5 mm: .* boxes round a mask"),
    ],
)
def test_a_table_that_would_lose_a_cell_is_refused(tmp_path, text, message):
    path = tmp_path / "cases.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=message):
        read_manifest(path, as_name)


def test_a_folder_is_no_table_and_says_what_a_table_is(tmp_path):
    with pytest.raises(ManifestError, match=r"a folder, and a batch is a table: .*'volume,roi,output'"):
        read_manifest(tmp_path, as_name)


def test_a_folder_of_images_leads_to_the_batch(case, tmp_path):
    (tmp_path / "scans").mkdir()
    case.volume.rename(tmp_path / "scans" / "one.nrrd")
    with pytest.raises(ImageFileError, match=r"holds 1 image files, such as one\.nrrd: .*`dbsam batch`"):
        run_case(replace(case, volume=tmp_path / "scans"), no_model)


def test_a_box_between_two_corners_in_mm_is_that_of_its_voxels(case):
    # I, J, K of the block's box run along R, P, S: edges at I 3.5 and 15.5, J 2.5 and 12.5, K 1.5 and 5.5.
    corners = (-6.5, 27.5, 8.0, 5.5, 17.5, 16.0)
    report = run_case(replace(case, roi_files=(), boxes_mm=(corners,)), ThresholdPredictor)
    np.testing.assert_array_equal(images.read_labelmap(case.output)[0], truth_KJI())
    assert report["segments"][0]["name"] == "Segment_1"
    swapped = (*corners[3:], *corners[:3])
    assert (
        run_case(replace(case, roi_files=(), boxes_mm=(swapped,)), ThresholdPredictor)["segments"][0]["voxels"] == 192
    )


def test_a_mask_gives_a_box_round_each_label_with_a_margin(case, tmp_path):
    labels = np.zeros(GEOMETRY.shape_KJI, np.uint8)
    labels[2:6, 6:10, 7:13] = 7  # the block without its rim
    labels[0, 0, 0] = 2
    images.write_labelmap(tmp_path / "rough.nii.gz", labels, GEOMETRY)
    found = []
    for margin in (0.0, 1.0):
        masked = replace(case, roi_files=(), mask_files=(tmp_path / "rough.nii.gz",), margin_mm=margin)
        report = run_case(masked, ThresholdPredictor)
        found.append({segment["name"]: segment["voxels"] for segment in report["segments"]})
    # The slices are 2 mm apart: 1 mm more on each side shows no further slice's centre of the block.
    assert found == [{"rough_2": 0, "rough_7": 4 * 4 * 6}, {"rough_2": 0, "rough_7": 4 * 6 * 8}]


def test_a_mask_on_another_grid_lies_where_its_file_says(case, tmp_path):
    """Half the spacing, another origin, turned by 180 degrees about S."""
    matrix = np.diag([-0.5, 0.5, 1.0, 1.0])
    matrix[:3, 3] = 12.0, 10.0, 5.0
    grid = ImageGeometry(matrix, (48, 40, 16))
    block = GEOMETRY.ijk_to_ras @ [[5.5, 13.5], [4.5, 10.5], [1.5, 5.5], [1, 1]]  # its edges
    i, j, k = np.sort((grid.ras_to_ijk @ block)[:3], axis=1)
    labels = np.zeros(grid.shape_KJI, np.uint8)
    inside = tuple(slice(int(np.ceil(low)), int(np.floor(high)) + 1) for low, high in (k, j, i))
    labels[inside] = 1
    images.write_labelmap(tmp_path / "fine.nrrd", labels, grid)
    masked = replace(case, roi_files=(), mask_files=(tmp_path / "fine.nrrd",), margin_mm=1.0)
    assert run_case(masked, ThresholdPredictor)["segments"][0]["name"] == "fine"
    np.testing.assert_array_equal(images.read_labelmap(case.output)[0], truth_KJI())


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(GEOMETRY.shape_KJI, np.uint8), r"mask\.nrrd: the mask is empty"),
        (block_voxels() - 300, r"mask\.nrrd: labels go from -290 to -100; a label is 0 or more"),
        (np.arange(24 * 20 * 8, dtype=np.int16).reshape(GEOMETRY.shape_KJI), "3840 values from 0 to 3839"),
    ],
)
def test_a_mask_that_is_none_is_refused(case, tmp_path, labels, message):
    images.write_volume(tmp_path / "mask.nrrd", labels, GEOMETRY)
    with pytest.raises(ValueError, match=message):
        run_case(replace(case, roi_files=(), mask_files=(tmp_path / "mask.nrrd",)), no_model)


def test_a_mask_of_a_picture_is_taken_pixel_by_pixel_or_not_at_all(tmp_path):
    picture = block_voxels()[3].astype(np.uint8)
    images.write_png(tmp_path / "photo.png", picture)
    images.write_png(tmp_path / "mask.png", np.where(picture == 200, 255, 0).astype(np.uint8))
    case = Case(tmp_path / "photo.png", tmp_path / "out.png", mask_files=(tmp_path / "mask.png",), margin_mm=2.0)
    [segment] = run_case(case, ThresholdPredictor)["segments"]
    np.testing.assert_array_equal(images.read_labelmap(case.output)[0][0], truth_KJI()[3])
    assert (segment["voxels"], segment["volume_ml"]) == (48, None), "nobody knows how large its pixels are"
    images.write_png(tmp_path / "mask.png", np.ones((20, 30), np.uint8))
    with pytest.raises(ValueError, match=r"a mask of \(30, 20, 1\) pixels for an image of \(24, 20, 1\)"):
        run_case(case, no_model)
    with pytest.raises(ValueError, match=r"photo\.png doesn't say how large its pixels are.* give it in pixels"):
        run_case(replace(case, mask_files=(), margin_mm=0.0, boxes_mm=((0, 0, 0, 9, 9, 9),)), no_model)


def test_a_box_that_is_cut_off_at_the_image_is_warned_of(case, caplog):
    run_case(replace(case, roi_files=(), boxes_ijk=((-3, 5, 2, 9, 7, 9),)), ThresholdPredictor)
    assert caplog.messages == [
        "Segment_1: the box reaches beyond the image and is cut off there: by 3.0 voxels at the start of I, by 2.0 "
        "voxels at the end of K. Was it drawn on this image?",
        "Segment_1: the mask touches the edge of the box on slices 2 to 5; a larger box may be needed.",
    ]
    caplog.clear()
    run_case(replace(case, roi_files=(), boxes_ijk=((0, 0, 0, 23, 19, 7),)), ThresholdPredictor)
    assert caplog.messages == [], "to the very edge"


def test_a_header_may_have_blanks_round_its_names(tmp_path):
    path = manifest(tmp_path, "a.nrrd , a.mrk.json , out/a.nrrd", header=" volume , roi , output ")
    assert read_manifest(path, as_name)[0].output == tmp_path / "out" / "a.nrrd"


@pytest.mark.parametrize("encoding", ["cp1252", "utf-16"])
def test_a_manifest_in_another_encoding_says_so(tmp_path, encoding):
    path = tmp_path / "cases.csv"
    path.write_bytes("volume,roi,output\nä.nrrd,a.mrk.json,a.nrrd\n".encode(encoding))
    with pytest.raises(ManifestError, match=r"cases\.csv: not in UTF-8 \(.*Save it as CSV in UTF-8"):
        read_manifest(path, as_name)


def test_a_window_that_is_none_names_its_line(tmp_path):
    path = manifest(tmp_path, "a.nrrd,a.mrk.json,a.nrrd,dark", header="volume,roi,output,window")
    with pytest.raises(ManifestError, match=r"line 2: 'dark' is neither level and width, such as 40,400, nor one of"):
        read_manifest(path, parse_window)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("a.nrrd,a.mrk.json,x.nrrd,", "b.nrrd,a.mrk.json,x.nrrd,", r"line 3: .*x\.nrrd is already written by line 2"),
        ("a.nrrd,a.mrk.json,x.nrrd,", "b.nrrd,a.mrk.json,out/../x.nrrd,", r"x\.nrrd is already written by line 2"),
        ("a.nrrd,a.mrk.json,x.nrrd,", "b.nrrd,a.mrk.json,link/x.nrrd,", r"x\.nrrd is already written by line 2"),
        ("a.nrrd,a.mrk.json,x.nrrd,o.png", "a.nrrd,a.mrk.json,y.nrrd,o.png", r"o\.png is already written by line 2"),
        ("a.nrrd,a.mrk.json,x.png,", "a.nrrd,a.mrk.json,y.nrrd,x.png", r"x\.png is already written by line 2"),
        (
            "a.nrrd,a.mrk.json,b.nrrd,",
            "b.nrrd,a.mrk.json,y.nrrd,",
            r"line 2: .*b\.nrrd would overwrite an input of line 3",
        ),
        ("b.nrrd,a.mrk.json,y.nrrd,", "a.nrrd,a.mrk.json,link/b.nrrd,", r"line 3: .*overwrite an input of line 2"),
    ],
)
def test_no_row_may_write_what_another_one_writes_or_reads(tmp_path, first, second, message):
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(ManifestError, match=message):
        read_manifest(manifest(tmp_path, first, second, header="volume,roi,output,overlay"), as_name)


def test_a_batch_goes_on_past_failures_and_a_second_run_does_what_is_left(case, tmp_path):
    broken = replace(case, volume=tmp_path / "missing.nrrd", output=tmp_path / "out" / "missing.nrrd")
    other = replace(case, output=tmp_path / "out" / "other.nrrd")
    cases, records = [case, broken, other], tmp_path / "done.jsonl"

    def run() -> tuple[list[str], list[str], list[str]]:
        summary = run_batch(cases, records, BatchModel(ThresholdPredictor, "threshold", lambda: None))
        short = [[Path(name).stem for name in names] for names in (summary.done, summary.skipped, summary.failed)]
        return short[0], short[1], short[2]

    assert run() == (["block", "other"], [], ["missing"])
    record = json.loads(records.read_text(encoding="utf-8").splitlines()[1])
    assert record["output"] == "out/missing.nrrd", "as from the manifest's folder"
    assert "missing.nrrd: no such file" in record["error"]
    assert run() == ([], ["block", "other"], ["missing"])
    case.volume.with_name("missing.nrrd").write_bytes(case.volume.read_bytes())
    other.output.unlink()
    assert run() == (["missing", "other"], ["block"], [])
    assert run() == ([], ["block", "missing", "other"], [])


@pytest.mark.parametrize("change", ["the row", "the ROI", "the model", "its precision"])
def test_a_case_is_done_again_when_something_has_changed(case, tmp_path, change):
    records, weights = tmp_path / "done.jsonl", tmp_path / "weights"
    weights.write_bytes(b"1")
    run_batch([case], records, BatchModel(ThresholdPredictor, "m", lambda: weights))
    if change == "the row":
        case = replace(case, strategy="box")
    elif change == "the ROI":
        write_roi(case.roi_files[0], MarkupsRoi("a longer name", roi_box()))
    elif change == "the model":
        weights.write_bytes(b"22")
    precision = "bfloat16" if change == "its precision" else "auto"
    again = run_batch([case], records, BatchModel(ThresholdPredictor, "m", lambda: weights, precision))
    assert again.done == [str(case.output)]


def test_nothing_is_loaded_when_nothing_is_left(case, tmp_path):
    loaded = []

    def load() -> ThresholdPredictor:
        loaded.append(True)
        return ThresholdPredictor()

    for _ in range(2):
        run_batch([case], tmp_path / "done.jsonl", BatchModel(load, "threshold", lambda: None))
    assert loaded == [True]


@pytest.mark.parametrize("damaged", ["{", '{"output": 3}', "[]", '{"status": "done"}'])
def test_a_damaged_record_means_that_its_case_is_done_again(case, tmp_path, caplog, damaged):
    other = replace(case, output=tmp_path / "out" / "other.nrrd")
    records = tmp_path / "done.jsonl"
    run_batch([other], records, BatchModel(ThresholdPredictor, "m", lambda: None))
    with records.open("a") as file:
        file.write(damaged)  # without a newline, as a writer leaves it that is cut off
    with caplog.at_level(logging.WARNING):
        summary = run_batch([case, other], records, BatchModel(ThresholdPredictor, "m", lambda: None))
    assert (summary.done, summary.skipped) == ([str(case.output)], [str(other.output)])
    assert "line 2 is damaged" in caplog.text
    again = run_batch([case, other], records, BatchModel(ThresholdPredictor, "m", lambda: None))
    assert (again.done, len(again.skipped)) == ([], 2), "what was added after the damaged line is read"


def test_weights_that_cannot_be_used_end_the_batch(case, tmp_path):
    def no_weights() -> ThresholdPredictor:
        raise CheckpointError("There is no weights file.")

    with pytest.raises(CheckpointError):
        run_batch([case, case], tmp_path / "done.jsonl", BatchModel(no_weights, "m", lambda: None))


def test_a_cancelled_batch_goes_on_where_it_stopped(case, tmp_path):
    other = replace(case, output=tmp_path / "out" / "other.nrrd")
    cancel = CancelToken()
    with pytest.raises(Cancelled):
        run_batch(
            [case, other], tmp_path / "done.jsonl", BatchModel(ThresholdPredictor, "m", lambda: None),
            cancel=cancel, on_case=lambda number, case, outcome: cancel.cancel(),
        )  # fmt: skip
    summary = run_batch([case, other], tmp_path / "done.jsonl", BatchModel(ThresholdPredictor, "m", lambda: None))
    assert (summary.skipped, summary.done) == ([str(case.output)], [str(other.output)])
