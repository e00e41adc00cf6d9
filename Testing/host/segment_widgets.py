"""Stand-ins for the widgets that show the segments of a segmentation."""

from __future__ import annotations

from typing import Any, ClassVar

import slicer
from PySide6 import QtWidgets

from host.mrml_widgets import SceneAware, Widget
from host.observed import observe
from host.qt_module import qt
from host.signals import emit

_SEGMENT_EVENTS = (
    slicer.vtkSegmentation.SegmentAdded,
    slicer.vtkSegmentation.SegmentRemoved,
    slicer.vtkSegmentation.SegmentModified,
)


class qMRMLSegmentsTableView(Widget, SceneAware):
    """A table with one row for each segment."""

    _host_class, _api = True, "slicer.qMRMLSegmentsTableView"
    _defaults: ClassVar = {"headerVisible": True, "visibilityColumnVisible": True, "colorColumnVisible": True}

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._ids: list[str] = []
        self._observations: list[tuple[Any, int]] = []
        self._table = qt.QTableWidget(0, 1)
        self._table.setHorizontalHeaderLabels(["Name"])
        self._table.horizontalHeader().stretchLastSection = True
        self._table.verticalHeader().hide()
        self._table.setSelectionBehavior(qt.QTableWidget.SelectRows)
        layout = qt.QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._table)
        self._table.connect("itemSelectionChanged()", self._selection_changed)

    def _selection_changed(self) -> None:
        emit(self, "selectionChanged(QItemSelection,QItemSelection)", None, None)

    def _get_segmentCount(self) -> int:
        return len(self._ids)

    def setSegmentationNode(self, node: Any) -> None:
        for subject, tag in self._observations:
            subject.RemoveObserver(tag)
        self._node = node
        events = _SEGMENT_EVENTS if node is not None else ()
        self._observations = [(node, observe(node, event, self, "_fill")) for event in events]
        self._fill()

    def segmentationNode(self) -> Any:
        return self._node

    def _fill(self) -> None:
        selected = self.selectedSegmentIDs()
        self._ids = list(self._node.GetSegmentation().GetSegmentIDs()) if self._node is not None else []
        self._table.blockSignals(True)
        self._table.setRowCount(len(self._ids))
        for row, segment_id in enumerate(self._ids):
            segment = self._node.GetSegmentation().GetSegment(segment_id)
            item = qt.QTableWidgetItem(segment.GetName())
            item.setData(qt.Qt.DecorationRole, qt.QColor.fromRgbF(*segment.GetColor()))
            self._table.setItem(row, 0, item)
        self._table.blockSignals(False)
        self.setSelectedSegmentIDs(selected)

    def segmentIDForRow(self, row: int) -> str:
        return self._ids[row]

    def rowForSegmentID(self, segment_id: str) -> int:
        return self._ids.index(segment_id) if segment_id in self._ids else -1

    def selectedSegmentIDs(self) -> list[str]:
        rows = sorted({index.row() for index in self._table.selectedIndexes()})
        return [self._ids[row] for row in rows if row < len(self._ids)]

    def setSelectedSegmentIDs(self, segment_ids: list[str]) -> None:
        self._table.clearSelection()
        for segment_id in segment_ids:
            if segment_id in self._ids:
                self._table.item(self._ids.index(segment_id), 0).setSelected(True)

    def clearSelection(self) -> None:
        self._table.clearSelection()

    def tableWidget(self) -> Any:
        return self._table
