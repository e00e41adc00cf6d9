"""PythonQt's rules on top of PySide6's classes.

A Qt property is an attribute (read and written, never called), enums are flat, signals connect by name or by
signature, and a name that the class doesn't have raises AttributeError. Every rule is exercised in test_host.py.
"""

from __future__ import annotations

import ctypes
import enum
import types
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from PySide6 import QtCore, QtGui, QtWidgets

from host import api
from host.signals import SignalFunction, connect, disconnect, has_signal, python_signals

QObject = QtCore.QObject
_PROPERTY_TYPES: dict[str, Any] = {
    "bool": bool,
    "int": int,
    "double": float,
    "QString": str,
    "QStringList": "QStringList",
}
_DEFAULTS: dict[str, Any] = {"bool": False, "int": 0, "double": 0.0, "QString": "", "QStringList": []}
_BELOW = ("Shiboken", "builtins", "PySide6.QtCore", "PySide6.QtGui", "PySide6.QtWidgets", "PySide6.QtUiTools")
# PySide6 looks these virtual methods up on the object, though Slicer's list has no such names.
_ASKED_BY_PYSIDE = frozenset({"connectNotify", "disconnectNotify", "initViewItemOption"})
ui_being_loaded: list[bool] = []
_being_read: set[tuple[int, str]] = set()
_HOST_CLASSES: dict[type, type] = {}  # PySide6 class -> the class that code under test sees


def _get(instance: QObject, name: str) -> Any:
    """PySide6's own attribute; classes with methods that are both static and not have their own look-up."""
    return pyside_base(type(instance)).__getattribute__(instance, name)


class NotInStandIn(NotImplementedError):
    """Slicer has it, the stand-in doesn't (yet): extend the stand-in."""


class FlatEnum:
    """An enum class as PythonQt shows it: makes values from integers, but holds no members."""

    def __init__(self, enum_class: type[enum.Enum]) -> None:
        self._enum_class = enum_class

    def __call__(self, value: int = 0) -> enum.Enum:
        return self._enum_class(value)


def flat_enums(pyside_class: type) -> dict[str, Any]:
    """The enum members of a class by their bare names, and its enum classes without members."""
    flat: dict[str, Any] = {}
    for name in dir(pyside_class):
        value = getattr(pyside_class, name, None)
        if isinstance(value, enum.EnumMeta):
            flat[name] = FlatEnum(value)
            flat.update({member: value.__members__[member] for member in value.__members__})
    return flat


class SlotFunction:
    """A bound C++ method: positional arguments only, results wrapped like every other object."""

    def __init__(self, owner: Any, function: Callable[..., Any]) -> None:
        self._owner, self._function = owner, function

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        if keywords:
            raise TypeError(f"{self._function.__name__}() takes no keyword arguments in PythonQt: {sorted(keywords)}")
        return adopt(self._function(*args))


def adopt(value: Any) -> Any:
    """Give an object that PySide6 created (a header, a layout, a parent) the class that PythonQt would show."""
    if isinstance(value, QObject):
        if type(value).__module__.startswith("PySide6"):
            value.__class__ = host_class(type(value))
            # Shiboken counts two references to an object's class and drops both at its end; assigning moves one.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(type(value)))
    elif isinstance(value, list | tuple) and any(isinstance(item, QObject) for item in value):
        return type(value)(adopt(item) for item in value)
    return value


@cache
def pyside_base(cls: type) -> type:
    """The PySide6 class that a host class stands for."""
    return next(base for base in cls.__mro__ if base.__module__.startswith("PySide6"))


