"""The rectangle that is dragged in a slice view."""

from __future__ import annotations

import vtk


class RubberBand:
    """A rectangle in a view's pixels, from where the mouse was pressed to where it is."""

    def __init__(self) -> None:
        self._points = vtk.vtkPoints()
        self._points.SetNumberOfPoints(4)
        lines = vtk.vtkCellArray()
        lines.InsertNextCell(5)
        for corner in (0, 1, 2, 3, 0):
            lines.InsertCellPoint(corner)
        self._polyData = vtk.vtkPolyData()
        self._polyData.SetPoints(self._points)
        self._polyData.SetLines(lines)
        mapper = vtk.vtkPolyDataMapper2D()
        mapper.SetInputData(self._polyData)
        self.actor = vtk.vtkActor2D()
        self.actor.SetMapper(mapper)
        self.actor.GetProperty().SetColor(1.0, 0.85, 0.1)
        self.actor.GetProperty().SetLineWidth(2)
        self.actor.VisibilityOff()
        self.firstXy: tuple[float, float] | None = None
        self.lastXy: tuple[float, float] | None = None

    @property
    def dragging(self) -> bool:
        """Whether the mouse button is down."""
        return self.firstXy is not None

    def start(self, xy: tuple[float, float]) -> None:
        """The button was pressed."""
        self.firstXy = xy
        self.moveTo(xy)
        self.actor.VisibilityOn()

    def moveTo(self, xy: tuple[float, float]) -> None:
        """The mouse was moved."""
        self.lastXy = xy
        (x0, y0), (x1, y1) = self.firstXy, xy
        for index, (x, y) in enumerate(((x0, y0), (x1, y0), (x1, y1), (x0, y1))):
            self._points.SetPoint(index, x, y, 0)
        self._points.Modified()
        self._polyData.Modified()

    def finish(self) -> tuple[tuple[float, float], tuple[float, float]] | None:
        """The button was released: opposite corners, or None for a click without a drag."""
        first, last = self.firstXy, self.lastXy
        self.firstXy = self.lastXy = None
        self.actor.VisibilityOff()
        if first is None or last is None or abs(first[0] - last[0]) < 3 or abs(first[1] - last[1]) < 3:
            return None
        return first, last
