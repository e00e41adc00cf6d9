"""What Slicer 5.10 offers on its Qt side: the names in `api_names.json`, read off a running Slicer.

The stand-in checks itself, the `.ui` files and the modules against this list, so that a name which Slicer doesn't
have fails in a test and not on a user's machine.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

# What PythonQt adds to every wrapped object, whatever the class.
PYTHONQT_METHODS = frozenset({"className", "inherits", "help", "delete"})
# Slicer is on Qt 5.15: members of common classes that came with Qt 6 only, for classes that the list doesn't cover.
QT6_ONLY = {
    "QLayout": {"contentsMargins"},
    "QLineEdit": {"timestamps"},
    "QAbstractItemView": {"updateThreshold"},
    "QCheckBox": {"checkStateChanged"},
    "QObject": {"moduleName"},
}


@dataclass(frozen=True)
class ClassNames:
    """Names of one class: property name -> C++ type, signal signatures, method and enum names."""

    properties: dict[str, str]
    signals: tuple[str, ...]
    methods: frozenset[str]

    @property
    def all(self) -> frozenset[str]:
        """Every name that may stand after the dot."""
        return self.methods | frozenset(self.properties) | frozenset(s.split("(")[0] for s in self.signals)

    def signatures(self, signal_name: str) -> list[str]:
        """All overloads of a signal."""
        return [signature for signature in self.signals if signature.split("(")[0] == signal_name]


@cache
def _document() -> dict[str, dict]:
    return json.loads((Path(__file__).parent / "api_names.json").read_text(encoding="utf-8"))


@cache
def module_names(module: str) -> frozenset[str]:
    """The names in `qt`, `ctk` or `slicer.util`."""
    return frozenset(_document()["modules"][module])


@cache
def class_names(qualified_name: str) -> ClassNames | None:
    """Names of a class such as "ctk.ctkSliderWidget", without what every QWidget has; None when it isn't listed."""
    entry = _document()["classes"].get(qualified_name)
    if entry is None:
        return None
    return ClassNames(
        properties=entry.get("properties", {}),
        signals=tuple(entry.get("signals", ())),
        methods=frozenset(entry.get("slots", ())) | frozenset(entry.get("other", ())),
    )


@cache
def allowed_names(qualified_name: str) -> frozenset[str] | None:
    """Every attribute that Slicer accepts on such an object; None for a class that isn't listed."""
    names = class_names(qualified_name)
    if names is None:
        return None
    widget = class_names("qt.QWidget")
    assert widget is not None
    return names.all | widget.all | PYTHONQT_METHODS | {"name", "raise_", "exec_"}


@cache
def listed_classes(prefix: str) -> frozenset[str]:
    """Class names (without the prefix) that the list describes under "slicer.", "ctk." or "qt."."""
    return frozenset(name.removeprefix(prefix) for name in _document()["classes"] if name.startswith(prefix))
