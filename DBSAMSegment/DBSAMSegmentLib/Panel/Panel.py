"""The module's panel: widgets to parameters and back, and what its buttons start."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from ..Mrml.NodeRequests import requestOf
from ..Mrml.Nodes import newRoi, newSegmentation
from ..Mrml.SliceViews import fitRoiToView
from ..Mrml.Views import sliceWidgets, startPlacingRoi
from ..Run.Predictors import requireWeights
from .Choices import AXES, DEVICES, INTENSITIES, MODELS, MODES, STRATEGIES, fillCombo, showChoice
from .Corrections import Corrections
from .Dialogs import confirmed, errorsShown
from .KeyBoxes import RoiKeyBoxes
from .LivePreview import LivePreview
from .Packages import ensurePackages, missingPackages
from .ResultPanel import ResultPanel
from .RunPanel import RunPanel
from .SegmentChoice import SegmentChoice

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from dbsam.progress import Progress
    from dbsam.worker.client import Job

    from ..Mrml.Requests import RunRequest
    from ..Run.Reports import RunReport, SegmentReport

Finished = Callable[["Job"], None]

# Slices are prepared when nothing was changed for so long.
_IDLE_MILLISECONDS = 1500


class Panel(VTKObservationMixin):
    """Connects the panel's widgets with the module's parameters and logic.

    Args:
        ui: the widgets of Resources/UI/DBSAMSegment.ui.
        logic: a DBSAMSegmentLogic.
    """

    def __init__(self, ui: Any, logic: Any) -> None:
        VTKObservationMixin.__init__(self)
        self.ui = ui
        self.logic = logic
        self._parameters: Any = None
        self._guiTag: Any = None
        self._report: RunReport | None = None
        runner = logic.runner
        self.run = RunPanel(ui, runner, self._startRun, self._onDone, lambda: self._get("segmentation"))
        self.result = ResultPanel(ui, lambda: self._get("volume"), self._redoFrom, self._clearKeyBoxes)
        self.segment = SegmentChoice(ui.segmentSelector, lambda: self._parameters, logic.getParameterNode)
        self.corrections = Corrections(lambda: self._parameters)
        self.live = LivePreview(runner, self._liveRequest, self._onReleased)
        self._combos = {
            "model": (ui.modelCombo, MODELS),
            "device": (ui.deviceCombo, DEVICES),
            "axis": (ui.axisCombo, AXES),
            "strategy": (ui.strategyCombo, STRATEGIES),
            "intensity": (ui.intensityCombo, INTENSITIES),
            "mode": (ui.modeCombo, MODES),
        }
        for name, (combo, choices) in self._combos.items():
            fillCombo(combo, choices, lambda value, name=name: self._set(name, value))
        self._slots = (
            (ui.roiSelector, "checkedNodesChanged()", self.onRoisChecked),
            (ui.segmentSelector, "currentSegmentChanged(QString)", self.onSegmentChosen),
            (ui.placeRoiButton, "clicked()", self.onPlaceRoi),
            (ui.fitRoiButton, "clicked()", self.onFitRoi),
            (ui.weightsButton, "clicked()", self.onWeights),
        )
        for widget, signal, slot in self._slots:
            widget.connect(signal, slot)
        self._idle = qt.QTimer()
        self._idle.setSingleShot(True)
        self._idle.setInterval(_IDLE_MILLISECONDS)
        self._idle.connect("timeout()", self._prefetch)
        self._updating = False

    def close(self) -> None:
        """Ends timers, observers and connections; the logic is closed by its owner."""
        self.setParameterNode(None)
        self._idle.stop()
        self._idle.disconnect("timeout()", self._prefetch)
        for widget, signal, slot in self._slots:
            widget.disconnect(signal, slot)
        self.live.close()
        self.result.close()
        self.run.close()
        self.removeObservers()

    def setParameterNode(self, parameters: Any) -> None:
        """Shows the parameters of a scene and writes to them from now on; None lets go of them."""
        if self._parameters is not None:
            self._parameters.disconnectGui(self._guiTag)
            self.removeObserver(self._parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParameters)
            self.live.watch([])
            self.result.endCorrection()
        self._parameters = parameters
        if parameters is not None:
            self._guiTag = parameters.connectGui(self.ui)
            self.addObserver(parameters.parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParameters)
        self._onParameters()

    def forgetScene(self) -> None:
        """Lets go of everything of a scene that is closed."""
        self.setParameterNode(None)
        self._report = None
        self.result.show(None)
        self.segment.forget()

    def rois(self) -> list[slicer.vtkMRMLMarkupsROINode]:
        """The checked ROIs that still exist."""
        return [node for node in (self._get("rois") or []) if node is not None and node.GetScene() is not None]

    def onRoisChecked(self) -> None:
        """Takes over which ROIs are checked; corrected boxes stay with their ROI, and so does a box's segment."""
        if self._updating or self._parameters is None:
            return
        former, chosen = self.rois(), list(self.ui.roiSelector.checkedNodes())
        with slicer.util.NodeModify(self._parameters.parameterNode):
            self.segment.check(former, chosen)
            self.corrections.check(chosen)

    def onSegmentChosen(self, segmentId: str) -> None:
        """Takes over the segment of a single box."""
        if not self._updating and self._parameters is not None:
            self.segment.choose(segmentId)

    def onPlaceRoi(self) -> None:
        """Creates an ROI that the user draws in a slice view."""
        with errorsShown(_("The box can't be drawn.")):
            roiNode = newRoi(slicer.mrmlScene)
            self._check(roiNode)
            startPlacingRoi(roiNode)

    def onFitRoi(self) -> None:
        """Puts the checked ROI, or a new one, into the middle of the first slice view."""
        with errorsShown(_("The box can't be placed.")):
            widgets = sliceWidgets()
            if not widgets:
                raise RuntimeError(_("There is no slice view: choose a layout with one."))
            roiNode = self.rois()[0] if self.rois() else newRoi(slicer.mrmlScene)
            fitRoiToView(roiNode, widgets[0].mrmlSliceNode())
            self._check(roiNode)

    def onWeights(self) -> None:
        """Opens the weights manager and takes up the model chosen there."""
        with errorsShown(_("The models can't be shown.")):
            if not ensurePackages(self.ui.weightsButton.window()):
                return
            from .WeightsDialog import chooseModel

            chosen = chooseModel(self.ui.weightsButton.window(), self._get("model") or "")
            if chosen:
                self._set("model", chosen)

    def isReady(self) -> tuple[bool, str]:
        """Whether the parameters suffice for a run, and what is missing."""
        volumeNode = self._get("volume")
        if volumeNode is None or volumeNode.GetScene() is None:
            return False, _("Choose a volume.")
        if not self.rois():
            return False, _("Place a box around the structure, or check one.")
        if any(node.GetNumberOfDefinedControlPoints() == 0 or 0 in node.GetSize() for node in self.rois()):
            return False, _("Draw the box in a slice view: click one corner, then the opposite one.")
        return True, ""

    def _startRun(
        self,
        onFinished: Finished,
        onProgress: Callable[[Progress], None],
        confirm: Callable[[float], bool] = lambda seconds: True,
        roiNodes: list[slicer.vtkMRMLMarkupsROINode] | None = None,
    ) -> Job | None:
        parameters, roiNodes = self._parameters, roiNodes or self.rois()
        segmentationNode = parameters.segmentation
        request = self._request(roiNodes)
        if self.logic.runner.needsPackages:
            requireWeights(parameters.model)
        if not self._mayReplace(request) or not confirm(self.logic.runner.estimateSeconds(request)):
            return None
        if segmentationNode is None:
            segmentationNode = newSegmentation(parameters.volume)
            parameters.segmentation = segmentationNode
        self.segment.start(roiNodes)
        return self.logic.runner.start(
            parameters.volume,
            segmentationNode,
            request,
            mode=parameters.mode,
            editorNode=self._editorNode(),
            onFinished=onFinished,
            onProgress=onProgress,
        )

    def _mayReplace(self, request: RunRequest) -> bool:
        """Asks before a run replaces what was edited by hand since the segment's last run."""
        segmentationNode = self._parameters.segmentation
        if segmentationNode is None or self._parameters.mode != "set":
            return True
        ids = [prompt.segmentId for prompt in request.prompts]
        edited = self.logic.runner.writer.editedSegments(segmentationNode, ids)
        if not edited:
            return True
        question = _("Edited since the last run: {names}. This run replaces these edits. Go on?")
        names = ", ".join(segment.GetName() for segment in edited)
        return confirmed(question.format(names=names), self.ui.applyButton.window())

    def _request(self, roiNodes: list[slicer.vtkMRMLMarkupsROINode]) -> RunRequest:
        parameters = self._parameters
        axis = self._axisIndex()
        return requestOf(
            parameters.volume,
            roiNodes,
            self.segment.idsOf(roiNodes, self.rois()),
            parameters.segmentation,
            model=parameters.model,
            device=parameters.device,
            axis=axis,
            strategy=parameters.strategy,
            intensity=parameters.intensity,
            keyBoxes=[self.corrections.of(node).along(axis) for node in roiNodes],
        )

    def _liveRequest(self, roiNode: slicer.vtkMRMLMarkupsROINode) -> tuple[slicer.vtkMRMLScalarVolumeNode, RunRequest]:
        if self._parameters is None or self._parameters.volume is None:
            raise ValueError("no volume is chosen")
        return self._parameters.volume, self._request([roiNode])

    def _onReleased(self, roiNode: slicer.vtkMRMLMarkupsROINode) -> None:
        if self._get("live") and self.isReady()[0] and roiNode in self.rois():
            self.live.clear()
            if self.run.job is not None:
                # The former box's result isn't wanted any more; this one starts when that run has ended.
                self.run.job.cancel.cancel()
                qt.QTimer.singleShot(100, lambda: self._onReleased(roiNode))
                return
            self.run.begin(partial(self._startRun, roiNodes=[roiNode]))

    def _onDone(self, report: RunReport | None) -> None:
        """Shows what was written; None after undo and redo, when the segments are no longer the last run's."""
        self.live.outlines.clear()
        self._report = report
        self.result.show(report if self.segment.isTarget() else None)
        if report is not None:
            self.segment.written([one.segmentId for one in report.segments], self.rois())

    def _redoFrom(self, segment: SegmentReport, index: int, box_xyxy: list[float]) -> None:
        parameters, roiNode = self._parameters, self._roiOf(segment)
        if parameters.mode != "set":
            raise ValueError(_("Slices can be done again only where the result replaces the segment: set Result so."))
        boxes = {**self.corrections.of(roiNode).along(segment.axis), index: box_xyxy}

        def start(onFinished: Finished, onProgress: Callable[[Progress], None], _confirm: Any) -> Job:
            job = self.logic.runner.startRedo(
                parameters.volume,
                roiNode,
                parameters.segmentation,
                segment.segmentId,
                index,
                boxes,
                model=parameters.model,
                device=parameters.device,
                strategy=parameters.strategy,
                intensity=parameters.intensity,
                editorNode=self._editorNode(),
                onFinished=onFinished,
                onProgress=onProgress,
            )
            self.segment.start([roiNode])
            self.corrections.set(roiNode, RoiKeyBoxes(segment.axis, boxes))
            return job

        self.run.begin(start)

    def _clearKeyBoxes(self, segment: SegmentReport) -> None:
        self.corrections.set(self._roiOf(segment), RoiKeyBoxes())

    def _roiOf(self, segment: SegmentReport) -> slicer.vtkMRMLMarkupsROINode:
        rois = self.rois()
        if len(rois) == 1:
            return rois[0]
        written = self.segment.roiOf(segment.segmentId, rois)
        if written is not None:
            return written
        named = [node for node in rois if node.GetName() == segment.name]
        if not named:
            raise ValueError(f"No checked box has the name of the segment {segment.name!r}: check its box again.")
        return named[0]

    def _axisIndex(self) -> int:
        from ..Mrml.Geometry import volumeGeometry

        return volumeGeometry(self._parameters.volume).axis_index(self._parameters.axis)

    def _editorNode(self) -> slicer.vtkMRMLSegmentEditorNode | None:
        if not self._parameters.useMasking:
            return None
        return slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")

    def _check(self, roiNode: slicer.vtkMRMLMarkupsROINode) -> None:
        self.ui.roiSelector.setCheckState(roiNode, qt.Qt.Checked)

    def _get(self, name: str) -> Any:
        return getattr(self._parameters, name) if self._parameters is not None else None

    def _set(self, name: str, value: Any) -> None:
        if self._parameters is not None and not self._updating:
            setattr(self._parameters, name, value)

    def _onParameters(self, *_: Any) -> None:
        """Shows the parameters in the widgets that aren't connected by name."""
        if self._updating:
            return
        self._updating = True
        try:
            if self._parameters is not None:
                for name, (combo, _choices) in self._combos.items():
                    showChoice(combo, getattr(self._parameters, name))
                chosen = self.rois()
                for number in range(self.ui.roiSelector.nodeCount()):
                    node = self.ui.roiSelector.nodeFromIndex(number)
                    self.ui.roiSelector.setCheckState(node, qt.Qt.Checked if node in chosen else qt.Qt.Unchecked)
                self.live.watch(chosen if self._parameters.live and self._canCompute() else [])
            self.segment.show(enabled=len(self.rois()) <= 1)
            wanted = self._report if self._parameters is not None and self.segment.isTarget() else None
            if self._parameters is not None and self.result.report is not wanted:
                self.result.show(wanted)
        finally:
            self._updating = False
        self._watchDrawing()
        self._onReadiness()

    def _watchDrawing(self) -> None:
        """Follows the checked boxes, of which one may still have to be drawn."""
        self.removeObservers(self._onReadiness)
        markups = slicer.vtkMRMLMarkupsNode
        for node in self.rois():
            for event in (
                markups.PointPositionUndefinedEvent,
                markups.PointModifiedEvent,
                vtk.vtkCommand.ModifiedEvent,
            ):
                self.addObserver(node, event, self._onReadiness)

    def _onReadiness(self, *_: Any) -> None:
        """Shows whether Apply is possible, and prepares for it."""
        self.run.setReady(*self.isReady())
        if self._get("prefetch") and self.isReady()[0]:
            self._idle.start()
        else:
            self._idle.stop()

    def _canCompute(self) -> bool:
        """Whether a network can run without asking the user to install anything."""
        return not self.logic.runner.needsPackages or not missingPackages()

    def _prefetch(self) -> None:
        """Embeds the slices of the first box, unless something else runs; whatever is started next ends it."""
        if self._get("prefetch") and self.isReady()[0] and self.run.job is None and self._canCompute():
            try:
                self.logic.runner.prefetch(self._request(self.rois()[:1]))
            except ValueError as error:
                logger.debug("Nothing was prepared: %s", error)
                return
