"""`slicer.parameterNodeWrapper`: typed access to a parameter node, and its connection to widgets."""

from __future__ import annotations

import enum
import pathlib
import typing
from collections.abc import Callable
from typing import Any

import slicer
import vtk

from host.observed import keep, observe
from host.parameter_annotations import (
    Choice,
    Decimals,
    Default,
    Maximum,
    Minimum,
    SingleStep,
    Validator,
    WithinRange,
)
from host.parameter_types import Codec, codec_for, split_annotations
from host.qt_module import qt

_PROPERTY = "SlicerParameterName"


def _members(cls: type) -> dict[str, tuple[Any, Codec, Default]]:
    """Each annotated member: its annotated type, how it is stored, its default."""
    members = {}
    for name, annotated in typing.get_type_hints(cls, include_extras=True).items():
        codec = codec_for(annotated)
        given = [a for a in split_annotations(annotated)[1] if isinstance(a, Default)]
        default = Default(getattr(cls, name)) if hasattr(cls, name) else next(iter(given), Default(codec.default()))
        members[name] = (annotated, codec, default)
    return members


def parameterPack(cls: type | None = None) -> Any:
    """Class decorator: a group of parameters that is a parameter itself."""
    if cls is None:
        return parameterPack
    members = _members(cls)

    def initialize(self: Any, *args: Any, **keywords: Any) -> None:
        for name, value in (dict(zip(members, args, strict=False)) | keywords).items():
            if name not in members:
                raise TypeError(f"__init__() got an unexpected keyword argument '{name}'")
            setattr(self, name, value)
        for name in members:
            if f"_{name}" not in self.__dict__:
                setattr(self, name, members[name][2].make())

    def member(name: str) -> property:
        def write(self: Any, value: Any) -> None:
            members[name][1].check(value)
            self.__dict__[f"_{name}"] = value
            if "_saved_to" in self.__dict__:
                codec, node, parameter = self.__dict__["_saved_to"]
                codec.write(node, parameter, self)

        return property(lambda self: self.__dict__[f"_{name}"], write)

    for name in members:
        setattr(cls, name, member(name))
    own: dict[str, Any] = {"_is_parameterPack": True, "allParameters": members}
    own["__eq__"] = lambda self, other: (
        getattr(other, "allParameters", None) is members and all(getattr(self, n) == getattr(other, n) for n in members)
    )
    own["__repr__"] = lambda self: f"{cls.__name__}({', '.join(f'{n}={getattr(self, n)!r}' for n in members)})"
    if "__init__" not in cls.__dict__:
        own["__init__"] = initialize
    for key, value in own.items():
        setattr(cls, key, value)
    return cls


class PackCodec(Codec):
    """A parameter pack: its members under `pack.member`."""

    def is_in(self, node: Any, name: str) -> bool:
        first, (_, codec, _) = next(iter(self.kind.allParameters.items()))
        return codec.is_in(node, f"{name}.{first}")

    def write(self, node: Any, name: str, value: Any) -> None:
        self.check(value)
        with slicer.util.NodeModify(node):
            for member, (_, codec, _) in self.kind.allParameters.items():
                codec.write(node, f"{name}.{member}", getattr(value, member))

    def read(self, node: Any, name: str) -> Any:
        stored = {m: c.read(node, f"{name}.{m}") for m, (_, c, _) in self.kind.allParameters.items()}
        pack = self.kind(**stored)
        pack.__dict__["_saved_to"] = (self, node, name)
        return pack

    def remove(self, node: Any, name: str) -> None:
        for member, (_, codec, _) in self.kind.allParameters.items():
            codec.remove(node, f"{name}.{member}")


