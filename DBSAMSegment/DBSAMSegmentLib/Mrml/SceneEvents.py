"""Observing what happens to a scene's nodes."""

from __future__ import annotations

from collections.abc import Callable

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
