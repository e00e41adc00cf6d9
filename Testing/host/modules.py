"""Stand-ins for module objects, the module manager and `slicer.modules`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import slicer
from PySide6 import QtCore, QtWidgets

from host.mrml_widgets import SceneAware
from host.pythonqt import host_class, stored_properties
from host.qt_module import qt
from host.segment_effect import load_source
from host.signals import emit

# Module name -> class of its logic in slicer-core.
CORE_MODULES = {
    "Colors": "vtkSlicerColorLogic", "Markups": "vtkSlicerMarkupsLogic", "Plots": "vtkSlicerPlotsLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic", "Sequences": "vtkSlicerSequencesLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic", "Tables": "vtkSlicerTablesLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic", "Transforms": "vtkSlicerTransformLogic",
    "Volumes": "vtkSlicerVolumesLogic", "CropVolume": "vtkSlicerCropVolumeLogic",
}  # fmt: skip


class Modules:
    """`slicer.modules`: module objects by lower-case name, widgets as `<Name>Widget`."""


class qSlicerCoreModule(host_class(QtCore.QObject)):
    """A module of slicer-core: it has a logic."""

    _host_class, _api = True, "slicer.qSlicerAbstractCoreModule"
    locals().update(stored_properties({"name": str, "title": str, "path": str}))

    def __init__(self, name: str, logic: Any) -> None:
        super().__init__()
        self.name, self.title, self._module_logic = name, name, logic

    def logic(self) -> Any:
        return self._module_logic


class qSlicerScriptedLoadableModule(host_class(QtCore.QObject)):
    """A module file: its classes are instantiated as Slicer does it."""

    _host_class, _api = True, "slicer.qSlicerScriptedLoadableModule"
    _texts = ("title", "path", "category", "helpText", "acknowledgementText")
    _lists = ("categories", "dependencies", "contributors", "associatedNodeTypes")
    locals().update(stored_properties(dict.fromkeys(_texts, str) | dict.fromkeys(_lists, list)))
    locals().update(stored_properties({"hidden": bool, "index": int, "icon": object}))

    def __init__(self, name: str, path: str) -> None:
        super().__init__()
        self.path, self._name, self._widget = path, name, None
        self.objectName = name  # which PythonQt also shows as `name`
        self._module = getattr(load_source(name, path), name)(self)

    def self(self) -> Any:
        return self._module

    def widgetRepresentation(self) -> Any:
        if self._widget is None:
            self._widget = self.createNewWidgetRepresentation()
        return self._widget

    def createNewWidgetRepresentation(self) -> Any:
        if not hasattr(sys.modules[self._name], f"{self._name}Widget"):
            return None
        return qSlicerScriptedLoadableModuleWidget(self._name)


class qSlicerScriptedLoadableModuleWidget(host_class(QtWidgets.QWidget), SceneAware):
    """The widget that holds a scripted module's panel."""

    _host_class, _api = True, "slicer.qSlicerScriptedLoadableModuleWidget"

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name, self._widget, self._entered = name, None, False
        self.setLayout(qt.QVBoxLayout())
        self.reload()
        self.setMRMLScene(slicer.mrmlScene)

    def self(self) -> Any:
        return self._widget

    def reload(self) -> None:
        """Instantiate the widget class of the module's present source."""
        self._widget = getattr(sys.modules[self._name], f"{self._name}Widget")(self)
        setattr(slicer.modules, f"{self._name}Widget", self._widget)
        self._widget.setup()

    @QtCore.Property(bool)
    def isEntered(self) -> bool:
        return self._entered

    def enter(self) -> None:
        self._entered = True
        if hasattr(self._widget, "enter"):
            self._widget.enter()


class _SegmentEditor(qSlicerCoreModule):
    """The module around the Segment Editor widget."""

    _host_class, _api = True, "slicer.qSlicerAbstractCoreModule"
    _representation: Any = None

    def widgetRepresentation(self) -> Any:
        if self._representation is None:
            self._representation = _SegmentEditorRepresentation()
            slicer.modules.SegmentEditorWidget = self._representation
        return self._representation


class _SegmentEditorRepresentation:
    """`slicer.modules.SegmentEditorWidget`: `editor` and `parameterSetNode`."""

    def __init__(self) -> None:
        self.editor = slicer.qMRMLSegmentEditorWidget()
        self.editor.setMRMLScene(slicer.mrmlScene)
        self.selectParameterNode()

    def selectParameterNode(self) -> None:
        node = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
        if node is None:
            node = slicer.vtkMRMLSegmentEditorNode()
            node.SetSingletonTag("SegmentEditor")
            node = slicer.mrmlScene.AddNode(node)
        self.parameterSetNode = node
        self.editor.setMRMLSegmentEditorNode(node)


class qSlicerModuleManager(host_class(QtCore.QObject)):
    """Loads module files and knows what is loaded."""

    _host_class, _api = True, "slicer.qSlicerModuleManager"

    def __init__(self, application_logic: Any, scene: Any) -> None:
        super().__init__()
        self._modules: dict[str, Any] = {}
        self._unloaded: list[Any] = []
        for name, class_name in CORE_MODULES.items():
            logic = getattr(slicer, class_name)()
            application_logic.SetModuleLogic(name, logic)
            if name == "Colors":
                application_logic.SetColorLogic(logic)
            logic.SetMRMLApplicationLogic(application_logic)
            if name != "Terminologies":  # it would look for files that the wheel lacks
                logic.SetMRMLScene(scene)
            self._add(name, qSlicerCoreModule(name, logic))
        self._add("SegmentEditor", _SegmentEditor("SegmentEditor", None))

    def _add(self, name: str, module: Any) -> None:
        self._modules[name] = module
        setattr(slicer.modules, name.lower(), module)

    def _load(self, path: Path) -> Any:
        """Instantiate a module file."""
        if str(path.parent) not in sys.path:
            sys.path.insert(0, str(path.parent))
        module = qSlicerScriptedLoadableModule(path.stem, str(path))
        self._add(path.stem, module)
        emit(self, "moduleLoaded(QString)", path.stem)
        return module

    def _unload(self, name: str) -> None:
        emit(self, "moduleAboutToBeUnloaded(QString)", name)
        # Kept, as PySide deletes a tree of widgets in another order than Slicer does, and a later event then crashes.
        self._unloaded.append(self._modules.pop(name))
        for attribute in (name.lower(), f"{name}Widget"):
            slicer.modules.__dict__.pop(attribute, None)

    def module(self, name: str) -> Any:
        return self._modules.get(name)
