"""Where the files lie that come with the package."""

from __future__ import annotations

from pathlib import Path


def resource_folder(name: str) -> Path:
    """A folder of files, "Recipes" or "Registry": in the extension or a checkout, and in an installed wheel."""
    package = Path(__file__).resolve().parent
    beside = package.parent / "Resources" / name
    return beside if beside.is_dir() else package / f"{name.lower()}_files"
