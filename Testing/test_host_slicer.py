"""The stand-in's Slicer side: selectors that follow the scene, modules, the Segment Editor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

host = pytest.importorskip("host", reason="needs slicer-core and PySide6 (extra slicer-test)", exc_type=ImportError)
host.start()

import slicer  # noqa: E402

SHAPE_KJI = (3, 4, 5)


@pytest.fixture
def scene():
    yield host.new_scene()
    host.new_scene()


@pytest.fixture
def volume(scene):
    return slicer.util.addVolumeFromArray(np.zeros(SHAPE_KJI, np.uint8), name="case")


@pytest.fixture
def segmentation(volume):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "organs")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.GetSegmentation().AddEmptySegment("liver", "Liver")
    return node


def node_selector(node_type, none_enabled=False):
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = [node_type]
    selector.noneEnabled = none_enabled
    selector.setMRMLScene(slicer.mrmlScene)
    return selector


def test_the_application_says_what_slicer_says():
    app = slicer.app
    assert (app.applicationName, app.majorVersion, app.minorVersion) == ("Slicer", 5, 10)
    assert Path(app.temporaryPath).is_dir()
    assert app.mrmlScene() is slicer.mrmlScene
    assert app.testingEnabled() is True
    assert slicer.util.mainWindow() is None
    assert not hasattr(slicer, "packaging")


def test_a_node_selector_follows_the_scene(scene):
    selector, chosen = node_selector("vtkMRMLScalarVolumeNode"), []
    selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: chosen.append(node and node.GetName()))
    first = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "first")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "not a volume")
    added = selector.addNode()
    assert selector.nodeCount() == 2
    slicer.mrmlScene.RemoveNode(added)
    assert selector.currentNode() is first
    slicer.mrmlScene.Clear(0)
    assert selector.currentNode() is None
    assert chosen == ["first", "Volume", "first", None]


def test_a_node_selector_with_none_waits_for_the_user(scene):
    selector = node_selector("vtkMRMLMarkupsROINode", none_enabled=True)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode")
    assert selector.currentNode() is None
    selector.setCurrentNode(node)
    assert selector.currentNodeID == node.GetID()


def test_hidden_nodes_and_other_attributes_are_not_offered(scene):
    selector = node_selector("vtkMRMLScalarVolumeNode")
    selector.addAttribute("vtkMRMLScalarVolumeNode", "Modality", "CT")
    hidden = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
    hidden.SetAttribute("Modality", "CT")
    hidden.SetHideFromEditors(True)
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode").SetAttribute("Modality", "MR")
    assert selector.currentNode() is None


def test_the_slice_views_convert_between_pixels_and_ras(volume):
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    widget = slicer.app.layoutManager().sliceWidget("Red")
    ras = widget.sliceView().convertXYZToRAS([10.0, 20.0, 0.0])
    assert widget.sliceView().convertRASToXYZ(ras) == pytest.approx([10.0, 20.0, 0.0])
    assert (widget.sliceOrientation, widget.mrmlSliceNode().GetLayoutName()) == ("Axial", "Red")


MODULE = """
import slicer
from slicer.i18n import tr as _
from slicer.ScriptedLoadableModule import *


