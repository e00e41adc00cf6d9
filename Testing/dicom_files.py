"""DICOM files for tests: single-frame slices and enhanced multi-frame images, with whatever is asked to be odd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pydicom import Dataset, FileDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    ExplicitVRLittleEndian,
    MRImageStorage,
    generate_uid,
)

AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
SPACING_YX = (0.75, 0.5)  # PixelSpacing: between rows, between columns
UIDS = generate_uid(entropy_srcs=["frame of reference"]), generate_uid(entropy_srcs=["study"])


@dataclass
class Frame:
    """One frame: its stored pixels (rows, columns), its place in LPS, its scale, and what else it says of itself."""

    pixels: np.ndarray
    position: Sequence[float] | None = (0.0, 0.0, 0.0)
    orientation: Sequence[float] | None = AXIAL
    slope: float | None = 1.0
    intercept: float | None = 0.0
    spacing: Sequence[float] = SPACING_YX
    facts: Mapping[str, Any] = field(default_factory=dict)


def frames_along_z(positions: Sequence[float], shape=(5, 6), dtype=np.int16, **facts) -> list[Frame]:
    """Axial frames whose pixels are 100 times their z plus 0 .. 29."""
    ramp = np.arange(shape[0] * shape[1]).reshape(shape)
    return [Frame((100 * z + ramp).astype(dtype), (-10.0, -20.0, float(z)), facts=facts) for z in positions]


def new_file(sop_class: str, modality: str, series: str, pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian):
    meta = Dataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = sop_class, generate_uid()
    meta.TransferSyntaxUID = syntax
    file = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    file.SOPClassUID, file.SOPInstanceUID = sop_class, meta.MediaStorageSOPInstanceUID
    file.FrameOfReferenceUID, file.StudyInstanceUID = UIDS
    file.SeriesInstanceUID = series
    file.Modality, file.PatientID, file.PatientName, file.PatientBirthDate, file.PatientSex = modality, "1", "A", "", ""
    file.StudyDate, file.StudyTime, file.StudyID, file.AccessionNumber = "20240101", "000000", "1", ""
    file.ReferringPhysicianName, file.SeriesNumber, file.Manufacturer = "", 1, "none"
    file.InstanceNumber = 1
    file.SamplesPerPixel = 3 if pixels.ndim == 3 and pixels.shape[-1] == 3 else 1
    file.PhotometricInterpretation = "RGB" if file.SamplesPerPixel == 3 else "MONOCHROME2"
    if file.SamplesPerPixel == 3:
        file.PlanarConfiguration = 0
    file.Rows, file.Columns = pixels.shape[:2]
    bits = 8 * pixels.dtype.itemsize
    file.BitsAllocated, file.BitsStored, file.HighBit = bits, bits, bits - 1
    file.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    return file


def save(file: FileDataset, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save_as(path, enforce_file_format=True)
    return path


def write_series(folder: Path, frames: Sequence[Frame], series: str = "1.2.3.4", sop_class=CTImageStorage, **facts):
    """One file a frame, in the frames' order; `facts` are of all of them."""
    paths = []
    for number, frame in enumerate(frames):
        file = new_file(sop_class, "MR" if sop_class == MRImageStorage else "CT", series, frame.pixels)
        file.InstanceNumber = number + 1
        file.PixelSpacing = list(frame.spacing)
        file.SliceThickness = 1.0
        if frame.orientation is not None:
            file.ImageOrientationPatient = list(frame.orientation)
        if frame.position is not None:
            file.ImagePositionPatient = list(frame.position)
        if frame.slope is not None:
            file.RescaleSlope, file.RescaleIntercept = frame.slope, frame.intercept
        file.PixelData = frame.pixels.tobytes()
        for name, value in {**facts, **frame.facts}.items():
            setattr(file, name, value)
        paths.append(save(file, folder / f"{series}.{number:03d}.dcm"))
    return paths


def item(**values) -> Dataset:
    made = Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def write_enhanced(
    path: Path, frames: Sequence[Frame], series: str = "1.2.3.4", sop_class=EnhancedMRImageStorage, **facts
):
    """All frames in one file, with functional groups; `facts` of a frame may be `StackID`, `TemporalPositionIndex`,
    `EffectiveEchoTime` and others that have their place below."""
    first = frames[0].pixels
    file = new_file(sop_class, "CT" if sop_class == EnhancedCTImageStorage else "MR", series, first)
    file.NumberOfFrames = len(frames)
    file.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    file.SharedFunctionalGroupsSequence = Items([Dataset()])
    groups = []
    for frame in frames:
        group = Dataset()
        if frame.position is not None:
            group.PlanePositionSequence = Items([item(ImagePositionPatient=list(frame.position))])
        if frame.orientation is not None:
            group.PlaneOrientationSequence = Items([item(ImageOrientationPatient=list(frame.orientation))])
        group.PixelMeasuresSequence = Items([item(PixelSpacing=list(frame.spacing), SliceThickness=1.0)])
        if frame.slope is not None:
            transform = item(RescaleSlope=frame.slope, RescaleIntercept=frame.intercept, RescaleType="US")
            group.PixelValueTransformationSequence = Items([transform])
        content = {
            name: value
            for name, value in frame.facts.items()
            if name in ("StackID", "InStackPositionNumber", "TemporalPositionIndex", "FrameAcquisitionNumber")
        }
        group.FrameContentSequence = Items([item(**content)])
        if "EffectiveEchoTime" in frame.facts:
            group.MREchoSequence = Items([item(EffectiveEchoTime=frame.facts["EffectiveEchoTime"])])
        if "DiffusionBValue" in frame.facts:
            group.MRDiffusionSequence = Items([item(DiffusionBValue=frame.facts["DiffusionBValue"])])
        groups.append(group)
    file.PerFrameFunctionalGroupsSequence = Items(groups)
    file.PixelData = b"".join(frame.pixels.tobytes() for frame in frames)
    for name, value in facts.items():
        setattr(file, name, value)
    return save(file, path)
