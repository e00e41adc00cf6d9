"""`slicer.ScriptedLoadableModule`, `slicer.i18n` and `SampleData`, as far as a scripted module uses them."""

from __future__ import annotations

import logging
import os
import sys
import types
import unittest
from dataclasses import make_dataclass
from typing import Any, ClassVar

import slicer

from host import parameter_node
from host.qt_module import qt


class ScriptedLoadableModule:
    """What a module file's first class derives from."""

    def __init__(self, parent: Any) -> None:
        super().__init__()
        self.parent = parent
        self.moduleName = type(self).__name__
        icon = self.resourcePath(f"Icons/{self.moduleName}.png")
        if os.path.isfile(icon):
            parent.icon = qt.QIcon(icon)
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, filename: str) -> str:
        return os.path.join(os.path.dirname(self.parent.path), "Resources", filename)

    def runTest(self, msec: int = 100, **kwargs: Any) -> None:
        test = getattr(sys.modules[type(self).__module__], f"{self.moduleName}Test")()
        test.messageDelay = msec
        test.runTest(**kwargs)


class ScriptedLoadableModuleWidget:
    """The panel: `parent` is the widget that Slicer shows, `layout` its layout."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = slicer.util.settingsValue("Developer/DeveloperMode", False, converter=slicer.util.toBool)
        if parent is None:
            self.parent = slicer.qMRMLWidget()
            self.parent.setLayout(qt.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
        else:
            self.parent = parent
        self.layout = self.parent.layout()
        if parent is None:
            self.setup()
            self.parent.show()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename: str) -> str:
        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", filename)

    def setup(self) -> None:
        """Overridden by the module."""

    def cleanup(self) -> None:
        """Overridden by the module."""

    def onReload(self) -> None:
        slicer.util.reloadScriptedModule(self.moduleName)

    def _onModuleAboutToBeUnloaded(self, moduleName: str) -> None:
        if moduleName == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)


class ScriptedLoadableModuleLogic:
    """Finds or makes the module's parameter node."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self) -> Any:
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node is not None:
                node.SetAttribute("ModuleName", self.moduleName)
                return node
        nodes = self.getAllParameterNodes()
        return nodes[0] if nodes else slicer.mrmlScene.AddNode(self.createParameterNode())

    def getAllParameterNodes(self) -> list[Any]:
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self) -> Any:
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """A module's own tests; `runTest` is what Slicer calls."""

    messageDelay = 0

    def delayDisplay(self, message: str, requestedDelay: int | None = None, msec: int | None = None) -> None:
        logging.getLogger("host").info(message)
        slicer.app.processEvents()

    def runTest(self) -> None:
        logging.getLogger("host").warning("No test is defined in %s", type(self).__name__)


_SOURCE = (
    "sampleName", "sampleDescription", "uris", "fileNames", "nodeNames", "checksums", "loadFiles", "customDownloader",
    "thumbnailFileName", "loadFileType", "loadFileProperties",
)  # fmt: skip
SampleDataSource = make_dataclass("SampleDataSource", [(name, Any, None) for name in _SOURCE])
"""One registered sample."""


class SampleDataLogic:
    """Keeps registered samples in `slicer.modules.sampleDataSources`; it downloads nothing."""

    Source: ClassVar[type] = SampleDataSource

    @staticmethod
    def registerCustomSampleDataSource(category: str = "Custom", **source: Any) -> None:
        sources = slicer.modules.__dict__.setdefault("sampleDataSources", {}).setdefault(category, [])
        registered = SampleDataSource(**source)
        if registered not in sources:  # as in Slicer, where a module that is loaded again adds nothing
            sources.append(registered)


def _module(name: str, exported: dict[str, Any]) -> None:
    module = types.ModuleType(name)
    module.__dict__.update(exported, __all__=list(exported))
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def install() -> None:
    """Put the modules where `from slicer.ScriptedLoadableModule import *` and the like find them."""
    from host import segment_effect

    slicer.selfTests = {}
    bases = {name: value for name, value in globals().items() if name.startswith("ScriptedLoadableModule")}
    _module("slicer.ScriptedLoadableModule", bases)
    _module("slicer.i18n", {"tr": lambda text: text, "translate": lambda context, text: text})
    wrapper = {name: getattr(parameter_node, name) for name in parameter_node.__all__}
    _module("slicer.parameterNodeWrapper", wrapper)
    _module("SampleData", {"SampleDataLogic": SampleDataLogic, "SampleDataSource": SampleDataSource})
    effect = segment_effect.AbstractScriptedSegmentEditorEffect
    label_effect = segment_effect.AbstractScriptedSegmentEditorLabelEffect
    _module("SegmentEditorEffects", {effect.__name__: effect, label_effect.__name__: label_effect})
    adaptor = segment_effect.qSlicerSegmentEditorScriptedEffect
    _module(
        "qSlicerSegmentationsEditorEffectsPythonQt",
        {"qSlicerSegmentEditorScriptedEffect": adaptor, "qSlicerSegmentEditorAbstractEffect": adaptor},
    )
