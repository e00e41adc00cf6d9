"""Which objects of an evaluation are shown on its picture sheets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from dbsam_training.evaluate.bootstrap import Row
from dbsam_training.evaluate.prompts import BoolArray, FloatArray


@dataclass(frozen=True, eq=False)
class Example:
    """The largest slice of an object, for the picture sheet.

    Attributes:
        image: [y,x] grey or [y,x,3] colour, as the models see it.
        box_xyxy: the prompt on this slice, in continuous pixel coordinates.
        truth: [y,x].
        masks: [y,x] by model.
        dsc: of the whole object, by model.
        spacing_xy: of the slice's pixels, in mm.
    """

    dataset: str
    case: str
    structure: str
    modality: str
    prompt: str
    image: NDArray[np.uint8]
    box_xyxy: FloatArray
    truth: BoolArray
    masks: dict[str, BoolArray]
    dsc: dict[str, float]
    spacing_xy: tuple[float, float]


class ExampleKeeper(Protocol):
    """Keeps examples while an evaluation goes on, so that not every object's picture is held in memory."""

    def wanted(self, rows: Sequence[Row], sizes: Sequence[int]) -> list[int]:
        """Which of some objects of a case to keep, by their scores under the first model and their voxels."""

    def add(self, example: Example) -> None:
        """Keep an example."""

    def chosen(self, prompt: str) -> list[Example]:
        """The rows of a prompt's sheet, in order."""


class OneOfEachDataset:
    """The largest object of each data set's first case; every modality is shown before one is shown twice."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: list[Example] = []

    def wanted(self, rows: Sequence[Row], sizes: Sequence[int]) -> list[int]:
        """The largest one, of a data set's first case."""
        there = any((kept.dataset, kept.prompt) == (rows[0].dataset, rows[0].prompt) for kept in self._kept)
        return [] if there else [int(np.argmax(sizes))]

    def add(self, example: Example) -> None:
        """Keep an example."""
        self._kept.append(example)

    def chosen(self, prompt: str) -> list[Example]:
        """One of each data set, as many as fit."""
        rest = [example for example in self._kept if example.prompt == prompt]
        chosen: list[Example] = []
        while rest and len(chosen) < self._most:
            round_of_modalities = list({example.modality: example for example in reversed(rest)}.values())[::-1]
            chosen += round_of_modalities[: self._most - len(chosen)]
            rest = [example for example in rest if all(example is not taken for taken in chosen)]
        return chosen


class WorstObjects:
    """The objects with the lowest DSC under the first model, worst first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: dict[str, list[Example]] = {}

    def wanted(self, rows: Sequence[Row], sizes: Sequence[int]) -> list[int]:
        """Those that are worse than the best of the kept ones."""
        kept = self._kept.get(rows[0].prompt, [])
        limit = _first_dsc(kept[-1]) if len(kept) == self._most else np.inf
        return [index for index, row in enumerate(rows) if row.dsc < limit]

    def add(self, example: Example) -> None:
        """Keep an example, and drop the best one if there are too many."""
        kept = [*self._kept.get(example.prompt, []), example]
        self._kept[example.prompt] = sorted(kept, key=_first_dsc)[: self._most]

    def chosen(self, prompt: str) -> list[Example]:
        """The kept ones, worst first."""
        return list(self._kept.get(prompt, []))


KEEPERS: dict[str, Callable[[int], ExampleKeeper]] = {"datasets": OneOfEachDataset, "worst": WorstObjects}


def _first_dsc(example: Example) -> float:
    return next(iter(example.dsc.values()))
