"""The application's slice views, as far as there are any."""

from __future__ import annotations

from typing import Any

import slicer

from .SliceViews import ViewedSlice, viewedSlice


def sliceWidgets() -> list[Any]:
    """The qMRMLSliceWidgets that the present layout shows, Red first; none without a main window."""
    layoutManager = slicer.app.layoutManager()
    if layoutManager is None:
        return []
    # The layout manager names all views that there have ever been, in no order.
    names = sorted(layoutManager.sliceViewNames(), key=lambda name: (name != "Red", name))
    widgets = [layoutManager.sliceWidget(name) for name in names]
    return [widget for widget in widgets if widget.mrmlSliceNode().IsViewVisibleInLayout()]


def shownVolume(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLScalarVolumeNode | None:
    """The volume in the background of the slice views, the active one if they differ; no label map."""
    selectionNode = scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    ids = [selectionNode.GetActiveVolumeID()] if selectionNode is not None else []
    ids += [node.GetBackgroundVolumeID() for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode", scene)]
    for node in (scene.GetNodeByID(nodeId) for nodeId in ids if nodeId):
        if node is not None and node.IsA("vtkMRMLScalarVolumeNode") and not node.IsA("vtkMRMLLabelMapVolumeNode"):
            return node
    return None


def viewAlong(volumeNode: slicer.vtkMRMLScalarVolumeNode, axis: int) -> tuple[Any, ViewedSlice] | None:
    """The first view that shows slices along an axis of a volume, and the slice in it; one that isn't turned if any."""
    found = [(widget, viewedSlice(widget.mrmlSliceNode(), volumeNode)) for widget in sliceWidgets()]
    along = [(widget, viewed) for widget, viewed in found if viewed.axis == axis]
    return min(along, key=lambda one: not one[1].aligned, default=None)


def isPlacing(scene: slicer.vtkMRMLScene) -> bool:
    """Whether clicks in the views place markups, such as an ROI."""
    node = scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    return node is not None and node.GetCurrentInteractionMode() == slicer.vtkMRMLInteractionNode.Place


def placedTo(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLNode | None:
    """What clicks in the views place points of; None while they place none."""
    selectionNode = scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    if selectionNode is None or not isPlacing(scene):
        return None
    return scene.GetNodeByID(selectionNode.GetActivePlaceNodeID() or "")


def startPlacing(node: slicer.vtkMRMLMarkupsNode, persistent: bool = False) -> None:
    """Lets the user place a markup in a slice view, one after the other if `persistent`.

    Raises:
        RuntimeError: the scene isn't an application's.
    """
    scene = node.GetScene()
    selectionNode = scene.GetNodeByID("vtkMRMLSelectionNodeSingleton")
    interactionNode = scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    if selectionNode is None or interactionNode is None:
        raise RuntimeError("Nothing can be placed in this scene with the mouse.")
    selectionNode.SetReferenceActivePlaceNodeClassName(node.GetClassName())
    selectionNode.SetActivePlaceNodeID(node.GetID())
    interactionNode.SetPlaceModePersistence(int(persistent))
    interactionNode.SetCurrentInteractionMode(slicer.vtkMRMLInteractionNode.Place)


def stopPlacing(scene: slicer.vtkMRMLScene) -> None:
    """Clicks in the views are the views' again."""
    interactionNode = scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    if interactionNode is not None and isPlacing(scene):
        interactionNode.SetCurrentInteractionMode(slicer.vtkMRMLInteractionNode.ViewTransform)
