"""What was last written to each segment, so that some of its slices can be done again, and clicks correct it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import slicer

if TYPE_CHECKING:
    from dbsam.inference.segmenter import PointPrompt, VolumeSegmentation

# Results that clicks went through, back to which one can go when a click is taken away.
_MOST_KEPT = 4


class LastResults:
    """Results by segmentation and segment; main thread only.

    Beside the last result of a segment, those are kept that it was made of by clicks: the first, and the newest ones.
    """

    def __init__(self) -> None:
        self._results: dict[tuple[str, str], tuple[bytes | None, list[VolumeSegmentation]]] = {}

    def of(self, segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str) -> VolumeSegmentation:
        """The result that a segment has from its last run.

        Raises:
            ValueError: it has none, or it was changed by undo or redo since.
        """
        _, results = self._results.get((segmentationNode.GetID(), segmentId), (None, []))
        if not results:
            raise ValueError("This segment has no result yet that slices could be redone of: run the whole ROI first.")
        return results[-1]

    def correctable(
        self,
        segmentationNode: slicer.vtkMRMLSegmentationNode,
        segmentId: str,
        question: bytes,
        points: Sequence[PointPrompt],
    ) -> VolumeSegmentation | None:
        """The newest result of a segment that answers a question and has no clicks but some of these; None without one.

        Args:
            segmentationNode: the segment's.
            segmentId: the segment.
            question: as for `keep`.
            points: the clicks that there are now.
        """
        asked, results = self._results.get((segmentationNode.GetID(), segmentId), (None, []))
        if asked != question:
            return None
        return next((result for result in reversed(results) if set(result.points) <= set(points)), None)

    def keep(
        self,
        segmentationNode: slicer.vtkMRMLSegmentationNode,
        segmentId: str,
        result: VolumeSegmentation,
        question: bytes | None = None,
    ) -> None:
        """Takes the place of the segment's former result.

        Args:
            segmentationNode: the segment's.
            segmentId: the segment.
            result: what was written.
            question: what it answers, clicks apart; None for a result that clicks don't go on from.
        """
        key = segmentationNode.GetID(), segmentId
        asked, results = self._results.get(key, (None, []))
        if question is None or asked != question or not result.points:
            results = []
        results = [one for one in results if set(one.points) < set(result.points)]
        self._results[key] = question, [*results[:1], *results[1:][-(_MOST_KEPT - 2) :], result]

    def forget(self, segmentationNode: slicer.vtkMRMLNode | None = None) -> None:
        """Drops the results of a segmentation; all without one."""
        gone = None if segmentationNode is None else segmentationNode.GetID()
        self._results = {key: known for key, known in self._results.items() if gone not in (None, key[0])}
