"""`.npz` in the form of MedSAM and LiteMedSAM: arrays by name, with spacing but without position.

In: `imgs` (D, H, W), `spacing` (x, y, z) in mm if it is there; of a picture `img` or `imgs` (H, W) or (H, W, 3). Labels
are `gts`, `gt` or `segs`. Out: `segs` and `spacing`. Slices lie along K, rows along J; as there is no position, axes
run to the left, the back and the top from 0.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.grid import LPS_FROM_RAS, ImageGeometry
from dbsam.io.files import atomic_path
from dbsam.io.image_file import Choice, ImageFile, ImageFileError, chosen_component, native, refuse_component

_IMAGES, _LABELS = ("imgs", "img"), ("segs", "gts", "gt")


def is_npz(path: Path) -> bool:
    """Whether the file is named so."""
    return path.name.lower().endswith(".npz")


def read_npz(path: Path, choice: Choice, as_labels: bool = False) -> ImageFile:
    """Read the image, or the labels, of a file.

    Raises:
        ImageFileError: It is damaged, or holds no such array.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            names = _LABELS if as_labels else _IMAGES
            held = [name for name in names if name in file]
            if len(held) != 1:
                raise ImageFileError(f"{path}: holds {sorted(file)}, but not one of MedSAM's {', '.join(names)}.")
            [name] = held
            array = native(np.asarray(file[name]))
            spacing = np.asarray(file["spacing"], np.float64).ravel().tolist() if "spacing" in file else None
    except (ImageFileError, MemoryError):
        raise
    except Exception as error:  # damaged files make numpy raise nearly anything
        raise ImageFileError(f"{path}: damaged, or no npz file of plain arrays: {error}") from error
    if choice.stack not in (None, 1):
        raise ImageFileError(f"{path}: there is no stack {choice.stack}: it holds one.")
    if as_labels and array.dtype == np.bool_:
        array = array.astype(np.uint8)
    # A last axis of three bytes is a colour: so MedSAM's pictures are, and no volume is three or four columns wide.
    if array.ndim in (3, 4) and array.shape[-1] in (3, 4) and not as_labels:
        array = array[None] if array.ndim == 3 else array
        is_colour = array.shape[-1] == 3 and array.dtype == np.uint8
        array = chosen_component(path, array, choice.component, is_colour, "values a voxel (its last axis)")
    else:
        refuse_component(path, choice.component)
        array = array[None] if array.ndim == 2 else array
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[-1] != 3) or not array.size:
        raise ImageFileError(f"{path}: {name} has the shape {array.shape}; an image is (D, H, W), (H, W) or (H, W, 3).")
    if spacing is not None and not (len(spacing) == 3 and np.isfinite(spacing).all() and min(spacing) > 0):
        raise ImageFileError(f"{path}: its spacing is {spacing} instead of three positive numbers.")
    return ImageFile(array, LPS_FROM_RAS @ np.diag([*(spacing or (1.0, 1.0, 1.0)), 1.0]), spacing is not None, False)


def write_npz(path: Path, labelmap_KJI: NDArray[Any], geometry: ImageGeometry) -> None:
    """Write labels as LiteMedSAM does: `segs` (D, H, W) and `spacing` (x, y, z); the position is lost.

    Raises:
        OSError: The file cannot be written; a former one stays.
    """
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, segs=labelmap_KJI, spacing=np.array(geometry.spacing_mm))
