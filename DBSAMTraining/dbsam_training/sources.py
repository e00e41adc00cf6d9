"""What `prepare` reads: data sets of any layout, seen the same way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dbsam_training.dataset_info import DatasetInfo
from dbsam_training.nnunet import Case, Structure
from dbsam_training.strict import SettingError


class Source(Protocol):
    """A data set whose cases are read one by one; `nnunet.RawDataset` is one.

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
