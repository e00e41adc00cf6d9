"""What a run has decided so far, outlined on the slice in view while the others are still computed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np
import slicer

from ..Mrml.Views import sliceWidgets, viewAlong
from .SlicePreview import SlicePreview

if TYPE_CHECKING:
    from dbsam.worker.protocol import DecidedSlice


class RunOutlines:
    """Outlines one volume's slices, each prompt's by itself."""

    def __init__(self) -> None:
        self._volume: slicer.vtkMRMLScalarVolumeNode | None = None
        self._decided: dict[tuple[int, int], DecidedSlice] = {}
        self._previews: dict[int, SlicePreview] = {}
        self._shown: dict[int, int] = {}

    def begin(self, volumeNode: slicer.vtkMRMLScalarVolumeNode) -> None:
        """A run on this volume begins."""
        self.clear()
        self._volume = volumeNode

    def take(self, decided: DecidedSlice) -> None:
        """Keeps a slice, and outlines the one in view where it is decided by now."""
        if self._volume is None or self._volume.GetScene() is None:
            return
        self._decided[decided.prompt, decided.report.index] = decided
        found = viewAlong(self._volume, decided.axis)
        if found is None:
            return
        index = found[1].index
        inView = self._decided.get((decided.prompt, index))
        isNew = index == decided.report.index
        if inView is not None and (isNew or self._shown.get(decided.prompt) != index):
            self._shown[decided.prompt] = index
            preview = self._previews.setdefault(decided.prompt, SlicePreview())
            preview.show(_asResult(inView), index, self._volume, sliceWidgets())

    def clear(self) -> None:
        """Removes all outlines and forgets what was decided."""
        for preview in self._previews.values():
            preview.clear()
        self._previews, self._decided, self._shown, self._volume = {}, {}, {}, None


def _asResult(decided: DecidedSlice) -> SimpleNamespace:
    """A slice in the form of a `VolumeSegmentation` of that slice alone."""
    from dbsam.geometry.grid import slice_axes

    xAxis, yAxis = slice_axes(decided.axis)
    (y, x), (height, width) = decided.origin_yx, decided.mask.shape
    extent = [(decided.report.index, decided.report.index)] * 3
    extent[xAxis], extent[yAxis] = (x, x + width - 1), (y, y + height - 1)
    return SimpleNamespace(
        axis=decided.axis, extent_ijk=tuple(extent), mask_KJI=np.expand_dims(decided.mask, 2 - decided.axis)
    )
