"""Label maps of structures that may overlap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class LabelIds:
    """Ids of structures that may overlap: one for each, and one for each combination that occurs in any case.

    Args:
        structures: Their names; the n-th alone has the id n, from 1.
    """

    def __init__(self, structures: Sequence[str]) -> None:
        self._structures = tuple(structures)
        self._members = [frozenset[str](), *(frozenset({name}) for name in structures)]

    def draw(self, labels_KJI: NDArray[np.integer], mask_KJI: NDArray[np.bool_], structure: str) -> None:
        """Add a structure to a case's labels, where what lies below it stays."""
        below = labels_KJI[mask_KJI]
        ids_above = np.zeros(len(self._members), labels_KJI.dtype)
        for label_id in np.unique(below).tolist():
            ids_above[label_id] = self._id_of(self._members[label_id] | {structure})
        labels_KJI[mask_KJI] = ids_above[below]

    def as_labels(self) -> dict[str, int | list[int]]:
        """The `labels` of dataset.json: to each structure its id, or the ids whose union it is."""
        labels: dict[str, int | list[int]] = {"background": 0}
        for name in self._structures:
            ids = self.of(name)
            labels[name] = ids if len(ids) > 1 else ids[0]
        return labels

    def of(self, structure: str) -> list[int]:
        """The ids whose union a structure is; a case need not have all of them."""
        return [label_id for label_id, members in enumerate(self._members) if structure in members]

    def _id_of(self, members: frozenset[str]) -> int:
        if members not in self._members:
            self._members.append(members)
        return self._members.index(members)
