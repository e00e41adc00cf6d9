"""What Slicer's terminologies know of a name: the code of a structure and its colour."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import slicer
import vtk

# The first that knows a name counts; it has the structures that are segmented most.
_PREFERRED = "Segmentation category and type - 3D Slicer General Anatomy list"
_SIDES = ("left", "right")
# Words in a box's name that don't belong to its structure.
_BESIDE = ("roi", "box", "segment")
# What Slicer has where no colour is recommended.
_NO_COLOR = (127, 127, 127)


@dataclass(frozen=True)
class Term:
    """A structure in a terminology.

    Attributes:
        entry: as Slicer keeps it with a segment.
        color_rgb: the recommended colour, 0..1; None if there is none.
    """

    entry: str
    color_rgb: tuple[float, float, float] | None


def termOf(name: str) -> Term | None:
    """The structure that a name such as "Liver", "left kidney" or "kidney_left_2" stands for; None if none is known."""
    logic = _logic()
    wanted = _plain(name)
    if logic is None or not wanted:
        return None
    for terminology in _terminologies(logic):
        entry = slicer.vtkSlicerTerminologyEntry()
        if logic.FindTypeInTerminologyBy3dSlicerLabel(terminology, wanted, entry) or _findByMeaning(
            logic, terminology, wanted, entry
        ):
            colors = (part.GetRecommendedDisplayRGBValue() for part in _colored(logic, terminology, entry))
            color = next((tuple(one) for one in colors if tuple(one) != _NO_COLOR), None)
            rgb = None if color is None else (color[0] / 255, color[1] / 255, color[2] / 255)
            return Term(logic.SerializeTerminologyEntry(entry), rgb)
    return None


def describeSegment(segment: slicer.vtkSegment, name: str) -> None:
    """Gives a new segment the code and colour of what its name stands for, where that is known; it keeps its name."""
    term = termOf(name)
    if term is not None:
        segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), term.entry)
        if term.color_rgb is not None:
            segment.SetColor(*term.color_rgb)


def _logic() -> Any:
    """The Terminologies module's; None outside the application."""
    modules = getattr(slicer, "modules", None)
    return modules.terminologies.logic() if hasattr(modules, "terminologies") else None


def _terminologies(logic: Any) -> list[str]:
    names = vtk.vtkStringArray()
    logic.GetLoadedTerminologyNames(names)
    loaded = [names.GetValue(index) for index in range(names.GetNumberOfValues())]
    return sorted(loaded, key=lambda one: one != _PREFERRED)


def _plain(name: str) -> str:
    """A name as Slicer's labels are written: lower case, the side first, without numbers and words for boxes."""
    words = [word for word in re.split(r"[^a-z]+", name.lower()) if word and word not in _BESIDE]
    return " ".join([word for word in words if word in _SIDES] + [word for word in words if word not in _SIDES])


def _findByMeaning(logic: Any, terminology: str, wanted: str, entry: Any) -> bool:
    """Looks among the meanings of the codes, as paired organs have labels with their side only."""
    category, kind = slicer.vtkSlicerTerminologyCategory(), slicer.vtkSlicerTerminologyType()
    for number in range(logic.GetNumberOfCategoriesInTerminology(terminology)):
        logic.GetNthCategoryInTerminology(terminology, number, category)
        for index in range(logic.GetNumberOfTypesInTerminologyCategory(terminology, category)):
            logic.GetNthTypeInTerminologyCategory(terminology, category, index, kind)
            if (kind.GetCodeMeaning() or "").lower() == wanted:
                entry.SetTerminologyContextName(terminology)
                entry.GetCategoryObject().Copy(category)
                entry.GetTypeObject().Copy(kind)
                return True
    return False


def _colored(logic: Any, terminology: str, entry: Any) -> Iterator[Any]:
    """What may have a colour: the modifier that was found, the structure itself, its first modifier."""
    yield entry.GetTypeModifierObject()
    yield entry.GetTypeObject()
    modifier = slicer.vtkSlicerTerminologyType()
    category, kind = entry.GetCategoryObject(), entry.GetTypeObject()
    if logic.GetNthTypeModifierInTerminologyType(terminology, category, kind, 0, modifier):
        yield modifier
