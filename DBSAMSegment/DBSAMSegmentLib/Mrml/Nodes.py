"""Nodes that the panel creates for the user."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _


def newRoi(scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLMarkupsROINode:
    """An ROI without a place yet, with handles and faint faces."""
    roiNode = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", scene.GenerateUniqueName(_("Box")))
    roiNode.CreateDefaultDisplayNodes()
    displayNode = roiNode.GetDisplayNode()
    if displayNode is not None:
        displayNode.SetFillOpacity(0.1)
        displayNode.SetHandlesInteractive(True)
    return roiNode


def boxesIn(scene: slicer.vtkMRMLScene) -> list[slicer.vtkMRMLMarkupsROINode]:
    """The ROIs that are the user's, in the scene's order."""
    boxes = slicer.util.getNodesByClass("vtkMRMLMarkupsROINode", scene)
    return [box for box in boxes if not box.GetHideFromEditors()]


def newSegmentation(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLSegmentationNode:
    """An empty segmentation on a volume's grid, under the volume's transform."""
    name = f"{volumeNode.GetName()} segmentation"
    node = volumeNode.GetScene().AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    return node


def segmentationOn(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLSegmentationNode | None:
    """The first segmentation that was drawn on a volume, by its reference geometry; None if there is none."""
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    segmentations = slicer.util.getNodesByClass("vtkMRMLSegmentationNode", volumeNode.GetScene())
    return next((one for one in segmentations if one.GetNodeReference(role) is volumeNode), None)


def removeIfEmpty(segmentationNode: slicer.vtkMRMLSegmentationNode) -> bool:
    """Takes a segmentation without segments out of its scene, with its display; returns whether it did."""
    scene = segmentationNode.GetScene()
    if scene is None or segmentationNode.GetSegmentation().GetNumberOfSegments():
        return False
    removeWithHelpers(scene, segmentationNode)
    return True


def removeWithHelpers(scene: slicer.vtkMRMLScene, node: slicer.vtkMRMLNode) -> None:
    """Removes a node with its display and storage nodes, which Slicer leaves in the scene."""
    helpers = [node.GetStorageNode()] if hasattr(node, "GetStorageNode") else []
    if hasattr(node, "GetNumberOfDisplayNodes"):
        helpers += [node.GetNthDisplayNode(n) for n in range(node.GetNumberOfDisplayNodes())]
    scene.RemoveNode(node)
    for helper in helpers:
        if helper is not None and scene.IsNodePresent(helper):
            scene.RemoveNode(helper)
