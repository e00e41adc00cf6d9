"""The slices of a volume as 8-bit images."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from dbsam.preprocess.intensity import IntensityWindow
from dbsam.preprocess.volume import Volume, slice_of

# Three neighbours of the slices on both sides of the start fit in, so that each slice is converted once.
_WINDOWED_SLICES_KEPT = 16


class SliceImages:
    """The slices of a volume as the networks see them.

    Args:
        volume: The volume.
        axis: 0, 1, 2 for slices along I, J, K.
        window: The range of values shown as 0..255.
        channels: Of grey slices: "repeat" (the slice three times) or "neighbours" (the slice before, itself and the
            next; at the ends the last slice repeats).
    """

    def __init__(self, volume: Volume, axis: int, window: IntensityWindow, channels: str) -> None:
        if channels not in ("repeat", "neighbours"):
            raise ValueError(f"Channels of a grey slice are 'repeat' or 'neighbours', not {channels!r}.")
        self.volume, self.axis, self.window = volume, axis, window
        self.channels = "colour" if volume.is_colour else channels
        self._count = volume.geometry.dimensions_ijk[axis]
        self._windowed: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()

    def image(self, index: int) -> NDArray[np.uint8]:
        """Returns slice `index`: (H, W, 3), 0..255."""
        if self.channels == "colour":
            return self._windowed_slice(index)
        before, after = (index, index) if self.channels == "repeat" else (index - 1, index + 1)
        planes = (max(before, 0), index, min(after, self._count - 1))
        return np.stack([self._windowed_slice(plane) for plane in planes], axis=-1)

    def _windowed_slice(self, index: int) -> NDArray[np.uint8]:
        if index in self._windowed:
            self._windowed.move_to_end(index)
        else:
            self._windowed[index] = self.window.apply(slice_of(self.volume.voxels, self.axis, index))
            if len(self._windowed) > _WINDOWED_SLICES_KEPT:
                self._windowed.popitem(last=False)
        return self._windowed[index]