class _Wrapper:
    """The methods of a wrapped class."""

    parameterNode: Any
    allParameters: dict[str, tuple[Any, Codec, Default]]

    def __init__(self, parameterNode: Any, prefix: str | None = None) -> None:
        self.parameterNode = parameterNode
        self._prefix = prefix or ""
        self._connectors: dict[int, dict[str, Connector]] = {}
        self._updating_gui = False
        for name, (_, codec, default) in self.allParameters.items():
            if not codec.is_in(parameterNode, self._prefix + name):
                codec.write(parameterNode, self._prefix + name, default.make())

    def _checked(self, name: str) -> list[str]:
        path = name.split(".")
        if path[0] not in self.allParameters:
            raise ValueError(f"Cannot find a param with the given name: {path[0]}")
        return path

    def getValue(self, name: str) -> Any:
        value = self
        for part in self._checked(name):
            value = getattr(value, part)
        return value

    def setValue(self, name: str, value: Any) -> None:
        *parents, last = self._checked(name)
        target = self.getValue(".".join(parents)) if parents else self
        setattr(target, last, value)

    def dataType(self, name: str) -> Any:
        first, *rest = self._checked(name)
        annotated = self.allParameters[first][0]
        for part in rest:
            annotated = split_annotations(annotated)[0].allParameters[part][0]
        return annotated

    def default(self, name: str) -> Default:
        return self.allParameters[self._checked(name)[0]][2]

    def connectGui(self, gui: Any) -> int:
        widgets = gui.findChildren(qt.QWidget) if hasattr(gui, "isWidgetType") else list(gui.__dict__.values())
        named = {w.property(_PROPERTY): w for w in widgets if w.property(_PROPERTY)}
        return self.connectParametersToGui(named)

    def connectParametersToGui(self, mapping: dict[str, Any]) -> int:
        connectors = {name: Connector(widget, self.dataType(name)) for name, widget in mapping.items()}
        tag = len(self._connectors)
        self._connectors[tag] = connectors
        for name, connector in connectors.items():
            connector.write(self.getValue(name))
            connector.connect(self._callback(name, connector))
        observe(self.parameterNode, vtk.vtkCommand.ModifiedEvent, self, "_update_gui")
        return tag

    def disconnectGui(self, tag: int) -> None:
        for connector in self._connectors.pop(tag, {}).values():
            connector.disconnect()

    def _callback(self, name: str, connector: Connector) -> Callable[[], None]:
        def read_widget() -> None:
            if not self._updating_gui:
                self.setValue(name, connector.read())

        return read_widget

    def _update_gui(self) -> None:
        if self._updating_gui:
            return
        self._updating_gui = True
        try:
            for connectors in self._connectors.values():
                for name, connector in connectors.items():
                    connector.write(self.getValue(name))
        finally:
            self._updating_gui = False

    def AddObserver(self, event: Any, callback: Callable[..., Any], priority: float = 0.0) -> int:
        keep(self.parameterNode)
        return self.parameterNode.AddObserver(event, callback, priority)

    def RemoveObserver(self, tag: int) -> None:
        self.parameterNode.RemoveObserver(tag)

    def StartModify(self) -> int:
        return self.parameterNode.StartModify()

    def EndModify(self, was_modified: int) -> None:
        self.parameterNode.EndModify(was_modified)

    def Modified(self) -> None:
        self.parameterNode.Modified()


def parameterNodeWrapper(cls: type | None = None) -> Any:
    """Class decorator: typed properties on top of a parameter node."""
    if cls is None:
        return parameterNodeWrapper
    members = _members(cls)

    def parameter(name: str, codec: Codec) -> property:
        return property(
            lambda self: codec.read(self.parameterNode, self._prefix + name),
            lambda self, value: codec.write(self.parameterNode, self._prefix + name, value),
        )

    for name, value in vars(_Wrapper).items():
        if name == "__init__" or not name.startswith("__"):
            if name in members or (name in cls.__dict__ and name != "__init__"):
                raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
            setattr(cls, name, value)
    for name, (_, codec, _) in members.items():
        setattr(cls, name, parameter(name, codec))
    cls.allParameters = members
    cls._is_parameter_node_wrapper = True
    return cls


def findChildWidgetForParameter(widget: Any, parameter: str) -> Any:
    """The child widget with this `SlicerParameterName`, or None."""
    return next((w for w in widget.findChildren(qt.QWidget) if w.property(_PROPERTY) == parameter), None)


