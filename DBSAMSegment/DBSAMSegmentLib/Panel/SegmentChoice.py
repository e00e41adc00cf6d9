"""Which segment each box goes to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import slicer

Roi = slicer.vtkMRMLMarkupsROINode


class SegmentChoice:
    """The parameter of the chosen segment, and the segments that boxes were written to; knows no widget.

    A choice belongs to one segmentation and one box: with another of either it ends, as the next run would otherwise
    replace a segment that it has nothing to do with.

    Args:
        parameters: the module's parameters; None while the panel shows none.
        sceneParameters: the same whether or not the panel is shown.
    """

    def __init__(self, parameters: Callable[[], Any], sceneParameters: Callable[[], Any]) -> None:
        self._parameters = parameters
        self._sceneParameters = sceneParameters
        self._segmentation: slicer.vtkMRMLSegmentationNode | None = None
        self._target: tuple[Any, Any] | None = None
        self._rois: list[Roi] = []
        self._ofRoi: Roi | None = None
        self._written: dict[tuple[Any, Roi], str] = {}

    def segmentId(self) -> str:
        """The chosen segment; "" if there is none or it was deleted."""
        parameters = self._parameters()
        return self._existing(parameters.segmentId) if parameters is not None else ""

    def idsOf(self, rois: Sequence[Roi], checked: Sequence[Roi]) -> list[str]:
        """The segment of each ROI: the chosen one for a single box, else the one that it was last written to, or ""."""
        if len(checked) == 1:
            return [self.segmentId()] * len(rois)
        segmentation = self._parameters().segmentation
        return [self._existing(self._written.get((segmentation, roi), "")) for roi in rois]

    def roiOf(self, segmentId: str, rois: Sequence[Roi]) -> Roi | None:
        """That of some ROIs by which a segment was written, whatever the two are called now."""
        segmentation = self._parameters().segmentation
        return next((roi for roi in rois if self._written.get((segmentation, roi)) == segmentId), None)

    def choose(self, segmentId: str) -> None:
        """Takes over what the user chose."""
        self._ofRoi = None
        self._parameters().segmentId = segmentId

    def check(self, former: list[Roi], rois: list[Roi]) -> None:
        """Ends the choice where other boxes are checked than before, or than the one that it was written by."""
        if (former and former != rois) or self._ofRoi not in (None, *rois):
            self._parameters().segmentId = ""

    def start(self, rois: list[Roi]) -> None:
        """Notes what a run is for."""
        self._target, self._rois = (self._parameters().volume, self._parameters().segmentation), rois

    def isTarget(self) -> bool:
        """Whether volume and segmentation are still those of the last run."""
        parameters = self._sceneParameters()
        return self._target == (parameters.volume, parameters.segmentation)

    def written(self, segmentIds: list[str], checked: list[Roi]) -> None:
        """Keeps the boxes' segments for their next run, whatever their names become."""
        if self._target is None or len(segmentIds) != len(self._rois):
            return
        self._written.update({(self._target[1], roi): one for roi, one in zip(self._rois, segmentIds, strict=True)})
        if len(segmentIds) == 1 and self._rois == checked and self.isTarget():
            self._sceneParameters().segmentId = segmentIds[0]
            self._ofRoi = checked[0]

    def forget(self) -> None:
        """Lets go of the nodes of a scene that is closed."""
        self._target, self._rois, self._ofRoi = None, [], None
        self._written.clear()

    def follow(self) -> None:
        """Ends the choice where another segmentation was chosen; segments of two may have the same ID."""
        parameters = self._parameters()
        former, self._segmentation = self._segmentation, parameters.segmentation if parameters is not None else None
        if parameters is not None and former is not None and former is not self._segmentation:
            parameters.segmentId = ""

    def _existing(self, segmentId: str) -> str:
        segmentation = self._parameters().segmentation
        known = segmentation is not None and segmentation.GetSegmentation().GetSegment(segmentId) is not None
        return segmentId if known else ""
