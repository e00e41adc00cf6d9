"""The list of boxes: which there are, which of them are segmented, and what they are called."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qt
import slicer
import vtk
from slicer.util import VTKObservationMixin

from ..Mrml.Nodes import boxesIn

Roi = slicer.vtkMRMLMarkupsROINode


class BoxList(VTKObservationMixin):
    """A row for each box of the scene, with a check mark and a name that can be edited.

    Only what the user does to a row counts: the widget follows the scene and the parameters, never the other way round.

    Args:
        widget: a QListWidget.
        checked: the boxes that are segmented.
        onChecked: gets them anew when the user checks or unchecks one.
    """

    def __init__(
        self, widget: qt.QListWidget, checked: Callable[[], Sequence[Roi]], onChecked: Callable[[list[Roi]], None]
    ) -> None:
        VTKObservationMixin.__init__(self)
        self._widget = widget
        self._checked = checked
        self._onChecked = onChecked
        self._boxes: list[Roi] = []
        widget.connect("itemChanged(QListWidgetItem*)", self._onItemChanged)
        for event in (slicer.vtkMRMLScene.NodeAddedEvent, slicer.vtkMRMLScene.NodeRemovedEvent):
            self.addObserver(slicer.mrmlScene, event, self._onScene)

    def close(self) -> None:
        """Disconnects."""
        self._widget.disconnect("itemChanged(QListWidgetItem*)", self._onItemChanged)
        self.removeObservers()

    def show(self) -> None:
        """Shows the scene's boxes and which are checked."""
        boxes = boxesIn(slicer.mrmlScene)
        if boxes != self._boxes:
            self.removeObservers(self._onBox)
            for box in boxes:
                self.addObserver(box, vtk.vtkCommand.ModifiedEvent, self._onBox)
            self._boxes = boxes
        checked = self._checked()
        blocked = self._widget.blockSignals(True)
        while self._widget.count > len(boxes):
            self._widget.takeItem(self._widget.count - 1)
        for row, box in enumerate(boxes):
            if row == self._widget.count:
                self._widget.addItem("")
                flags = qt.Qt.ItemIsEnabled | qt.Qt.ItemIsSelectable | qt.Qt.ItemIsUserCheckable | qt.Qt.ItemIsEditable
                self._widget.item(row).setFlags(flags)
            item = self._widget.item(row)
            item.setText(box.GetName() or "")
            item.setCheckState(qt.Qt.Checked if box in checked else qt.Qt.Unchecked)
        self._widget.blockSignals(blocked)

    def _onScene(self, *_: object) -> None:
        if not slicer.mrmlScene.IsBatchProcessing():  # the owner shows what a batch has left
            self.show()

    def _onBox(self, box: Roi, _event: str) -> None:
        """A box was renamed or hidden; also called at every step while one is dragged."""
        shown = self._widget.item(self._boxes.index(box)).text() if box in self._boxes else None
        if box.GetHideFromEditors() or shown != box.GetName():
            self.show()

    def _onItemChanged(self, item: qt.QListWidgetItem) -> None:
        row = self._widget.row(item)
        if not 0 <= row < len(self._boxes):
            return
        box, checked = self._boxes[row], list(self._checked())
        name = item.text().strip()
        if name and name != box.GetName():
            box.SetName(name)
        wanted = item.checkState() == qt.Qt.Checked
        if wanted != (box in checked):
            kept = [one for one in checked if one not in self._boxes]
            self._onChecked(kept + [one for one in self._boxes if (one in checked if one is not box else wanted)])
        self.show()
