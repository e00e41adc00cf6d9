"""MedSAM's files: npz with `imgs`/`gts` (3D) or `img`/`gt` (2D), and folders of npy slices."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dbsam.io.images import read_image, read_labels
from dbsam_training.data.folders import Contents, FolderSource


class MedSamNpz(FolderSource):
    """A folder of npz files, one a case.

    3D: `imgs` (D, H, W), `gts` (D, H, W), `spacing` (x, y, z) in mm if it is there. 2D: `img` (H, W[, 3]), `gt` (H, W).
    """

    @staticmethod
    def recognises(folder: Path) -> bool:
        """Whether the folder has this layout."""
        return any(folder.glob("*.npz"))

    def _find_cases(self) -> dict[str, tuple[Path, ...]]:
        return {path.stem: (path,) for path in self.folder.glob("*.npz")}

    def _read(self, paths: tuple[Path, ...]) -> Contents:
        image, labels = read_image(paths[0]), read_labels(paths[0])
        return Contents(image.voxels, labels.voxels, image.ijk_to_ras if image.spacing_known else None)


class MedSamNpy(FolderSource):
    """Folders `imgs` and `gts` (or `npy_images` and `npy_gts`) of npy slices of the same names, (H, W[, 3]) and (H, W).

    Images of 0..1, as MedSAM writes them, are scaled to 0..255.
    """

    NAMES = (("imgs", "gts"), ("npy_images", "npy_gts"))

    @classmethod
    def recognises(cls, folder: Path) -> bool:
        """Whether the folder has this layout."""
        return any((folder / a).is_dir() and any((folder / b).glob("*.npy")) for a, b in cls.NAMES)

    @property
    def _folders(self) -> tuple[Path, Path]:
        images, labels = next((a, b) for a, b in self.NAMES if (self.folder / a).is_dir())
        return self.folder / images, self.folder / labels

    def _find_cases(self) -> dict[str, tuple[Path, ...]]:
        images, labels = self._folders
        return {path.stem: (images / path.name, path) for path in labels.glob("*.npy")}

    def unlabelled(self) -> list[str]:
        """Names of images without a file of the same name among the labels."""
        return sorted({path.stem for path in self._folders[0].glob("*.npy")} - self._cases.keys())

    def _read(self, paths: tuple[Path, ...]) -> Contents:
        image = np.load(paths[0], allow_pickle=False)
        labels = np.load(paths[1], allow_pickle=False)
        if np.issubdtype(image.dtype, np.floating) and image.size and image.min() >= 0 and image.max() <= 1:
            image = np.rint(image * 255).astype(np.uint8)
        return Contents(image[np.newaxis], _whole(labels)[np.newaxis], None)


def _whole(labels: NDArray[np.generic]) -> NDArray[np.integer]:
    """Label ids as whole numbers.

    Raises:
        ValueError: They are not.
    """
    if np.issubdtype(labels.dtype, np.integer):
        return np.asarray(labels)
    whole = np.rint(labels.astype(np.float64))
    if not np.array_equal(whole, labels):
        raise ValueError("the labels are no whole numbers")
    return whole.astype(np.int32)
