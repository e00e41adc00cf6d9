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


def newSegmentation(volumeNode: slicer.vtkMRMLScalarVolumeNode) -> slicer.vtkMRMLSegmentationNode:
    """An empty segmentation on a volume's grid, under the volume's transform."""
    name = f"{volumeNode.GetName()} segmentation"
    node = volumeNode.GetScene().AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    node.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    return node
