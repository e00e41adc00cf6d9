"""The stand-in's `slicer.parameterNodeWrapper`: types, storage under Slicer's names, widgets."""

from __future__ import annotations

import enum
import gc
from typing import Annotated, Optional

import numpy as np
import pytest

host = pytest.importorskip("host", reason="needs slicer-core and PySide6 (extra slicer-test)", exc_type=ImportError)
host.start()

import ctk  # noqa: E402
import qt  # noqa: E402
import slicer  # noqa: E402
from slicer.parameterNodeWrapper import (  # noqa: E402
    Choice,
    Default,
    WithinRange,
    parameterNodeWrapper,
    parameterPack,
)


@pytest.fixture
def scene():
    yield host.new_scene()
    host.new_scene()


@pytest.fixture
def volume(scene):
    return slicer.util.addVolumeFromArray(np.zeros((3, 4, 5), np.uint8), name="case")


class Mode(enum.Enum):
    BOX = "box"
    TRACK = "track"


@parameterPack
class Window:
    level: float = 40.0
    width: Annotated[float, WithinRange(1.0, 4000.0)] = 400.0


@parameterNodeWrapper
class Parameters:
    volume: slicer.vtkMRMLScalarVolumeNode
    rois: list[slicer.vtkMRMLMarkupsROINode]
    opacity: Annotated[float, WithinRange(0.0, 1.0), Default(0.5)]
    live: bool = True
    axis: Annotated[str, Choice(["auto", "I", "J", "K"])] = "auto"
    mode: Mode = Mode.TRACK
    window: Window
    keyBoxes: dict[int, tuple[float, float]]
    model: Optional[str] = None  # noqa: UP045  # Slicer 5.10 has no serializer for `str | None`


@pytest.fixture
def parameters(scene):
    return Parameters(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "parameters"))


def test_parameters_have_their_types_and_defaults(parameters):
    assert (parameters.opacity, parameters.live, parameters.axis, parameters.mode) == (0.5, True, "auto", Mode.TRACK)
    assert (parameters.volume, parameters.model, list(parameters.rois)) == (None, None, [])
    assert parameters.window == Window(level=40.0, width=400.0)


def test_parameters_are_kept_in_the_node_under_slicers_names(parameters, volume):
    parameters.volume, parameters.live, parameters.mode = volume, False, Mode.BOX
    parameters.window.width = 350.0
    parameters.keyBoxes[7] = (1.0, 2.5)
    node = parameters.parameterNode
    assert node.GetNodeReferenceID("volume") == volume.GetID()
    names = ("live", "mode", "window.width", "keyBoxes_len", "keyBoxes_0_0", "keyBoxes_0_1_1")
    assert [node.GetParameter(name) for name in names] == ["False", "BOX", "350.0", "1", "7", "2.5"]


def test_parameters_survive_saving_and_loading_the_scene(parameters, volume):
    parameters.volume, parameters.axis = volume, "J"
    parameters.rois.append(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "left"))
    slicer.mrmlScene.SetSaveToXMLString(1)
    slicer.mrmlScene.Commit()
    text = slicer.mrmlScene.GetSceneXMLString()
    slicer.mrmlScene.Clear(0)
    slicer.mrmlScene.SetLoadFromXMLString(1)
    slicer.mrmlScene.SetSceneXMLString(text)
    slicer.mrmlScene.Import()
    loaded = Parameters(slicer.util.getNode("parameters"))
    assert (loaded.axis, loaded.volume.GetName(), loaded.rois[0].GetName()) == ("J", "case", "left")


@pytest.mark.parametrize(
    ("name", "value"), [("opacity", 1.5), ("axis", "L"), ("live", 1), ("window.width", 0.0), ("opacity", "0.5")]
)
def test_a_value_outside_its_type_or_range_is_refused(parameters, name, value):
    with pytest.raises((TypeError, ValueError)):
        parameters.setValue(name, value)


def test_a_type_without_serializer_is_refused():
    with pytest.raises(TypeError, match="Optional"):

        @parameterNodeWrapper
        class Wrong:
            model: str | None = None


def named(widget, name):
    widget.setProperty("SlicerParameterName", name)
    return widget


def test_parameters_and_widgets_follow_each_other(parameters):
    panel = qt.QWidget()
    layout = qt.QVBoxLayout(panel)
    check, slider, axis, mode = qt.QCheckBox(), ctk.ctkSliderWidget(), qt.QComboBox(), qt.QComboBox()
    slider.singleStep = 0.05
    for widget, name in ((check, "live"), (slider, "opacity"), (axis, "axis"), (mode, "mode")):
        layout.addWidget(named(widget, name))
    tag = parameters.connectGui(panel)
    assert (check.checked, slider.value, axis.currentText, mode.currentText) == (True, 0.5, "auto", "TRACK")
    assert (slider.minimum, slider.maximum, axis.count) == (0.0, 1.0, 4)
    check.checked, slider.value, axis.currentText, mode.currentIndex = False, 0.25, "K", 0
    assert (parameters.live, parameters.opacity, parameters.axis, parameters.mode) == (False, 0.25, "K", Mode.BOX)
    parameters.axis = "I"
    assert axis.currentText == "I"
    parameters.disconnectGui(tag)
    check.checked = True
    assert parameters.live is False


def test_a_widget_that_slicer_cannot_connect_is_refused(parameters):
    with pytest.raises(RuntimeError, match="Unable to create GUI connector"):
        parameters.connectParametersToGui({"live": qt.QSpinBox()})


def test_the_collector_leaves_the_observers_of_a_living_node_alone(scene):
    def connect_and_forget():
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode", "parameters")
        Parameters(node).connectParametersToGui({"live": qt.QCheckBox()})

    connect_and_forget()
    gc.collect()
    slicer.util.getNode("parameters").SetParameter("live", "False")
    assert Parameters(slicer.util.getNode("parameters")).live is False
