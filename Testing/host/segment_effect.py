"""Stand-in for the adaptor between the Segment Editor and an effect written in Python.

Masks go through the real `vtkSlicerSegmentEditorLogic`, so masking, overwrite mode and undo are Slicer's own.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any, ClassVar

import slicer
from PySide6 import QtCore

from host.pythonqt import host_class
from host.qt_module import qt
from host.signals import emit

_Logic = slicer.vtkSlicerSegmentEditorLogic
_MODES = {int(m): m for m in (getattr(_Logic, f"ModificationMode{n}") for n in ("Set", "Add", "Remove", "RemoveAll"))}


def load_source(name: str, path: str) -> Any:
    """Execute a Python file as a module of this name, as Slicer does with scripted modules and effects."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"not a Python file: {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


class qSlicerSegmentEditorScriptedEffect(host_class(QtCore.QObject)):
    """What `self.scriptedEffect` is in an effect; the Segment Editor widget sets `_editor`."""

    _host_class, _api = True, "slicer.qSlicerSegmentEditorScriptedEffect"
    _defaults: ClassVar = {"perSegment": True, "requireSegments": True, "showEffectCursorInSliceView": True}
    ModificationModeSet, ModificationModeAdd = int(_Logic.ModificationModeSet), int(_Logic.ModificationModeAdd)
    ModificationModeRemove = int(_Logic.ModificationModeRemove)
    ModificationModeRemoveAll = int(_Logic.ModificationModeRemoveAll)
    NotConfirmed, ConfirmedWithoutDialog, ConfirmedWithDialog = 0, 1, 2

    def __init__(self, parent: QtCore.QObject | None = None) -> None:
        super().__init__(parent)
        self._effect: Any = None
        self._source = ""
        self._editor: Any = None
        self._node: Any = None
        self._active = False
        self._actors: list[tuple[Any, Any]] = []
        self._options_frame = qt.QFrame()
        self._options_layout = qt.QFormLayout(self._options_frame)

    def setPythonSource(self, path: str) -> bool:
        """Load the file, as Slicer does, under the name of its folder, unless that module holds the class already.

        A package of the folder's name is hidden from then on.
        """
        name, class_name = Path(path).parent.name, Path(path).stem
        class_name += "" if class_name.endswith("Effect") else "Effect"
        module = sys.modules.get(name)
        if not hasattr(module, class_name):
            module = load_source(name, str(path))
        self._source = str(path)
        self._effect = getattr(module, class_name)(self)
        setattr(slicer, name, self._effect)
        return True

    def self(self) -> Any:
        return self._effect

    def _call(self, method: str, *args: Any) -> Any:
        """Call a method that the effect may or may not override."""
        function = getattr(self._effect, method, None)
        return function(*args) if function is not None else None

    # Life cycle
    def active(self) -> bool:
        return self._active

    def activate(self) -> None:
        self._active = True
        self._options_frame.setVisible(True)
        self._call("activate")
        self.updateGUIFromMRML()

    def deactivate(self) -> None:
        self._active = False
        self._call("deactivate")
        self._options_frame.setVisible(False)
        for widget, actor in list(self._actors):
            self.removeActor2D(widget, actor)

    def updateGUIFromMRML(self) -> None:
        self._call("updateGUIFromMRML")

    # Options
    def optionsFrame(self) -> Any:
        return self._options_frame

    def addOptionsWidget(self, widget_or_layout: Any) -> None:
        self._options_layout.addRow(widget_or_layout)

    def addLabeledOptionsWidget(self, label: str, widget_or_layout: Any) -> Any:
        label_widget = qt.QLabel(label)
        self._options_layout.addRow(label_widget, widget_or_layout)
        return label_widget

    # Parameters, kept in the segment editor node
    def parameterSetNode(self) -> Any:
        return self._node

    def setParameterSetNode(self, node: Any) -> None:
        self._node = node

    def _set(self, attribute: str, value: Any) -> None:
        text = f"{value:g}" if isinstance(value, float) else str(int(value) if isinstance(value, bool) else value)
        if self._node.GetAttribute(attribute) != text:
            self._node.SetAttribute(attribute, text)

    def setParameter(self, name: str, value: Any) -> None:
        self._set(f"{self.name}.{name}", value)

    def setParameterDefault(self, name: str, value: Any) -> None:
        if not self.parameterDefined(name):
            self.setParameter(name, value)

    def parameterDefined(self, name: str) -> bool:
        return self._node.GetAttribute(f"{self.name}.{name}") is not None

    def parameter(self, name: str) -> str:
        own = self._node.GetAttribute(f"{self.name}.{name}")
        return own if own is not None else self._node.GetAttribute(name) or ""

    def doubleParameter(self, name: str) -> float:
        return float(self.parameter(name) or 0.0)

    def nodeReference(self, name: str) -> Any:
        return self._node.GetNodeReference(f"{self.name}.{name}")

    def setNodeReference(self, name: str, node: Any) -> None:
        self._node.SetNodeReferenceID(f"{self.name}.{name}", node.GetID() if node is not None else None)

    # Images and writing
    def _logic(self) -> Any:
        return self._editor._logic

    def defaultModifierLabelmap(self) -> Any:
        self._logic().ResetModifierLabelmapToDefault()
        return self._logic().GetModifierLabelmap()

    def saveStateForUndo(self) -> None:
        self._logic().SaveStateForUndo()

    def confirmCurrentSegmentVisible(self) -> int:
        node, segment_id = self._node.GetSegmentationNode(), self._node.GetSelectedSegmentID()
        display = node.GetDisplayNode() if node is not None else None
        if display is None or not segment_id or display.GetSegmentVisibility(segment_id):
            return self.ConfirmedWithoutDialog
        display.SetSegmentVisibility(segment_id, True)  # the user's answer "yes" to Slicer's question
        return self.ConfirmedWithDialog

    def modifySelectedSegmentByLabelmap(self, labelmap: Any, mode: int, *extent_and_bypass: Any) -> None:
        segment_id = self._node.GetSelectedSegmentID()
        self.modifySegmentByLabelmap(self._node.GetSegmentationNode(), segment_id, labelmap, mode, *extent_and_bypass)

    def modifySegmentByLabelmap(self, node: Any, segment_id: str, labelmap: Any, mode: int, *rest: Any) -> None:
        extent = next((list(value) for value in rest if not isinstance(value, bool)), [0, -1, 0, -1, 0, -1])
        bypass = next((value for value in rest if isinstance(value, bool)), False)
        self._logic().ModifySegmentByLabelmap(
            node, segment_id, labelmap, _MODES[mode], extent, bool(self.perSegment), bypass
        )

    # Views

    def renderer(self, widget: Any) -> Any:
        return widget.viewWidget()._renderer

    def scheduleRender(self, widget: Any) -> None:
        widget.viewWidget().scheduleRender()

    def addActor2D(self, widget: Any, actor: Any) -> None:
        self.renderer(widget).AddViewProp(actor)
        self._actors.append((widget, actor))

    def removeActor2D(self, widget: Any, actor: Any) -> None:
        self.renderer(widget).RemoveViewProp(actor)
        self._actors = [pair for pair in self._actors if pair[1] is not actor]


class qSlicerSegmentEditorEffectFactory(host_class(QtCore.QObject)):
    """The list of effects; each editor works with clones of them."""

    _host_class, _api = True, "slicer.qSlicerSegmentEditorEffectFactory"
    _singleton: ClassVar[Any] = None

    def __init__(self) -> None:
        super().__init__()
        self._effects: list[Any] = []

    @classmethod
    def instance(cls) -> Any:
        if cls._singleton is None:
            cls._singleton = cls()
        return cls._singleton

    def registerEffect(self, effect: Any) -> bool:
        if not effect.name or effect.name in [known.name for known in self._effects]:
            return False
        self._effects.append(effect)
        emit(self, "effectRegistered(QString)", effect.name)
        return True

    def registeredEffects(self) -> list[Any]:
        return list(self._effects)


class AbstractScriptedSegmentEditorEffect:
    """Base class of effects, as `SegmentEditorEffects` has it."""

    def __init__(self, scriptedEffect: Any) -> None:
        self.scriptedEffect = scriptedEffect

    def register(self) -> None:
        slicer.qSlicerSegmentEditorEffectFactory.instance().registerEffect(self.scriptedEffect)

    def cleanup(self) -> None:
        """Overridden by effects that connect signals."""


class AbstractScriptedSegmentEditorLabelEffect(AbstractScriptedSegmentEditorEffect):
    """Base class of effects that paint."""
