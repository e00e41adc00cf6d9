"""Stand-ins for the widgets that place markups; the place mode itself is MRML's."""

from __future__ import annotations

from typing import Any, ClassVar

from PySide6 import QtWidgets

from host.mrml_widgets import SceneAware, Widget
from host.observed import observe
from host.qt_module import qt
from host.signals import emit


class qSlicerMarkupsPlaceWidget(Widget, SceneAware):
    """Buttons that start placing points of a markups node and delete them."""

    _host_class, _api = True, "slicer.qSlicerMarkupsPlaceWidget"
    _defaults: ClassVar = {"buttonsVisible": True, "deleteAllControlPointsOptionVisible": True}
    ShowPlaceMultipleMarkupsOption, HidePlaceMultipleMarkupsOption = 0, 1
    ForcePlaceSingleMarkup, ForcePlaceMultipleMarkups = 2, 3

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._node: Any = None
        self._place, self._delete = qt.QToolButton(), qt.QToolButton()
        self._place.text, self._place.checkable, self._delete.text = "Place", True, "Delete"
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._place)
        layout.addWidget(self._delete)
        self._placing = False
        self._place.connect("toggled(bool)", self.setPlaceModeEnabled)
        self._delete.connect("clicked()", self.deleteAllPoints)

    def _scene_changed(self) -> None:
        if self._scene is not None and self.interactionNode() is not None and not self.__dict__.get("_observed"):
            self._observed = observe(self.interactionNode(), "ModifiedEvent", self, "_mode_changed")

    def selectionNode(self) -> Any:
        return self._scene.GetNodeByID("vtkMRMLSelectionNodeSingleton") if self._scene is not None else None

    def interactionNode(self) -> Any:
        return self._scene.GetNodeByID("vtkMRMLInteractionNodeSingleton") if self._scene is not None else None

    def currentNode(self) -> Any:
        return self._node

    def currentMarkupsNode(self) -> Any:
        return self._node

    def setCurrentNode(self, node: Any) -> None:
        self._node = node
        self._mode_changed()

    def placeButton(self) -> Any:
        return self._place

    def deleteButton(self) -> Any:
        return self._delete

    def _get_currentNodeActive(self) -> bool:
        selection = self.selectionNode()
        known = selection is not None and self._node is not None
        return known and selection.GetActivePlaceNodeID() == self._node.GetID()

    def _set_currentNodeActive(self, active: bool) -> None:
        if active and self._node is not None:
            self.selectionNode().SetReferenceActivePlaceNodeClassName(self._node.GetClassName())
            self.selectionNode().SetActivePlaceNodeID(self._node.GetID())

    def setCurrentNodeActive(self, active: bool) -> None:
        self.currentNodeActive = active

    def _get_placeModeEnabled(self) -> bool:
        interaction = self.interactionNode()
        placing = interaction is not None and interaction.GetCurrentInteractionMode() == interaction.Place
        return placing and self.currentNodeActive

    def _set_placeModeEnabled(self, enabled: bool) -> None:
        interaction = self.interactionNode()
        if interaction is None or enabled == self.placeModeEnabled or (enabled and self._node is None):
            return
        self.currentNodeActive = enabled
        interaction.SetPlaceModePersistence(self.placeModePersistency)
        interaction.SetCurrentInteractionMode(interaction.Place if enabled else interaction.ViewTransform)
        self._mode_changed()

    def setPlaceModeEnabled(self, enabled: bool) -> None:
        self.placeModeEnabled = enabled

    def setPlaceModePersistency(self, persistent: bool) -> None:
        self.placeModePersistency = persistent

    def _mode_changed(self) -> None:
        placing = self.placeModeEnabled
        self._place.blockSignals(True)
        self._place.checked = placing
        self._place.blockSignals(False)
        if placing != self._placing:
            self._placing = placing
            emit(self, "activeMarkupsPlaceModeChanged(bool)", placing)
            emit(self, "activeMarkupsFiducialPlaceModeChanged(bool)", placing)

    def deleteAllPoints(self) -> None:
        if self._node is not None:
            self._node.RemoveAllControlPoints()

    def deleteLastPoint(self) -> None:
        if self._node is not None and self._node.GetNumberOfControlPoints():
            self._node.RemoveNthControlPoint(self._node.GetNumberOfControlPoints() - 1)
