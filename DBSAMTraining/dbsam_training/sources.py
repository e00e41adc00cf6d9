"""What `prepare` reads: data sets of any layout, seen the same way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dbsam_training.dataset_info import DatasetInfo
from dbsam_training.nnunet import Case, Structure


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

    def read_case(self, name: str) -> Case:
        """One case.

        Raises:
            CaseError: It cannot be read.
        """
        ...

    def structures(self, case: Case) -> Iterator[Structure]:
        """The objects of a case."""
        ...


def structure_ids(info: DatasetInfo, labels_KJI: NDArray[np.integer]) -> list[tuple[str, tuple[int, ...]]]:
    """The objects of a label map as (class name, ids), without their masks: of a large volume few fit into memory."""
    present = set(np.unique(labels_KJI).tolist()) - {0} - set(info.ignore_ids)
    if info.instances:
        name = info.structures[0][0] if len(info.structures) == 1 else "object"
        return [(name, (i,)) for i in sorted(present)]
    found = [(name, tuple(sorted(present.intersection(ids)))) for name, ids in info.structures]
    return [(name, ids) for name, ids in found if ids]


def case_faults(info: DatasetInfo, case: Case) -> list[str]:
    """What makes a case unfit for training: no label at all, ids that nobody explains, voxels that are no numbers."""
    faults = []
    ids = set(np.unique(case.labels_KJI).tolist()) - {0}
    if not ids:
        faults.append("the labels are empty")
    unknown = sorted(ids - info.known_ids)
    if unknown and not info.instances:
        faults.append(f"label ids {unknown[:10]} are not explained")
    if np.issubdtype(case.voxels_KJI.dtype, np.floating):
        bad = sum(int(np.count_nonzero(~np.isfinite(part))) for part in case.voxels_KJI)
        if bad:
            faults.append(f"{bad} of {case.voxels_KJI.size} voxels are NaN or infinite")
    return faults
