"""The outline of a mask on one slice, drawn in the slice views without any node in the scene."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk

from ..Mrml.Geometry import arrayFromMatrix, matrixBetween, matrixFromArray, volumeGeometry
from ..Mrml.SliceViews import viewedSlice

_PREVIEW_COLOR = (1.0, 0.85, 0.1)


class MaskOutline:
    """A mask's outline in one view: an actor in the view's XY pixels."""

    def __init__(self, image: vtk.vtkImageData) -> None:
        self._marching = vtk.vtkMarchingSquares()
        self._marching.SetValue(0, 0.5)
        self._marching.SetInputData(image)
        self._toXy = vtk.vtkTransformPolyDataFilter()
        self._toXy.SetInputConnection(self._marching.GetOutputPort())
        self._toXy.SetTransform(vtk.vtkTransform())
        mapper = vtk.vtkPolyDataMapper2D()
        mapper.SetInputConnection(self._toXy.GetOutputPort())
        mapper.ScalarVisibilityOff()  # the mask's bytes would be taken for colours, of which 1 is black
        self.actor = vtk.vtkActor2D()
        self.actor.SetMapper(mapper)
        self.actor.GetProperty().SetColor(*_PREVIEW_COLOR)
        self.actor.GetProperty().SetLineWidth(2)
        self.actor.VisibilityOff()
        self._empty = image.GetScalarRange()[1] == 0

    def place(self, planeToXy: np.ndarray | None) -> None:
        """Shows the outline at its place in the view's XY, (4, 4) from the mask's padded pixels; hides it if None."""
        if planeToXy is not None:
            self._toXy.GetTransform().SetMatrix(matrixFromArray(planeToXy))
        self.actor.SetVisibility(planeToXy is not None and not self._empty)


class SlicePreview:
    """Outlines of the same slice in all views that show it; they follow as the views are moved.

    Args:
        onSeen: called when the outline is seen for the first time.

    Attributes:
        wasSeen: whether a view has shown the slice since the outline was made; an application without views shows none.
    """

    def __init__(self, onSeen: Callable[[], None] = lambda: None) -> None:
        self._onSeen = onSeen
        self.wasSeen = False
        self._outlines: list[tuple[Any, Any, MaskOutline]] = []
        self._observed: list[tuple[slicer.vtkMRMLSliceNode, int]] = []

    def show(self, result: Any, index: int, volumeNode: slicer.vtkMRMLScalarVolumeNode, sliceWidgets: list[Any]) -> int:
        """Draws the outline in the views along the result's axis, where and as long as they show this slice.

        Args:
            result: a VolumeSegmentation.
            index: the slice.
            volumeNode: the volume that was segmented.
            sliceWidgets: the application's qMRMLSliceWidgets.

        Returns:
            Number of views with the outline now.
        """
        self.clear()
        self.wasSeen = not sliceWidgets
        image = _maskImage(result, index)
        for sliceWidget in sliceWidgets:
            sliceNode = sliceWidget.mrmlSliceNode()
            outline = MaskOutline(image)
            view = sliceWidget.sliceView()
            renderer = view.renderWindow().GetRenderers().GetFirstRenderer()
            renderer.AddViewProp(outline.actor)
            self._outlines.append((view, renderer, outline))

            def follow(
                *_: Any,
                sliceNode: slicer.vtkMRMLSliceNode = sliceNode,
                outline: MaskOutline = outline,
                view: Any = view,
            ) -> None:
                planeToXy = _planeToXy(result, index, volumeNode, sliceNode)
                outline.place(planeToXy)
                view.scheduleRender()
                if planeToXy is not None and not self.wasSeen:
                    self.wasSeen = True
                    self._onSeen()

            self._observed.append((sliceNode, sliceNode.AddObserver(vtk.vtkCommand.ModifiedEvent, follow)))
            follow()
        return sum(outline.actor.GetVisibility() for _, _, outline in self._outlines)

    def clear(self) -> None:
        """Removes all outlines."""
        for sliceNode, tag in self._observed:
            sliceNode.RemoveObserver(tag)
        self._observed = []
        for view, renderer, outline in self._outlines:
            renderer.RemoveViewProp(outline.actor)
            view.scheduleRender()
        self._outlines = []


def _maskImage(result: Any, index: int) -> vtk.vtkImageData:
    """One slice of a result, a VolumeSegmentation, as a plane of pixels, which marching squares wants."""
    first = result.extent_ijk[result.axis][0]
    mask = np.take(result.mask_KJI, index - first, axis=2 - result.axis) != 0
    padded = np.pad(mask.astype(np.uint8), 1)  # a border of zeros closes outlines at the edge of the mask
    image = vtk.vtkImageData()
    image.SetDimensions(padded.shape[1], padded.shape[0], 1)
    image.GetPointData().SetScalars(numpy_to_vtk(padded.ravel(), deep=True))
    return image


def _planeToXy(
    result: Any, index: int, volumeNode: slicer.vtkMRMLScalarVolumeNode, sliceNode: slicer.vtkMRMLSliceNode
) -> np.ndarray | None:
    """(4, 4) from the padded mask's pixels to the view's XY; None while the view shows something else."""
    from dbsam.geometry.grid import slice_axes

    if volumeNode.GetScene() is None:
        return None
    viewed = viewedSlice(sliceNode, volumeNode)
    if viewed.axis != result.axis or viewed.index != index or not viewed.aligned:
        return None
    xAxis, yAxis = slice_axes(result.axis)
    toIjk = np.zeros((4, 4))
    toIjk[xAxis, 0] = toIjk[yAxis, 1] = toIjk[result.axis, 2] = toIjk[3, 3] = 1
    toIjk[xAxis, 3] = result.extent_ijk[xAxis][0] - 1
    toIjk[yAxis, 3] = result.extent_ijk[yAxis][0] - 1
    toIjk[result.axis, 3] = index
    rasToXy = np.linalg.inv(arrayFromMatrix(sliceNode.GetXYToRAS()))
    toXy = rasToXy @ matrixBetween(volumeNode, None) @ volumeGeometry(volumeNode).ijk_to_ras @ toIjk
    toXy[2] = (0, 0, 0, 0)  # everything is drawn in the view's plane
    return toXy
