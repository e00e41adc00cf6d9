"""Boxes as outlines only, while a mask is looked at that their filled faces would hide."""

from __future__ import annotations

from collections.abc import Sequence

import slicer


class BoxFill:
    """Switches the fill of boxes off and back to what it was; a scene is saved as the user made it.

    Args:
        scene: where the boxes are.
    """

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self._scene = scene
        self._hidden: list[slicer.vtkMRMLMarkupsDisplayNode] = []
        self._tags = [
            scene.AddObserver(slicer.vtkMRMLScene.StartSaveEvent, lambda *_: self._setFill(True)),
            scene.AddObserver(slicer.vtkMRMLScene.EndSaveEvent, lambda *_: self._setFill(False)),
        ]

    def close(self) -> None:
        """Fills all again that were filled before, and lets go of the scene."""
        self.hideFor([])
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags = []

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

    def _setFill(self, visible: bool) -> None:
        for displayNode in self._hidden:
            displayNode.SetFillVisibility(visible)
