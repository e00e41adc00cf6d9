"""The Python packages that inference and training need, found without importing them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re

# The dependencies in pyproject.toml, which isn't installed, but for those that Slicer has or that come with these.
REQUIREMENTS = {
    "torch": "torch>=2.1",
    "torchvision": "torchvision>=0.16",
    "segment-anything": "segment-anything>=1.0",
    "safetensors": "safetensors>=0.4",
}
# What a training in Slicer needs beside these, of pyproject.toml: the extra "train", and what reads NIfTI.
TRAINING_REQUIREMENTS = {
    "lightning-fabric": "lightning-fabric>=2.4",
    "PyYAML": "PyYAML>=6",
    "pydantic": "pydantic>=2.7",
    "tqdm": "tqdm>=4.66",
    "matplotlib": "matplotlib>=3.8",
    "nibabel": "nibabel>=5",
    "Pillow": "Pillow>=10",
}
_IMPORT_NAMES = {
    "segment-anything": "segment_anything",
    "lightning-fabric": "lightning_fabric",
    "PyYAML": "yaml",
    "Pillow": "PIL",
}


def missingPackages(training: bool = False) -> list[str]:
    """Names of the required packages that are absent or too old; none is imported."""
    missing = []
    for name, requirement in requirementsOf(training).items():
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


def requirePackages() -> None:
    """Refuses to compute where a package is missing, for callers whom nobody can ask whether to install it.

    Raises:
        RuntimeError: some are missing; the message says how to get them.
    """
    missing = missingPackages()
    if missing:
        raise RuntimeError(
            f"DB-SAM needs Python packages that aren't installed in Slicer: {', '.join(missing)}. Open the module"
            " DB-SAM and press Apply, which offers to install them; or, in a script:"
            " from DBSAMSegmentLib.Panel.Packages import install; install()"
        )


def requirementsOf(training: bool) -> dict[str, str]:
    """The packages by name, as pip takes them."""
    return REQUIREMENTS | TRAINING_REQUIREMENTS if training else REQUIREMENTS


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0])[:3])