class HostType(type(QObject)):  # Shiboken's metaclass has no stub
    """Metaclass of everything derived from QObject: adds listed properties, flat enums and PythonQt's lookup."""

    def __new__(mcs, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> HostType:
        if namespace.pop("_host_class", False):
            pyside = next(base for base in bases[0].__mro__ if base.__module__.startswith("PySide6"))
            namespace = {**flat_enums(pyside), **namespace}
            namespace.setdefault("_api", f"qt.{name}")
            _check_names(namespace["_api"], pyside, namespace)
            namespace.update(_listed_properties(namespace["_api"], bases[0], namespace))
            namespace.update(__getattribute__=_read, __setattr__=_write, _is_host=True)
        return super().__new__(mcs, name, bases, namespace)

    def __instancecheck__(cls, instance: object) -> bool:
        if "_is_host" in cls.__dict__ and bases_only(cls):
            return isinstance(instance, pyside_base(cls))
        return super().__instancecheck__(instance)


def bases_only(cls: type) -> bool:
    """True for a plain Qt class (`qt.QWidget`), false for one that Slicer or CTK adds."""
    return cls.__dict__["_api"] == f"qt.{pyside_base(cls).__name__}"


def host_class(pyside_class: type) -> type:
    """The PythonQt-like class of a PySide6 class derived from QObject."""
    if pyside_class not in _HOST_CLASSES:
        _HOST_CLASSES[pyside_class] = HostType(
            pyside_class.__name__, (pyside_class,), {"_host_class": True, "__module__": "qt"}
        )
    return _HOST_CLASSES[pyside_class]


def _check_names(qualified_name: str, pyside: type, namespace: dict[str, Any]) -> None:
    """A stand-in class may not offer what Slicer's class doesn't have (overridden Qt methods aside)."""
    allowed = api.allowed_names(qualified_name)
    if allowed is not None and not qualified_name.startswith("qt."):
        own = {n for n, v in namespace.items() if not n.startswith("_") and callable(v) and not isinstance(v, FlatEnum)}
        unknown = sorted(n for n in own - allowed if not hasattr(pyside, n))
        if unknown:
            raise AttributeError(f"{qualified_name} has no {', '.join(unknown)} in Slicer")


def _listed_properties(qualified_name: str, base: Any, namespace: dict[str, Any]) -> dict[str, Any]:
    """Qt properties of a listed class that its base lacks: `_get_x`/`_set_x` where given, else a stored value."""
    names = api.class_names(qualified_name)
    if names is None or qualified_name.startswith("qt."):
        return {}
    made = {}
    for name, cpp_type in names.properties.items():
        getter, setter = namespace.get(f"_get_{name}"), namespace.get(f"_set_{name}")
        if getter is None and base.staticMetaObject.indexOfProperty(name) >= 0:
            continue
        default = namespace.get("_defaults", {}).get(name, _DEFAULTS.get(cpp_type))
        made[name] = QtCore.Property(
            _PROPERTY_TYPES.get(cpp_type, "QVariant"),
            getter or (lambda self, name=name, default=default: _get(self, "__dict__").get(f"_value_{name}", default)),
            setter or (lambda self, value, name=name: _get(self, "__dict__").__setitem__(f"_value_{name}", value)),
        )
    return made


@cache
def host_base(cls: type) -> Any:
    """The nearest class in the line that stands for a C++ class."""
    return next(base for base in cls.__mro__ if "_is_host" in base.__dict__)


def stored_properties(kinds: dict[str, type]) -> dict[str, Any]:
    """Qt properties that keep a value, for a class that isn't listed."""
    made = {}
    for name, kind in kinds.items():
        default = None if kind is object else kind()
        made[name] = QtCore.Property(
            {list: "QStringList", object: "QVariant"}.get(kind, kind),
            lambda self, name=name, default=default: _get(self, "__dict__").get(f"_value_{name}", default),
            lambda self, value, name=name: _get(self, "__dict__").__setitem__(f"_value_{name}", value),
        )
    return made


def _defined_in_python(self: QObject, name: str) -> bool:
    """Whether a Python subclass (or a mixin of it) or its constructor defines the name; that goes first in PythonQt."""
    if type(self) is host_base(type(self)):
        return False
    classes = (c for c in type(self).__mro__ if "_is_host" not in c.__dict__ and c.__module__ not in _BELOW)
    defined = any(name in c.__dict__ and type(c.__dict__[name]) is not QtCore.Signal for c in classes)
    return defined or name in _get(self, "__dict__")


def _read(self: QObject, name: str) -> Any:
    if name.startswith("_") or name in _ASKED_BY_PYSIDE or _defined_in_python(self, name):
        return _get(self, name)
    cls, host = type(self), host_base(type(self))
    meta = cls.staticMetaObject  # not self.metaObject(): PySide6 forgets the shared wrapper when the object goes
    name = "exec" if name == "exec_" else name
    allowed = api.allowed_names(host._api)
    if allowed is None or name in allowed or name in python_signals(cls):
        index = meta.indexOfProperty("objectName" if name == "name" else name)
        if index >= 0 and not _newer_than_qt5(cls, name):
            return _read_property(self, meta.property(index).name())
        if has_signal(self, host._api, name):
            return SignalFunction(self, host._api, name)
        if name in _COMMON_METHODS:
            return SlotFunction(self, _COMMON_METHODS[name].__get__(self))
        if hasattr(host, name) and not _newer_than_qt5(cls, name):
            value = _get(self, name)  # a stand-in's own method is handed out as it is: Qt calls overridden ones
            return SlotFunction(self, value) if isinstance(value, types.BuiltinMethodType) else value
        if allowed is not None:
            raise NotInStandIn(f"{host._api}.{name} exists in Slicer, but the stand-in in Testing/host lacks it")
    if name in [bytes(item.data()).decode() for item in QObject.dynamicPropertyNames(self)]:
        return QObject.property(self, name)
    for child in QObject.children(self):
        if QObject.objectName(child) == name:
            return adopt(child)
    raise AttributeError(f"{host.__name__} has no attribute named '{name}'")


def _read_property(self: QObject, name: str) -> Any:
    """The value of a Qt property; where its getter is virtual (sizeHint), PySide6 asks for the method on the way."""
    key = (id(self), name)
    if key in _being_read:
        return _get(self, name)
    _being_read.add(key)
    try:
        return adopt(QObject.property(self, name))
    finally:
        _being_read.discard(key)


def _write(self: QObject, name: str, value: Any) -> None:
    if name.startswith("_") or _defined_in_python(self, name):
        pyside_base(type(self)).__setattr__(self, name, value)
        return
    cls, host = type(self), host_base(type(self))
    meta = cls.staticMetaObject
    allowed = api.allowed_names(host._api)
    known = allowed is None or name in allowed
    index = meta.indexOfProperty("objectName" if name == "name" else name) if known else -1
    if index >= 0:
        if not meta.property(index).isWritable():
            raise AttributeError(f"Property '{name}' of {host.__name__} object is not writable")
        if not QObject.setProperty(self, meta.property(index).name(), value):
            kind = meta.property(index).typeName()
            raise AttributeError(f"Property '{name}' of type '{kind}' does not accept {value!r}")
    elif known and (has_signal(self, host._api, name) or hasattr(host, name)):
        raise AttributeError(f"Slot or signal '{name}' can not be overwritten on {host.__name__} object")
    elif name in [bytes(item.data()).decode() for item in QObject.dynamicPropertyNames(self)]:
        QObject.setProperty(self, name, value)
    elif isinstance(value, QObject) and QObject.objectName(value) == name and ui_being_loaded:
        return  # PySide6's loader offers the children as attributes; they are found by name anyway
    elif cls is host:
        raise AttributeError(f"'{name}' does not exist on {host.__name__} and creating new attributes is not allowed")
    else:
        pyside_base(type(self)).__setattr__(self, name, value)


@cache
def _newer_than_qt5(cls: type, name: str) -> bool:
    return any(name in api.QT6_ONLY.get(base.__name__, ()) for base in cls.__mro__)


def _class_name(self: QObject) -> str:
    return host_base(type(self)).__name__


def _inherits(self: QObject, name: str) -> bool:
    return QObject.inherits(self, name) or any(base.__name__ == name for base in type(self).__mro__)


def _descendants(parent: QObject) -> Iterable[QObject]:
    for child in QObject.children(parent):
        yield child
        yield from _descendants(child)


def _find_children(self: QObject, kind: Any = QObject, name: str = "") -> list[QObject]:
    def matches(child: QObject) -> bool:
        return _inherits(adopt(child), kind) if isinstance(kind, str) else isinstance(child, kind)

    return [adopt(child) for child in _descendants(self) if matches(child) and name in ("", QObject.objectName(child))]


_COMMON_METHODS: dict[str, Callable[..., Any]] = {
    "className": _class_name,
    "inherits": _inherits,
    "connect": connect,
    "disconnect": disconnect,
    "findChildren": _find_children,
}


class ValueClass:
    """A class that isn't a QObject (QColor, QPoint, QPainter, the Qt namespace): flat enums, otherwise PySide6's."""

    def __init__(self, pyside_class: type) -> None:
        self._pyside = pyside_class
        self._enums = flat_enums(pyside_class)
        self.__name__ = pyside_class.__name__

    def __call__(self, *args: Any) -> Any:
        return self._pyside(*args)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._enums[name] if name in self._enums else getattr(self._pyside, name)

    def __instancecheck__(self, instance: object) -> bool:
        return isinstance(instance, self._pyside)


def find_pyside(name: str) -> Any:
    """A class or function of PySide6 by its bare name, or None."""
    for module in (QtCore, QtGui, QtWidgets):
        if hasattr(module, name):
            return getattr(module, name)
    return None
