"""The library in two calls."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from cases import GEOMETRY, block_voxels, roi_box, truth_KJI, write_case, write_tiny_weights
from threshold_predictor import ThresholdPredictor

import dbsam
from dbsam.inference.embedding_cache import EmbeddingCache
from dbsam.io.roi_markups import MarkupsRoi
from dbsam.weights.load import find_weights

SAMPLE = Path(__file__).parents[1] / "Resources" / "Sample"


def test_files_and_objects_give_the_same_mask(tmp_path):
    volume_path, roi_path = write_case(tmp_path)
    volume = dbsam.Volume(block_voxels(), GEOMETRY)
    for image, roi in (
        (volume_path, roi_path),
        (str(volume_path), str(roi_path)),
        (volume, roi_box()),
        (volume, MarkupsRoi("block", roi_box())),
        (volume, dbsam.SliceBoxes(2, {2: (4, 3, 16, 13), 5: (4, 3, 16, 13)})),
    ):
        result = dbsam.segment(image, roi, ThresholdPredictor())
        np.testing.assert_array_equal(result.labelmap_KJI(), truth_KJI())


def test_a_shared_cache_spares_the_encoder():
    volume, cache, predictor = dbsam.Volume(block_voxels(), GEOMETRY), EmbeddingCache(), ThresholdPredictor()
    for _ in range(2):
        dbsam.segment(volume, roi_box(), predictor, strategy="box", cache=cache)
    assert predictor.encoded_slices == 4, "once for each of the slices 2 to 5"


def test_a_file_of_several_rois_is_not_guessed_at(tmp_path):
    volume, roi = write_case(tmp_path)
    dbsam.write_roi(roi, [MarkupsRoi("left", roi_box()), MarkupsRoi("right", roi_box())])
    with pytest.raises(ValueError, match=r"holds several ROIs \(left, right\)"):
        dbsam.segment(volume, roi, ThresholdPredictor())


def test_an_roi_that_is_inside_out_is_refused_from_a_file_and_as_an_object(tmp_path):
    volume, path = write_case(tmp_path)
    roi = MarkupsRoi("hole", roi_box(), inside_out=True)
    dbsam.write_roi(path, roi)
    for each in (path, roi):
        with pytest.raises(ValueError, match=r"ROI 'hole' is set to inside out.*switch that off"):
            dbsam.segment(volume, each, ThresholdPredictor())


def test_a_model_is_loaded_by_its_path(tmp_path):
    write_tiny_weights(tmp_path / "tiny.safetensors")
    predictor = dbsam.load_predictor(tmp_path / "tiny.safetensors", "cpu")
    volume = dbsam.Volume(block_voxels(), GEOMETRY)
    by_predictor = dbsam.segment(volume, roi_box(), predictor)
    by_path = dbsam.segment(volume, roi_box(), tmp_path / "tiny.safetensors", device="cpu")
    np.testing.assert_array_equal(by_predictor.mask_KJI, by_path.mask_KJI)


@pytest.mark.skipif(find_weights("compact") is None, reason="no compact weights in this checkout")
def test_half_precision_gives_nearly_the_same_mask_under_a_signature_of_its_own():
    volume = dbsam.read_volume(SAMPLE / "phantom_ct.nrrd")
    roi = dbsam.read_roi(SAMPLE / "phantom_roi.mrk.json")[0]
    exact, half = (dbsam.load_predictor("compact", "cpu", precision=name) for name in ("float32", "bfloat16"))
    one, other = (dbsam.segment(volume, roi, predictor).labelmap_KJI() > 0 for predictor in (exact, half))
    assert 2 * (one & other).sum() / (one.sum() + other.sum()) > 0.995
    assert exact.signature != half.signature


def test_an_unknown_precision_is_an_error(tmp_path):
    write_tiny_weights(tmp_path / "tiny.safetensors")
    with pytest.raises(ValueError, match=r"'double': use auto, float32, bfloat16, float16"):
        dbsam.load_predictor(tmp_path / "tiny.safetensors", "cpu", precision="double")


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_encoder_gives_the_same_mask(tmp_path):
    write_tiny_weights(tmp_path / "tiny.safetensors")
    volume = dbsam.Volume(block_voxels(), GEOMETRY)
    plain, compiled = (
        dbsam.segment(volume, roi_box(), dbsam.load_predictor(tmp_path / "tiny.safetensors", "cpu", compiled=compiled))
        for compiled in (False, True)
    )
    np.testing.assert_array_equal(plain.mask_KJI, compiled.mask_KJI)
    assert compiled.slices[0].predicted_iou == pytest.approx(plain.slices[0].predicted_iou, abs=1e-4)


def test_a_result_becomes_a_segment_in_its_place():
    result = dbsam.segment(dbsam.Volume(block_voxels(), GEOMETRY), roi_box(), ThresholdPredictor())
    segment = dbsam.Segment.from_result("block", result)
    whole = np.zeros(GEOMETRY.shape_KJI, np.uint8)
    whole[segment.slices_KJI(GEOMETRY)] = segment.mask_KJI
    np.testing.assert_array_equal(whole, truth_KJI())


@pytest.mark.parametrize(
    ("image", "names"),
    [
        (
            block_voxels(),
            r"numpy\.ndarray of shape \(8, 20, 24\) is no volume.*dbsam\.Volume\(voxels_KJI.*from_image2d",
        ),
        (["a.nrrd", "b.nrrd"], r"builtins\.list is no volume.*Several volumes take a call each"),
        (None, "NoneType is no volume"),
    ],
    ids=["array", "list", "None"],
)
def test_what_says_not_where_its_voxels_lie_is_no_volume(image, names):
    with pytest.raises(TypeError, match=names):
        dbsam.segment(image, (4, 3, 2, 15, 12, 5), ThresholdPredictor())


@pytest.mark.parametrize(
    "box",
    [(4, 3, 2, 15, 12, 5), [[4, 3, 2], [15, 12, 5]], np.array([4, 3, 2, 15, 12, 5]), {"box": 1}, None],
    ids=["tuple", "list", "array", "dict", "None"],
)
def test_bare_numbers_are_no_box(box):
    with pytest.raises(TypeError, match=r"is no box.*dbsam\.OrientedBox\.from_ijk\(\(i0, j0, k0\).*from_corners_ras"):
        dbsam.segment(dbsam.Volume(block_voxels(), GEOMETRY), box, ThresholdPredictor())


def test_a_network_is_no_predictor():
    with pytest.raises(TypeError, match=r"builtins\.object is no predictor: give what dbsam\.load_predictor returns"):
        dbsam.segment(dbsam.Volume(block_voxels(), GEOMETRY), roi_box(), object())


def test_a_box_that_is_cut_off_at_the_image_is_warned_of(caplog):
    volume = dbsam.Volume(block_voxels(), GEOMETRY)
    box = dbsam.OrientedBox.from_corners_ras((-60, 40, 0), (5.5, 17.5, 16.0))
    dbsam.segment(volume, box, ThresholdPredictor())
    # The image's edges: R -10.5 (I), A 30.5 (J), S 4 (K, 2 mm a slice).
    assert caplog.messages == [
        "the box reaches beyond the image and is cut off there: by 49.5 voxels at the start of I, by 9.5 voxels at the "
        "start of J, by 2.0 voxels at the start of K. Was it drawn on this image?"
    ]
    caplog.clear()
    dbsam.segment(volume, dbsam.SliceBoxes(2, {2: (4, 3, 30, 13), 5: (-4, 3, 16, 13)}), ThresholdPredictor())
    assert "by 3.5 voxels at the start of I, by 6.5 voxels at the end of I" in caplog.text


def test_errors_to_be_caught_have_names_at_top_level(tmp_path):
    volume = dbsam.Volume(block_voxels(), GEOMETRY)
    (tmp_path / "roi.mrk.json").write_text("{}")
    (tmp_path / "ct.nrrd").write_text("none")
    (tmp_path / "mine.safetensors").write_text("none")
    with pytest.raises(dbsam.ImageFileError):
        dbsam.segment(tmp_path / "ct.nrrd", roi_box(), ThresholdPredictor())
    with pytest.raises(dbsam.RoiFileError):
        dbsam.segment(volume, tmp_path / "roi.mrk.json", ThresholdPredictor())
    with pytest.raises(dbsam.CheckpointError):
        dbsam.load_predictor(tmp_path / "mine.safetensors")
    with pytest.raises(dbsam.WeightsNotFoundError):
        dbsam.load_predictor(tmp_path / "gone.safetensors")
    with pytest.raises(dbsam.DeviceError):
        dbsam.load_predictor("compact", "tpu")
    cancel = dbsam.CancelToken()
    cancel.cancel()
    with pytest.raises(dbsam.Cancelled):
        dbsam.segment(volume, roi_box(), ThresholdPredictor(), cancel=cancel)
    assert issubclass(dbsam.DownloadError, RuntimeError)


def test_every_public_name_is_there_and_another_is_an_error():
    for name in dbsam.__all__:
        assert getattr(dbsam, name) is not None
    assert dir(dbsam) == sorted(dbsam.__all__), "and nothing of how they are made"
    with pytest.raises(AttributeError, match="module 'dbsam' has no attribute 'segmnt'"):
        dbsam.segmnt  # noqa: B018
