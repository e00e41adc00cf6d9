"""Stand-ins for the CTK widgets: Qt widgets with CTK's properties and signals.

A listed property that isn't written out here is a stored value; a listed method that isn't written out raises
`NotInStandIn` when it is used.
"""

from __future__ import annotations

import types
from functools import partial
from typing import Any, ClassVar

from PySide6 import QtCore, QtGui, QtWidgets

from host import api
from host.pythonqt import HostType, NotInStandIn, host_class
from host.qt_module import qt, ui_classes
from host.signals import emit

Widget: Any = host_class(QtWidgets.QWidget)
_HEADER_HEIGHT = 24


class ctkCollapsibleButton(host_class(QtWidgets.QAbstractButton)):
    """A header that shows and hides what lies below it."""

    _host_class, _api = True, "ctk.ctkCollapsibleButton"

    def __init__(self, *args: Any) -> None:
        text = args[0] if args and isinstance(args[0], str) else ""
        super().__init__(next((a for a in args if isinstance(a, QtWidgets.QWidget)), None))
        self._collapsed = False
        self._hidden: list[QtWidgets.QWidget] = []
        self.setCheckable(True)
        self.setChecked(True)
        self.text = text
        self.setContentsMargins(0, _HEADER_HEIGHT, 0, 0)
        self.setMinimumHeight(_HEADER_HEIGHT)
        self.connect("toggled(bool)", self._toggled)

    def _get_collapsed(self) -> bool:
        return self._collapsed

    def _set_collapsed(self, collapsed: bool) -> None:
        self.checked = not collapsed

    def _toggled(self, checked: bool) -> None:
        self._collapsed = not checked
        if self._collapsed:
            self._hidden = [child for child in self.children() if child.isWidgetType() and not child.isHidden()]
            self.setMaximumHeight(_HEADER_HEIGHT)
        else:
            self.setMaximumHeight(16777215)
        for child in self._hidden:
            child.setVisible(checked)
        emit(self, "contentsCollapsed(bool)", self._collapsed)

    def childEvent(self, event: QtCore.QChildEvent) -> None:
        if self._collapsed and event.polished() and event.child().isWidgetType():
            QtWidgets.QWidget.hide(event.child())
            self._hidden.append(event.child())

    def paintEvent(self, event: QtGui.QPaintEvent) -> None:
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.width, _HEADER_HEIGHT)
        option.text = self.text
        option.state |= QtWidgets.QStyle.StateFlag.State_Raised
        painter = QtGui.QPainter(self)
        self.style().drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option, painter, self)
        arrow = QtWidgets.QStyle.PrimitiveElement
        option.rect = QtCore.QRect(6, 7, 10, 10)
        kind = arrow.PE_IndicatorArrowRight if self._collapsed else arrow.PE_IndicatorArrowDown
        self.style().drawPrimitive(kind, option, painter, self)
        painter.drawText(QtCore.QRect(22, 0, self.width - 22, _HEADER_HEIGHT), 0x84, self.text)
        painter.end()


class ctkPathLineEdit(Widget):
    """An editable path with a button to browse."""

    _host_class, _api = True, "ctk.ctkPathLineEdit"
    _defaults: ClassVar = {"showBrowseButton": True, "showHistoryButton": True, "filters": 2 | 4}
    Dirs, Files, Drives, Readable, Writable, Executable, Hidden = 0x001, 0x002, 0x004, 0x010, 0x020, 0x040, 0x100

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._combo_box, self._button = qt.QComboBox(), qt.QToolButton()
        self._combo_box.editable = True
        self._combo_box.setSizePolicy(qt.QSizePolicy.Expanding, qt.QSizePolicy.Fixed)
        self._button.text = "..."
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo_box)
        layout.addWidget(self._button)
        self._combo_box.connect("editTextChanged(QString)", partial(emit, self, "currentPathChanged(QString)"))
        self._button.connect("clicked()", self.browse)

    def _get_currentPath(self) -> str:
        return self._combo_box.currentText

    def _set_currentPath(self, path: str) -> None:
        self._combo_box.setEditText(path)

    def browse(self) -> None:
        chosen = qt.QFileDialog.getOpenFileName(self, self.label, self.currentPath, ";;".join(self.nameFilters))
        if chosen:
            self.currentPath = chosen


def plain_class(qualified_name: str, base: type) -> type:
    """A class that adds nothing but the listed names to its base."""
    namespace = {"_host_class": True, "_api": qualified_name, "__module__": qualified_name.split(".")[0]}
    return HostType(qualified_name.split(".")[1], (host_class(base),), namespace)


def make_module() -> types.ModuleType:
    """The module object to put into `sys.modules["ctk"]`."""
    module = types.ModuleType("ctk", "Stand-in for Slicer's ctk module")
    written = [value for value in globals().values() if isinstance(value, HostType)]
    for value in written:
        if value.__name__.startswith("ctk"):
            setattr(module, value.__name__, value)
    module.ctkMenuButton = plain_class("ctk.ctkMenuButton", QtWidgets.QPushButton)
    ui_classes.update({name: value for name, value in vars(module).items() if name.startswith("ctk")})

    def lookup(name: str) -> Any:
        if name in api.module_names("ctk"):
            raise NotInStandIn(f"ctk.{name} exists in Slicer, but the stand-in in Testing/host lacks it")
        raise AttributeError(f"module 'ctk' has no attribute '{name}'")

    module.__getattr__ = lookup
    return module
