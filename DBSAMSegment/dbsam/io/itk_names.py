"""Names by which ITK reads the right file."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LOWER_CASE = (".nii", ".nii.gz", ".mha")


@contextmanager
def name_for_itk(path: Path) -> Iterator[Path]:
    """A path by which ITK reads a file: its own, or that of a link in another folder.

    A link for x.nii.gz beside x.nii, whose voxels ITK would read in its place, and for endings that it knows in lower
    case only.
    """
    name = path.name.lower()
    has_namesake = name.endswith(".nii.gz") and path.with_suffix("").exists()
    has_capitals = name.endswith(_LOWER_CASE) and not path.name.endswith(_LOWER_CASE)
    if not (has_namesake or has_capitals):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="dbsam-") as folder:
        link = Path(folder) / name
        try:
            os.symlink(path.resolve(), link)
        except OSError:  # Windows lets not everybody make links
            shutil.copyfile(path, link)
        yield link
