"""Clicks made with the effect: kept until they are applied or taken back, and marked in the views meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk

from ..Mrml.Geometry import arrayFromMatrix, matrixBetween, volumeGeometry
from ..Mrml.Requests import sliceOf

if TYPE_CHECKING:
    from dbsam.preprocess.prompts import PointPrompt

_COLORS = {True: (0.2, 0.8, 0.3), False: (0.9, 0.25, 0.2)}
_ARM_PIXELS = 6.0


class EffectClicks:
    """Clicks on one volume, in their order.

    Attributes:
        points: in the volume's own RAS.
    """

    def __init__(self) -> None:
        self.points: tuple[PointPrompt, ...] = ()
        self._volume: slicer.vtkMRMLScalarVolumeNode | None = None
        self._marks: list[_Marks] = []

    def add(
        self, point: PointPrompt, volumeNode: slicer.vtkMRMLScalarVolumeNode, axis: int, sliceWidgets: Sequence[Any]
    ) -> int:
        """Takes a click and returns the slice that it belongs to.

        Raises:
            ValueError: it lies outside the volume.
        """
        index = sliceOf(point, volumeGeometry(volumeNode), axis)
        self._volume = volumeNode
        self.points = (*self.points, point)
        self._mark(sliceWidgets)
        return index

    def takeBack(self, axis: int, sliceWidgets: Sequence[Any]) -> int:
        """Drops the last click and returns its slice."""
        *kept, last = self.points
        self.points = tuple(kept)
        self._mark(sliceWidgets)
        return sliceOf(last, volumeGeometry(self._volume), axis)

    def clear(self) -> None:
        """Drops all of them."""
        self.points, self._volume = (), None
        self._mark(())

    def _mark(self, sliceWidgets: Sequence[Any]) -> None:
        for marks in self._marks:
            marks.close()
        self._marks = []
        if self.points and self._volume is not None:
            toWorld = matrixBetween(self._volume, None)
            placed = [((toWorld @ [*point.position_ras, 1])[:3], point.include) for point in self.points]
            self._marks = [_Marks(widget, placed) for widget in sliceWidgets]


class _Marks:
    """Crosses in one view, where it shows the plane that a click was made in; they follow as the view is moved."""

    def __init__(self, sliceWidget: Any, placed: Sequence[tuple[np.ndarray, bool]]) -> None:
        self._view = sliceWidget.sliceView()
        self._renderer = self._view.renderWindow().GetRenderers().GetFirstRenderer()
        self._sliceNode = sliceWidget.mrmlSliceNode()
        self._kinds = []
        for include, color in _COLORS.items():
            lines, mapper, actor = vtk.vtkPolyData(), vtk.vtkPolyDataMapper2D(), vtk.vtkActor2D()
            mapper.SetInputData(lines)
            actor.SetMapper(mapper)
            actor.GetProperty().SetColor(*color)
            actor.GetProperty().SetLineWidth(2)
            self._renderer.AddViewProp(actor)
            self._kinds.append((lines, actor, [position for position, isIncluded in placed if isIncluded is include]))
        self._tag = self._sliceNode.AddObserver(vtk.vtkCommand.ModifiedEvent, self._place)
        self._place()

    def close(self) -> None:
        """Removes them."""
        self._sliceNode.RemoveObserver(self._tag)
        for _, actor, _ in self._kinds:
            self._renderer.RemoveViewProp(actor)
        self._view.scheduleRender()

    def _place(self, *_: object) -> None:
        toXy = np.linalg.inv(arrayFromMatrix(self._sliceNode.GetXYToRAS()))
        for lines, _, positions in self._kinds:
            points, cells = vtk.vtkPoints(), vtk.vtkCellArray()
            for position in positions:
                x, y, depth = (toXy @ [*position, 1])[:3]
                if abs(depth) > 0.5:  # half the thickness that the view shows
                    continue
                for dx, dy in ((_ARM_PIXELS, 0), (0, _ARM_PIXELS)):
                    cells.InsertNextCell(2)
                    cells.InsertCellPoint(points.InsertNextPoint(x - dx, y - dy, 0))
                    cells.InsertCellPoint(points.InsertNextPoint(x + dx, y + dy, 0))
            lines.SetPoints(points)
            lines.SetLines(cells)
            lines.Modified()
        self._view.scheduleRender()
