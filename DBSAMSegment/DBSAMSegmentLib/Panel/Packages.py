"""The Python packages that inference and training need, found without importing them and installed at first use."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import re
import tempfile
from pathlib import Path

import qt
import slicer
from slicer.i18n import tr as _

from .Dialogs import confirmed

logger = logging.getLogger(__name__)

# Slicer's own packages: pip must not replace them, or the running application breaks.
_KEPT = ("numpy", "SimpleITK", "requests", "scipy")
_TORCH = ("torch", "torchvision")
# The dependencies in pyproject.toml, which isn't installed, but for those that Slicer has or that come with these.
REQUIREMENTS = {
    "torch": "torch>=2.1",
    "torchvision": "torchvision>=0.16",
    "segment-anything": "segment-anything>=1.0",
    "safetensors": "safetensors>=0.4",
}
# What a training in Slicer needs beside these, of the extra "train" in pyproject.toml.
TRAINING_REQUIREMENTS = {
    "lightning-fabric": "lightning-fabric>=2.4",
    "PyYAML": "PyYAML>=6",
    "pydantic": "pydantic>=2.7",
    "tqdm": "tqdm>=4.66",
    "matplotlib": "matplotlib>=3.8",
    "Pillow": "Pillow>=10",
}
# Where the user declined.
NOT_INSTALLED = _("Nothing was installed, so nothing can be computed: you will be asked again at the next try.")
_IMPORT_NAMES = {
    "segment-anything": "segment_anything",
    "lightning-fabric": "lightning_fabric",
    "PyYAML": "yaml",
    "Pillow": "PIL",
}


def missingPackages(training: bool = False) -> list[str]:
    """Names of the required packages that are absent or too old; none is imported."""
    missing = []
    for name, requirement in _required(training).items():
        if importlib.util.find_spec(_IMPORT_NAMES.get(name, name)) is None:
            missing.append(name)
            continue
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # importable but not installed by pip: nothing is known of its version
        minimum = requirement.partition(">=")[2]
        if minimum and _numbers(version) < _numbers(minimum):
            missing.append(name)
    return missing


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


def install(missing: list[str], parent: qt.QWidget | None = None) -> None:
    """Installs packages with a progress dialog.

    Raises:
        RuntimeError: pip failed, or a package is still missing afterwards.
    """
    steps = [name for name in missing if name not in _TORCH]
    total = len(steps) + bool(set(missing) & set(_TORCH))
    progress = slicer.util.createProgressDialog(
        parent=parent or slicer.util.mainWindow(), value=0, maximum=total, windowTitle="DB-SAM: installing packages"
    )
    try:
        done = 0
        if set(missing) & set(_TORCH):
            _show(progress, done, "PyTorch (this takes some minutes)")
            _installTorch()
            done += 1
        for name in steps:
            _show(progress, done, name)
            _pipInstall(_required(training=True)[name])
            done += 1
    finally:
        progress.close()
    importlib.invalidate_caches()
    still = sorted(set(missing) & set(missingPackages(training=True)))
    if still:
        raise RuntimeError(
            f"{', '.join(still)} could not be installed. See the Python console for pip's messages; a restart of"
            " Slicer may be needed if an older version was in use."
        )


def _required(training: bool) -> dict[str, str]:
    return REQUIREMENTS | TRAINING_REQUIREMENTS if training else REQUIREMENTS


def _installTorch() -> None:
    try:
        import PyTorchUtils
    except ImportError:
        logger.info("The PyTorch extension isn't installed: installing torch and torchvision from PyPI")
        _pipInstall(" ".join(REQUIREMENTS[name] for name in _TORCH))
        return
    versions = {name: REQUIREMENTS[name].removeprefix(name) for name in _TORCH}
    installed = PyTorchUtils.PyTorchUtilsLogic().installTorch(
        askConfirmation=False,
        torchVersionRequirement=versions["torch"],
        torchvisionVersionRequirement=versions["torchvision"],
    )
    if installed is None:
        raise RuntimeError("PyTorch could not be installed: see the Python console for the reason.")


def _pipInstall(requirement: str) -> None:
    constraints = []
    for name in _KEPT:
        try:
            constraints.append(f"{name}=={importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "constraints.txt"
        path.write_text("\n".join(constraints), encoding="utf-8")
        if importlib.util.find_spec("slicer.packaging") is None:  # Slicer 5.10
            slicer.util.pip_install(f'{requirement} --constraint "{path}"')
            return
        from packaging.requirements import Requirement
        from slicer.packaging import pip_ensure

        wanted = [Requirement(one) for one in requirement.split()]
        pip_ensure(wanted, constraints=path, prompt_install=False, requester="DB-SAM")


def _show(progress: qt.QProgressDialog, done: int, what: str) -> None:
    progress.labelText = f"Installing {what}..."
    progress.value = done
    slicer.app.processEvents()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
