"""A case and the data set it belongs to, the same way for every layout."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.grid import ImageGeometry
from dbsam_training.data.dataset_info import DatasetInfo
from dbsam_training.schema import SettingError


class CaseError(ValueError):
    """A case that cannot be used; the message names the case and what is wrong with it."""

    def __init__(self, case: str, reason: str) -> None:
        super().__init__(f"{case}: {reason}")
        self.case = case
        self.reason = reason


@dataclass(frozen=True, eq=False)
class Case:
    """One image with its labels.

    Attributes:
        name: the case's name in the data set.
        voxels_KJI: (K,J,I), or (K,J,I,3) for colour, in the file's own type; a 2D image has K = 1.
        geometry: of both arrays; 1 mm pixels where the file has no spacing.
        labels_KJI: (K,J,I) integer label ids, 0 is background.
        spacing_ijk_mm: as the file states it, None where a pixel has no physical size. The geometry's own differs from
            it by rounding, which NSD notices wherever a distance equals the tolerance.
        dimension: 2 or 3.
        problems: in words, what is suspicious but doesn't prevent use: unknown ids, no label at all, NaN voxels,
            another affine.
        faults: those of the problems for which training refuses the case, though its arrays look sound.
        regions: (structure, ids whose union it is) of this case, where the ids are its own; else DatasetInfo tells.
    """

    name: str
    voxels_KJI: NDArray[Any]
    geometry: ImageGeometry
    labels_KJI: NDArray[np.integer[Any]]
    spacing_ijk_mm: tuple[float, float, float] | None
    dimension: int
    problems: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    regions: tuple[tuple[str, tuple[int, ...]], ...] | None = None


@dataclass(frozen=True, eq=False)
class Structure:
    """One object to segment: `name` is unique in its case, `class_name` is shared by the instances of one class."""

    name: str
    class_name: str
    mask_KJI: NDArray[np.bool_]


class Source(Protocol):
    """A data set whose cases are read one by one; `RawDataset` is one.

    Attributes:
        info: Name, modality, structures, licence.
        folder: Where it lies.
    """

    info: DatasetInfo
    folder: Path

    def list_cases(self, split: str = "all", fold: int = 0) -> list[str]:
        """Names of the cases of "train" or "val"."""
        ...

    def unlabelled(self) -> list[str]:
        """Names of images that have no label file, and so are no cases."""
        ...

    def files(self, name: str) -> list[Path]:
        """The files of a case; none if one is missing."""
        ...

    def read_case(self, name: str) -> Case:
        """One case.

        Raises:
            CaseError: It cannot be read.
        """
        ...

    def structures(self, case: Case) -> Iterator[Structure]:
        """The objects of a case."""
        ...


def check_names(sources: Iterable[Source]) -> None:
    """Refuse data sets that could not be told apart afterwards.

    Raises:
        SettingError: Two have the same name.
    """
    seen: dict[str, Source] = {}
    for source in sources:
        other = seen.setdefault(source.info.name, source)
        if other is not source:
            raise SettingError(
                f"{other.folder} and {source.folder} are both called {source.info.name}: rename one of the folders."
            )


def structure_ids(info: DatasetInfo, case: Case) -> list[tuple[str, tuple[int, ...]]]:
    """The objects of a case as (class name, ids), without their masks: of a large volume few fit into memory."""
    if case.regions is not None:
        return list(case.regions)
    present = set(np.unique(case.labels_KJI).tolist()) - {0} - set(info.ignore_ids)
    if info.instances:
        name = info.structures[0][0] if len(info.structures) == 1 else "object"
        return [(name, (i,)) for i in sorted(present)]
    found = [(name, tuple(sorted(present.intersection(ids)))) for name, ids in info.structures]
    return [(name, ids) for name, ids in found if ids]


def ignored_voxels(info: DatasetInfo, case: Case) -> NDArray[np.bool_] | None:
    """Where nnU-Net's label `ignore` says that nobody knows (K,J,I); None where the data set has no such label."""
    if not info.ignore_ids or case.regions is not None:
        return None
    return np.isin(case.labels_KJI, info.ignore_ids)


def case_faults(info: DatasetInfo, case: Case) -> list[str]:
    """What makes a case unfit for training: no label at all, ids that nobody explains, voxels that are no numbers."""
    faults = list(case.faults)
    ids = set(np.unique(case.labels_KJI).tolist()) - {0}
    if not ids:
        faults.append("the labels are empty")
    unknown = sorted(ids - info.known_ids)
    if unknown and not info.instances and case.regions is None:
        faults.append(f"label ids {unknown[:10]} are not explained")
    ignored = ignored_voxels(info, case)
    if ignored is not None and ignored.any():
        count = int(ignored.sum())
        faults.append(
            f"{count} voxels are labelled `ignore`, which training cannot leave out: label them, or as background"
        )
    if np.issubdtype(case.voxels_KJI.dtype, np.floating):
        bad = sum(int(np.count_nonzero(~np.isfinite(part))) for part in case.voxels_KJI)
        text = f"{bad} of {case.voxels_KJI.size} voxels are NaN or infinite"
        if bad and text not in faults:
            faults.append(text)
    return faults
