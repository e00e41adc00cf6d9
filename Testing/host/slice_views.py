"""Stand-ins for the layout and its slice views: real slice nodes and logics, a real VTK interactor.

A test moves the mouse by `view.interactor()`: `SetEventInformation(x, y)` and `LeftButtonPressEvent()`, and looks at
what is drawn over the slice by `rendered`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import slicer
import vtk
from PySide6 import QtWidgets

from host.mrml_widgets import SceneAware, Widget
from host.pythonqt import NotInStandIn, host_class

_ORIENTATIONS = {"Red": "Axial", "Yellow": "Sagittal", "Green": "Coronal"}
_VIEW_SIZE = (256, 256)


def rendered(sliceWidget: Any, background: tuple[float, float, float]) -> Any:
    """What VTK draws over a slice, such as outlines, on a plain background: (rows from below, columns, 3) bytes.

    Raises:
        NotInStandIn: VTK has no GL here that needs no display.
    """
    from vtk.util.numpy_support import vtk_to_numpy

    if not hasattr(vtk, "vtkEGLRenderWindow"):
        raise NotInStandIn("this VTK can't render without a display: colours in the views can't be told")
    window, renderer = vtk.vtkEGLRenderWindow(), vtk.vtkRenderer()
    window.SetOffScreenRendering(True)
    window.SetSize(*_VIEW_SIZE)
    renderer.SetBackground(*background)
    window.AddRenderer(renderer)
    props = sliceWidget.sliceView()._renderer.GetViewProps()
    for index in range(props.GetNumberOfItems()):
        renderer.AddViewProp(props.GetItemAsObject(index))
    window.Render()
    grabbed = vtk.vtkWindowToImageFilter()
    grabbed.SetInput(window)
    grabbed.ReadFrontBufferOff()
    grabbed.Update()
    image = grabbed.GetOutput()
    pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(_VIEW_SIZE[1], _VIEW_SIZE[0], 3).copy()
    for prop in list(renderer.GetViewProps()):
        prop.ReleaseGraphicsResources(window)
        renderer.RemoveViewProp(prop)
    window.Finalize()
    return pixels


class qMRMLSliceView(Widget, SceneAware):
    """What draws a slice: it counts how often it would, and converts between pixels and RAS."""

    _host_class, _api = True, "slicer.qMRMLSliceView"

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._slice_logic: Any = None
        self._renderer = vtk.vtkRenderer()
        self._render_window = vtk.vtkGenericOpenGLRenderWindow()  # needs no display as long as it doesn't render
        self._render_window.SetSize(*_VIEW_SIZE)
        self._render_window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._render_window)
        self._interactor.SetSize(*_VIEW_SIZE)
        self._interactor.SetInteractorStyle(None)
        self._interactor.Enable()
        self.setMinimumSize(*_VIEW_SIZE)
        self._renders = 0

    def mrmlSliceNode(self) -> Any:
        return self._slice_logic.GetSliceNode()

    def renderWindow(self) -> Any:
        return self._render_window

    def interactor(self) -> Any:
        return self._interactor

    def scheduleRender(self) -> None:
        self._renders += 1

    def _through(self, matrix: Any, point: Any) -> list[float]:
        return list(matrix.MultiplyPoint((*point, 1.0))[:3])

    def convertXYZToRAS(self, xyz: list[float]) -> list[float]:
        return self._through(self.mrmlSliceNode().GetXYToRAS(), xyz)

    def convertRASToXYZ(self, ras: list[float]) -> list[float]:
        inverse = vtk.vtkMatrix4x4()
        vtk.vtkMatrix4x4.Invert(self.mrmlSliceNode().GetXYToRAS(), inverse)
        return self._through(inverse, ras)


class qMRMLSliceWidget(Widget, SceneAware):
    """A slice view with its slice node and slice logic."""

    _host_class, _api = True, "slicer.qMRMLSliceWidget"

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._slice_logic: Any = None
        self._view = qMRMLSliceView()
        self._view.setParent(self)

    def _set_logic(self, logic: Any) -> None:
        self._slice_logic = self._view._slice_logic = logic

    def sliceView(self) -> Any:
        return self._view

    def viewWidget(self) -> Any:
        return self._view

    def mrmlSliceNode(self) -> Any:
        return self._slice_logic.GetSliceNode()

    def _get_sliceViewName(self) -> str:
        return self.mrmlSliceNode().GetLayoutName()

    def _get_sliceOrientation(self) -> str:
        return self.mrmlSliceNode().GetOrientation()


class qSlicerLayoutManager(host_class(QtWidgets.QWidget), SceneAware):
    """The Red, Yellow and Green slice views; there is no 3D view."""

    _host_class, _api = True, "slicer.qSlicerLayoutManager"
    _defaults: ClassVar = {"layout": 3, "threeDViewCount": 0}

    def __init__(self, application_logic: Any, scene: Any) -> None:
        super().__init__()
        self._application_logic = application_logic
        self._logics = vtk.vtkCollection()
        self._widgets: dict[str, qMRMLSliceWidget] = {}
        application_logic.SetSliceLogics(self._logics)
        self.setMRMLScene(scene)
        for name, orientation in _ORIENTATIONS.items():
            logic = slicer.vtkMRMLSliceLogic()
            logic.SetMRMLApplicationLogic(application_logic)
            logic.SetMRMLScene(scene)
            logic.AddSliceNode(name)
            node = logic.GetSliceNode()
            node.SetOrientation(orientation)
            node.SetMappedInLayout(True)
            node.SetDimensions(*_VIEW_SIZE, 1)
            self._logics.AddItem(logic)
            widget = self._widgets[name] = qMRMLSliceWidget()
            widget._set_logic(logic)

    def sliceViewNames(self) -> list[str]:
        return list(self._widgets)

    def sliceWidget(self, name: str) -> Any:
        return self._widgets.get(name)

    def mrmlSliceLogics(self) -> Any:
        return self._logics
