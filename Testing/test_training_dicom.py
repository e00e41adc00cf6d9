"""DICOM series with SEG or RTSTRUCT become cases on the grid of the series."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from dbsam_training.data.case import case_faults
from dbsam_training.data.discover import find_sources
from dbsam_training.recipe import DataOptions
from dbsam_training.store.format import TrainingStore
from dbsam_training.store.prepare import BrokenDataError, prepare

pytest.importorskip("highdicom")
pytest.importorskip("rt_utils")

import highdicom
from highdicom.sr.coding import CodedConcept
from pydicom import Dataset, FileDataset, dcmread
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from rt_utils import RTStructBuilder

from dbsam_training.data.dicom import overlaid

SHAPE = (6, 20, 24)  # slices, rows, columns
SPACING_MM = (3.0, 0.8, 0.5)


def truth():
    mask = np.zeros(SHAPE, bool)
    mask[2:5, 5:12, 8:19] = True
    return mask


def write_series(folder):
    """A CT whose first file is the topmost slice."""
    folder.mkdir(parents=True)
    study, series, frame = generate_uid(), generate_uid(), generate_uid()
    voxels = np.where(truth(), 1100, 24).astype(np.int16)
    for n in range(SHAPE[0]):
        meta = Dataset()
        meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = CTImageStorage, generate_uid()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        file.SOPClassUID, file.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
        file.StudyInstanceUID, file.SeriesInstanceUID, file.FrameOfReferenceUID = study, series, frame
        file.Modality, file.PatientID, file.PatientName, file.PatientBirthDate, file.PatientSex = "CT", "1", "A", "", ""
        file.StudyDate, file.StudyTime, file.StudyID, file.AccessionNumber = "20240101", "000000", "1", ""
        file.ReferringPhysicianName, file.SeriesNumber, file.InstanceNumber = "", 1, SHAPE[0] - n
        file.Manufacturer = "none"
        file.Rows, file.Columns = SHAPE[1:]
        file.PixelSpacing, file.SliceThickness = list(SPACING_MM[1:]), SPACING_MM[0]
        file.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        file.ImagePositionPatient = [-10.0, -20.0, 30.0 + SPACING_MM[0] * n]
        file.SamplesPerPixel, file.PhotometricInterpretation = 1, "MONOCHROME2"
        file.BitsAllocated, file.BitsStored, file.HighBit, file.PixelRepresentation = 16, 16, 15, 1
        file.RescaleSlope, file.RescaleIntercept = 1, -1024
        file.PixelData = voxels[n].tobytes()
        file.save_as(folder / f"{SHAPE[0] - n:02d}.dcm", enforce_file_format=True)
    return [dcmread(path) for path in sorted(folder.glob("*.dcm"))]


def write_seg(folder):
    files = sorted(write_series(folder), key=lambda file: file.ImagePositionPatient[2])
    finding = CodedConcept("85756007", "SCT", "Tissue")
    algorithm = highdicom.AlgorithmIdentificationSequence("manual", CodedConcept("123109", "DCM", "Manual"), "1")
    segment = highdicom.seg.SegmentDescription(
        1, "block", finding, finding, highdicom.seg.SegmentAlgorithmTypeValues.MANUAL, algorithm
    )
    seg = highdicom.seg.Segmentation(
        files, truth().astype(np.uint8), highdicom.seg.SegmentationTypeValues.BINARY, [segment], generate_uid(), 2,
        generate_uid(), 1, "none", "none", "1", "1",
    )  # fmt: skip
    seg.save_as(folder / "seg.dcm")


def write_rtstruct(folder):
    write_series(folder)
    drawing = RTStructBuilder.create_new(str(folder))
    drawing.add_roi(np.moveaxis(truth(), 0, 2), name="block")
    drawing.save(str(folder / "drawn.dcm"))


@pytest.mark.parametrize("write", [write_seg, write_rtstruct], ids=["SEG", "RTSTRUCT"])
def test_the_structure_lies_on_the_voxels_on_which_it_was_drawn(tmp_path, write):
    write(tmp_path / "set" / "patient1")
    [source] = find_sources([tmp_path / "set"])
    assert source.list_cases() == ["patient1"]
    case = source.read_case("patient1")
    [structure] = source.structures(case)
    assert structure.name == "block"
    assert (structure.mask_KJI == (case.voxels_KJI == 76)).all()  # 1100 - 1024 Hounsfield units inside
    assert structure.mask_KJI.sum() == truth().sum()
    k, j, i = np.argwhere(structure.mask_KJI).mean(0)
    centre_ras = case.geometry.ijk_to_ras @ [i, j, k, 1]
    # Slices 2..4, rows 5..11, columns 8..18, from (-10, -20, 30) in LPS
    expected_lps = [-10 + 13 * 0.5, -20 + 8 * 0.8, 30 + 3 * 3.0]
    assert centre_ras[:3] == pytest.approx([-expected_lps[0], -expected_lps[1], expected_lps[2]])


def draw(folder, rois, patient="1"):
    """A series of a patient, and an RTSTRUCT with masks by name."""
    for file in write_series(folder):
        file.PatientID = patient
        file.save_as(file.filename)
    drawing = RTStructBuilder.create_new(str(folder))
    for name, mask in rois.items():
        drawing.add_roi(np.moveaxis(mask, 0, 2), name=name)
    drawing.save(str(folder / "drawn.dcm"))
    return folder


def body():
    mask = np.zeros(SHAPE, bool)
    mask[:, 2:18, 3:22] = True
    return mask


def read_masks(folder, case):
    [source] = find_sources([folder])
    found = source.read_case(case)
    assert case_faults(source.info, found) == []
    return {structure.name: structure.mask_KJI for structure in source.structures(found)}


@pytest.mark.parametrize("order", [("block", "body"), ("body", "block")])
def test_structures_that_overlap_are_all_whole(tmp_path, order):
    draw(tmp_path / "set/a", {name: {"block": truth(), "body": body()}[name] for name in order})
    found = read_masks(tmp_path / "set", "a")
    assert (found["block"] == truth()).all()
    assert (found["body"] == body()).all()
    [source] = find_sources([tmp_path / "set"])
    prepare([source], tmp_path / "store", DataOptions(protocol="slices"))
    store = TrainingStore(tmp_path / "store")
    names = [store.structure_names[n] for n in store.structure]
    assert (names.count("block"), names.count("body")) == (3, 6)


def test_a_label_map_of_overlapping_masks_has_an_id_for_each_combination():
    masks = {"a": [1, 1, 0, 0], "b": [1, 1, 1, 0], "c": [0, 1, 0, 0]}
    labels, regions = overlaid(((name, np.array(mask, bool)[None, None]) for name, mask in masks.items()), (1, 1, 4))
    assert len(set(labels.ravel().tolist())) == 4
    for name, mask in masks.items():
        assert np.isin(labels, regions[name]).astype(int).ravel().tolist() == mask


def test_a_roi_without_contours_is_no_structure(tmp_path):
    folder = draw(tmp_path / "set/a", {"block": truth(), "couch": body()})
    header = dcmread(folder / "drawn.dcm")
    del header.ROIContourSequence[1].ContourSequence
    header.save_as(folder / "drawn.dcm")
    assert list(read_masks(tmp_path / "set", "a")) == ["block"]


def test_a_case_without_one_set_of_structures_is_a_fault(tmp_path):
    draw(tmp_path / "set/good", {"block": truth()})
    write_series(tmp_path / "set/none")
    two = draw(tmp_path / "set/two", {"block": truth()})
    shutil.copy(two / "drawn.dcm", two / "again.dcm")
    with pytest.raises(BrokenDataError) as caught:
        prepare(find_sources([tmp_path / "set"]), tmp_path / "store", DataOptions(protocol="slices"))
    assert "case none: unreadable: the folder holds 0 SEG or RTSTRUCT files instead of one" in str(caught.value)
    assert "holds 2 SEG or RTSTRUCT files instead of one: again.dcm, drawn.dcm" in str(caught.value)


def test_cases_of_one_patient_stay_on_one_side_of_the_split(tmp_path):
    patients = {"march": "7", "april": "7", "x1": "8", "x2": "9"}
    for case, patient in patients.items():
        draw(tmp_path / "set" / case, {"block": truth()}, patient)
    [source] = find_sources([tmp_path / "set"])
    train, val = ({patients[case] for case in source.list_cases(split)} for split in ("train", "val"))
    assert (len(train), len(val)) == (2, 1)
    assert not train & val
