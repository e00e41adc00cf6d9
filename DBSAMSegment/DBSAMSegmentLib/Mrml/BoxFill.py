"""Boxes as outlines only, while a mask is looked at that their filled faces would hide."""

from __future__ import annotations

from collections.abc import Sequence

import slicer


class BoxFill:
    """Switches the fill of boxes off and back to what it was; main thread only."""

    def __init__(self) -> None:
        self._hidden: list[slicer.vtkMRMLMarkupsDisplayNode] = []

    def hideFor(self, roiNodes: Sequence[slicer.vtkMRMLMarkupsROINode]) -> None:
        """Shows these boxes without their fill, with outlines and handles; others get theirs back."""
        displayNodes = [node.GetDisplayNode() for node in roiNodes if node.GetDisplayNode() is not None]
        for displayNode in [one for one in self._hidden if one not in displayNodes]:
            self._hidden.remove(displayNode)
            displayNode.SetFillVisibility(True)
        for displayNode in displayNodes:
            if displayNode.GetFillVisibility():
                displayNode.SetFillVisibility(False)
                if displayNode not in self._hidden:
                    self._hidden.append(displayNode)

    def restore(self) -> None:
        """Fills all again that were filled before."""
        self.hideFor([])
