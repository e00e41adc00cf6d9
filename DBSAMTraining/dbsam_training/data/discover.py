"""Finds data sets in folders and recognises their layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dbsam_training.data.case import Source
from dbsam_training.data.dicom import DicomFolder
from dbsam_training.data.medsam import MedSamNpy, MedSamNpz
from dbsam_training.data.nnunet import RawDataset
from dbsam_training.data.volume_folder import VolumeFolder


def find_sources(folders: Sequence[str | Path]) -> list[Source]:
    """Data sets given by their own folder or by a folder that holds them, in the order of their names.

    Raises:
        FileNotFoundError: A folder does not exist, or neither is nor holds a data set.
    """
    found: dict[Path, Source] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise FileNotFoundError(f"There is no folder {folder}.")
        here = open_source(folder)
        inside = [here] if here else [s for sub in sorted(folder.iterdir()) if sub.is_dir() and (s := open_source(sub))]
        if not inside:
            raise FileNotFoundError(f"{folder} neither is nor holds a data set of a layout that is known.")
        for source in inside:
            found.setdefault(source.folder.resolve(), source)
    return list(found.values())


def open_source(folder: Path) -> Source | None:
    """The data set in a folder, None if it is none."""
    if (folder / "dataset.json").is_file() and ((folder / "labelsTr").is_dir() or not _others(folder)):
        return RawDataset(folder)
    layout = next(iter(_others(folder)), None)
    return layout(folder) if layout else None


def _others(folder: Path) -> list[type[MedSamNpz] | type[MedSamNpy] | type[DicomFolder] | type[VolumeFolder]]:
    return [layout for layout in (MedSamNpz, MedSamNpy, DicomFolder, VolumeFolder) if layout.recognises(folder)]
