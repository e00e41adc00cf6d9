"""Point lists with clicks: what belongs to a structure, and what doesn't."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from .Geometry import matrixBetween, requireLinearTransform

if TYPE_CHECKING:
    from dbsam.preprocess.prompts import PointPrompt

PointList = slicer.vtkMRMLMarkupsFiducialNode

# Whose clicks a list holds, as node references in the list, and of which kind they are.
_BOX_ROLE, _VOLUME_ROLE = "DBSAM.box", "DBSAM.volume"
_KIND, _KINDS = "DBSAM.clicks", {True: "include", False: "exclude"}
# Points keep in their description which click they were, as that counts and lists of two kinds don't tell.
_NUMBER = re.compile(r"click (\d+)")
_COLORS = {True: (0.2, 0.8, 0.3), False: (0.9, 0.25, 0.2)}


@dataclass(frozen=True)
class Click:
    """A point of a list.

    Attributes:
        number: which click it was; clicks count in this order.
        include: whether the structure is there.
        pointId: the control point's ID in its list.
        position: where it is in world.
    """

    number: int
    include: bool
    pointId: str
    position: tuple[float, float, float]


def newPointList(scene: slicer.vtkMRMLScene, include: bool) -> PointList:
    """An empty list; saved to a file of its own, the command line takes its points for what they are."""
    name = _("Include") if include else _("Exclude")
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", scene.GenerateUniqueName(name))
    node.SetControlPointLabelFormat(f"{_KINDS[include]}-%d")
    node.SetUndoEnabled(True)  # where the application's undo is on, it takes clicks back, too
    node.CreateDefaultDisplayNodes()
    displayNode = node.GetDisplayNode()
    if displayNode is not None:
        displayNode.SetSelectedColor(*_COLORS[include])
        displayNode.SetPointLabelsVisibility(False)
    return node


def listOf(
    roiNode: slicer.vtkMRMLMarkupsROINode, volumeNode: slicer.vtkMRMLScalarVolumeNode, include: bool
) -> PointList | None:
    """The newest list in the scene whose clicks are for a box on a volume; None without one."""
    lists = slicer.util.getNodesByClass("vtkMRMLMarkupsFiducialNode", volumeNode.GetScene())
    return next((one for one in reversed(lists) if isFor(one, roiNode, volumeNode, include)), None)


def isFor(
    node: PointList,
    roiNode: slicer.vtkMRMLMarkupsROINode,
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    include: bool,
) -> bool:
    """Whether a list's clicks are these."""
    return ownersOf(node) == (roiNode, volumeNode) and node.GetAttribute(_KIND) == _KINDS[include]


def ownersOf(node: PointList) -> tuple[slicer.vtkMRMLNode | None, slicer.vtkMRMLNode | None]:
    """The box and the volume that a list's clicks are for."""
    return node.GetNodeReference(_BOX_ROLE), node.GetNodeReference(_VOLUME_ROLE)


def makeFor(
    node: PointList,
    roiNode: slicer.vtkMRMLMarkupsROINode,
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    include: bool,
) -> None:
    """Makes a list's points the clicks for a box on a volume; kept with the scene."""
    node.SetNodeReferenceID(_BOX_ROLE, roiNode.GetID())
    node.SetNodeReferenceID(_VOLUME_ROLE, volumeNode.GetID())
    node.SetAttribute(_KIND, _KINDS[include])


def clicksIn(includeNode: PointList | None, excludeNode: PointList | None) -> list[Click]:
    """The placed points of two lists in the order in which they were placed; those without a number come first."""
    clicks = []
    for include, node in ((True, includeNode), (False, excludeNode)):
        for index in range(node.GetNumberOfControlPoints() if node is not None else 0):
            if node.GetNthControlPointPositionStatus(index) == slicer.vtkMRMLMarkupsNode.PositionDefined:
                found = _NUMBER.fullmatch(node.GetNthControlPointDescription(index) or "")
                position = [0.0, 0.0, 0.0]
                node.GetNthControlPointPositionWorld(index, position)
                right, anterior, superior = position
                pointId = node.GetNthControlPointID(index)
                clicks.append(Click(int(found[1]) if found else 0, include, pointId, (right, anterior, superior)))
    return sorted(clicks, key=lambda click: click.number)


def numberClicks(includeNode: PointList | None, excludeNode: PointList | None) -> None:
    """Gives points that have no number yet those after the last."""
    clicks = clicksIn(includeNode, excludeNode)
    last = max((click.number for click in clicks), default=0)
    for click in clicks:
        node = includeNode if click.include else excludeNode
        if click.number == 0:
            last += 1
            node.SetNthControlPointDescription(node.GetNthControlPointIndexByID(click.pointId), f"click {last}")


def removeClick(node: PointList, click: Click) -> None:
    """Takes a point out of its list, as a step of the application's undo where that is on."""
    node.GetScene().SaveStateForUndo()
    node.RemoveNthControlPoint(node.GetNthControlPointIndexByID(click.pointId))


def addClick(node: PointList, click: Click) -> None:
    """Puts a point back into its list where it was."""
    node.GetScene().SaveStateForUndo()
    index = node.AddControlPointWorld(vtk.vtkVector3d(*click.position))
    node.SetNthControlPointDescription(index, f"click {click.number}")


def pointPrompts(
    clicks: Sequence[Click], nodes: Sequence[PointList | None], volumeNode: slicer.vtkMRMLScalarVolumeNode
) -> tuple[PointPrompt, ...]:
    """Clicks in a volume's own RAS.

    Raises:
        GeometryError: the volume or one of the lists is under a non-linear transform.
    """
    from dbsam.preprocess.prompts import PointPrompt

    for node in nodes:
        if node is not None:
            requireLinearTransform(node)
    toVolume = matrixBetween(None, volumeNode)
    found = []
    for click in clicks:
        right, anterior, superior = (toVolume @ np.array([*click.position, 1.0]))[:3]
        found.append(PointPrompt((float(right), float(anterior), float(superior)), click.include))
    return tuple(found)
