"""The module `qt`: PySide6's classes under PythonQt's rules, restricted to the names that Slicer's `qt` has."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any
from xml.etree import ElementTree

from PySide6 import QtCore, QtUiTools, QtWidgets

from host import api
from host.pythonqt import HostType, ValueClass, adopt, find_pyside, host_class, ui_being_loaded

# Names that PythonQt adds to `qt` for Python subclasses.
_FOR_SUBCLASSES = {"Signal": QtCore.Signal, "Slot": QtCore.Slot, "Property": QtCore.Property}
# Classes of .ui files, filled by the ctk and qMRML parts of the stand-in.
ui_classes: dict[str, type] = {}
ui_errors: list[str] = []


def qt_class(name: str) -> Any:
    """The class `qt.<name>`.

    Raises:
        AttributeError: Slicer's `qt` has no such class, or Qt 6 no longer has it.
    """
    if name not in api.module_names("qt"):
        raise AttributeError(f"module 'qt' has no attribute '{name}' in Slicer")
    if name == "QUiLoader":
        return UiLoader
    value = find_pyside(name)
    if value is None:
        raise AttributeError(f"qt.{name} exists in Qt 5 only (or the stand-in lacks its Qt library): avoid it")
    if not isinstance(value, type):
        return value
    return _SPECIAL.get(name) or (host_class(value) if issubclass(value, QtCore.QObject) else ValueClass(value))


class _DesignerLoader(QtUiTools.QUiLoader):
    """Makes stand-in objects of what a .ui file names."""

    def createWidget(self, class_name: str, parent: QtWidgets.QWidget | None = None, name: str = "") -> Any:
        widget_class = ui_classes.get(class_name)
        if widget_class is None and class_name in api.module_names("qt"):
            widget_class = qt_class(class_name)
        if widget_class is None and class_name == "Line":
            return super().createWidget(class_name, parent, name)
        if widget_class is None:
            ui_errors.append(f"no class '{class_name}' in Slicer (object '{name}')")
            return super().createWidget("QWidget", parent, name)
        widget = widget_class(parent)
        QtCore.QObject.setObjectName(widget, name)
        return widget


class UiLoader(host_class(QtCore.QObject)):
    """`qt.QUiLoader`, refusing classes that Slicer doesn't have."""

    _host_class, _api = True, "qt.QUiLoader"

    def load(self, file: QtCore.QIODevice, parent: QtWidgets.QWidget | None = None) -> Any:
        """Create the widgets of an opened .ui file.

        Raises:
            RuntimeError: The file names a class that Slicer doesn't have.
        """
        document = ElementTree.fromstring(bytes(file.readAll().data()))
        connections = document.find("connections")
        if connections is not None:
            document.remove(connections)  # Qt couldn't make them: it doesn't know the stand-in's signals
        buffer = QtCore.QBuffer()
        buffer.setData(ElementTree.tostring(document))
        ui_errors.clear()
        ui_being_loaded.append(True)
        try:
            widget = _DesignerLoader().load(buffer, parent)
        finally:
            ui_being_loaded.pop()
        if ui_errors:
            raise RuntimeError("; ".join(ui_errors))
        _connect_as_in_file(adopt(widget), connections)
        return adopt(widget)


def _connect_as_in_file(widget: Any, connections: ElementTree.Element | None) -> None:
    """Make the <connections> of a .ui file."""
    by_name = {child.objectName: child for child in [widget, *widget.findChildren()]}
    for connection in connections if connections is not None else ():
        sender, signal, receiver, slot = (connection.findtext(t, "") for t in ("sender", "signal", "receiver", "slot"))
        by_name[sender].connect(signal, by_name[receiver], slot)


def _first_of_tuple(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        return function(*args)[0]

    return staticmethod(call)


# PythonQt returns the chosen file or value alone, not a tuple.
_SPECIAL: dict[str, type] = {
    base.__name__: HostType(
        base.__name__,
        (host_class(base),),
        {"_host_class": True, "__module__": "qt"} | {name: _first_of_tuple(getattr(base, name)) for name in names},
    )
    for base, names in (
        (QtWidgets.QFileDialog, ("getOpenFileName", "getOpenFileNames", "getSaveFileName")),
        (QtWidgets.QInputDialog, ("getText", "getInt", "getDouble", "getItem")),
    )
}


def make_module() -> types.ModuleType:
    """The module object to put into `sys.modules["qt"]`."""
    module = types.ModuleType("qt", "Stand-in for Slicer's qt module")

    def lookup(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = _FOR_SUBCLASSES.get(name) or qt_class(name)
        setattr(module, name, value)
        return value

    module.__getattr__ = lookup
    module.__dir__ = lambda: sorted(api.module_names("qt"))
    return module


# The stand-in's own widgets are written against it too: their children are handed to the code under test.
qt: Any = make_module()
