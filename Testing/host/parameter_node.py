"""`slicer.parameterNodeWrapper`, as far as the modules use it: plain values, nodes, lists of nodes, and their widgets.

Names in the node are Slicer's own (`list_len`, `list_0`, a node reference of the parameter's name), so that a scene
written here reads back there. What Slicer's wrapper has beyond that is refused.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, MutableSequence
from typing import Any

import slicer
import vtk

from host.observed import observe
from host.pythonqt import NotInStandIn
from host.qt_module import qt

_PROPERTY = "SlicerParameterName"


class Value:
    """Writes values of a plain type to the node and reads them back."""

    def __init__(self, kind: type) -> None:
        self.kind = kind

    def default(self) -> Any:
        return self.kind()

    def is_in(self, node: Any, name: str) -> bool:
        return bool(node.HasParameter(name))

    def check(self, value: Any) -> None:
        kinds = (int, float) if self.kind is float else self.kind
        if not isinstance(value, kinds) or (isinstance(value, bool) and self.kind in (int, float)):
            raise TypeError(f"Value must be of type {self.kind}, is {value!r}")

    def write(self, node: Any, name: str, value: Any) -> None:
        self.check(value)
        node.SetParameter(name, str(value))

    def read(self, node: Any, name: str) -> Any:
        text = node.GetParameter(name)
        return text == "True" if self.kind is bool else self.kind(text)

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)


class Node(Value):
    """A MRML node, or None."""

    def default(self) -> None:
        return None

    def check(self, value: Any) -> None:
        if value is not None:
            super().check(value)

    def write(self, node: Any, name: str, value: Any) -> None:
        self.check(value)
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node: Any, name: str) -> Any:
        return node.GetNodeReference(name)

    def remove(self, node: Any, name: str) -> None:
        super().remove(node, name)
        node.RemoveNodeReferenceIDs(name)


class List(Value):
    """A list; what is read writes itself back when it is changed."""

    def __init__(self, element: Value) -> None:
        super().__init__(list)
        self.element = element

    def is_in(self, node: Any, name: str) -> bool:
        return bool(node.HasParameter(f"{name}_len"))

    def write(self, node: Any, name: str, value: Any) -> None:
        values = list(value)
        for item in values:
            self.element.check(item)
        with slicer.util.NodeModify(node):
            self.remove(node, name)
            for index, item in enumerate(values):
                self.element.write(node, f"{name}_{index}", item)
            node.SetParameter(f"{name}_len", str(len(values)))

    def read(self, node: Any, name: str) -> Any:
        return ObservedList(self, node, name)

    def remove(self, node: Any, name: str) -> None:
        for index in range(int(node.GetParameter(f"{name}_len") or 0)):
            self.element.remove(node, f"{name}_{index}")
        node.UnsetParameter(f"{name}_len")


class ObservedList(MutableSequence):
    """A list that writes itself back to the node when it is changed."""

    def __init__(self, kind: List, node: Any, name: str) -> None:
        self._kind, self._node, self._name = kind, node, name
        count = int(node.GetParameter(f"{name}_len") or 0)
        self._values = [kind.element.read(node, f"{name}_{index}") for index in range(count)]

    def _save(self) -> None:
        self._kind.write(self._node, self._name, self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __len__(self) -> int:
        return len(self._values)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._values[index] = value
        self._save()

    def __delitem__(self, index: Any) -> None:
        del self._values[index]
        self._save()

    def insert(self, index: int, value: Any) -> None:
        self._values.insert(index, value)
        self._save()

    def __eq__(self, other: object) -> bool:
        return self._values == (other._values if isinstance(other, ObservedList) else other)


def _value_of(annotated: Any) -> Value:
    if typing.get_origin(annotated) is list:
        return List(_value_of(typing.get_args(annotated)[0]))
    if isinstance(annotated, type) and issubclass(annotated, slicer.vtkMRMLNode):
        return Node(annotated)
    if annotated in (int, float, str, bool):
        return Value(annotated)
    raise NotInStandIn(f"the stand-in keeps no parameter of type {annotated}")


class _Wrapper:
    """The methods of a wrapped class."""

    parameterNode: Any
    _kinds: dict[str, tuple[Value, Any]]

    def __init__(self, parameterNode: Any, prefix: str | None = None) -> None:
        self.parameterNode = parameterNode
        self._prefix = prefix or ""
        self._connected: dict[int, dict[str, Any]] = {}
        self._updating_gui = False
        for name, (kind, default) in self._kinds.items():
            if not kind.is_in(parameterNode, self._prefix + name):
                kind.write(parameterNode, self._prefix + name, default)

    def connectGui(self, gui: Any) -> int:
        widgets = gui.findChildren(qt.QWidget) if hasattr(gui, "isWidgetType") else list(gui.__dict__.values())
        named = {widget.property(_PROPERTY): widget for widget in widgets if widget.property(_PROPERTY)}
        connected = {name: (widget, self._connect(name, widget)) for name, widget in named.items()}
        tag = len(self._connected)
        self._connected[tag] = connected
        observe(self.parameterNode, vtk.vtkCommand.ModifiedEvent, self, "_update_gui")
        return tag

    def disconnectGui(self, tag: int) -> None:
        for widget, slot in self._connected.pop(tag, {}).values():
            widget.disconnect(_signal(widget), slot)

    def _connect(self, name: str, widget: Any) -> Callable[[], None]:
        kind = self._kinds[name][0].kind
        fits = kind is bool if widget.className() == "QCheckBox" else issubclass(kind, slicer.vtkMRMLNode)
        if not fits:
            raise RuntimeError(f"Unable to create GUI connector from datatype '{kind}' to '{widget.className()}'")

        def read_widget() -> None:
            if not self._updating_gui:
                setattr(self, name, widget.checked if kind is bool else widget.currentNode())

        if kind is not bool:
            widget.nodeTypes = [kind.__name__]
        self._show(name, widget)
        widget.connect(_signal(widget), read_widget)
        return read_widget

    def _show(self, name: str, widget: Any) -> None:
        value = getattr(self, name)
        if widget.className() != "QCheckBox":
            widget.setCurrentNode(value)
        elif widget.checked != value:
            widget.checked = value

    def _update_gui(self) -> None:
        if self._updating_gui:
            return
        self._updating_gui = True
        try:
            for connected in self._connected.values():
                for name, (widget, _) in connected.items():
                    self._show(name, widget)
        finally:
            self._updating_gui = False


def _signal(widget: Any) -> str:
    signals = {"QCheckBox": "stateChanged(int)", "qMRMLNodeComboBox": "currentNodeChanged(vtkMRMLNode*)"}
    if widget.className() not in signals:
        raise NotInStandIn(f"the stand-in connects no parameter with a {widget.className()}")
    return signals[widget.className()]


def parameterNodeWrapper(cls: type) -> Any:
    """Class decorator: typed properties on top of a parameter node."""
    kinds = {name: _value_of(annotated) for name, annotated in typing.get_type_hints(cls).items()}
    cls._kinds = {name: (kind, getattr(cls, name, kind.default())) for name, kind in kinds.items()}

    def parameter(name: str, kind: Value) -> property:
        return property(
            lambda self: kind.read(self.parameterNode, self._prefix + name),
            lambda self, value: kind.write(self.parameterNode, self._prefix + name, value),
        )

    for name, value in vars(_Wrapper).items():
        if name == "__init__" or not name.startswith("__"):
            setattr(cls, name, value)
    for name, kind in kinds.items():
        setattr(cls, name, parameter(name, kind))
    return cls


__all__ = ["parameterNodeWrapper"]
