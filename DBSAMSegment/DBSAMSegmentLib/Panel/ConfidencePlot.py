"""A bar per slice: how sure the network is, where the mask touches its box, where the user is and has clicked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import qt
from slicer.i18n import tr as _

if TYPE_CHECKING:
    from dbsam.inference.segmenter import SliceReport

_MARGIN_LEFT, _MARGIN_RIGHT, _MARGIN_TOP, _MARGIN_BOTTOM = 44, 8, 6, 36
_SURE, _UNSURE = 0.85, 0.6
_GOOD, _FAIR, _POOR, _EMPTY = "#3a8f5c", "#d9a441", "#c4503f", "#9a9a9a"
_TEXT, _GRID, _MARK, _CLICK = "#444444", "#b8b8b8", "#1a1a1a", "#2a5fd0"


def barColor(report: SliceReport) -> str:
    """Colour of a slice's bar."""
    if report.area_pixels == 0:
        return _EMPTY
    if report.predicted_iou >= _SURE and not report.touches_edge:
        return _GOOD
    return _FAIR if report.predicted_iou >= _UNSURE else _POOR


def weakestSlices(slices: Sequence[SliceReport], count: int = 4) -> list[SliceReport]:
    """The slices to look at first: those that aren't green, the least sure of them first, empty ones last."""
    weak = [report for report in slices if barColor(report) != _GOOD]
    return sorted(weak, key=lambda report: (report.area_pixels == 0, report.predicted_iou, report.index))[:count]


class ConfidencePlot(qt.QLabel):
    """Draws itself into a pixmap; a click on a bar calls `onSliceClicked` with the slice's index."""

    def __init__(self, onSliceClicked: Callable[[int], None], parent: qt.QWidget | None = None) -> None:
        qt.QLabel.__init__(self, parent)
        self._onSliceClicked = onSliceClicked
        self._slices: list[SliceReport] = []
        self._current: int | None = None
        self._axis = ""
        self._offset_mm: Callable[[int], float] = float
        self.setMinimumHeight(140)
        self.setMinimumWidth(120)
        self.setSizePolicy(qt.QSizePolicy.Ignored, qt.QSizePolicy.Preferred)
        self.toolTip = _(
            "Confidence of each slice: the overlap with the true mask that the network predicts for its own. Green"
            " sure, yellow fair or touching its box, red unsure, grey empty. A blue mark below its bar: the slice was"
            " corrected by clicks. Click a bar to go to its slice."
        )

    def setSlices(
        self, slices: Sequence[SliceReport], axis: str = "", offset_mm: Callable[[int], float] = float
    ) -> None:
        """Shows the slices of a segment.

        Args:
            slices: one report each.
            axis: letter of the axis that the slices lie along.
            offset_mm: where a slice lies along its normal, by its index.
        """
        self._slices = sorted(slices, key=lambda report: report.index)
        self._axis, self._offset_mm = axis, offset_mm
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
        width, height = max(self.width, 120), max(self.height, 100)
        pixmap = qt.QPixmap(width, height)
        pixmap.fill(qt.QColor("#ffffff"))
        painter = qt.QPainter()
        painter.begin(pixmap)
        self._paintScale(painter, width, height)
        if self._slices:
            self._paintBars(painter, width, height)
        else:
            painter.drawText(_MARGIN_LEFT + 8, height // 2, _("No result yet"))
        painter.end()
        self.setPixmap(pixmap)

    def _paintScale(self, painter: qt.QPainter, width: int, height: int) -> None:
        bottom = height - _MARGIN_BOTTOM
        for share in (0.0, 0.5, 1.0):
            y = int(bottom - share * (bottom - _MARGIN_TOP))
            painter.setPen(qt.QColor(_GRID))
            painter.drawLine(_MARGIN_LEFT, y, width - _MARGIN_RIGHT, y)
            painter.setPen(qt.QColor(_TEXT))
            painter.drawText(18, y + 4, f"{share:.1f}")
        painter.save()
        painter.translate(12, (bottom + _MARGIN_TOP) // 2 + 34)
        painter.rotate(-90)
        painter.drawText(0, 0, _("Confidence"))
        painter.restore()

    def _paintBars(self, painter: qt.QPainter, width: int, height: int) -> None:
        bottom, top = height - _MARGIN_BOTTOM, _MARGIN_TOP
        first, last = self._slices[0].index, self._slices[-1].index
        step = (width - _MARGIN_LEFT - _MARGIN_RIGHT) / (last - first + 1)
        for report in self._slices:
            left = int(_MARGIN_LEFT + (report.index - first) * step)
            bar = max(1, int(step * 0.85))
            tall = max(2, int(min(1.0, max(0.0, report.predicted_iou)) * (bottom - top)))
            painter.fillRect(qt.QRect(left, bottom - tall, bar, tall), qt.QColor(barColor(report)))
            if report.touches_edge:
                painter.fillRect(qt.QRect(left, top, bar, 3), qt.QColor(_FAIR))
            if report.clicks:
                painter.fillRect(qt.QRect(left + bar // 2 - 2, bottom, 5, 4), qt.QColor(_CLICK))
        painter.setPen(qt.QColor(_TEXT))
        self._paintTick(painter, first, _MARGIN_LEFT, bottom + 15, 0.0)
        self._paintTick(painter, last, width - _MARGIN_RIGHT, bottom + 15, 1.0)
        title = _("Slice along {axis} (mm)").format(axis=self._axis)
        inside = self._current is not None and first <= self._current <= last
        if inside:
            here = _("slice {index}: {offset:.1f} mm").format(
                index=self._current, offset=self._offset_mm(self._current)
            )
            title = f"{title} - {here}"
        painter.drawText(_MARGIN_LEFT, height - 6, title)
        if inside:
            x = int(_MARGIN_LEFT + (self._current - first + 0.5) * step)
            painter.setPen(qt.QColor(_MARK))
            painter.drawLine(x, top, x, bottom)

    def _paintTick(self, painter: qt.QPainter, index: int, x: int, y: int, share: float) -> None:
        """A slice's index and place, from x to the right (share 0) or to the left (1)."""
        text = f"{index} ({self._offset_mm(index):.1f} mm)"
        length = painter.fontMetrics().boundingRect(text).width()
        painter.drawText(int(x - share * length), y, text)

    def mousePressEvent(self, event: qt.QMouseEvent) -> None:
        """Goes to the slice under the mouse."""
        index = self.sliceAt(event.pos().x())
        if index is not None:
            self._onSliceClicked(index)

    def resizeEvent(self, event: qt.QResizeEvent) -> None:
        """Renders at the new size."""
        self.draw()
