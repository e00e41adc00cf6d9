"""A bar per slice: how sure the network is, where the mask touches its box, where the user is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import qt

if TYPE_CHECKING:
    from dbsam.inference.segmenter import SliceReport

_MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_TOP, _MARGIN_BOTTOM = 34, 6, 6, 20
_SURE, _UNSURE = 0.85, 0.6
_GOOD, _FAIR, _POOR, _EMPTY = "#3a8f5c", "#d9a441", "#c4503f", "#9a9a9a"


def barColor(report: SliceReport) -> str:
    """Colour of a slice's bar."""
    if report.area_pixels == 0:
        return _EMPTY
    if report.predicted_iou >= _SURE and not report.touches_edge:
        return _GOOD
    return _FAIR if report.predicted_iou >= _UNSURE else _POOR


class ConfidencePlot(qt.QLabel):
    """Draws itself into a pixmap; a click on a bar calls `onSliceClicked` with the slice's index."""

    def __init__(self, onSliceClicked: Callable[[int], None], parent: qt.QWidget | None = None) -> None:
        qt.QLabel.__init__(self, parent)
        self._onSliceClicked = onSliceClicked
        self._slices: list[SliceReport] = []
        self._current: int | None = None
        self.setMinimumHeight(110)
        self.setMinimumWidth(120)
        self.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Preferred)
        self.toolTip = (
            "Predicted overlap of each slice's mask: green sure, yellow fair or touching its box, red unsure, grey"
            " empty. Click a bar to go to its slice."
        )

    def setSlices(self, slices: Sequence[SliceReport]) -> None:
        """Shows the slices of a segment."""
        self._slices = sorted(slices, key=lambda report: report.index)
        self.draw()

    def setCurrentSlice(self, index: int | None) -> None:
        """Marks the slice in view."""
        if index != self._current:
            self._current = index
            self.draw()

    def sliceAt(self, x: float) -> int | None:
        """Index of the slice whose bar is at a horizontal position in pixels; None outside the bars."""
        inside = self.width - _MARGIN_LEFT - _MARGIN_RIGHT
        if not self._slices or inside <= 0 or not 0 <= x - _MARGIN_LEFT < inside:
            return None
        first, last = self._slices[0].index, self._slices[-1].index
        return first + int((x - _MARGIN_LEFT) * (last - first + 1) / inside)

    def draw(self) -> None:
        """Renders the bars at the widget's present size."""
        width, height = max(self.width, 60), max(self.height, 60)
        pixmap = qt.QPixmap(width, height)
        pixmap.fill(qt.QColor("#ffffff"))
        painter = qt.QPainter()
        painter.begin(pixmap)
        self._paint(painter, width, height)
        painter.end()
        self.setPixmap(pixmap)

    def _paint(self, painter: qt.QPainter, width: int, height: int) -> None:
        bottom, top = height - _MARGIN_BOTTOM, _MARGIN_TOP
        painter.setPen(qt.QColor("#555555"))
        for share in (0.0, 0.5, 1.0):
            y = int(bottom - share * (bottom - top))
            painter.drawText(2, y + 4, f"{share:.1f}")
            painter.drawLine(_MARGIN_LEFT, y, width - _MARGIN_RIGHT, y)
        if not self._slices:
            painter.drawText(_MARGIN_LEFT + 8, (top + bottom) // 2, "No result yet")
            return
        first, last = self._slices[0].index, self._slices[-1].index
        step = (width - _MARGIN_LEFT - _MARGIN_RIGHT) / (last - first + 1)
        for report in self._slices:
            left = int(_MARGIN_LEFT + (report.index - first) * step)
            bar = max(1, int(step * 0.85))
            tall = max(2, int(min(1.0, max(0.0, report.predicted_iou)) * (bottom - top)))
            painter.fillRect(qt.QRect(left, bottom - tall, bar, tall), qt.QColor(barColor(report)))
            if report.touches_edge:
                painter.fillRect(qt.QRect(left, top, bar, 3), qt.QColor(_FAIR))
        if self._current is not None and first <= self._current <= last:
            x = int(_MARGIN_LEFT + (self._current - first + 0.5) * step)
            painter.setPen(qt.QColor("#1a1a1a"))
            painter.drawLine(x, top, x, bottom)
        painter.setPen(qt.QColor("#555555"))
        painter.drawText(_MARGIN_LEFT, height - 5, str(first))
        painter.drawText(width - _MARGIN_RIGHT - 8 * len(str(last)), height - 5, str(last))

    def mousePressEvent(self, event: qt.QMouseEvent) -> None:
        """Goes to the slice under the mouse."""
        index = self.sliceAt(event.pos().x())
        if index is not None:
            self._onSliceClicked(index)

    def resizeEvent(self, event: qt.QResizeEvent) -> None:
        """Renders at the new size."""
        self.draw()