_PATHS = (pathlib.Path, pathlib.PurePath)
_TEXTS = (int, float, str, bool)
# Widget class -> (types that Slicer's wrapper connects to it, signal, property)
_CONNECTABLE: dict[str, tuple[Callable[[Any], bool], str, str]] = {
    "QCheckBox": (lambda kind: kind is bool, "stateChanged(int)", "checked"),
    "QPushButton": (lambda kind: kind is bool, "toggled(bool)", "checked"),
    "QSlider": (lambda kind: kind is int, "valueChanged(int)", "value"),
    "QSpinBox": (lambda kind: kind is int, "valueChanged(int)", "value"),
    "QDoubleSpinBox": (lambda kind: kind is float, "valueChanged(double)", "value"),
    "ctkSliderWidget": (lambda kind: kind is float, "valueChanged(double)", "value"),
    "QComboBox": (lambda kind: kind in _TEXTS or issubclass(kind, enum.Enum), "currentIndexChanged(int)", ""),
    "QLineEdit": (lambda kind: kind is str, "textChanged(QString)", "text"),
    "QTextEdit": (lambda kind: kind is str, "textChanged()", "plainText"),
    "ctkPathLineEdit": (lambda kind: issubclass(kind, _PATHS), "currentPathChanged(QString)", "currentPath"),
    "ctkDirectoryButton": (lambda kind: issubclass(kind, _PATHS), "directoryChanged(QString)", "directory"),
    "qMRMLNodeComboBox": (lambda kind: issubclass(kind, slicer.vtkMRMLNode), "currentNodeChanged(vtkMRMLNode*)", ""),
}  # fmt: skip


class Connector:
    """Carries one parameter to and from one widget; only the pairs that Slicer's wrapper knows."""

    def __init__(self, widget: Any, annotated: Any) -> None:
        kind, annotations = split_annotations(annotated)
        optional = [a for a in typing.get_args(kind) if a is not type(None)]
        self.kind = optional[0] if typing.get_origin(kind) is typing.Union and len(optional) == 1 else kind
        accepts, self.signal, self.property = _CONNECTABLE.get(widget.className(), (lambda kind: False, "", ""))
        if not isinstance(self.kind, type) or not accepts(self.kind):
            raise RuntimeError(f"Unable to create GUI connector from datatype '{annotated}' to '{widget.className()}'")
        self.widget, self._callback = widget, None
        self._items: list[tuple[str, Any]] = []
        self._prepare(annotations)

    def _prepare(self, annotations: list[Any]) -> None:
        choices = next((a.choices for a in annotations if isinstance(a, Choice)), None)
        if self.widget.className() == "QComboBox":
            if issubclass(self.kind, enum.Enum):
                self._items = [(e.label() if hasattr(e, "label") else e.name, e) for e in self.kind]
            elif choices is None:
                raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
            else:
                self._items = [(str(choice), choice) for choice in choices]
            self.widget.clear()
            self.widget.addItems([text for text, _ in self._items])
        if self.widget.className() == "qMRMLNodeComboBox":
            self.widget.nodeTypes = [self.kind.__name__]
        bounded = {"QSlider", "ctkSliderWidget"}
        ends = [a for a in annotations if isinstance(a, WithinRange | Minimum | Maximum)]
        if self.widget.className() in bounded and not ends:
            raise RuntimeError(f"Cannot have a connection to {self.widget.className()} where the type is unbounded.")
        for annotation in annotations:
            for source, target in (("minimum", "minimum"), ("maximum", "maximum")):
                if hasattr(annotation, source):
                    setattr(self.widget, target, getattr(annotation, source))
            if isinstance(annotation, Decimals | SingleStep):
                name = "decimals" if isinstance(annotation, Decimals) else "singleStep"
                setattr(self.widget, name, annotation.value)

    def connect(self, callback: Callable[[], None]) -> None:
        self._callback = callback
        self.widget.connect(self.signal, callback)

    def disconnect(self) -> None:
        self.widget.disconnect(self.signal, self._callback)

    def read(self) -> Any:
        if self._items:
            return self._items[self.widget.currentIndex][1]
        if not self.property:
            return self.widget.currentNode()
        value = getattr(self.widget, self.property)
        return self.kind(value) if issubclass(self.kind, pathlib.PurePath) else value

    def write(self, value: Any) -> None:
        if self._items:
            self.widget.currentIndex = [item for _, item in self._items].index(value)
        elif not self.property:
            self.widget.setCurrentNode(value)
        elif getattr(self.widget, self.property) != value:
            setattr(self.widget, self.property, str(value) if issubclass(self.kind, pathlib.PurePath) else value)


__all__ = [
    "Choice", "Decimals", "Default", "Maximum", "Minimum", "SingleStep", "Validator", "WithinRange",
    "findChildWidgetForParameter", "parameterNodeWrapper", "parameterPack",
]  # fmt: skip
