"""What the module's and the effect's self-tests check, in Slicer and under pytest alike."""

from __future__ import annotations

import unittest
from typing import Any

import numpy as np
import slicer
import vtk

from .Panel.Packages import missingPackages


class BrightInsideBox:
    """A predictor of one rule, which needs no network: inside are the box's pixels that are brighter than half."""

    signature = "self-test"
    channels = "repeat"
    takes_points = False

    def region_for(self, box_xyxy: np.ndarray, slice_hw: tuple[int, int], spacing_xy: tuple[float, float]) -> Any:
        """The whole slice."""
        from dbsam.preprocess.sampling import slice_region

        return slice_region(slice_hw, spacing_xy, square=True)

    def reusable(self, region: Any, box_xyxy: np.ndarray) -> bool:
        """A whole slice serves every box."""
        return True

    def encode(self, images: Any, regions: Any) -> list[Any]:
        """The slices, resampled."""
        from dbsam.preprocess.sampling import resample_slice

        return [
            _ResampledSlice(resample_slice(image, region, 128)[0][..., 0], region)
            for image, region in zip(images, regions, strict=True)
        ]

    def decode(self, embedding: Any, boxes_xyxy: np.ndarray) -> Any:
        """Logits that are positive in bright pixels of the box."""
        from dbsam.inference.predictor import DecodedMasks

        y, x = np.indices(embedding.pixels.shape)
        logits = []
        for x0, y0, x1, y1 in embedding.region.boxes_to_input(np.asarray(boxes_xyxy), 128):
            inside = (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)
            logits.append(np.where(inside, embedding.pixels / 10 - 12.75, -20.0))
        return DecodedMasks(np.array(logits, np.float32), np.full(len(logits), 0.9, np.float32))


class _ResampledSlice:
    def __init__(self, pixels: np.ndarray, region: Any) -> None:
        self.pixels = pixels
        self.region = region
        self.nbytes = pixels.nbytes


class BrightInsideBoxSource:
    """Gives the rule for every model."""

    def __call__(self, model: str, device: str, cancel: Any) -> BrightInsideBox:
        """The same predictor each time would be equal anyway; one is enough."""
        if not hasattr(self, "_predictor"):
            self._predictor = BrightInsideBox()
        return self._predictor

    def clear(self) -> None:
        """Nothing to free."""


def brightBlockScene() -> tuple[Any, Any, Any, np.ndarray]:
    """A volume with a bright block, an ROI around it, an empty segmentation, and the block as (K, J, I) mask."""
    block = np.zeros((16, 40, 48), bool)
    block[4:12, 10:28, 12:34] = True
    voxels = np.where(block, 300, -500).astype(np.int16)
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
    logic = logicClass(predictors=BrightInsideBoxSource())
    try:
        report = logic.segment(volumeNode, roiNode, segmentationNode)
        segmentId = report.segments[0].segmentId
        found = slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, segmentId, volumeNode) != 0
        assert (found != block).sum() < 0.1 * block.sum()
        logic.runner.writer.undo(segmentationNode)
        assert segmentationNode.GetSegmentation().GetNumberOfSegments() == 0
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
