"""Stand-ins for the MRML widgets: Qt widgets that follow a real MRML scene."""

from __future__ import annotations

from typing import Any, ClassVar

import slicer
from PySide6 import QtWidgets

from host.observed import observe
from host.pythonqt import host_class
from host.qt_module import qt
from host.signals import emit

_SCENE_EVENTS = ("NodeAdded", "NodeRemoved", "EndClose", "EndImport", "EndBatchProcess")
Widget: Any = host_class(QtWidgets.QWidget)


class SceneAware:
    """`setMRMLScene`, `mrmlScene` and what follows from them."""

    _scene: Any = None
    _scene_observations: tuple[tuple[Any, int], ...] = ()

    def setMRMLScene(self, scene: Any) -> None:
        if scene is self._scene:
            return
        for subject, tag in self._scene_observations:
            subject.RemoveObserver(tag)
        self._scene = scene
        events = [getattr(scene, f"{name}Event") for name in _SCENE_EVENTS] if scene is not None else []
        self._scene_observations = tuple((scene, observe(scene, event, self, "_scene_changed")) for event in events)
        self._scene_changed()
        emit(self, "mrmlSceneChanged(vtkMRMLScene*)", scene)

    def mrmlScene(self) -> Any:
        return self._scene

    def _scene_changed(self) -> None:
        """Follow a change of the scene."""


class qMRMLWidget(Widget, SceneAware):
    _host_class, _api = True, "slicer.qMRMLWidget"


class qMRMLNodeComboBox(Widget, SceneAware):
    """Chooses a node of the scene by class, attribute and visibility."""

    _host_class, _api = True, "slicer.qMRMLNodeComboBox"
    _defaults: ClassVar = {
        "addEnabled": True, "removeEnabled": True, "selectNodeUponCreation": True, "showChildNodeTypes": True,
        "noneDisplay": "None",
    }  # fmt: skip

    def __init__(self, parent: QtWidgets.QWidget | None = None) -> None:
        super().__init__(parent)
        self._attributes: list[tuple[str, str, Any]] = []
        self._none_enabled, self._none_display, self._node_types = False, "None", []
        self._combo_box = qt.QComboBox()
        layout = qt.QHBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addWidget(self._combo_box)
        self._current_id = ""
        self._combo_box.connect("currentIndexChanged(int)", self._chosen)

    def _get_noneEnabled(self) -> bool:
        return self._none_enabled

    def _set_noneEnabled(self, enabled: bool) -> None:
        self._none_enabled = enabled
        self._scene_changed()

    def _get_noneDisplay(self) -> str:
        return self._none_display

    def _set_noneDisplay(self, text: str) -> None:
        self._none_display = text
        self._scene_changed()

    def _get_nodeTypes(self) -> list[str]:
        return self._node_types

    def _set_nodeTypes(self, node_types: list[str]) -> None:
        self._node_types = list(node_types)
        self._scene_changed()

    def _get_currentNodeID(self) -> str:
        return self._current_id

    def _set_currentNodeID(self, node_id: str) -> None:
        self._select(node_id)

    _get_currentNodeId, _set_currentNodeId = _get_currentNodeID, _set_currentNodeID

    def _accepts(self, node: Any) -> bool:
        kind = self.showChildNodeTypes or node.GetClassName() in self._node_types
        hidden = node.GetHideFromEditors() and not self.showHidden
        excluded = any(node.IsA(t) for t in self.hideChildNodeTypes or ())
        attributes = all(
            node.GetAttribute(name) is not None and value in (None, "", node.GetAttribute(name))
            for node_type, name, value in self._attributes
            if node.IsA(node_type)
        )
        return kind and attributes and not hidden and not excluded

    def _nodes(self) -> list[Any]:
        if self._scene is None:
            return []
        # Asked of the scene by class: a node's number is found by counting, and a scene may hold thousands.
        by_class = (slicer.util.getNodesByClass(kind, self._scene) for kind in self._node_types)
        found = {node.GetID(): node for nodes in by_class for node in nodes}
        return [node for node in found.values() if self._accepts(node)]

    def _scene_changed(self) -> None:
        if self._scene is not None and self._scene.IsBatchProcessing():
            return
        nodes = self._nodes()
        self._combo_box.blockSignals(True)
        self._combo_box.clear()
        if self._none_enabled or not nodes:
            self._combo_box.addItem(self._none_display, "")
        for node in nodes:
            self._combo_box.addItem(node.GetName(), node.GetID())
        ids = [node.GetID() for node in nodes]
        fallback = "" if self._none_enabled or not ids else ids[0]
        chosen = self._current_id if self._current_id in ids else fallback
        self._combo_box.setCurrentIndex(max(0, self._combo_box.findData(chosen)))
        self._combo_box.blockSignals(False)
        self._set_current(chosen)

    def _chosen(self, index: int) -> None:
        self._set_current(self._combo_box.itemData(index) or "")

    def _set_current(self, node_id: str) -> None:
        if node_id == self._current_id:
            return
        self._current_id = node_id
        node = self.currentNode()
        emit(self, "currentNodeChanged(vtkMRMLNode*)", node)
        emit(self, "currentNodeChanged(bool)", node is not None)
        emit(self, "currentNodeIDChanged(QString)", node_id)

    def _select(self, node_id: str) -> None:
        index = self._combo_box.findData(node_id or "")
        self._combo_box.setCurrentIndex(index if index >= 0 else self._combo_box.findData(""))
        self._chosen(self._combo_box.currentIndex)

    def currentNode(self) -> Any:
        return self._scene.GetNodeByID(self._current_id) if self._scene is not None and self._current_id else None

    def setCurrentNode(self, node: Any) -> None:
        self._select(node if isinstance(node, str) else node.GetID() if node is not None else "")

    def nodeCount(self) -> int:
        return len(self._nodes())

    def addAttribute(self, node_type: str, name: str, value: Any = None) -> None:
        self._attributes.append((node_type, name, value))
        self._scene_changed()

    def addNode(self, node_type: str = "") -> Any:
        node_type = node_type or self._node_types[0]
        base_name = self.baseName or self._scene.GetTagByClassName(node_type)
        node = self._scene.AddNewNodeByClass(node_type, self._scene.GenerateUniqueName(base_name))
        if self.selectNodeUponCreation:
            self.setCurrentNode(node)
        emit(self, "nodeAddedByUser(vtkMRMLNode*)", node)
        return node
