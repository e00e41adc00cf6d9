"""Stand-ins for the widgets that show the segments of a segmentation."""

from __future__ import annotations

from typing import Any, ClassVar

import slicer
from PySide6 import QtWidgets

from host.mrml_widgets import SceneAware, Widget, qMRMLNodeComboBox
from host.observed import observe
from host.qt_module import qt
from host.signals import emit

_SEGMENT_EVENTS = (
    slicer.vtkSegmentation.SegmentAdded,
    slicer.vtkSegmentation.SegmentRemoved,
    slicer.vtkSegmentation.SegmentModified,
)


class qMRMLSegmentSelectorWidget(Widget, SceneAware):
    """Chooses a segmentation and a segment of it."""

    _host_class, _api = True, "slicer.qMRMLSegmentSelectorWidget"
    _defaults: ClassVar = {"segmentationNodeSelectorVisible": True}

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._nodes, self._segments = qMRMLNodeComboBox(), qt.QComboBox()
        self._nodes.nodeTypes, self._nodes.noneEnabled = ["vtkMRMLSegmentationNode"], True
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._nodes)
        layout.addWidget(self._segments)
        self._observations: list[tuple[Any, int]] = []
        self._segment_id = ""
        self._nodes.connect("currentNodeChanged(vtkMRMLNode*)", self._node_chosen)
        self._segments.connect("currentIndexChanged(int)", self._segment_chosen)

    def _get_noneEnabled(self) -> bool:
        return self.__dict__.get("_none_enabled", False)

    def _set_noneEnabled(self, enabled: bool) -> None:
        self._none_enabled = enabled
        self._fill()

    def _get_segmentationNodeSelectorVisible(self) -> bool:
        return not self._nodes.isHidden()

    def _set_segmentationNodeSelectorVisible(self, visible: bool) -> None:
        self._nodes.setVisible(visible)

    def _scene_changed(self) -> None:
        self._nodes.setMRMLScene(self._scene)

    def _node_chosen(self, node: Any) -> None:
        for subject, tag in self._observations:
            subject.RemoveObserver(tag)
        events = _SEGMENT_EVENTS if node is not None else ()
        self._observations = [(node, observe(node, event, self, "_fill")) for event in events]
        self._fill()
        emit(self, "currentNodeChanged(vtkMRMLNode*)", node)
        emit(self, "currentNodeChanged(bool)", node is not None)

    def _fill(self) -> None:
        """As Slicer's: without segments nothing is said, and in place of a deleted one the first is offered."""
        ids = self.segmentIDs()
        self._segments.blockSignals(True)
        self._segments.clear()
        self._segments.setVisible(bool(ids))
        if self.noneEnabled and ids:
            self._segments.addItem("None", "")
        for segment_id in ids:
            segment = self.currentNode().GetSegmentation().GetSegment(segment_id)
            self._segments.addItem(segment.GetName(), segment_id)
        kept = self._segment_id in ids or (self.noneEnabled and not self._segment_id)
        self._segments.setCurrentIndex(self._segments.findData(self._segment_id) if kept else -1)
        self._segments.blockSignals(False)
        if ids and not kept:
            self._segments.setCurrentIndex(1 if self.noneEnabled else 0)

    def _segment_chosen(self, index: int) -> None:
        self._set_segment(self._segments.itemData(index) or "")

    def _set_segment(self, segment_id: str) -> None:
        if segment_id != self._segment_id:
            self._segment_id = segment_id
            emit(self, "currentSegmentChanged(QString)", segment_id)
            emit(self, "segmentSelectionChanged(QStringList)", [segment_id] if segment_id else [])

    def currentNode(self) -> Any:
        return self._nodes.currentNode()

    def currentNodeID(self) -> str:
        return self._nodes.currentNodeID

    def setCurrentNode(self, node: Any) -> None:
        self._nodes.setCurrentNode(node)

    def setCurrentNodeID(self, node_id: str) -> None:
        self._nodes.setCurrentNodeID(node_id)

    def segmentIDs(self) -> list[str]:
        node = self.currentNode()
        return list(node.GetSegmentation().GetSegmentIDs()) if node is not None else []

    def currentSegmentID(self) -> str:
        return self._segment_id

    def setCurrentSegmentID(self, segment_id: str) -> None:
        index = self._segments.findData(segment_id)
        if index >= 0:
            self._segments.setCurrentIndex(index)
            self._set_segment(segment_id)

    def selectedSegmentIDs(self) -> list[str]:
        return [self._segment_id] if self._segment_id else []


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
