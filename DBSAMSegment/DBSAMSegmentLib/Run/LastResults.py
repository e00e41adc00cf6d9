"""What was last written to each segment, so that some of its slices can be done again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import slicer

if TYPE_CHECKING:
    from dbsam.inference.segmenter import VolumeSegmentation


class LastResults:
    """Results by segmentation and segment; main thread only."""

    def __init__(self) -> None:
        self._results: dict[tuple[str, str], VolumeSegmentation] = {}

    def of(self, segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str) -> VolumeSegmentation:
        """The result that a segment has from its last run.

        Raises:
            ValueError: it has none, or it was changed by undo or redo since.
        """
        result = self._results.get((segmentationNode.GetID(), segmentId))
        if result is None:
            raise ValueError("This segment has no result yet that slices could be redone of: run the whole ROI first.")
        return result

    def keep(
        self, segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str, result: VolumeSegmentation
    ) -> None:
        """Takes the place of the segment's former result."""
        self._results[segmentationNode.GetID(), segmentId] = result

    def forget(self, segmentationNode: slicer.vtkMRMLNode | None = None) -> None:
        """Drops the results of a segmentation; all without one."""
        gone = None if segmentationNode is None else segmentationNode.GetID()
        self._results = {key: result for key, result in self._results.items() if gone not in (None, key[0])}
