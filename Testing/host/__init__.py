"""A thin stand-in for what the `slicer-core` wheel lacks of Slicer: Qt under PythonQt's rules, CTK, the application.

MRML is real. A test starts it and opens a module as Slicer does:

    host = pytest.importorskip("host", reason="needs slicer-core and PySide6")
    widget = host.open_module("DBSAMSegment")

See `api_names.json` for what may be used: names read off Slicer 5.10.
"""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import PySide6.QtWidgets
import slicer
import slicer.util

from host import event_loop
from host.observed import forget_removed_nodes
from host.signals import slot_errors

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    "DBSAMSegment": ROOT / "DBSAMSegment/DBSAMSegment.py",
    "SegmentEditorDBSAM": ROOT / "DBSAMSegment/SegmentEditorDBSAM.py",
    "DBSAMTraining": ROOT / "DBSAMTraining/DBSAMTraining.py",
}

# Slicer's main thread wakes up about as often, for the timer that takes up results.
_LOOK_MILLISECONDS = 20

# Before Python 3.12 None is counted, and the wheels' compiled code gives back a reference to it too often: after some
# thousand events the interpreter would abort. These references are there to be lost, also when it ends.
_spare_references_to_none = [None] * 2_000_000
ctypes.pythonapi.Py_IncRef(ctypes.py_object(_spare_references_to_none))


def start(testing: bool = True) -> Any:
    """Put `qt`, `ctk`, `slicer.app` and the rest in place, once; returns `slicer.app`.

    With `testing`, message boxes are logged and not shown, as in `Slicer --testing`.
    """
    if not hasattr(slicer, "app"):
        from host import application, qt_module, scripted, widgets_ctk

        sys.modules["qt"] = qt_module.qt
        sys.modules["ctk"] = widgets_ctk.make_module()
        application.install(testing)
        scripted.install()
    return slicer.app


def load_module(path: Path) -> Any:
    """Load a module file as Slicer does at start-up; returns the module object."""
    return start().moduleManager()._load(path)


def complete_startup() -> None:
    """Let the application tell that it has started, so that effects and sample data are registered."""
    start()._startup_completed()
    raise_slot_errors()


def open_module(name: str) -> Any:
    """Load a module of this repository where needed and show its panel; returns its ...Widget instance."""
    app = start()
    module = app.moduleManager().module(name)
    if module is None:
        module = load_module(MODULES[name])
        complete_startup()
    representation = module.widgetRepresentation()
    representation.enter()
    process_events()
    return representation.self()


def close_module(name: str) -> None:
    """Unload a module: its widget's `cleanup` runs."""
    manager = start().moduleManager()
    if manager.module(name) is not None:
        manager._unload(name)
    raise_slot_errors()


def activate_effect(name: str, segmentation: Any = None, volume: Any = None, segment_id: str | None = None) -> Any:
    """Open the Segment Editor on these nodes and switch to an effect; returns its `scriptedEffect`."""
    start()
    module = slicer.modules.segmenteditor.widgetRepresentation()
    module.selectParameterNode()
    module.editor.setSegmentationNode(segmentation)
    module.editor.setSourceVolumeNode(volume)
    if segment_id is not None:
        module.editor.setCurrentSegmentID(segment_id)
    module.editor.setActiveEffectByName(name)
    raise_slot_errors()
    return module.editor.activeEffect()


def new_scene() -> Any:
    """Close the scene, as a user does; returns it."""
    start()
    slicer.mrmlScene.Clear(0)
    forget_removed_nodes()
    process_events()
    return slicer.mrmlScene


def process_events(seconds: float = 0.0, until: Callable[[], bool] | None = None) -> bool:
    """Run the event loop for a time, or until a condition holds; returns whether it did.

    Raises:
        Exception: The first exception that a slot raised meanwhile.
    """
    deadline = time.monotonic() + seconds
    start().processEvents()
    with event_loop.waiting(_LOOK_MILLISECONDS) as wait:
        while True:
            raise_slot_errors()
            if until is not None and until():
                return True
            if time.monotonic() >= deadline:
                return until is None
            wait()


def raise_slot_errors() -> None:
    """Raise what Slicer would only print."""
    if slot_errors:
        error = slot_errors[0]
        slot_errors.clear()
        raise error


def grab(widget: Any, path: Path | str, width: int | None = None, height: int | None = None) -> Path:
    """Write a picture of a widget to a PNG file; without a height, as tall as the widget asks for."""
    hint = widget.sizeHint
    widget.resize(width or max(hint.width(), 420), height or hint.height())
    widget.setAttribute(PySide6.QtCore.Qt.WidgetAttribute.WA_DontShowOnScreen)
    widget.show()
    process_events()
    if not widget.grab().save(str(path)):
        raise OSError(f"could not write {path}")
    widget.hide()
    return Path(path)
