"""Checks files against the names that Slicer has, without running them: `.ui` files and Python sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from PySide6 import QtCore

from host import api
from host.pythonqt import find_pyside
from host.signals import normalized

# Set in .ui files without being Qt properties: Slicer and the form loader read them.
DYNAMIC_PROPERTIES = {"SlicerParameterName", "SlicerPackParameterName", "buddy"}

# Classes of `slicer` that exist without being described in the list.
UNLISTED = {
    "qSlicerSegmentEditorAbstractEffect",
    "qSlicerScriptedLoadableModule",
    "qSlicerScriptedLoadableModuleWidget",
}


def _qualified(class_name: str) -> str | None:
    """The name with its module (ctkSliderWidget: ctk.ctkSliderWidget), where Slicer has the class."""
    if class_name in api.listed_classes("slicer."):
        return f"slicer.{class_name}"
    for module in ("ctk", "qt"):
        if class_name in api.module_names(module):
            return f"{module}.{class_name}"
    return None


def _properties(qualified: str) -> set[str]:
    """Properties that a .ui file may set on a class: the listed ones, or those of PySide6's class."""
    names, widget = api.class_names(qualified), api.class_names("qt.QWidget")
    assert widget is not None
    if names is not None:
        return set(names.properties) | set(widget.properties)
    found = find_pyside(qualified.split(".")[1])
    meta = found.staticMetaObject if found is not None else QtCore.QObject.staticMetaObject
    return {meta.property(index).name() for index in range(meta.propertyCount())}


def problems_of_ui(path: Path) -> list[str]:
    """What Slicer wouldn't accept of a .ui file: classes, properties, connections, doubled names."""
    root = ElementTree.parse(path).getroot()
    classes: dict[str, str] = {}
    problems = []
    for element in root.iter("widget"):
        name, class_name = element.get("name", ""), element.get("class", "")
        if name in classes:
            problems.append(f"{path.name}: two widgets are named {name}")
        classes[name] = class_name
        qualified = _qualified(class_name)
        if qualified is None and class_name != "Line":
            problems.append(f"{path.name}: {name} is of class {class_name}, which Slicer doesn't have")
            continue
        for item in element.findall("property"):
            known = class_name == "Line" or item.get("name") in _properties(qualified or "qt.QFrame")
            if not known and item.get("name") not in DYNAMIC_PROPERTIES:
                problems.append(f"{path.name}: {name} ({class_name}) has no property {item.get('name')}")
    for connection in root.iter("connection"):
        problems.extend(_connection_problems(path, connection, classes))
    return problems


def _connection_problems(path: Path, connection: ElementTree.Element, classes: dict[str, str]) -> Iterator[str]:
    for role, kind in (("sender", "signal"), ("receiver", "slot")):
        owner, signature = connection.findtext(role, ""), connection.findtext(kind, "")
        names = api.class_names(_qualified(classes.get(owner, "")) or "")
        widget = api.class_names("qt.QWidget")
        if names is None or widget is None:
            continue
        known = normalized(signature) in {normalized(s) for s in names.signals + widget.signals}
        is_method = kind == "slot" and signature.split("(")[0] in names.all | widget.all
        if not known and not is_method:
            yield f"{path.name}: {owner} ({classes.get(owner)}) has no {kind} {signature}"


def problems_of_source(path: Path) -> list[str]:
    """Names of `qt`, `ctk`, `slicer.util` and widget classes of `slicer` that a source uses and Slicer 5.10 lacks.

    A name that the source asks for with `hasattr` may be newer.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    detected = {
        (ast.unparse(call.args[0]), call.args[1].value)
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "hasattr" and isinstance(call.args[1], ast.Constant)
    }
    problems = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute):
            continue
        owner = ast.unparse(node.value)
        if owner in ("qt", "ctk", "slicer.util"):
            added = {"Signal", "Slot", "Property"} if owner == "qt" else set()
            known = node.attr in api.module_names(owner) | added
        elif owner == "slicer" and node.attr.startswith(("qMRML", "qSlicer")):
            known = node.attr in api.listed_classes("slicer.") | UNLISTED
        elif owner.startswith(("qt.Q", "ctk.ctk")) and "." in owner and owner.count(".") == 1:
            allowed = api.allowed_names(owner)
            known = allowed is None or node.attr in allowed or node.attr.startswith("__")
        else:
            continue
        if not known and (owner, node.attr) not in detected:
            problems.append(f"{path.name}:{node.lineno}: Slicer 5.10 has no {owner}.{node.attr}")
    return problems


def problems_of_signatures(path: Path) -> list[str]:
    """Signatures given to `connect('...')` or `disconnect('...')` that no class of Slicer has."""
    known = {normalized(s) for s in _all_signals()}
    problems = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args
        if not is_call or node.func.attr not in ("connect", "disconnect"):
            continue
        signature = node.args[0].value if isinstance(node.args[0], ast.Constant) else None
        if isinstance(signature, str) and normalized(signature) not in known:
            problems.append(f"{path.name}:{node.lineno}: no class has a signal {signature}")
    return problems


def _all_signals() -> Iterator[str]:
    """Every signal of the listed classes and of Qt's classes that aren't listed."""
    yield from ("startupCompleted()", "mrmlSceneChanged(vtkMRMLScene*)", "aboutToQuit()", "lastWindowClosed()")
    for prefix in ("slicer.", "ctk.", "qt."):
        for name in api.listed_classes(prefix):
            names = api.class_names(prefix + name)
            yield from names.signals if names is not None else ()
    for name in sorted(api.module_names("qt")):
        found = find_pyside(name)
        if isinstance(found, type) and issubclass(found, QtCore.QObject) and api.class_names(f"qt.{name}") is None:
            meta = found.staticMetaObject
            yield from (bytes(meta.method(i).methodSignature().data()).decode() for i in range(meta.methodCount()))
