"""What the module's and the effect's self-tests check, in Slicer and under pytest alike."""

from __future__ import annotations

import unittest
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk

from .Run.Predictors import Predictors
from .Run.Requirements import missingPackages

# Computed in the worker by a rule, which needs neither torch nor weights.
BRIGHT_INSIDE_BOX = Predictors("dbsam.worker.bright_box:BrightInsideBoxSource", needsTorch=False)


def brightBlockScene() -> tuple[Any, Any, Any, np.ndarray]:
    """A volume with a bright block, an ROI around it, an empty segmentation, and the block as (K, J, I) mask."""
    block = np.zeros((16, 40, 48), bool)
    block[4:12, 10:28, 12:34] = True
    voxels = np.where(block, 150, -1000).astype(np.int16)
    image = vtk.vtkImageData()
    image.SetDimensions(48, 40, 16)
    image.AllocateScalars(vtk.VTK_SHORT, 1)
    volumeNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "block")
    volumeNode.SetAndObserveImageData(image)
    volumeNode.SetSpacing(1.0, 1.0, 2.0)
    slicer.util.updateVolumeFromArray(volumeNode, voxels)
    roiNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "bright")
    roiNode.SetCenter(22.5, 18.5, 15.0)
    roiNode.SetSize(26.0, 22.0, 20.0)
    segmentationNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "segmentation")
    segmentationNode.CreateDefaultDisplayNodes()
    segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
    return volumeNode, roiNode, segmentationNode, block


def checkThresholdRun(logicClass: Any) -> None:
    """From nodes to a segment, and back by undo."""
    volumeNode, roiNode, segmentationNode, block = brightBlockScene()
    logic = logicClass(predictors=BRIGHT_INSIDE_BOX)
    try:
        report = logic.segment(volumeNode, roiNode, segmentationNode)
        segmentId = report.segments[0].segmentId
        found = slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, segmentId, volumeNode) != 0
        assert (found != block).sum() < 0.1 * block.sum()
        logic.runner.writer.undo(segmentationNode)
        assert segmentationNode.GetSegmentation().GetNumberOfSegments() == 0
    finally:
        logic.close()


def checkClicks(logicClass: Any, folder: Path) -> None:
    """Points take a part away that doesn't belong: through the volume, back, again, moved, deleted, saved and loaded.

    Args:
        logicClass: the module's logic.
        folder: an empty one, for the saved points.
    """
    from .Mrml.PointLists import newPointList

    volumeNode, roiNode, segmentationNode, block = brightBlockScene()
    other = np.zeros_like(block)
    other[4:12, 14:24, 38:44] = True
    slicer.util.updateVolumeFromArray(volumeNode, np.where(block | other, 150, -1000).astype(np.int16))
    roiNode.SetCenter(27.5, 18.5, 15.0)
    roiNode.SetSize(36.0, 22.0, 20.0)
    logic = logicClass(predictors=BRIGHT_INSIDE_BOX)
    exclude = newPointList(slicer.mrmlScene, include=False)

    def found(spread: str = "both") -> list[int]:
        """The slices with voxels of the other part, after a run with the points that there are."""
        report = logic.segment(volumeNode, roiNode, segmentationNode, axis="K", exclude=exclude, spread=spread)
        return slices(report.segments[0].segmentId)

    def slices(segmentId: str) -> list[int]:
        array = slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, segmentId, volumeNode) != 0
        assert array[block].mean() > 0.85, "the block itself stays"
        return np.flatnonzero((array & other).any(axis=(1, 2))).tolist()

    try:
        whole = list(range(4, 12))
        assert found() == whole
        exclude.AddControlPoint(vtk.vtkVector3d(41.0, 19.0, 14.0))  # slice 7 of 2 mm
        assert found("slice") == [4, 5, 6, 8, 9, 10, 11]
        segmentId = segmentationNode.GetSegmentation().GetNthSegmentID(0)
        logic.runner.undo(segmentationNode)
        assert slices(segmentId) == whole
        logic.runner.redo(segmentationNode)
        assert slices(segmentId) == [4, 5, 6, 8, 9, 10, 11]
        exclude.SetNthControlPointPosition(0, 41.0, 19.0, 18.0)
        assert found("slice") == [4, 5, 6, 7, 8, 10, 11]
        assert found() == []
        file = folder / "exclude.mrk.json"
        assert slicer.util.saveNode(exclude, str(file))
        exclude.RemoveAllControlPoints()
        assert found() == whole
        exclude = slicer.util.loadMarkups(str(file))
        assert found() == []
    finally:
        logic.close()


def checkCompactRun(logicClass: Any) -> None:
    """The shipped network finds most of the block.

    Raises:
        unittest.SkipTest: a package or the weights are missing.
    """
    missing = missingPackages()
    if missing:
        raise unittest.SkipTest(f"{', '.join(missing)} not installed")
    from dbsam.weights.load import find_weights

    if find_weights("compact") is None:
        raise unittest.SkipTest("the compact weights are not there")
    volumeNode, roiNode, segmentationNode, block = brightBlockScene()
    logic = logicClass()
    try:
        report = logic.segment(volumeNode, roiNode, segmentationNode, device="cpu", intensity=(0.0, 1200.0))
        segmentId = report.segments[0].segmentId
        found = slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, segmentId, volumeNode) != 0
        dice = 2 * (found & block).sum() / (found.sum() + block.sum())
        assert dice > 0.7, f"Dice {dice:.3f}"
    finally:
        logic.close()
