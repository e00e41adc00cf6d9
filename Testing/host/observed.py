"""Observers that the garbage collector leaves alone.

VTK shows Python a node's observers as part of the node's Python object. When that object is garbage while the node
lives on in the scene, the collector clears the observers' functions, and VTK's next event calls what is left of them.
So the Python objects of observed nodes are kept as long as the nodes are in a scene.
"""

from __future__ import annotations

import weakref
from typing import Any

import shiboken6
from PySide6 import QtCore

_kept: list[Any] = []


def keep(subject: Any) -> None:
    """Keep the Python object of an observed node."""
    if not any(kept is subject for kept in _kept):
        _kept.append(subject)


def forget_removed_nodes() -> None:
    """Let go of the nodes that are in no scene any more."""
    _kept[:] = [subject for subject in _kept if not hasattr(subject, "GetScene") or subject.GetScene() is not None]


def observe(subject: Any, event: Any, observer: Any, method: str) -> int:
    """Call a method of an object on a VTK event, as long as the object lives."""
    reference = weakref.ref(observer)

    def callback(caller: Any, event_name: str) -> None:
        alive = reference()
        if alive is not None and (not isinstance(alive, QtCore.QObject) or shiboken6.isValid(alive)):
            getattr(alive, method)()

    keep(subject)
    return subject.AddObserver(event, callback)
