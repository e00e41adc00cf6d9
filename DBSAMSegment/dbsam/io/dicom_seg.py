"""DICOM SEG files, written by highdicom: a segmentation that refers to the DICOM images it was made on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dbsam import __version__
from dbsam.geometry.grid import ImageGeometry
from dbsam.io.dicom import Frame, chosen_frames, is_dicom
from dbsam.io.files import atomic_path
from dbsam.io.image_file import Choice, ImageFileError
from dbsam.io.seg_nrrd import Segment

if TYPE_CHECKING:
    from pydicom import Dataset

DICOM_SEG_ENDING = ".dcm"

_LONGEST_LABEL = 64
_OF_ALL_FRAMES = ("PixelMeasuresSequence", "PlaneOrientationSequence")


def source_frames(source: Path, choice: Choice) -> list[Frame]:
    """The frames on which a DICOM SEG would be drawn, in the order of the volume's K-slices.

    Raises:
        ValueError: The input is no DICOM, or its images have no position.
        ImageFileError: See `read_dicom`.
    """
    if not (source.is_dir() or is_dicom(source)):
        raise ValueError(f"{source} is no DICOM, and a DICOM segmentation refers to DICOM images: write .seg.nrrd.")
    frames = chosen_frames(source, choice)
    if frames[0].place is None:
        raise ImageFileError(f"{source}: no position, which a DICOM segmentation needs; write .seg.nrrd.")
    return frames


def write_dicom_seg(
    path: str | os.PathLike[str],
    segments: Sequence[Segment],
    geometry: ImageGeometry,
    source: Path,
    choice: Choice | None = None,
    model: str = "DB-SAM",
) -> None:
    """Write segments as a binary DICOM SEG, atomically; segments may overlap.

    Args:
        path: A file that ends in `.dcm`.
        segments: At least one.
        geometry: The grid of the volume that was read from `source`.
        source: The DICOM file or folder on which they were made.
        choice: The series and stack that were read of it.
        model: Name of the network, by which the file says how it came to be.

    Raises:
        ValueError: No segments, another ending, a source that is no DICOM or lacks what a SEG needs, or a mask that
            does not fit in the volume.
        OSError: The file cannot be written; a former one stays.
    """
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    if not segments:
        raise ValueError("A segmentation needs at least one segment.")
    if not str(path).lower().endswith(DICOM_SEG_ENDING):
        raise ValueError(f"{path}: a DICOM segmentation ends in {DICOM_SEG_ENDING}.")
    frames = source_frames(source, choice or Choice())
    if (len(frames), frames[0].content.Rows, frames[0].content.Columns) != geometry.shape_KJI:
        raise ValueError(f"{source}: {len(frames)} slices, but the segmentation has {geometry.shape_KJI[0]}.")
    masks = np.zeros((*geometry.shape_KJI, len(segments)), np.uint8)
    for number, segment in enumerate(segments):
        masks[..., number][segment.slices_KJI(geometry)][segment.mask_KJI != 0] = 1
    made_by = highdicom.AlgorithmIdentificationSequence(
        model[:_LONGEST_LABEL], codes.cid7162.ArtificialIntelligence, __version__
    )
    described = [
        highdicom.seg.SegmentDescription(
            number,
            segment.name[:_LONGEST_LABEL] or f"Segment {number}",
            codes.SCT.Tissue,
            codes.SCT.Tissue,
            highdicom.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
            made_by,
            display_color=highdicom.color.CIELabColor.from_rgb(
                *(round(255 * value) for value in segment.color(number - 1))
            ),
        )
        for number, segment in enumerate(segments, start=1)
    ]
    try:
        seg = highdicom.seg.Segmentation(
            _sources(frames),
            masks,
            highdicom.seg.SegmentationTypeValues.BINARY,
            described,
            series_instance_uid=generate_uid(),
            series_number=1,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="DB-SAM",
            manufacturer_model_name=model[:_LONGEST_LABEL],
            software_versions=__version__,
            device_serial_number="none",
            plane_positions=[
                highdicom.PlanePositionSequence("PATIENT", frame.place.origin_mm.tolist())
                for frame in frames
                if frame.place is not None
            ],
            plane_orientation=_orientation(frames[0]),
            pixel_measures=highdicom.PixelMeasuresSequence(
                pixel_spacing=[geometry.spacing_mm[1], geometry.spacing_mm[0]],
                slice_thickness=geometry.spacing_mm[2],
                spacing_between_slices=geometry.spacing_mm[2],
            ),
            content_label="DBSAM",
        )
    except (AttributeError, KeyError, ValueError) as error:
        raise ValueError(f"{source}: lacks what a DICOM segmentation needs ({error}); write .seg.nrrd.") from error
    seg.SeriesDescription = f"DB-SAM: {', '.join(segment.name for segment in segments)}"[:_LONGEST_LABEL]
    with atomic_path(path) as temporary:
        seg.save_as(temporary)


def _sources(frames: Sequence[Frame]) -> list[Dataset]:
    """The files of the frames; what each frame says of pixels and directions is said for all, as highdicom wants it."""
    sources = []
    for frame in {id(frame.content): frame for frame in frames}.values():
        content = frame.content
        groups = content.get("PerFrameFunctionalGroupsSequence")
        shared = content.get("SharedFunctionalGroupsSequence")
        own = [name for name in _OF_ALL_FRAMES if groups and shared and name not in shared[0]]
        if own:
            content, group = copy(content), copy(shared[0])
            for name in own:
                setattr(group, name, groups[frame.number].get(name))
            content.SharedFunctionalGroupsSequence = [group]
        sources.append(content)
    return sources


def _orientation(frame: Frame) -> Any:
    import highdicom

    assert frame.place is not None
    axes = frame.place.direction[:, :2].T.ravel()
    return highdicom.PlaneOrientationSequence("PATIENT", axes.tolist())
