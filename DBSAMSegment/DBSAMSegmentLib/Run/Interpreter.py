"""The Python interpreter for processes beside the application."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import slicer


def pythonExecutable() -> str:
    """Slicer's PythonSlicer; the running interpreter where this runs in one, as in tests.

    Raises:
        RuntimeError: there is neither.
    """
    found = shutil.which("PythonSlicer") or shutil.which("PythonSlicer", path=str(Path(slicer.app.slicerHome) / "bin"))
    if found is not None:
        return found
    # Inside Slicer this is the application, or empty: started as an interpreter it would open another window.
    if Path(sys.executable).name.lower().startswith("python"):
        return sys.executable
    raise RuntimeError(
        f"PythonSlicer, with which DB-SAM computes beside Slicer, is neither on the path nor in {slicer.app.slicerHome}"
        "/bin: start Slicer by its own launcher, or install it again."
    )
