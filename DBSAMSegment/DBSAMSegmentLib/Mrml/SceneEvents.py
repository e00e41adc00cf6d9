"""Observing what happens to a scene's nodes and segments."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import slicer
import vtk


def observeNodes(scene: slicer.vtkMRMLScene, event: int, callback: Callable[[slicer.vtkMRMLNode], None]) -> int:
    """Calls back with the node that a scene event is about.

    Returns:
        The observer's tag.
    """

    def observer(caller: slicer.vtkMRMLScene, eventId: str, node: slicer.vtkMRMLNode) -> None:
        callback(node)

    observer.CallDataType = vtk.VTK_OBJECT
    return scene.AddObserver(event, observer)


class SegmentGuard:
    """Tells when a segment that a run is for is deleted; with none left to guard it does nothing.

    Args:
        segmentationNode: whose segments they are.
        segmentIds: their IDs; "" stands for a segment that the run will create.
        onGone: gets the name of the deleted segment, once.
    """

    def __init__(
        self,
        segmentationNode: slicer.vtkMRMLSegmentationNode,
        segmentIds: Sequence[str],
        onGone: Callable[[str], None],
    ) -> None:
        segmentation = segmentationNode.GetSegmentation()
        self._node = segmentationNode
        self._names = {one: segmentation.GetSegment(one).GetName() for one in segmentIds if one}
        self._onGone = onGone
        self._tag = segmentationNode.AddObserver(slicer.vtkSegmentation.SegmentRemoved, self._onRemoved)

    def close(self) -> None:
        """Lets go of the segmentation."""
        self._node.RemoveObserver(self._tag)
        self._names = {}

    def _onRemoved(self, *_: object) -> None:
        for segmentId, name in self._names.items():
            if self._node.GetSegmentation().GetSegment(segmentId) is None:
                self.close()
                self._onGone(name)
                return
