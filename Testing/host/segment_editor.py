"""Stand-in for the Segment Editor widget: real editor node and logic, effects cloned from the factory."""

from __future__ import annotations

from functools import partial
from typing import Any

import slicer
import vtk
from PySide6 import QtWidgets

from host.mrml_widgets import SceneAware, Widget
from host.observed import observe
from host.qt_module import qt
from host.signals import emit

_INTERACTION_EVENTS = (
    "LeftButtonPressEvent", "LeftButtonReleaseEvent", "LeftButtonDoubleClickEvent", "RightButtonPressEvent",
    "RightButtonReleaseEvent", "MiddleButtonPressEvent", "MiddleButtonReleaseEvent", "MouseMoveEvent", "EnterEvent",
    "LeaveEvent", "KeyPressEvent", "KeyReleaseEvent", "MouseWheelForwardEvent", "MouseWheelBackwardEvent",
)  # fmt: skip


class qMRMLSegmentEditorWidget(Widget, SceneAware):
    """Knows segmentation, source volume and segment, and shows the active effect's options."""

    _host_class, _api = True, "slicer.qMRMLSegmentEditorWidget"

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._logic = slicer.vtkSlicerSegmentEditorLogic()
        self._node: Any = None
        self._node_observation: tuple[Any, int] | None = None
        self._effects: list[Any] = []
        self._active: Any = None
        self._view_observations: list[tuple[Any, int]] = []
        self._layout = qt.QFormLayout(self)
        slicer.qSlicerSegmentEditorEffectFactory.instance().connect("effectRegistered(QString)", self.updateEffectList)
        self.updateEffectList()

    def _scene_changed(self) -> None:
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

    def setCurrentSegmentID(self, segment_id: str) -> None:
        self._node.SetSelectedSegmentID(segment_id)
        emit(self, "currentSegmentIDChanged(QString)", segment_id)

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
            self._attach(effect)

    def availableEffectNames(self) -> list[str]:
        return [effect.name for effect in self._effects]

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

    def undo(self) -> None:
        self._logic.Undo()

    def redo(self) -> None:
        self._logic.Redo()
