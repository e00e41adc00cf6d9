"""Installs the Python packages that inference and training need at first use, in a process with progress."""

from __future__ import annotations

import importlib
import importlib.metadata
import logging
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from ..Run.Interpreter import pythonExecutable
from ..Run.Requirements import REQUIREMENTS, missingPackages, requirementsOf
from .Dialogs import confirmed

logger = logging.getLogger(__name__)

# Slicer's own packages: pip must not replace them, or the running application breaks.
_KEPT = ("numpy", "SimpleITK", "requests", "scipy")
_TORCH = ("torch", "torchvision")
# Where the user declined.
NOT_INSTALLED = _("Nothing was installed, so nothing can be computed: you will be asked again at the next try.")
_LOOK_SECONDS = 0.05


def ensurePackages(parent: qt.QWidget | None = None, training: bool = False) -> bool:
    """Installs what is missing after asking once; main thread only.

    Args:
        parent: window of the question.
        training: whether what a training needs is asked for, too.

    Returns:
        Whether everything is there now; False if the user declined.

    Raises:
        RuntimeError: packages are missing in a test run, which must not use the network, or pip failed.
    """
    missing = missingPackages(training)
    if not missing:
        return True
    if slicer.app.testingEnabled():
        raise RuntimeError(f"These Python packages are missing: {', '.join(missing)}. Nothing is installed in tests.")
    size = "about 3 GB with a GPU build, 0.3 GB without" if set(missing) & set(_TORCH) else "a few MB"
    question = (
        f"DB-SAM needs these Python packages in Slicer: {', '.join(missing)} ({size}). They are fetched from PyPI and"
        " pytorch.org, once.\n\nInstall them now?"
    )
    if not confirmed(question, parent, "DB-SAM: install packages"):
        return False
    install(missing, parent)
    return True


def install(missing: Sequence[str] | None = None, parent: qt.QWidget | None = None) -> None:
    """Installs packages with a progress dialog, in which it can be cancelled.

    Args:
        missing: names of packages; what inference needs and isn't there by default.
        parent: window of the dialog.

    Raises:
        RuntimeError: pip failed or was cancelled, or a package is still missing afterwards.
    """
    wanted = missingPackages() if missing is None else list(missing)
    if not wanted:
        return
    requirements = requirementsOf(training=True)
    torch = [requirements[name] for name in wanted if name in _TORCH]
    others = [requirements[name] for name in wanted if name not in _TORCH]
    progress = slicer.util.createProgressDialog(
        parent=parent or slicer.util.mainWindow(),
        windowTitle=_("DB-SAM: installing packages"),
        windowModality=qt.Qt.ApplicationModal,
        value=0,
        maximum=0,
        minimumDuration=0,
        autoClose=False,
        autoReset=False,
    )

    def goesOn(text: str) -> bool:
        progress.labelText = text
        slicer.app.processEvents()
        return not progress.wasCanceled

    try:
        if torch:
            goesOn(_("Installing PyTorch: this takes some minutes..."))
            _installTorch(torch, goesOn)
        if others:
            pipInstall(others, goesOn)
    finally:
        progress.close()
        progress.deleteLater()
    importlib.invalidate_caches()
    still = sorted(set(wanted) & set(missingPackages(training=True)))
    if still:
        raise RuntimeError(
            f"{', '.join(still)} could not be installed. See the Python console for pip's messages; a restart of"
            " Slicer may be needed if an older version was in use."
        )


def pipInstall(requirements: Sequence[str], goesOn: Callable[[str], bool]) -> None:
    """Runs pip beside the application.

    Args:
        requirements: what to install, as pip takes it.
        goesOn: gets what is being done, some twenty times a second, and returns whether to go on.

    Raises:
        RuntimeError: it failed, or was cancelled.
    """
    from dbsam.worker.launch import ChildProcess

    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join(_keptVersions()), encoding="utf-8")
        command = [pythonExecutable(), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        command += ["--progress-bar", "off", "--constraint", str(constraints), *requirements]
        process = ChildProcess(command, os.environ)
        try:
            while process.exit_code is None:
                said = process.said().splitlines()
                if not goesOn(said[-1] if said else _("Starting pip...")):
                    raise RuntimeError(_("The installation was cancelled; what was complete by then stays."))
                time.sleep(_LOOK_SECONDS)
            said = process.last_lines()
            logger.info("pip: %s", said)
            if process.exit_code != 0:
                raise RuntimeError(f"pip ended with exit code {process.exit_code}. Its last lines:\n{said}")
        finally:
            if process.exit_code is None:
                process.kill()
                process.wait(1.0)
            process.close()


def _installTorch(requirements: Sequence[str], goesOn: Callable[[str], bool]) -> None:
    try:
        import PyTorchUtils
    except ImportError:
        logger.info("The PyTorch extension isn't installed: installing torch and torchvision from PyPI")
        pipInstall(requirements, goesOn)
        return
    versions = {name: REQUIREMENTS[name].removeprefix(name) for name in _TORCH}
    installed = PyTorchUtils.PyTorchUtilsLogic().installTorch(
        askConfirmation=False,
        torchVersionRequirement=versions["torch"],
        torchvisionVersionRequirement=versions["torchvision"],
    )
    if installed is None:
        raise RuntimeError("PyTorch could not be installed: see the Python console for the reason.")


def _keptVersions() -> list[str]:
    kept = []
    for name in _KEPT:
        try:
            kept.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return kept
