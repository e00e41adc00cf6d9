"""The stand-in's `slicer.parameterNodeWrapper`: types, storage under Slicer's names, widgets."""

from __future__ import annotations

import gc

import numpy as np
import pytest

host = pytest.importorskip("host", reason="needs slicer-core and PySide6 (extra slicer-test)", exc_type=ImportError)
host.start()

import qt  # noqa: E402
import slicer  # noqa: E402
from host.pythonqt import NotInStandIn  # noqa: E402
from slicer.parameterNodeWrapper import parameterNodeWrapper  # noqa: E402


@pytest.fixture
def scene():
    yield host.new_scene()
    host.new_scene()


@parameterNodeWrapper
class Parameters:
    volume: slicer.vtkMRMLScalarVolumeNode
    rois: list[slicer.vtkMRMLMarkupsROINode]
    live: bool = True
    axis: str = "auto"
    opacity: float = 0.5


@pytest.fixture
def parameters(scene):
    return Parameters(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "parameters"))


def test_values_are_kept_in_the_node_under_slicers_names(parameters):
    volume = slicer.util.addVolumeFromArray(np.zeros((3, 4, 5), np.uint8), name="case")
    rois = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name) for name in ("a", "b")]
    assert (parameters.volume, list(parameters.rois), parameters.live) == (None, [], True)
    parameters.volume, parameters.rois, parameters.live, parameters.axis = volume, rois, False, "I"
    node = parameters.parameterNode
    assert (node.GetParameter("rois_len"), node.GetParameter("live"), node.GetParameter("axis")) == ("2", "False", "I")
    assert node.GetNodeReference("volume") is volume
    assert node.GetNodeReference("rois_1") is rois[1]
    again = Parameters(node)
    assert (again.volume, again.rois, again.live, again.opacity) == (volume, rois, False, 0.5)
    again.rois.append(rois[0])
    assert parameters.rois == [*rois, rois[0]]


@pytest.mark.parametrize(("name", "value"), [("live", 1), ("opacity", "0.5"), ("axis", 3), ("volume", "case")])
def test_a_value_outside_its_type_is_refused(parameters, name, value):
    with pytest.raises(TypeError):
        setattr(parameters, name, value)


def test_a_type_that_the_stand_in_lacks_is_refused():
    with pytest.raises(NotInStandIn):

        @parameterNodeWrapper
        class Wrong:
            model: dict[str, int]


def test_parameters_and_widgets_follow_each_other(parameters):
    panel = qt.QWidget()
    layout = qt.QVBoxLayout(panel)
    check, selector = qt.QCheckBox(), slicer.qMRMLNodeComboBox()
    selector.noneEnabled = True
    selector.setMRMLScene(slicer.mrmlScene)
    for widget, name in ((check, "live"), (selector, "volume")):
        widget.setProperty("SlicerParameterName", name)
        layout.addWidget(widget)
    tag = parameters.connectGui(panel)
    assert (check.checked, selector.currentNode()) == (True, None)
    volume = slicer.util.addVolumeFromArray(np.zeros((3, 4, 5), np.uint8), name="case")
    check.checked = False
    selector.setCurrentNode(volume)
    assert (parameters.live, parameters.volume) == (False, volume)
    parameters.live, parameters.volume = True, None
    assert (check.checked, selector.currentNode()) == (True, None)
    parameters.disconnectGui(tag)
    check.checked = False
    assert parameters.live is True


@pytest.mark.parametrize(("widget", "name"), [("QCheckBox", "axis"), ("QSpinBox", "live")])
def test_a_widget_that_cannot_be_connected_is_refused(parameters, widget, name):
    panel = qt.QWidget()
    child = getattr(qt, widget)(panel)
    child.setProperty("SlicerParameterName", name)
    with pytest.raises((RuntimeError, TypeError, NotInStandIn)):
        parameters.connectGui(panel)


def test_the_collector_leaves_the_observers_of_a_living_node_alone(scene):
    def connect_and_forget():
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "parameters")
        panel = qt.QWidget()
        qt.QCheckBox(panel).setProperty("SlicerParameterName", "live")
        Parameters(node).connectGui(panel)

    connect_and_forget()
    gc.collect()
    slicer.util.getNode("parameters").SetParameter("live", "False")
    assert Parameters(slicer.util.getNode("parameters")).live is False
