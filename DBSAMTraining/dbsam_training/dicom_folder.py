"""Folders of DICOM series with RTSTRUCT or SEG, read by highdicom and rt-utils (extra `dicom`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dbsam_training.folder_source import FolderSource
from dbsam_training.images import LPS_TO_RAS
from dbsam_training.strict import SettingError

_MAGIC_AT, _MAGIC = 128, b"DICM"


class DicomFolder(FolderSource):
    """One folder a case: the files of one image series, and one SEG or RTSTRUCT that was drawn on it.

    The names of segments and ROIs are the structures; where they overlap, the later one of the file wins.

    Raises:
        SettingError: highdicom or rt-utils is not installed.
    """

    def __init__(self, folder: Path) -> None:
        self._titles: dict[Path, list[str]] = {}
        for case in sorted(path for path in folder.iterdir() if path.is_dir()):
            self._titles[case] = _structure_names(case)
        self._names = sorted({name for names in self._titles.values() for name in names})
        super().__init__(folder, self._names)

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Whether the folder has this layout: a subfolder with a DICOM file."""
        return any(any(map(_is_dicom, case.iterdir())) for case in folder.iterdir() if case.is_dir())

    def _find_cases(self) -> dict[str, tuple[Path, ...]]:
        return {case.name: (case,) for case, names in self._titles.items() if names}

    def _read(
        self, paths: tuple[Path, ...]
    ) -> tuple[NDArray[np.generic], NDArray[np.integer], NDArray[np.float64] | None]:
        import highdicom
        from pydicom import dcmread

        drawn, slices = _split_files(paths[0])
        image = highdicom.get_volume_from_series([dcmread(path) for path in slices], dtype=np.float32)
        labels = np.zeros(image.spatial_shape, np.int32)
        ids = {name: ids[0] for name, ids in self.info.structures}
        for name, mask in _segments(drawn, image) if _modality(drawn) == "SEG" else _contours(drawn, slices, image):
            if name not in ids:
                raise ValueError(f"the structure {name!r} is not in the labels of dataset.json")
            labels[mask] = ids[name]
        affine = image.affine  # from (slice, row, column) to LPS
        ijk_to_lps = np.column_stack([affine[:, 2], affine[:, 1], affine[:, 0], affine[:, 3]])
        return image.array, labels, LPS_TO_RAS @ ijk_to_lps


def _segments(path: Path, image: Any) -> list[tuple[str, NDArray[np.bool_]]]:
    import highdicom

    seg = highdicom.seg.segread(path)
    found = []
    for number in seg.segment_numbers:
        volume = seg.get_volume(segment_numbers=[number], combine_segments=True, relabel=True)
        found.append((seg.get_segment_description(number).segment_label, volume.match_geometry(image).array > 0))
    return found


def _contours(path: Path, slices: list[Path], image: Any) -> list[tuple[str, NDArray[np.bool_]]]:
    from pydicom import dcmread
    from rt_utils import RTStruct

    headers = [dcmread(file, stop_before_pixels=True) for file in slices]
    headers.sort(key=lambda header: float(np.dot(header.ImagePositionPatient, image.unit_vectors()[0])))
    _, rows, columns = image.spatial_shape
    for header in headers:
        header.Rows = header.Columns = max(rows, columns)  # rt-utils mixes the two up, so give it a square
    drawing = RTStruct(headers, dcmread(path))
    return [
        (name, np.moveaxis(drawing.get_roi_mask_by_name(name), 2, 0)[:, :rows, :columns])
        for name in drawing.get_roi_names()
    ]


def _structure_names(case: Path) -> list[str]:
    try:
        from pydicom import dcmread
    except ImportError as error:
        raise SettingError("Reading DICOM needs highdicom and rt-utils: pip install 'dbsam[dicom]'.") from error
    drawn = [path for path in case.iterdir() if _is_dicom(path) and _modality(path) in ("SEG", "RTSTRUCT")]
    if len(drawn) != 1:
        return []
    header = dcmread(drawn[0], stop_before_pixels=True)
    if header.Modality == "SEG":
        return [str(segment.SegmentLabel) for segment in header.SegmentSequence]
    return [str(roi.ROIName) for roi in header.StructureSetROISequence]


def _split_files(case: Path) -> tuple[Path, list[Path]]:
    """The file of the structures, and those of the image's slices."""
    files = [path for path in sorted(case.iterdir()) if _is_dicom(path)]
    drawn = [path for path in files if _modality(path) in ("SEG", "RTSTRUCT")]
    return drawn[0], [path for path in files if path not in drawn]


def _modality(path: Path) -> str:
    from pydicom import dcmread

    return str(dcmread(path, stop_before_pixels=True, specific_tags=["Modality"]).get("Modality", ""))


def _is_dicom(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(_MAGIC_AT)
        return file.read(4) == _MAGIC
