"""Boxes that the user corrected on single slices: whose they are, and for which volume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import slicer

from .KeyBoxes import RoiKeyBoxes, decodeKeyBoxes, encodeKeyBoxes


class Corrections:
    """The corrected boxes in the module's parameters.

    They are indices and pixels of one volume, so that they don't count for another, and each belongs to one ROI,
    whatever others are checked or deleted.

    Args:
        parameters: the module's parameters; None while the panel shows none.
    """

    def __init__(self, parameters: Callable[[], Any]) -> None:
        self._parameters = parameters

    def of(self, roiNode: slicer.vtkMRMLMarkupsROINode) -> RoiKeyBoxes:
        """The corrected boxes of an ROI on the chosen volume."""
        parameters = self._parameters()
        if parameters.keyBoxesVolume is not parameters.volume:
            return RoiKeyBoxes()
        return self._entries().get(roiNode, RoiKeyBoxes())

    def check(self, roiNodes: Sequence[slicer.vtkMRMLMarkupsROINode]) -> None:
        """Makes these the checked ROIs; those that were checked before keep their boxes."""
        entries, parameters = self._entries(), self._parameters()
        with slicer.util.NodeModify(parameters.parameterNode):
            parameters.rois = list(roiNodes)
            parameters.keyBoxes = encodeKeyBoxes([entries.get(node, RoiKeyBoxes()) for node in roiNodes])

    def set(self, roiNode: slicer.vtkMRMLMarkupsROINode, entry: RoiKeyBoxes) -> None:
        """Replaces the boxes of a checked ROI."""
        parameters = self._parameters()
        parameters.keyBoxes = encodeKeyBoxes([entry if node is roiNode else self.of(node) for node in parameters.rois])
        parameters.keyBoxesVolume = parameters.volume if parameters.keyBoxes else None

    def _entries(self) -> dict[slicer.vtkMRMLMarkupsROINode | None, RoiKeyBoxes]:
        """What was corrected, on whatever volume; a deleted ROI leaves a gap, by which the others keep their places."""
        parameters = self._parameters()
        rois = list(parameters.rois or [])
        return dict(zip(rois, decodeKeyBoxes(parameters.keyBoxes, len(rois)), strict=True))
