"""Signals as PythonQt offers them: `button.clicked.connect(f)` and `button.connect('clicked()', f)`.

A slot gets as many arguments as it takes. An exception in a slot is printed and swallowed, as in Slicer; it is also
kept in `slot_errors`, and `host.process_events` raises it, so that a test can't pass over it.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from PySide6 import QtCore

from host import api

slot_errors: list[BaseException] = []
_get = QtCore.QObject.__getattribute__  # for what isn't a method


def accepted_arguments(function: Callable[..., Any]) -> int | None:
    """How many positional arguments a Python function takes; None when it takes all or can't be told."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    return sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def call_slot(function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """Call a slot with the arguments that it takes."""
    count = accepted_arguments(function) if inspect.isroutine(function) else None
    try:
        function(*(args if count is None else args[:count]))
    except Exception as error:
        slot_errors.append(error)
        logging.getLogger("host").exception("exception in a slot")


def normalized(signature: str) -> str:
    """A signature without spaces, const and reference marks, as Qt normalises it."""
    return bytes(QtCore.QMetaObject.normalizedSignature(signature.strip()).data()).decode()


def native_signatures(sender: QtCore.QObject, name: str) -> list[str]:
    """The overloads of a signal that Qt itself knows on this object."""
    return list(_native_signatures(type(sender), name))


@lru_cache(None)  # each look takes milliseconds, which the application's own compiled search does not
def _native_signatures(cls: type[QtCore.QObject], name: str) -> tuple[str, ...]:
    meta: Any = cls.staticMetaObject
    methods = (meta.method(i) for i in range(meta.methodCount()))
    signatures = (bytes(m.methodSignature().data()).decode() for m in methods if _is_signal(m))
    return tuple(signature for signature in signatures if signature.split("(")[0] == name)


def _is_signal(method: QtCore.QMetaMethod) -> bool:
    return method.methodType() == QtCore.QMetaMethod.MethodType.Signal


def signatures_of(sender: QtCore.QObject, api_name: str, name: str) -> list[str]:
    """The overloads that may be used: listed for Slicer, or Qt's own where the class isn't listed."""
    names, widget = api.class_names(api_name), api.class_names("qt.QWidget")
    assert widget is not None
    added = [s for c in type(sender).__mro__ for s in c.__dict__.get("_signals", ()) if s.split("(")[0] == name]
    if added:
        return added
    if names is not None:
        listed = names.signatures(name) or widget.signatures(name)
        if name not in python_signals(type(sender)):
            return listed
    return native_signatures(sender, name)


def python_signals(cls: type) -> set[str]:
    """Signals that Python subclasses declare with `qt.Signal`; PySide6's isinstance() of Signal loses references."""
    classes = [c for c in cls.__mro__ if not c.__module__.startswith("PySide6")]
    return {name for c in classes for name, value in vars(c).items() if type(value) is QtCore.Signal}


def has_signal(sender: QtCore.QObject, api_name: str, name: str) -> bool:
    """Whether the object has a signal of this name."""
    return bool(signatures_of(sender, api_name, name))


class SignalFunction:
    """`object.signal`: connect, disconnect, emit."""

    def __init__(self, sender: QtCore.QObject, api_name: str, name: str) -> None:
        self._sender, self._name = sender, name
        self._signatures = signatures_of(sender, api_name, name)

    def _signature(self) -> str:
        native = [normalized(s) for s in native_signatures(self._sender, self._name)]
        usable = [s for s in self._signatures if not native or normalized(s) in native] or self._signatures
        nodes = [s for s in usable if s.endswith("Node*)")]  # declared before its (bool) twin in qMRMLNodeComboBox
        return nodes[0] if nodes else max(usable, key=len)

    def _refuse_ambiguous(self, slot: Callable[..., Any]) -> None:
        arguments = self._signature()[len(self._name) + 1 : -1]
        others = [s for s in self._signatures if not arguments.startswith(s[len(self._name) + 1 : -1])]
        if others and not arguments.endswith("Node*") and accepted_arguments(slot) != 0:
            raise TypeError(
                f"signal '{self._name}' is overloaded ({', '.join(self._signatures)}) and which one this connects is "
                f"undefined in Qt 5: use connect('{self._signature()}', ...)"
            )

    def connect(self, slot: Callable[..., Any]) -> bool:
        self._refuse_ambiguous(slot)
        return connect(self._sender, self._signature(), slot)

    def emit(self, *args: Any) -> None:
        emit(self._sender, self._signature(), *args)

    __call__ = emit


def _connections(sender: QtCore.QObject) -> list[tuple[str, Any, Any]]:
    return _get(sender, "__dict__").setdefault("_connections", [])


def _checked(sender: QtCore.QObject, signature: str) -> str:
    signature = normalized(signature)
    api_name = next(base._api for base in type(sender).__mro__ if "_is_host" in base.__dict__)
    known = signatures_of(sender, api_name, signature.split("(")[0])
    if signature not in [normalized(s) for s in known]:
        offer = f"; it has {', '.join(known)}" if known else ""
        raise ValueError(f"QObject::connect: signal '{signature}' does not exist on {api_name}{offer}")
    return signature


def connect(sender: QtCore.QObject, signature: str, receiver: Any, slot: str | None = None) -> bool:
    """`sender.connect('signal(type)', callable)` or `sender.connect('signal(type)', receiver, 'slot(type)')`.

    Raises:
        ValueError: The sender has no such signal, or Qt 6 no longer has it.
        TypeError: The slot isn't callable.
    """
    signature = _checked(sender, signature)
    function = getattr(receiver, slot.split("(")[0]) if slot is not None else receiver
    if not callable(function):
        raise TypeError(f"connect('{signature}'): {function!r} is not callable")
    connection: Any = None
    native = [normalized(s) for s in native_signatures(sender, signature.split("(")[0])]
    if signature in native:
        from host.pythonqt import adopt

        def deliver(*args: Any) -> None:
            call_slot(function, tuple(adopt(arg) for arg in args))

        connection = QtCore.QObject.connect(sender, QtCore.SIGNAL(signature), deliver)
    elif native:
        raise ValueError(f"signal '{signature}' exists in Qt 5 only; use one that Qt 6 has as well")
    _connections(sender).append((signature, function, connection))
    return True


def disconnect(sender: QtCore.QObject, signature: str, receiver: Any = None, slot: str | None = None) -> bool:
    """Undo `connect`; without a slot, all connections of the signal. Returns whether there was one."""
    signature = _checked(sender, signature)
    function = getattr(receiver, slot.split("(")[0]) if slot is not None else receiver
    matching = [c for c in _connections(sender) if c[0] == signature and function in (None, c[1])]
    for connection in matching:
        _connections(sender).remove(connection)
        if connection[2] is not None:
            QtCore.QObject.disconnect(connection[2])
    return bool(matching)


def emit(sender: QtCore.QObject, signature: str, *args: Any) -> None:
    """Emit a signal, Qt's own or one that the stand-in keeps itself."""
    signature = normalized(signature)
    if signature in native_signatures(sender, signature.split("(")[0]):
        _get(sender, signature.split("(")[0]).emit(*args)
    elif not QtCore.QObject.signalsBlocked(sender):
        for known, function, _ in list(_connections(sender)):
            if known == signature:
                call_slot(function, args)
