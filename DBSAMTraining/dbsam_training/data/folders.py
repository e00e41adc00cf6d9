"""What data sets without nnU-Net's layout have in common: facts from an optional dataset.json, patient-wise splits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.grid import LPS_FROM_RAS, ImageGeometry
from dbsam_training.data.case import Case, CaseError, Structure, structure_ids
from dbsam_training.data.dataset_info import DatasetInfo
from dbsam_training.data.json_files import read_json
from dbsam_training.data.splits import made_split, patients_of, stated_split
from dbsam_training.schema import SettingError

MOST_UNNAMED_IDS = 255


class Contents(NamedTuple):
    """Voxels (K,J,I[,3]), label ids (K,J,I), affine from IJK to RAS (None without physical size), `Case.regions`."""

    voxels_KJI: NDArray[np.generic]
    labels_KJI: NDArray[np.integer]
    ijk_to_ras: NDArray[np.float64] | None
    regions: tuple[tuple[str, tuple[int, ...]], ...] | None = None


class FolderSource(ABC):
    """A data set in a folder.

    The folder may hold a `dataset.json` with nnU-Net's and our keys (labels, modality, licence, reference ...); without
    `labels`, each id is a structure of its own. It may hold nnU-Net's `splits_final.json`; without, a fifth of the
    patients, chosen by their names, is for validation.

    Attributes:
        folder: The folder.
        info: What is known of the data set.
        labels_are_named: Whether somebody says what each id is.

    Raises:
        SettingError: dataset.json or splits_final.json cannot be read.
    """

    def __init__(self, folder: Path, structures: Sequence[str] = ()) -> None:
        self.folder = folder
        self.info, self.labels_are_named = _read_info(folder, structures)
        self._cases = dict(sorted(self._find_cases().items()))

    @abstractmethod
    def _find_cases(self) -> dict[str, tuple[Path, ...]]:
        """Names of the cases and their files."""

    @abstractmethod
    def _read(self, paths: tuple[Path, ...]) -> Contents:
        """What a case's files hold."""

    def _patients(self) -> Mapping[str, str]:
        """The patient of each case."""
        return patients_of(self._cases)

    def unlabelled(self) -> list[str]:
        """Names of images that have no label file, and so are no cases."""
        return []

    def files(self, name: str) -> list[Path]:
        """The files of a case; none if there is no such case."""
        return list(self._cases.get(name, ()))

    def list_cases(self, split: str = "all", fold: int = 0) -> list[str]:
        """Names of the cases of "train", "val" or "all".

        Raises:
            SettingError: There is no such split, or splits_final.json has a case in both.
        """
        if split == "all":
            return list(self._cases)
        path = self.folder / "splits_final.json"
        if path.is_file():
            return stated_split(read_json(path, SettingError), path, split, fold)
        if split not in ("train", "val"):
            raise SettingError(f"{self.folder} has no split {split!r}: use train, val or all.")
        return made_split(self._patients(), split)

    def read_case(self, name: str) -> Case:
        """One case.

        Raises:
            CaseError: It cannot be read, or image and labels do not fit.
        """
        if name not in self._cases:
            raise CaseError(name, f"there is no such case in {self.folder}")
        try:
            voxels, labels, ijk_to_ras, regions = self._read(self._cases[name])
        except (OSError, ValueError, KeyError, RuntimeError, AttributeError, EOFError) as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise CaseError(name, f"unreadable: {reason}") from error
        if voxels.shape[:3] != labels.shape:
            raise CaseError(name, f"image has K,J,I = {voxels.shape[:3]}, labels have {labels.shape}: they must agree")
        affine = ijk_to_ras if ijk_to_ras is not None else LPS_FROM_RAS
        k, j, i = labels.shape
        geometry = ImageGeometry(affine, (i, j, k))
        spacing = None if ijk_to_ras is None else geometry.spacing_mm
        return Case(name, voxels, geometry, labels, spacing, 2 if k == 1 else 3, regions=regions)

    def structures(self, case: Case) -> Iterator[Structure]:
        """The objects of a case."""
        for name, ids in structure_ids(self.info, case):
            title = f"{name} #{ids[0]}" if self.info.instances else name
            yield Structure(title, name, np.isin(case.labels_KJI, ids))


def _read_info(folder: Path, structures: Sequence[str]) -> tuple[DatasetInfo, bool]:
    path = folder / "dataset.json"
    content = read_json(path, SettingError) if path.is_file() else {}
    if not isinstance(content, dict):
        raise SettingError(f"{path} must hold an object.")
    named = "labels" in content
    if not named:
        names = list(structures) or [f"label {i}" for i in range(1, MOST_UNNAMED_IDS + 1)]
        content = {**content, "labels": {name: number + 1 for number, name in enumerate(names)}}
    info = DatasetInfo.from_json(content, folder.resolve().name)
    if not content.get("modality"):
        info = replace(info, modality="unknown")
    return info, named or bool(structures)
