"""Stand-in for the Segment Editor widget: real editor node and logic, effects cloned from the factory."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import slicer
import vtk
from PySide6 import QtWidgets

from host.mrml_widgets import SceneAware, Widget, qMRMLNodeComboBox
from host.observed import observe
from host.qt_module import qt
from host.segment_widgets import qMRMLSegmentsTableView
from host.signals import emit

_INTERACTION_EVENTS = (
    "LeftButtonPressEvent", "LeftButtonReleaseEvent", "LeftButtonDoubleClickEvent", "RightButtonPressEvent",
    "RightButtonReleaseEvent", "MiddleButtonPressEvent", "MiddleButtonReleaseEvent", "MouseMoveEvent", "EnterEvent",
    "LeaveEvent", "KeyPressEvent", "KeyReleaseEvent", "MouseWheelForwardEvent", "MouseWheelBackwardEvent",
)  # fmt: skip


class qMRMLSegmentEditorWidget(Widget, SceneAware):
    """Selectors for segmentation, source volume and segment, a button for each effect, the active effect's options."""

    _host_class, _api = True, "slicer.qMRMLSegmentEditorWidget"
    _defaults: ClassVar = {
        "undoEnabled": True,
        "segmentationNodeSelectorVisible": True,
        "sourceVolumeNodeSelectorVisible": True,
    }

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._logic = slicer.vtkSlicerSegmentEditorLogic()
        self._node: Any = None
        self._node_observation: tuple[Any, int] | None = None
        self._effects: list[Any] = []
        self._active: Any = None
        self._view_observations: list[tuple[Any, int]] = []
        self._segmentations, self._volumes = qMRMLNodeComboBox(), qMRMLNodeComboBox()
        self._segmentations.nodeTypes = ["vtkMRMLSegmentationNode"]
        self._volumes.nodeTypes = ["vtkMRMLScalarVolumeNode"]
        self._segmentations.noneEnabled = self._volumes.noneEnabled = True
        self._table = qMRMLSegmentsTableView()
        self._buttons = qt.QHBoxLayout()
        self._layout = qt.QFormLayout(self)
        self._layout.addRow("Segmentation:", self._segmentations)
        self._layout.addRow("Source volume:", self._volumes)
        self._layout.addRow(self._table)
        self._layout.addRow(self._buttons)
        self._segmentations.connect("currentNodeChanged(vtkMRMLNode*)", self.setSegmentationNode)
        self._volumes.connect("currentNodeChanged(vtkMRMLNode*)", self.setSourceVolumeNode)
        self._table.connect("selectionChanged(QItemSelection,QItemSelection)", self._segment_chosen)
        slicer.qSlicerSegmentEditorEffectFactory.instance().connect("effectRegistered(QString)", self.updateEffectList)
        self.updateEffectList()

    def _scene_changed(self) -> None:
        for selector in (self._segmentations, self._volumes, self._table):
            selector.setMRMLScene(self._scene)
        self._logic.SetMRMLScene(self._scene)
        if self._scene is not None and not self.__dict__.get("_interaction_observed"):
            self._interaction_observed = observe(self.interactionNode(), "ModifiedEvent", self, "_interaction_changed")

    def interactionNode(self) -> Any:
        return self._scene.GetNodeByID("vtkMRMLInteractionNodeSingleton")

    def _interaction_changed(self) -> None:
        if self._active is None:
            return
        node = self.interactionNode()
        if hasattr(self._active.self(), "interactionNodeModified"):
            self._active.self().interactionNodeModified(node)
        elif node.GetCurrentInteractionMode() != node.ViewTransform:
            self.setActiveEffect(None)

    # Nodes
    def mrmlSegmentEditorNode(self) -> Any:
        return self._node

    def setMRMLSegmentEditorNode(self, node: Any) -> None:
        if self._node_observation is not None:
            self._node_observation[0].RemoveObserver(self._node_observation[1])
        self._node = node
        self._node_observation = (node, observe(node, "ModifiedEvent", self, "_node_changed")) if node else None
        self._logic.SetSegmentEditorNode(node)
        for effect in self._effects:
            self._attach(effect)
        self._node_changed()

    def _attach(self, effect: Any) -> None:
        effect.setParameterSetNode(self._node)
        if self._node is not None:
            effect._call("setMRMLDefaults")

    def _node_changed(self) -> None:
        if self._node is None:
            return
        segmentation, volume = self._node.GetSegmentationNode(), self._node.GetSourceVolumeNode()
        self._logic.SetSegmentationNode(segmentation)
        self._logic.SetSourceVolumeNode(volume)
        self._segmentations.setCurrentNode(segmentation)
        self._volumes.setCurrentNode(volume)
        if self._table.segmentationNode() is not segmentation:
            self._table.setSegmentationNode(segmentation)
        if self._active is not None:
            self._active.updateGUIFromMRML()

    def segmentationNode(self) -> Any:
        return self._node.GetSegmentationNode() if self._node is not None else None

    def setSegmentationNode(self, node: Any) -> None:
        if self._node is None or node is self.segmentationNode():
            return
        self._node.SetAndObserveSegmentationNode(node)
        ids = list(node.GetSegmentation().GetSegmentIDs()) if node is not None else []
        self._node.SetSelectedSegmentID(ids[0] if ids else "")
        emit(self, "segmentationNodeChanged(vtkMRMLSegmentationNode*)", node)

    def sourceVolumeNode(self) -> Any:
        return self._node.GetSourceVolumeNode() if self._node is not None else None

    def setSourceVolumeNode(self, node: Any) -> None:
        if self._node is None or node is self.sourceVolumeNode():
            return
        self._node.SetAndObserveSourceVolumeNode(node)
        if node is not None and self.segmentationNode() is not None:
            self.segmentationNode().SetReferenceImageGeometryParameterFromVolumeNode(node)
        for effect in self._effects:
            effect._call("sourceVolumeNodeChanged")
        emit(self, "sourceVolumeNodeChanged(vtkMRMLVolumeNode*)", node)

    def currentSegmentID(self) -> str:
        return self._node.GetSelectedSegmentID() or "" if self._node is not None else ""

    def setCurrentSegmentID(self, segment_id: str) -> None:
        self._node.SetSelectedSegmentID(segment_id)
        emit(self, "currentSegmentIDChanged(QString)", segment_id)

    def _segment_chosen(self) -> None:
        chosen = self._table.selectedSegmentIDs()
        if chosen and self._node is not None and chosen[0] != self.currentSegmentID():
            self.setCurrentSegmentID(chosen[0])

    # Effects
    def updateEffectList(self) -> None:
        known = self.availableEffectNames()
        for registered in slicer.qSlicerSegmentEditorEffectFactory.instance().registeredEffects():
            if registered.name in known:
                continue
            effect = registered.self().clone()
            effect._editor = self
            self._effects.append(effect)
            effect._call("setupOptionsFrame")
            effect.optionsFrame().hide()
            self._layout.addRow(effect.optionsFrame())
            button = qt.QToolButton()
            button.text, button.checkable = effect.title or effect.name, True
            button.connect("clicked()", lambda name=effect.name: self.setActiveEffectByName(name))
            self._buttons.addWidget(button)
            self._attach(effect)

    def availableEffectNames(self) -> list[str]:
        return [effect.name for effect in self._effects]

    def effectCount(self) -> int:
        return len(self._effects)

    def effectByIndex(self, index: int) -> Any:
        return self._effects[index]

    def effectByName(self, name: str) -> Any:
        return next((effect for effect in self._effects if effect.name == name), None)

    def activeEffect(self) -> Any:
        return self._active

    def setActiveEffectByName(self, name: str) -> None:
        self.setActiveEffect(self.effectByName(name))

    def setActiveEffect(self, effect: Any) -> None:
        if effect is self._active:
            return
        if self._active is not None:
            self._active.deactivate()
        self._active = effect
        self.removeViewObservations()
        if self._node is not None:
            self._node.SetActiveEffectName(effect.name if effect is not None else "")
        if effect is not None:
            effect.activate()
            self.setupViewObservations()

    def setupViewObservations(self) -> None:
        manager = slicer.app.layoutManager()
        for name in manager.sliceViewNames():
            widget = manager.sliceWidget(name)
            interactor = widget.sliceView().interactor()
            for event in _INTERACTION_EVENTS:
                interact = partial(self._interact, widget)
                self._view_observations.append((interactor, interactor.AddObserver(event, interact, 100.0)))

    def _interact(self, widget: Any, interactor: Any, event: str) -> None:
        if self._active is not None:
            event_id = vtk.vtkCommand.GetEventIdFromString(event)
            self._active._call("processInteractionEvents", interactor, event_id, widget)

    def removeViewObservations(self) -> None:
        for interactor, tag in self._view_observations:
            interactor.RemoveObserver(tag)
        self._view_observations = []

    # Undo
    def saveStateForUndo(self) -> None:
        self._logic.SaveStateForUndo()

    def undo(self) -> None:
        self._logic.Undo()

    def redo(self) -> None:
        self._logic.Redo()

    def setMaximumNumberOfUndoStates(self, count: int) -> None:
        self._logic.SetMaximumNumberOfUndoStates(count)

    def _get_maximumNumberOfUndoStates(self) -> int:
        return self._logic.GetMaximumNumberOfUndoStates()
