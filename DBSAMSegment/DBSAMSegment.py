"""Box-prompted segmentation with DB-SAM: module, parameters, panel, console API and self-test.

Everything that computes lies in DBSAMSegmentLib and dbsam, which are imported when they are first needed.
"""

import unittest
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import qt
import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

if TYPE_CHECKING:
    from DBSAMSegmentLib.Mrml.Requests import KeyBoxes
    from DBSAMSegmentLib.Run.Batches import BatchCase
    from DBSAMSegmentLib.Run.Predictors import Predictors
    from DBSAMSegmentLib.Run.Reports import RunReport
    from DBSAMSegmentLib.Run.Runner import SegmentationRunner

    from dbsam.progress import CancelToken, Progress


class DBSAMSegment(ScriptedLoadableModule):
    """What the module menu and the help section show."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("DB-SAM")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "Markups"]
        self.parent.contributors = ["DB-SAM for 3D Slicer contributors"]
        self.parent.helpText = _(
            "Draw a box around a structure and get its segment, in 2D or through a whole volume, in any orientation."
            " The compact model runs on a laptop's processor. For research only, not for clinical use."
        )
        self.parent.acknowledgementText = _(
            "An implementation of DB-SAM (Qin et al., MICCAI 2024, arXiv 2410.04172) on Segment Anything (Kirillov et"
            " al., 2023). Please cite both."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offers the synthetic tutorial cases in the Sample Data module."""
    from DBSAMSegmentLib.SampleCases import registerAll

    registerAll()


@parameterNodeWrapper
class DBSAMSegmentParameterNode:
    """What the panel is set to; saved with the scene."""

    volume: slicer.vtkMRMLScalarVolumeNode
    rois: list[slicer.vtkMRMLMarkupsROINode]
    segmentation: slicer.vtkMRMLSegmentationNode
    keyBoxesVolume: slicer.vtkMRMLScalarVolumeNode
    includePoints: slicer.vtkMRMLMarkupsFiducialNode
    excludePoints: slicer.vtkMRMLMarkupsFiducialNode
    segmentId: str = ""
    model: str = "compact"
    device: str = "auto"
    axis: str = "auto"
    strategy: str = "track"
    spread: str = "both"
    intensity: str = "auto"
    mode: str = "set"
    useMasking: bool = True
    live: bool = False
    prefetch: bool = False
    keyBoxes: str = ""


class DBSAMSegmentWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Connects the panel's widgets to the parameter node; what they do lies in DBSAMSegmentLib."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None

    def setup(self):
        """Builds the panel; called when the module is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/DBSAMSegment.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = DBSAMSegmentLogic()
        from DBSAMSegmentLib.Panel.Panel import Panel

        self.panel = Panel(self.ui, self.logic)
        scene = slicer.vtkMRMLScene
        for event, slot in (
            (scene.StartCloseEvent, self.onSceneStartClose),
            (scene.EndCloseEvent, self.onSceneEndClose),
            (scene.StartBatchProcessEvent, self.onBatchStarts),
            (scene.EndBatchProcessEvent, self.onSceneGrown),
            (scene.NodeAddedEvent, self.onSceneGrown),
        ):
            self.addObserver(slicer.mrmlScene, event, slot)
        self._grown = qt.QTimer()
        self._grown.setSingleShot(True)
        self._grown.setInterval(0)
        self._grown.connect("timeout()", self.onSceneSettled)
        self.initializeParameterNode()

    def cleanup(self):
        """Stops what runs and disconnects; called when the module is unloaded or reloaded."""
        self.removeObservers()
        self._grown.stop()
        if self.panel is not None:
            self.panel.close()
            self.panel = None
        if self.logic is not None:
            self.logic.close()

    def enter(self):
        """The module was opened."""
        self.initializeParameterNode()

    def exit(self):
        """Another module was opened; runs go on."""
        if self.panel is not None:
            self.panel.setParameterNode(None)

    def onSceneStartClose(self, caller, event):
        """Lets go of the nodes that are about to be deleted."""
        self.panel.forgetScene()

    def onSceneEndClose(self, caller, event):
        """Starts anew in the empty scene."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onBatchStarts(self, caller, event):
        """Lets go of the parameters while a scene loads: selectors that can't find their nodes yet would empty them."""
        self.panel.setParameterNode(None)

    def onSceneGrown(self, caller, event):
        """Nodes have come; selectors and views learn of it in the same round of the event loop."""
        if not slicer.mrmlScene.IsBatchProcessing():
            self._grown.start()

    def onSceneSettled(self):
        """Takes up what a loaded scene says, and a volume that was loaded where none is chosen."""
        if self.parent.isEntered and not slicer.mrmlScene.IsBatchProcessing():
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Takes up the parameters of the scene; a volume that is shown is selected in a new one."""
        parameterNode = self.logic.getParameterNode()
        if not parameterNode.volume:
            from DBSAMSegmentLib.Mrml.Views import shownVolume

            parameterNode.volume = shownVolume(slicer.mrmlScene)
        if not self.panel.shows(parameterNode):
            self.panel.setParameterNode(parameterNode)

    def onReload(self):
        """Drops the packages of this extension, as Slicer itself re-executes the module file only."""
        import sys

        self.cleanup()
        for name in list(sys.modules):
            if name.split(".")[0] in ("dbsam", "DBSAMSegmentLib", "SegmentEditorDBSAMLib"):
                del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class DBSAMSegmentLogic(ScriptedLoadableModuleLogic):
    """Segments volumes from the console, from scripts and for the panel.

    Args:
        predictors: where the worker process gets networks from, for tests and own models, as a
            DBSAMSegmentLib.Run.Predictors.Predictors. By default dbsam's weights.
        cacheBytes: limit of the memory for image embeddings; 1 GiB by default.
    """

    def __init__(self, predictors: "Predictors | None" = None, cacheBytes: int | None = None) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self._predictors = predictors
        self._cacheBytes = cacheBytes
        self._runner: SegmentationRunner | None = None

    def getParameterNode(self) -> DBSAMSegmentParameterNode:
        """The module's parameters in the scene."""
        return DBSAMSegmentParameterNode(super().getParameterNode())

    @property
    def runner(self) -> "SegmentationRunner":
        """What does the work; created at first use."""
        if self._runner is None:
            from DBSAMSegmentLib.Run.Runner import DEFAULT_CACHE_BYTES, SegmentationRunner, acquireRunner

            if self._predictors is None:
                self._runner = acquireRunner(self._cacheBytes)
            else:
                cacheBytes = DEFAULT_CACHE_BYTES if self._cacheBytes is None else self._cacheBytes
                self._runner = SegmentationRunner(slicer.mrmlScene, self._predictors, cacheBytes)
                slicer.app.connect("aboutToQuit()", self._runner.close)
        return self._runner

    def close(self) -> None:
        """Ends the worker process, and cancels what runs; the logic starts anew when it is used again."""
        if self._runner is None:
            return
        runner, self._runner = self._runner, None
        if self._predictors is None:
            from DBSAMSegmentLib.Run.Runner import releaseRunner

            releaseRunner()
        else:
            slicer.app.disconnect("aboutToQuit()", runner.close)
            runner.close()

    def segment(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        roiNodes: "slicer.vtkMRMLMarkupsROINode | Sequence[slicer.vtkMRMLMarkupsROINode]",
        segmentationNode: slicer.vtkMRMLSegmentationNode,
        segmentIds: "Sequence[str | None] | None" = None,
        model: str = "compact",
        axis: "str | int" = "auto",
        strategy: str = "track",
        progress: "Callable[[Progress], None] | None" = None,
        cancel: "CancelToken | None" = None,
        *,
        device: str = "auto",
        intensity: Any = "auto",
        mode: str = "set",
        editorNode: slicer.vtkMRMLSegmentEditorNode | None = None,
        keyBoxes: "Sequence[KeyBoxes | None] | None" = None,
        include: slicer.vtkMRMLMarkupsFiducialNode | None = None,
        exclude: slicer.vtkMRMLMarkupsFiducialNode | None = None,
        spread: str = "both",
    ) -> "RunReport":
        """Segments the structure in each ROI and waits for the result; one step in the undo stack.

        Args:
            volumeNode: grey or colour volume, also of one slice, under any linear transforms.
            roiNodes: one ROI or several, rotated and transformed as you like; one segment each.
            segmentationNode: where the segments go; without a geometry it gets the volume's.
            segmentIds: one per ROI; None (the list or an entry) is the segment of the ROI's name, created if missing.
            model: "compact", "dbsam", "sam", "medsam", or the path of a weights file.
            axis: "auto", "axial", "coronal", "sagittal", "I", "J", "K", 0, 1 or 2.
            strategy: "track" follows the structure from the middle, "box" uses the box on every slice.
            progress: called on this thread with dbsam.progress.Progress.
            cancel: a dbsam.progress.CancelToken; cancelled, it ends the run before the next slice.
            device: "auto", "cpu", "cuda", "cuda:N" or "mps".
            intensity: "auto", "displayed", "ct-soft-tissue" and the like, "percentile", or (level, width).
            mode: "set" replaces the segment, "add" and "remove" change it.
            editorNode: whose masking, intensity range and overwrite mode are respected; None edits everywhere and
                leaves other segments alone.
            keyBoxes: one mapping per ROI from slice index to a corrected box x_min, y_min, x_max, y_max in voxels.
            include: points on what belongs to the structure of the one ROI, each for the slice nearest to it.
            exclude: points on what doesn't.
            spread: how far they reach: "both" sides, "ascending" or "descending" slices, or the "slice" alone.

        Returns:
            The report: per segment its ID, slices with predicted IoU, intensity range, warnings.

        Raises:
            ValueError: a node that can't be used; nothing was changed.
            DBSAMSegmentLib.Run.Runner.SegmentationError: the run failed; nothing was changed.
            dbsam.progress.Cancelled: it was cancelled; nothing was changed.
        """
        from DBSAMSegmentLib.Mrml.NodeRequests import requestOf, requireNode

        requireNode(segmentationNode, "vtkMRMLSegmentationNode", "segmentationNode")
        request = requestOf(
            volumeNode,
            _asList(roiNodes),
            segmentIds,
            segmentationNode,
            model=model,
            device=device,
            axis=axis,
            strategy=strategy,
            intensity=intensity,
            keyBoxes=keyBoxes,
            include=include,
            exclude=exclude,
            spread=spread,
        )
        return self.runner.segment(
            volumeNode, segmentationNode, request, mode=mode, editorNode=editorNode, progress=progress, cancel=cancel
        )

    def segmentBatch(
        self,
        cases: "Sequence[BatchCase]",
        progress: "Callable[[Progress], None] | None" = None,
        cancel: "CancelToken | None" = None,
        **options: Any,
    ) -> "list[RunReport]":
        """Segments many volumes, nodes or files; a case that fails is reported and the others go on.

        Args:
            cases: DBSAMSegmentLib.Run.Batches.BatchCase(volume, rois, segmentation=None, output=None).
            progress: called with the steps of each case.
            cancel: ends the batch before the next slice; finished cases stay.
            options: what `segment` takes by name.
        """
        from DBSAMSegmentLib.Run.Batches import runBatch

        return runBatch(self.runner, cases, progress, cancel, **options)

    def segmentSequence(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        roiNodes: "slicer.vtkMRMLMarkupsROINode | Sequence[slicer.vtkMRMLMarkupsROINode]",
        browserNode: slicer.vtkMRMLSequenceBrowserNode,
        frames: "Sequence[int] | None" = None,
        progress: "Callable[[Progress], None] | None" = None,
        cancel: "CancelToken | None" = None,
        **options: Any,
    ) -> "tuple[list[RunReport], slicer.vtkMRMLSequenceNode]":
        """Segments all or the chosen frames of a 4D volume into a sequence that is browsed with it.

        To segment the frame in view only, call `segment` with the volume that the browser shows.

        Args:
            volumeNode: the volume that the browser shows.
            roiNodes: the prompts, the same for all frames.
            browserNode: the sequence's browser.
            frames: numbers of the frames, from 0; all by default.
            progress: called with the steps of each frame.
            cancel: ends the run; nothing is added to the scene then.
            options: what `segment` takes by name.
        """
        from DBSAMSegmentLib.Run.Batches import runSequence

        return runSequence(self.runner, volumeNode, _asList(roiNodes), browserNode, frames, progress, cancel, **options)


