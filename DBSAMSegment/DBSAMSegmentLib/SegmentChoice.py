"""Which segment a single box goes to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer


class SegmentChoice:
    """The panel's segment selector and the parameter behind it.

    A choice belongs to one segmentation and one box: with another of either it ends, as the next run would otherwise
    replace a segment that it has nothing to do with.

    Args:
        selector: the qMRMLSegmentSelectorWidget.
        parameters: the module's parameters; None while the panel shows none.
    """

    def __init__(self, selector: Any, parameters: Callable[[], Any]) -> None:
        self._selector = selector
        self._parameters = parameters
        self._segmentation: slicer.vtkMRMLSegmentationNode | None = None
        self._target: tuple[Any, Any] | None = None
        self._rois: list[slicer.vtkMRMLMarkupsROINode] = []
        self._ofRoi: slicer.vtkMRMLMarkupsROINode | None = None

    def segmentId(self) -> str:
        """The chosen segment; "" if there is none or it was deleted."""
        parameters = self._parameters()
        if parameters is None or parameters.segmentation is None:
            return ""
        segment = parameters.segmentation.GetSegmentation().GetSegment(parameters.segmentId)
        return parameters.segmentId if segment is not None else ""

    def choose(self, segmentId: str) -> None:
        """Takes over what the selector says."""
        parameters = self._parameters()
        # Where the chosen segment was deleted, Slicer's selector offers the first one of the others by itself.
        offered = parameters.segmentId and not self.segmentId()
        self._ofRoi = None
        parameters.segmentId = "" if offered else segmentId or ""

    def check(self, former: list[slicer.vtkMRMLMarkupsROINode], rois: list[slicer.vtkMRMLMarkupsROINode]) -> None:
        """Ends the choice where other boxes are checked than before, or than the one that it was written by."""
        if (former and former != rois) or self._ofRoi not in (None, *rois):
            self._parameters().segmentId = ""

    def start(self, rois: list[slicer.vtkMRMLMarkupsROINode]) -> None:
        """Notes what a run is for."""
        self._target, self._rois = (self._parameters().volume, self._parameters().segmentation), rois

    def isTarget(self) -> bool:
        """Whether volume and segmentation are still those of the last run."""
        parameters = self._parameters()
        return parameters is not None and self._target == (parameters.volume, parameters.segmentation)

    def written(self, segmentIds: list[str], rois: list[slicer.vtkMRMLMarkupsROINode]) -> None:
        """Keeps a box's segment for its next run, whatever its name becomes."""
        if len(segmentIds) == 1 and self._rois == rois and self.isTarget():
            self._parameters().segmentId = segmentIds[0]
            self._ofRoi = rois[0]

    def forget(self) -> None:
        """Lets go of the nodes of a scene that is closed."""
        self._target, self._rois, self._ofRoi = None, [], None

    def show(self, enabled: bool) -> None:
        """Shows the parameters; segments of two segmentations may have the same ID."""
        parameters = self._parameters()
        former, self._segmentation = self._segmentation, parameters.segmentation if parameters is not None else None
        if parameters is not None:
            if former is not None and former is not self._segmentation:
                parameters.segmentId = ""
            self._selector.setCurrentNode(self._segmentation)
            self._selector.setCurrentSegmentID(self.segmentId())
        self._selector.enabled = enabled
