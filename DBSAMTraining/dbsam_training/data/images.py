"""Images and label maps of data sets, which the library reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dbsam.io.image_file import Choice, ImageFile
from dbsam.io.images import read_image
from dbsam.io.pictures import is_picture


def read_channels(paths: Sequence[Path], is_rgb: bool = False) -> ImageFile:
    """Reads a grey or colour image; three files are the red, green and blue channel of one image.

    Args:
        paths: One file, or one a channel.
        is_rgb: Whether dataset.json says that the values of a voxel are a colour, which not every file does.

    Raises:
        ValueError: A file cannot be read as one image, or several are no channels of one.
        OSError: A file cannot be read.
    """
    says_itself = is_picture(paths[0]) or len(paths) > 1
    choice = Choice(component="rgb") if is_rgb and not says_itself else None
    files = [read_image(path, choice) for path in paths]
    if len(files) == 1:
        return files[0]
    shapes = {file.voxels.shape for file in files}
    if len(files) != 3 or len(shapes) != 1 or files[0].voxels.ndim != 3:
        raise ValueError(f"{len(files)} channel files of shapes {sorted(shapes)} don't make a colour image")
    return replace(files[0], voxels=np.stack([file.voxels for file in files], axis=-1))


def same_grid(one: NDArray[np.float64], other: NDArray[np.float64], shape_KJI: Sequence[int]) -> bool:
    """Whether two affines from IJK put the corners of a grid at the same places, to a tenth of the smallest voxel."""
    k, j, i = (size - 1 for size in shape_KJI[:3])
    corners = np.array([(a, b, c, 1) for a in (0, i) for b in (0, j) for c in (0, k)], float).T
    apart = np.linalg.norm(((one - other) @ corners)[:3], axis=0).max()
    return bool(apart <= 0.1 * np.linalg.norm(one[:3, :3], axis=0).min())
