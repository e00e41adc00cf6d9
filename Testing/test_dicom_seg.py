"""DICOM SEG files: other readers find each segment on the voxels where it was made."""

from __future__ import annotations

import logging
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_files import frames_along_z, write_enhanced, write_series
from threshold_predictor import ThresholdPredictor

from dbsam.cli.case import Case, run_case
from dbsam.io.dicom_seg import write_dicom_seg
from dbsam.io.image_file import Choice
from dbsam.io.images import read_volume
from dbsam.io.seg_nrrd import Segment


def masks() -> tuple[np.ndarray, np.ndarray]:
    organ, tumour = np.zeros((2, 4, 5, 6), np.uint8)
    organ[1:3, 1:4, 2:6] = 1
    tumour[2:4, 2, 3:5] = 1  # inside in slice 2, outside in slice 3
    return organ, tumour


def written(folder: Path, form: str) -> tuple[Path, Choice]:
    frames = frames_along_z([9, 0, 3, 6], AccessionNumber="7")
    if form == "series":
        write_series(folder / "ct", frames)
        return folder / "ct", Choice()
    if form == "file":
        return write_enhanced(folder / "mr.dcm", frames), Choice()
    early, late = (frames_along_z([0, 3, 6, 9], TemporalPositionIndex=n) for n in (1, 2))
    return write_enhanced(folder / "mr.dcm", early + late), Choice(stack=2)


@pytest.mark.parametrize("form", ["series", "file", "stack"])
def test_each_segment_lies_where_another_reader_looks_for_it(tmp_path, form):
    source, choice = written(tmp_path, form)
    volume = read_volume(source, stack=choice.stack)
    organ, tumour = masks()
    segments = [Segment("Organ", organ, color_rgb=(1.0, 0.0, 0.0)), Segment("Tumour ü", tumour[2:], (0, 0, 2))]
    write_dicom_seg(tmp_path / "out.dcm", segments, volume.geometry, source, choice)
    seg = highdicom.seg.segread(tmp_path / "out.dcm")
    assert [seg.get_segment_description(n).segment_label for n in (1, 2)] == ["Organ", "Tumour ü"]
    red = highdicom.color.CIELabColor.from_dicom_value(seg.SegmentSequence[0].RecommendedDisplayCIELabValue)
    assert np.abs(np.array(red.to_rgb()) - (255, 0, 0)).max() <= 2
    assert seg.PatientID == "1"
    for number, mask in ((1, organ), (2, tumour)):
        found = seg.get_volume(segment_numbers=[number], combine_segments=True, relabel=True)
        slices, rows, columns = np.nonzero(found.array)
        lps = found.affine @ [slices, rows, columns, np.ones_like(rows)]
        k, j, i = np.nonzero(mask)
        expected = volume.geometry.ijk_to_ras @ [i, j, k, np.ones_like(i)] * [[-1], [-1], [1], [1]]
        assert {tuple(np.round(p, 3)) for p in lps.T} == {tuple(np.round(p, 3)) for p in expected.T}


def test_a_case_ends_in_a_segmentation_that_refers_to_its_slices(tmp_path):
    paths = write_series(tmp_path / "ct", frames_along_z(range(0, 18, 3), (40, 50)))
    case = Case(tmp_path / "ct", tmp_path / "ct" / "out.dcm", boxes_ijk=((5, 6, 1, 20, 30, 3),))
    run_case(case, ThresholdPredictor, model="/weights/my liver.safetensors")
    seg = pydicom.dcmread(case.output)
    assert seg.Modality == "SEG"
    assert seg.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0].AlgorithmName == "my liver"
    referred = {
        str(item.ReferencedSOPInstanceUID) for item in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence
    }
    assert referred == {str(pydicom.dcmread(path).SOPInstanceUID) for path in paths}
    run_case(case, ThresholdPredictor)  # the former segmentation beside the slices is no slice, and is replaced


def test_a_dicom_segmentation_needs_dicom_images(tmp_path):
    from cases import write_case

    volume, roi = write_case(tmp_path)
    with pytest.raises(ValueError, match=r"volume\.nrrd is no DICOM.*write \.seg\.nrrd"):
        run_case(Case(volume, tmp_path / "out.dcm", (roi,)), ThresholdPredictor)
    assert not (tmp_path / "out.dcm").exists()


def test_a_slice_is_never_overwritten(tmp_path):
    [first, *_] = write_series(tmp_path / "ct", frames_along_z([0, 3, 6]))
    before = first.read_bytes()
    with pytest.raises(ValueError, match="a DICOM image, which is not overwritten"):
        run_case(Case(tmp_path / "ct", first, boxes_ijk=((0, 0, 0, 1, 1, 1),)), ThresholdPredictor)
    assert first.read_bytes() == before


def test_nan_is_counted_in_the_report(tmp_path, caplog):
    from cases import GEOMETRY, block_voxels, truth_KJI, write_case

    from dbsam.io.images import read_labelmap, write_volume

    _, roi = write_case(tmp_path)
    voxels = block_voxels().astype(np.float32)
    voxels[0, 0, :3] = np.nan, np.inf, -np.inf
    for ending in (".nrrd", ".nii.gz", ".mha"):
        write_volume(tmp_path / f"nan{ending}", voxels, GEOMETRY)
        caplog.clear()
        with caplog.at_level(logging.WARNING, "dbsam"):
            report = run_case(Case(tmp_path / f"nan{ending}", tmp_path / "out.nrrd", (roi,)), ThresholdPredictor)
        assert report["non_finite"] == 3
        assert "3 values are NaN or infinite; they are shown as the lower end of the window" in caplog.text
        np.testing.assert_array_equal(read_labelmap(tmp_path / "out.nrrd")[0], truth_KJI())