class Sample(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        parent.title, parent.categories, parent.hidden = _("Sample"), ["Segmentation"], False
        slicer.app.connect("startupCompleted()", self.onStarted)
        self.started = 0

    def onStarted(self):
        self.started += 1


class SampleWidget(ScriptedLoadableModuleWidget):
    calls = []

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.logic = SampleLogic()
        self.calls.append("setup")

    def enter(self):
        self.calls.append("enter")

    def cleanup(self):
        self.calls.append("cleanup")


class SampleLogic(ScriptedLoadableModuleLogic):
    pass
"""


def test_a_module_file_is_loaded_opened_reloaded_and_closed(tmp_path, scene):
    path = tmp_path / "Sample.py"
    path.write_text(MODULE)
    module = host.load_module(path)
    host.complete_startup()
    widget = host.open_module("Sample")
    assert (module.title, module.name, module.self().started) == ("Sample", "Sample", 1)
    assert slicer.modules.SampleWidget is widget
    assert widget.resourcePath("UI/Sample.ui") == str(tmp_path / "Resources/UI/Sample.ui")
    node = widget.logic.getParameterNode()
    assert widget.logic.getParameterNode() is node
    assert widget.calls == ["setup", "enter"]
    slicer.util.reloadScriptedModule("Sample")
    assert widget.calls == ["setup", "enter", "cleanup"]
    reloaded = slicer.modules.SampleWidget
    assert reloaded is not widget
    host.close_module("Sample")
    assert reloaded.calls == ["setup", "cleanup"]
    assert not hasattr(slicer.modules, "sample")


EFFECT = """
import vtk
from SegmentEditorEffects import *


class SampleEffect(AbstractScriptedSegmentEditorEffect):
    def __init__(self, scriptedEffect):
        scriptedEffect.name, scriptedEffect.title, scriptedEffect.perSegment = "Sample", "Sample", True
        AbstractScriptedSegmentEditorEffect.__init__(self, scriptedEffect)
        self.calls = []

    def clone(self):
        import qSlicerSegmentationsEditorEffectsPythonQt as effects

        cloned = effects.qSlicerSegmentEditorScriptedEffect(None)
        cloned.setPythonSource(__file__)
        return cloned

    def setMRMLDefaults(self):
        self.scriptedEffect.setParameterDefault("Margin", 2.5)

    def activate(self):
        self.calls.append("activate")

    def deactivate(self):
        self.calls.append("deactivate")

    def processInteractionEvents(self, callerInteractor, eventId, viewWidget):
        if eventId == vtk.vtkCommand.LeftButtonPressEvent:
            self.calls.append((viewWidget.sliceViewName, callerInteractor.GetEventPosition()))
        return False
"""


@pytest.fixture
def effect(tmp_path, segmentation, volume):
    import qSlicerSegmentationsEditorEffectsPythonQt as effects

    (tmp_path / "SampleEffect.py").write_text(EFFECT)
    registered = effects.qSlicerSegmentEditorScriptedEffect(None)
    registered.setPythonSource(str(tmp_path / "SampleEffect.py"))
    registered.self().register()
    effect = host.activate_effect("Sample", segmentation, volume, "liver")
    effect.self().calls.clear()
    yield effect
    slicer.modules.segmenteditor.widgetRepresentation().editor.setActiveEffect(None)


def test_an_effects_file_hides_a_package_of_its_folders_name(tmp_path, scene, monkeypatch):
    import qSlicerSegmentationsEditorEffectsPythonQt as effects

    folder = tmp_path / "HiddenLib"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "Helper.py").write_text("")
    source = EFFECT.replace('"Sample"', '"Hidden"') + "\n    def helper(self):\n        import HiddenLib.Helper\n"
    (folder / "SampleEffect.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    effect = effects.qSlicerSegmentEditorScriptedEffect(None)
    effect.setPythonSource(str(folder / "SampleEffect.py"))
    with pytest.raises(ModuleNotFoundError, match="'HiddenLib' is not a package"):
        effect.self().helper()


def test_an_effect_gets_its_parameters_and_the_mouse(effect):
    assert effect.doubleParameter("Margin") == 2.5
    interactor = slicer.app.layoutManager().sliceWidget("Green").sliceView().interactor()
    interactor.SetEventInformation(12, 34)
    interactor.LeftButtonPressEvent()
    assert effect.self().calls == [("Green", (12, 34))]
    slicer.modules.SegmentEditorWidget.editor.setActiveEffectByName("")
    interactor.LeftButtonPressEvent()
    assert effect.self().calls[1:] == ["deactivate"]


def test_an_effect_writes_through_slicers_own_masking_and_undo(effect, segmentation, volume):
    labelmap = effect.defaultModifierLabelmap()
    labelmap.GetPointData().GetScalars().Fill(1)
    effect.saveStateForUndo()
    effect.modifySelectedSegmentByLabelmap(labelmap, effect.ModificationModeSet, [0, 4, 0, 3, 1, 1])
    written = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "liver", volume)
    assert written.any(axis=(1, 2)).tolist() == [False, True, False]
    editor = slicer.modules.SegmentEditorWidget.editor
    editor.undo()
    assert slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "liver", volume).sum() == 0
    editor.redo()
    assert (slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "liver", volume) == written).all()


def test_placing_a_markup_deactivates_an_effect_that_does_not_object(effect):
    interaction = slicer.app.applicationLogic().GetInteractionNode()
    interaction.SetCurrentInteractionMode(interaction.Place)
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)
    assert effect.active() is False
