"""Folders of DICOM series with RTSTRUCT or SEG, read by highdicom and rt-utils (extra `dicom`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.grid import LPS_FROM_RAS
from dbsam.io.image_file import ImageFile
from dbsam.io.images import read_image
from dbsam_training.data.folders import Contents, FolderSource
from dbsam_training.data.label_ids import LabelIds
from dbsam_training.schema import SettingError

_MAGIC_AT, _MAGIC = 128, b"DICM"
_Masks = list[tuple[str, NDArray[np.bool_]]]


@dataclass(frozen=True)
class _Series:
    """The files of a case: its image's slices, and what was drawn on them."""

    slices: tuple[Path, ...]
    drawn: tuple[Path, ...]
    patient: str


class DicomFolder(FolderSource):
    """One folder a case: the files of one image series, and one SEG or RTSTRUCT that was drawn on it.

    The names of segments and ROIs are the structures; a voxel may belong to several of them. Cases of one PatientID
    stay on one side of a split.

    Raises:
        SettingError: highdicom or rt-utils is not installed.
    """

    def __init__(self, folder: Path) -> None:
        found = {case.name: _series(case) for case in sorted(folder.iterdir()) if case.is_dir()}
        self._series = {name: series for name, series in found.items() if series.slices or series.drawn}
        names = {name for series in self._series.values() for path in series.drawn for name in _structure_names(path)}
        super().__init__(folder, sorted(names))

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Whether the folder has this layout: a subfolder with a DICOM file."""
        return any(any(map(_is_dicom, case.iterdir())) for case in folder.iterdir() if case.is_dir())

    def _find_cases(self) -> dict[str, tuple[Path, ...]]:
        return {name: (*series.slices, *series.drawn) for name, series in self._series.items()}

    def _patients(self) -> Mapping[str, str]:
        return {name: self._series[name].patient or name for name in self._cases}

    def _read(self, paths: tuple[Path, ...]) -> Contents:
        series = self._series[paths[0].parent.name]
        if len(series.drawn) != 1:
            shown = ": " + ", ".join(path.name for path in series.drawn) if series.drawn else ""
            raise ValueError(f"the folder holds {len(series.drawn)} SEG or RTSTRUCT files instead of one{shown}")
        [drawn], slices = series.drawn, list(series.slices)
        if not slices:
            raise ValueError("the folder holds no image series")
        image = read_image(paths[0].parent)
        grid = _highdicom_grid(image, slices[0])
        masks = _segments(drawn, grid) if _facts(drawn)[0] == "SEG" else _contours(drawn, slices, grid)
        known = [name for name, _ in self.info.structures]
        if unknown := [name for name, _ in masks if name not in known]:
            raise ValueError(f"the structure {unknown[0]!r} is not in the labels of dataset.json")
        labels, regions = overlaid(masks, image.voxels.shape[:3])
        ordered = tuple((name, regions[name]) for name in known if regions.get(name))
        return Contents(image.voxels, labels, image.ijk_to_ras, ordered)


def overlaid(
    masks: Iterable[tuple[str, NDArray[np.bool_]]], shape_KJI: tuple[int, ...]
) -> tuple[NDArray[np.int32], dict[str, tuple[int, ...]]]:
    """One label map of masks that may overlap, with an id for each combination of structures that occurs.

    Returns:
        Label ids (K,J,I), and the ids whose union each structure is.
    """
    labels = np.zeros(shape_KJI, np.int32)
    drawn = list(masks)
    names = list(dict.fromkeys(name for name, _ in drawn))
    ids = LabelIds(names)
    for name, mask in drawn:
        ids.draw(labels, mask, name)
    present = set(np.unique(labels).tolist())
    return labels, {name: tuple(label_id for label_id in ids.of(name) if label_id in present) for name in names}


def _highdicom_grid(image: ImageFile, file: Path) -> Any:
    """The image's grid as highdicom has it: from (slice, row, column) to LPS."""
    from highdicom import VolumeGeometry
    from pydicom import dcmread

    columns = (LPS_FROM_RAS @ image.ijk_to_ras).T
    return VolumeGeometry(
        affine=np.column_stack([columns[2], columns[1], columns[0], columns[3]]),
        spatial_shape=image.voxels.shape[:3],
        coordinate_system="PATIENT",
        frame_of_reference_uid=dcmread(file, stop_before_pixels=True).get("FrameOfReferenceUID"),
    )


def _segments(path: Path, grid: Any) -> _Masks:
    import highdicom

    seg = highdicom.seg.segread(path)
    found = []
    for number in seg.segment_numbers:
        volume = seg.get_volume(segment_numbers=[number], combine_segments=True, relabel=True)
        found.append((seg.get_segment_description(number).segment_label, volume.match_geometry(grid).array > 0))
    return found


def _contours(path: Path, slices: list[Path], grid: Any) -> _Masks:
    from pydicom import dcmread
    from rt_utils import RTStruct

    headers = [dcmread(file, stop_before_pixels=True) for file in slices]
    headers.sort(key=lambda header: float(np.dot(header.ImagePositionPatient, grid.unit_vectors()[0])))
    _, rows, columns = grid.spatial_shape
    for header in headers:
        header.Rows = header.Columns = max(rows, columns)  # rt-utils mixes the two up, so give it a square
    drawing = RTStruct(headers, dcmread(path))
    return [
        (name, np.moveaxis(drawing.get_roi_mask_by_name(name), 2, 0)[:, :rows, :columns])
        for name in _drawn_rois(drawing.ds)
    ]


def _structure_names(path: Path) -> list[str]:
    from pydicom import dcmread

    header = dcmread(path, stop_before_pixels=True)
    if header.Modality == "SEG":
        return [str(segment.SegmentLabel) for segment in header.SegmentSequence]
    return _drawn_rois(header)


def _drawn_rois(header: Any) -> list[str]:
    """Names of the ROIs that have contours; some, such as those of a couch or an isocentre, are a name alone."""
    drawn = {int(roi.ReferencedROINumber) for roi in header.get("ROIContourSequence", ()) if _has_area(roi)}
    return [str(roi.ROIName) for roi in header.StructureSetROISequence if int(roi.ROINumber) in drawn]


def _has_area(roi: Any) -> bool:
    contours = roi.get("ContourSequence") or ()
    return any(contour.get("ContourGeometricType", "CLOSED_PLANAR") == "CLOSED_PLANAR" for contour in contours)


def _series(case: Path) -> _Series:
    facts = {path: _facts(path) for path in sorted(case.iterdir()) if _is_dicom(path)}
    drawn = tuple(path for path, (modality, _) in facts.items() if modality in ("SEG", "RTSTRUCT"))
    patients = sorted({patient for _, patient in facts.values() if patient})
    return _Series(tuple(path for path in facts if path not in drawn), drawn, patients[0] if patients else "")


def _facts(path: Path) -> tuple[str, str]:
    """Modality and PatientID of a file."""
    try:
        from pydicom import dcmread
    except ImportError as error:
        raise SettingError("Reading DICOM needs highdicom and rt-utils: pip install 'dbsam[dicom]'.") from error
    header = dcmread(path, stop_before_pixels=True, specific_tags=["Modality", "PatientID"])
    return str(header.get("Modality", "")), str(header.get("PatientID", "") or "").strip()


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(_MAGIC_AT)
        return file.read(4) == _MAGIC