class DBSAMSegmentTest(ScriptedLoadableModuleTest):
    """Runs in Slicer's self-test and under pytest; what needs a network's packages is skipped without them."""

    def setUp(self):
        """Starts from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Runs every test; one that can't run here is skipped."""
        for name in sorted(vars(type(self))):
            if name.startswith("test_"):
                self.setUp()
                try:
                    getattr(self, name)()
                except unittest.SkipTest as skipped:
                    self.delayDisplay(f"{name} skipped: {skipped}")

    def test_ParametersAreSavedInTheScene(self):
        """Values come back from the node that the scene holds."""
        logic = DBSAMSegmentLogic()
        parameters = logic.getParameterNode()
        parameters.model, parameters.axis, parameters.keyBoxes = "medsam", "sagittal", "[]"
        again = DBSAMSegmentLogic().getParameterNode()
        assert (again.model, again.axis, again.keyBoxes) == ("medsam", "sagittal", "[]")

    def test_ABrightBlockIsSegmentedByARule(self):
        """The whole way from nodes to a segment and back by undo, with a threshold in place of a network."""
        from DBSAMSegmentLib.SelfTest import checkThresholdRun

        checkThresholdRun(DBSAMSegmentLogic)

    def test_ClicksCorrectABrightBlock(self):
        """Points that exclude: through the volume, undone, redone, moved, deleted, saved and loaded."""
        import tempfile
        from pathlib import Path

        from DBSAMSegmentLib.SelfTest import checkClicks

        with tempfile.TemporaryDirectory() as folder:
            checkClicks(DBSAMSegmentLogic, Path(folder))

    def test_TheCompactModelSegmentsABrightBlock(self):
        """The shipped network, if it and its packages are there."""
        from DBSAMSegmentLib.SelfTest import checkCompactRun

        checkCompactRun(DBSAMSegmentLogic)


def _asList(nodes):
    return list(nodes) if isinstance(nodes, (list, tuple)) else [nodes]
