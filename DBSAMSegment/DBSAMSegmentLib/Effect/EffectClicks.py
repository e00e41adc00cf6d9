"""Clicks made with the effect: kept until they are applied or taken back, and marked in the views meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
import vtk

from ..Mrml.Geometry import arrayFromMatrix, matrixBetween, volumeGeometry
from ..Mrml.Requests import sliceOf
from ..Mrml.SliceViews import viewedSlice

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
            self._marks = [_Marks(widget, self._volume, self.points) for widget in sliceWidgets]


class _Marks:
    """Crosses in one view, where it shows the slice that a click was made on; they follow as the view is moved."""

    def __init__(
        self, sliceWidget: Any, volumeNode: slicer.vtkMRMLScalarVolumeNode, points: Sequence[PointPrompt]
    ) -> None:
        self._volume = volumeNode
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
            self._kinds.append((lines, actor, [point for point in points if point.include is include]))
        self._tag = self._sliceNode.AddObserver(vtk.vtkCommand.ModifiedEvent, self._place)
        self._place()

    def close(self) -> None:
        """Removes them."""
        self._sliceNode.RemoveObserver(self._tag)
        for _, actor, _ in self._kinds:
            self._renderer.RemoveViewProp(actor)
        self._view.scheduleRender()

    def _place(self, *_: object) -> None:
        if self._volume.GetScene() is None:
            return  # the effect lets go of it presently
        geometry = volumeGeometry(self._volume)
        viewed = viewedSlice(self._sliceNode, self._volume)
        toXy = np.linalg.inv(arrayFromMatrix(self._sliceNode.GetXYToRAS())) @ matrixBetween(self._volume, None)
        for lines, _, clicks in self._kinds:
            points, cells = vtk.vtkPoints(), vtk.vtkCellArray()
            for click in clicks:
                x, y, depth_mm = (toXy @ [*click.position_ras, 1])[:3]
                # An aligned view shows a slice wherever it cuts it.
                onSlice = sliceOf(click, geometry, viewed.axis) == viewed.index
                if not (onSlice if viewed.aligned else abs(depth_mm) <= min(geometry.spacing_mm) / 2):
                    continue
                for dx, dy in ((_ARM_PIXELS, 0), (0, _ARM_PIXELS)):
                    cells.InsertNextCell(2)
                    cells.InsertCellPoint(points.InsertNextPoint(x - dx, y - dy, 0))
                    cells.InsertCellPoint(points.InsertNextPoint(x + dx, y + dy, 0))
            lines.SetPoints(points)
            lines.SetLines(cells)
            lines.Modified()
        self._view.scheduleRender()
