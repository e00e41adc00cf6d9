"""The combo box with the segments of a segmentation."""

from __future__ import annotations

from collections.abc import Callable

import qt
import slicer
from slicer.i18n import tr as _


class SegmentList:
    """Offers the segments, and first of all a new one.

    Args:
        combo: the QComboBox.
        onChosen: gets the ID of the segment that the user chose; "" for a new one.
    """

    def __init__(self, combo: qt.QComboBox, onChosen: Callable[[str], None]) -> None:
        self._combo = combo
        self._onChosen = onChosen
        self._shown: list[tuple[str, str]] = []
        combo.connect("currentIndexChanged(int)", self._onIndex)

    def close(self) -> None:
        """Disconnects."""
        self._combo.disconnect("currentIndexChanged(int)", self._onIndex)

    def show(self, segmentationNode: slicer.vtkMRMLSegmentationNode | None, segmentId: str, enabled: bool) -> None:
        """Shows the segments as they are now.

        Args:
            segmentationNode: whose segments are offered; None: a new one only.
            segmentId: the chosen one; "" for a new one.
            enabled: whether the user may choose.
        """
        segments = [("", _("New, named after the box"))]
        if segmentationNode is not None:
            segmentation = segmentationNode.GetSegmentation()
            segments += [(one, segmentation.GetSegment(one).GetName()) for one in segmentation.GetSegmentIDs()]
        blocked = self._combo.blockSignals(True)
        if segments != self._shown:
            self._combo.clear()
            for one, name in segments:
                self._combo.addItem(name, one)
            self._shown = segments
        self._combo.setCurrentIndex([one for one, _name in segments].index(segmentId))
        self._combo.blockSignals(blocked)
        self._combo.enabled = enabled

    def _onIndex(self, index: int) -> None:
        if 0 <= index < len(self._shown):
            self._onChosen(self._shown[index][0])
