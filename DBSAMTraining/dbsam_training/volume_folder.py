"""Folders of images with label files: `images/CASE.EXT` and `labels/CASE.EXT`, or both side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dbsam_training.folder_source import FolderSource
from dbsam_training.images import PICTURE_ENDINGS, read_image, read_labels

ENDINGS = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd", ".tif", ".tiff", *PICTURE_ENDINGS)
LABEL_MARKS = ("_segmentation", "_label", "-label", "_labels", "_mask", "_seg", "_gt")
FOLDERS = (("images", "labels"), ("images", "masks"), ("image", "label"), ("img", "mask"))


class VolumeFolder(FolderSource):
    """Volumes or pictures with label maps of the same name.

    The two lie in folders `images` and `labels` (or `masks`), or side by side, where a label map's name is its image's
    with `_seg`, `_label`, `_mask` or `_gt` at its end, or the ending `.seg.nrrd`.
    """

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Whether the folder has this layout."""
        return bool(_pairs(folder))

    def _find_cases(self) -> dict[str, tuple[Path, ...]]:
        return dict(_pairs(self.folder))

    def _read(
        self, paths: tuple[Path, ...]
    ) -> tuple[NDArray[np.generic], NDArray[np.integer], NDArray[np.float64] | None]:
        image, labels = read_image([paths[0]]), read_labels(paths[1])
        if (
            image.spacing_known
            and labels.spacing_known
            and not np.allclose(image.ijk_to_ras, labels.ijk_to_ras, atol=1e-3)
        ):
            raise ValueError("image and label file have different positions, directions or spacings")
        return image.array_KJI, labels.array_KJI, image.ijk_to_ras if image.spacing_known else None


def _pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    for images, labels in FOLDERS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            truth = {_name(path): path for path in _files(folder / labels)}
            found = {_name(path): path for path in _files(folder / images)}
            return {name: (found[name], path) for name, path in truth.items() if name in found}
    files = {path.name: path for path in _files(folder)}
    marked = {name: path for name, path in files.items() if _unmarked(name) is not None}
    plain = {_stem(name): path for name, path in files.items() if name not in marked}
    return {case: (plain[case], path) for name, path in marked.items() if (case := _unmarked(name)) in plain}


def _files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.iterdir()) if path.is_file() and _ending(path.name)]


def _ending(name: str) -> str:
    return next((ending for ending in ENDINGS if name.lower().endswith(ending)), "")


def _stem(name: str) -> str:
    return name[: len(name) - len(_ending(name))]


def _name(path: Path) -> str:
    """The case of a file in a folder of its own, with or without a mark."""
    return _unmarked(path.name) or _stem(path.name)


def _unmarked(name: str) -> str | None:
    """The case to which a label file's name belongs; None for a name without a mark."""
    stem = _stem(name)
    mark = next((mark for mark in LABEL_MARKS if stem.lower().endswith(mark)), None)
    if mark:
        return stem[: -len(mark)]
    return stem if _ending(name) == ".seg.nrrd" else None
