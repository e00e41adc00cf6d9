"""Folders of images with label files: `images/CASE.EXT` and `labels/CASE.EXT`, or both side by side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dbsam.io.images import read_labels
from dbsam.io.pictures import PICTURE_ENDINGS
from dbsam_training.data.folders import Contents, FolderSource
from dbsam_training.data.images import read_channels, same_grid

ENDINGS = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd", *PICTURE_ENDINGS)
IDS_MAY_BE_SMOOTHED = tuple(ending for ending in PICTURE_ENDINGS if not ending.startswith(".tif"))
LABEL_MARKS = ("_segmentation", "_label", "-label", "_labels", "_mask", "_seg", "_gt")
MOST_UNNAMED_IN_PICTURE = 16
MOST_GREY_LEVELS, BRIGHT = 3, 128
"""Masks of pictures often hold 255, or 127 and 255; more values than that up to a bright one are no ids."""
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

    def unlabelled(self) -> list[str]:
        """Names of images without a label file."""
        return sorted(_images_and_labels(self.folder)[0].keys() - self._cases.keys())

    def _read(self, paths: tuple[Path, ...]) -> Contents:
        image, labels = read_channels([paths[0]], self.info.is_rgb), read_labels(paths[1])
        both_placed = image.spacing_known and labels.spacing_known
        if both_placed and not same_grid(image.ijk_to_ras, labels.ijk_to_ras, labels.voxels.shape):
            raise ValueError("image and label file have different positions, directions or spacings")
        if image.non_finite:
            raise ValueError(f"{image.non_finite} of {image.voxels.size} voxels are NaN or infinite")
        if not self.labels_are_named and paths[1].suffix.lower() in IDS_MAY_BE_SMOOTHED:
            _refuse_smoothed(labels.voxels)
        return Contents(image.voxels, labels.voxels, image.ijk_to_ras if image.spacing_known else None)


def _refuse_smoothed(mask: NDArray[np.integer]) -> None:
    """Refuse a picture whose grey values are no ids, but the soft edge of a white object or what JPEG made of it."""
    values = np.unique(mask[mask != 0])
    if len(values) > MOST_UNNAMED_IN_PICTURE or (len(values) > MOST_GREY_LEVELS and values[-1] >= BRIGHT):
        raise ValueError(
            f"the mask holds {len(values)} different values up to {values[-1]}, as smoothed or JPEG masks do: save it "
            "as PNG with 0 for background and 1, 2 ... for structures, or name its values under `labels` in a "
            "dataset.json"
        )


def _pairs(folder: Path) -> dict[str, tuple[Path, Path]]:
    images, labels = _images_and_labels(folder)
    return {name: (images[name], path) for name, path in labels.items() if name in images}


def _images_and_labels(folder: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and label files by the names of their cases."""
    for images, labels in FOLDERS:
        if (folder / images).is_dir() and (folder / labels).is_dir():
            found, truth = ({_name(path): path for path in _files(folder / kind)} for kind in (images, labels))
            return found, truth
    files = {path.name: path for path in _files(folder)}
    marked = {name: case for name in files if (case := _unmarked(name)) is not None}
    plain = {_stem(name): path for name, path in files.items() if name not in marked}
    return plain, {case: files[name] for name, case in marked.items()}


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
