"""`slicer.app`: the Qt application with Slicer's additions, over a real MRML scene and application logic."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import slicer
from PySide6 import QtCore, QtWidgets

from host import api, modules
from host.modules import Modules, qSlicerModuleManager
from host.pythonqt import HostType, host_class, stored_properties
from host.qt_module import qt, ui_classes
from host.signals import emit
from host.slice_views import qSlicerLayoutManager
from host.widgets_ctk import plain_class

VERSION = "5.10.0"


class FileReaders:
    """`slicer.app.coreIOManager()`: reads the files that slicer-core has a logic for."""

    def loadNodes(self, kind: str, properties: dict[str, Any], loaded: Any = None, messages: Any = None) -> bool:
        path = str(properties["fileName"])
        name = properties.get("name") or Path(path).name.split(".")[0]
        if kind == "VolumeFile":
            options = 1 if properties.get("labelmap") else 0
            node = slicer.modules.volumes.logic().AddArchetypeVolume(path, name, options)
            if node is not None and properties.get("show", True):
                self._show(node)
        elif kind == "SegmentationFile":
            node = slicer.modules.segmentations.logic().LoadSegmentationFromFile(path, True, name)
        elif kind == "MarkupsFile":
            node = slicer.mrmlScene.GetNodeByID(slicer.modules.markups.logic().LoadMarkups(path, name))
        else:
            raise NotImplementedError(f"the stand-in reads no {kind}")
        if node is not None and loaded is not None:
            loaded.AddItem(node)
        return node is not None

    def _show(self, node: Any) -> None:
        """A volume that was loaded is shown in the slice views, unless the caller doesn't want that."""
        selection = slicer.app.applicationLogic().GetSelectionNode()
        if node.IsA("vtkMRMLLabelMapVolumeNode"):
            selection.SetActiveLabelVolumeID(node.GetID())
        else:
            selection.SetActiveVolumeID(node.GetID())
        slicer.app.applicationLogic().PropagateVolumeSelection(0)

    def fileWriterFileType(self, node: Any) -> str:
        return node.GetClassName()

    def saveNodes(self, kind: str, properties: dict[str, Any], messages: Any = None) -> bool:
        node = slicer.mrmlScene.GetNodeByID(properties["nodeID"])
        if node.GetStorageNode() is None:
            node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(str(properties["fileName"]))
        return bool(node.GetStorageNode().WriteData(node))


class qSlicerApplication(host_class(QtWidgets.QApplication)):
    """The application object."""

    _host_class, _api = True, "slicer.qSlicerApplication"
    _signals = ("startupCompleted()", "mrmlSceneChanged(vtkMRMLScene*)")
    _folders = ("temporaryPath", "slicerHome")
    locals().update(stored_properties(dict.fromkeys(_folders, str) | {"majorVersion": int, "minorVersion": int}))

    def __init__(self, testing: bool) -> None:
        super().__init__(["Slicer"])
        self._testing = testing
        self._folder = tempfile.TemporaryDirectory(prefix="slicer-host-")
        folder = Path(self._folder.name)
        self.applicationName, self.organizationName, self.applicationVersion = "Slicer", "slicer.org", VERSION
        self.majorVersion, self.minorVersion = (int(part) for part in VERSION.split(".")[:2])
        for name in self._folders:
            (folder / name).mkdir()
            setattr(self, name, str(folder / name))
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
        QtCore.QSettings.setPath(QtCore.QSettings.Format.IniFormat, QtCore.QSettings.Scope.UserScope, str(folder))
        (folder / "slicerHome/share/ColorFiles").mkdir(parents=True)
        self._io = FileReaders()

    def _start(self) -> None:
        """Make the scene, the logics and the views; needs `slicer.app` in place."""
        slicer.mrmlScene = self._scene = slicer.vtkMRMLScene()
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._logic.SetTemporaryPath(self.temporaryPath)
        self._logic.SetHomeDirectory(self.slicerHome)
        self._logic.SetShareDirectory("share")
        self._logic.SetMRMLScene(self._scene)
        self._module_manager = qSlicerModuleManager(self._logic, self._scene)
        self._layout_manager = qSlicerLayoutManager(self._logic, self._scene)

    def applicationLogic(self) -> Any:
        return self._logic

    def mrmlScene(self) -> Any:
        return self._scene

    def layoutManager(self) -> Any:
        return self._layout_manager

    def moduleManager(self) -> Any:
        return self._module_manager

    def coreIOManager(self) -> Any:
        return self._io

    def settings(self) -> Any:
        return qt.QSettings()

    userSettings = revisionUserSettings = settings

    def testingEnabled(self) -> bool:
        return self._testing

    def _startup_completed(self) -> None:
        emit(self, "startupCompleted()")


def make_widget_classes() -> dict[str, type]:
    """Every listed class of `slicer`: written in the stand-in, or with the listed names and nothing behind them."""
    from host import mrml_widgets, segment_editor, segment_effect, slice_views

    written: dict[str, type] = {}
    for module in (mrml_widgets, slice_views, segment_editor, segment_effect):
        for value in vars(module).values():
            if isinstance(value, HostType) and str(getattr(value, "_api", "")).startswith("slicer."):
                written[value.__name__] = value
    for name in api.listed_classes("slicer.") - set(written):
        written[name] = plain_class(f"slicer.{name}", QtWidgets.QWidget)
    ui_classes.update(written)
    scripted = (
        modules.qSlicerScriptedLoadableModule,
        modules.qSlicerScriptedLoadableModuleWidget,
        qSlicerModuleManager,
    )
    return written | {cls.__name__: cls for cls in scripted}


def install(testing: bool) -> Any:
    """Create the application and put it, the scene and the widget classes into `slicer`."""
    for name, value in make_widget_classes().items():
        setattr(slicer, name, value)
    slicer.qSlicerSegmentEditorAbstractEffect = slicer.qSlicerSegmentEditorScriptedEffect
    slicer.modules = Modules()
    slicer.app = qSlicerApplication(testing)
    slicer.app._start()
    return slicer.app
