"""The module's panel: widgets to parameters and back, and what its buttons start."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from ..Mrml.BoxFill import BoxFill
from ..Mrml.NodeRequests import requestOf
from ..Mrml.Nodes import newRoi, newSegmentation, removeIfEmpty
from ..Mrml.Requests import sliceCount
from ..Mrml.SceneEvents import SegmentGuard
from ..Mrml.SliceViews import fitRoiToView, turnWithView
from ..Mrml.Views import sliceWidgets, startPlacing
from ..Run.Predictors import requireWeights
from ..Run.Requirements import missingPackages
from .BoxList import BoxList
from .Choices import AXES, DEVICES, INTENSITIES, MODELS, MODES, STRATEGIES, fillCombo, showChoice
from .Clicks import Clicks
from .Corrections import Corrections
from .Dialogs import confirmed, errorsShown
from .Durations import duration
from .KeyBoxes import RoiKeyBoxes
from .LivePreview import LivePreview
from .NextStep import nextStep, whatIsMissing
from .Packages import NOT_INSTALLED, ensurePackages
from .ResultPanel import ResultPanel
from .RunOutlines import RunOutlines
from .RunPanel import RunPanel
from .SegmentChoice import SegmentChoice
from .SegmentList import SegmentList

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from dbsam.progress import Progress
    from dbsam.worker.client import Job

    from ..Mrml.Requests import RunRequest
    from ..Run.Reports import RunReport, SegmentReport

Finished = Callable[["Job"], None]

# Slices are prepared when nothing was changed for so long, and the time that a run will take is told.
_IDLE_MILLISECONDS = 1500
_ESTIMATE_MILLISECONDS = 300


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
        self.run = RunPanel(
            ui,
            runner,
            self._startRun,
            self._onDone,
            self._onRunChanged,
            lambda: self._get("segmentation"),
        )
        self.result = ResultPanel(ui, lambda: self._get("volume"), self._redoFrom, self._clearKeyBoxes)
        self.segment = SegmentChoice(lambda: self._parameters, logic.getParameterNode)
        self.segmentList = SegmentList(ui.segmentCombo, self.onSegmentChosen)
        self.boxes = BoxList(ui.boxList, self.rois, self.onBoxesChecked)
        self.fill = BoxFill(slicer.mrmlScene)
        self._guard: SegmentGuard | None = None
        self._made: slicer.vtkMRMLSegmentationNode | None = None
        self._watched: slicer.vtkMRMLSegmentationNode | None = None
        self.corrections = Corrections(lambda: self._parameters)
        self.decided = RunOutlines()
        self.live = LivePreview(runner, self._liveRequest, self._onReleased, self._onLive)
        self.clicks = Clicks(
            ui,
            runner,
            lambda: self._parameters,
            self.rois,
            self._request,
            self._canCompute,
            self._onLive,
            self._showNextStep,
        )
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
            (ui.placeRoiButton, "clicked()", self.onPlaceRoi),
            (ui.fitRoiButton, "clicked()", self.onFitRoi),
            (ui.weightsButton, "clicked()", self.onWeights),
        )
        for widget, signal, slot in self._slots:
            widget.connect(signal, slot)
        self._idle = self._newTimer(_IDLE_MILLISECONDS, self._prefetch)
        self._estimate = self._newTimer(_ESTIMATE_MILLISECONDS, self._onReadiness)
        self._updating = False

    def close(self) -> None:
        """Ends timers, observers and connections; the logic is closed by its owner."""
        self.setParameterNode(None)
        for timer, slot in ((self._idle, self._prefetch), (self._estimate, self._onReadiness)):
            timer.stop()
            timer.disconnect("timeout()", slot)
        for widget, signal, slot in self._slots:
            widget.disconnect(signal, slot)
        if self._guard is not None:
            self._guard.close()
        self.fill.close()
        self.decided.clear()
        self.live.close()
        self.clicks.close()
        self.boxes.close()
        self.segmentList.close()
        self.result.close()
        self.run.close()
        self.removeObservers()

    def shows(self, parameters: Any) -> bool:
        """Whether the panel shows the parameters of this scene now."""
        return self._parameters is not None and self._parameters.parameterNode is parameters.parameterNode

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
        self.decided.clear()
        self.setParameterNode(None)
        self._report = self._made = None
        self.result.show(None)
        self.segment.forget()
        self.clicks.forget()
        self.run.say("")

    def rois(self) -> list[slicer.vtkMRMLMarkupsROINode]:
        """The checked ROIs that still exist."""
        return [node for node in (self._get("rois") or []) if node is not None and node.GetScene() is not None]

    def onBoxesChecked(self, chosen: list[slicer.vtkMRMLMarkupsROINode]) -> None:
        """Takes over which boxes are checked; corrected boxes stay with their ROI, and so does a box's segment."""
        if self._parameters is None:
            return
        with slicer.util.NodeModify(self._parameters.parameterNode):
            self.segment.check(self.rois(), chosen)
            self.corrections.check(chosen)

    def onSegmentChosen(self, segmentId: str) -> None:
        """Takes over the segment of a single box."""
        if not self._updating and self._parameters is not None:
            self.segment.choose(segmentId)

    def onPlaceRoi(self) -> None:
        """Creates an ROI that the user draws in a slice view."""
        with errorsShown(_("The box can't be drawn.")):
            roiNode = newRoi(slicer.mrmlScene)
            turnWithView(roiNode, [widget.mrmlSliceNode() for widget in sliceWidgets()])
            self._check(roiNode)
            startPlacing(roiNode)
            self._warmUp()

    def onFitRoi(self) -> None:
        """Puts the checked ROI, or a new one, into the middle of the first slice view."""
        with errorsShown(_("The box can't be placed.")):
            widgets = sliceWidgets()
            if not widgets:
                raise RuntimeError(_("There is no slice view: choose a layout with one."))
            roiNode = self.rois()[0] if self.rois() else newRoi(slicer.mrmlScene)
            fitRoiToView(roiNode, widgets[0].mrmlSliceNode())
            self._check(roiNode)
            self._warmUp()

    def onWeights(self) -> None:
        """Opens the weights manager and takes up the model chosen there."""
        with errorsShown(_("The models can't be shown.")):
            if not ensurePackages(self.ui.weightsButton.window()):
                self.run.say(NOT_INSTALLED)
                return
            from .WeightsDialog import chooseModel

            chosen = chooseModel(self.ui.weightsButton.window(), self._get("model") or "")
            if chosen:
                self._set("model", chosen)

    def isReady(self) -> tuple[bool, str]:
        """Whether the parameters suffice for a run, and what is missing."""
        missing = whatIsMissing(*self._state())
        return not missing, missing

    def _state(self) -> tuple[bool, bool, bool]:
        """Whether there is a volume, a checked box, and whether all of these are drawn."""
        volumeNode, rois = self._get("volume"), self.rois()
        hasVolume = volumeNode is not None and volumeNode.GetScene() is not None
        drawn = all(node.GetNumberOfDefinedControlPoints() > 0 and 0 not in node.GetSize() for node in rois)
        return hasVolume, bool(rois), drawn

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
            segmentationNode = self._made = newSegmentation(parameters.volume)
            parameters.segmentation = segmentationNode
        try:
            self.segment.start(roiNodes)
            self.decided.begin(parameters.volume)
            self.clicks.begin()
            job = self.logic.runner.start(
                parameters.volume,
                segmentationNode,
                request,
                mode=parameters.mode,
                editorNode=self._editorNode(),
                onFinished=onFinished,
                onProgress=onProgress,
                onSlice=self.decided.take,
            )
        except Exception:
            self._removeMade()
            raise
        self._guardSegments(segmentationNode, [prompt.segmentId for prompt in request.prompts])
        return job

    def _guardSegments(self, segmentationNode: slicer.vtkMRMLSegmentationNode, segmentIds: list[str]) -> None:
        """Stops the run when a segment that it is for is deleted."""
        gone = _("The segment {name} was deleted, so the run was stopped; nothing was changed.")
        self._guard = SegmentGuard(
            segmentationNode, segmentIds, lambda name: self.run.cancelBecause(gone.format(name=name))
        )

    def _onRunChanged(self) -> None:
        """A run has begun or ended."""
        if self.run.job is None:
            self.decided.clear()
            if self._guard is not None:
                self._guard.close()
                self._guard = None
            self._removeMade()
        self._showNextStep()

    def _removeMade(self) -> None:
        """A segmentation that was made for a run leaves with it where nothing was written."""
        if self._made is not None:
            removeIfEmpty(self._made)
            self._made = None

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
        include, exclude = self.clicks.lists()
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
            include=include,
            exclude=exclude,
            spread=parameters.spread,
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
        self.clicks.end()
        self._report = report
        self.result.show(report if self.segment.isTarget() else None)
        if report is not None:
            self.segment.written([one.segmentId for one in report.segments], self.rois())
        self._updateFill()
        self._showNextStep()

    def _onLive(self, message: str) -> None:
        """Says what live mode and clicks outline, or why nothing."""
        if self.run.job is None:
            self.run.say(message)

    def _updateFill(self) -> None:
        """Boxes aren't filled while a result or live mode's outline is looked at."""
        inView = self._parameters is not None and (self.result.report is not None or self._parameters.live)
        self.fill.hideFor(self.rois() if inView else [])

    def _showNextStep(self) -> None:
        isRunning, hasResult = self.run.job is not None, self.result.report is not None
        self.ui.nextStepLabel.text = nextStep(*self._state(), isRunning, hasResult, self.clicks.areNew)

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
            self._guardSegments(parameters.segmentation, [segment.segmentId])
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
        if roiNode not in self.rois():
            self.onBoxesChecked([*self.rois(), roiNode])

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
            self.segment.follow()
            self.clicks.follow()
            if self._parameters is not None:
                for name, (combo, _choices) in self._combos.items():
                    showChoice(combo, getattr(self._parameters, name))
                self.live.watch(self.rois() if self._parameters.live and self._canCompute() else [])
            self.boxes.show()
            self._watchSegments(self._get("segmentation"))
            self._showSegments()
        finally:
            self._updating = False
        self._watchDrawing()
        self._updateFill()
        self._onReadiness()

    def _watchSegments(self, segmentationNode: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Follows the segments of the chosen segmentation."""
        if segmentationNode is self._watched:
            return
        self.removeObservers(self._showSegments)
        self._watched = segmentationNode
        events = (
            slicer.vtkSegmentation.SegmentAdded,
            slicer.vtkSegmentation.SegmentRemoved,
            slicer.vtkSegmentation.SegmentModified,
        )
        for event in events if segmentationNode is not None else ():
            self.addObserver(segmentationNode, event, self._showSegments)

    def _showSegments(self, *_: Any) -> None:
        """Offers the segments that there are, and shows the result of those."""
        if self._parameters is None:
            return
        segmentationNode = self._parameters.segmentation
        self.segmentList.show(segmentationNode, self.segment.segmentId(), enabled=len(self.rois()) <= 1)
        wanted = self._report if self.segment.isTarget() else None
        if wanted is not None:
            segmentation = segmentationNode.GetSegmentation()
            kept = [one for one in wanted.segments if segmentation.GetSegment(one.segmentId) is not None]
            if len(kept) < len(wanted.segments):
                wanted = self._report = replace(wanted, segments=kept) if kept else None
        if self.result.report is not wanted:
            self.result.show(wanted)
            self._updateFill()
            self._showNextStep()

    def _watchDrawing(self) -> None:
        """Follows the checked boxes, of which one may still have to be drawn."""
        self.removeObservers(self._onBoxChanged)
        markups = slicer.vtkMRMLMarkupsNode
        for node in self.rois():
            for event in (
                markups.PointPositionUndefinedEvent,
                markups.PointModifiedEvent,
                vtk.vtkCommand.ModifiedEvent,
            ):
                self.addObserver(node, event, self._onBoxChanged)

    def _onBoxChanged(self, *_: Any) -> None:
        """Shows whether Apply is possible; how long it takes is told when the box is at rest."""
        self.run.setReady(self.isReady()[1])
        self._showNextStep()
        self._estimate.start()
        if self._get("prefetch") and self.isReady()[0]:
            self._idle.start()
        else:
            self._idle.stop()

    def _onReadiness(self) -> None:
        """Shows whether Apply is possible, how long it will take, and prepares for it."""
        self._onBoxChanged()
        self._estimate.stop()
        self.run.setReady(self.isReady()[1], self._outlook())

    def _outlook(self) -> str:
        """What is to be expected of a run; "" where that isn't known."""
        if not self.isReady()[0]:
            return ""
        if not self._canCompute():
            if self._get("live"):
                return _(
                    "Live outlines need packages that aren't installed: press Apply, which offers to install them."
                )
            return _("At the first run you are asked to install what is missing.")
        try:
            request = self._request(self.rois())
            return (
                _("Apply will take about {time}.").format(time=duration(self.logic.runner.estimateSeconds(request)))
                if sliceCount(request)
                else _("The box lies outside the volume.")
            )
        except ValueError as error:
            return str(error)

    def _canCompute(self) -> bool:
        """Whether a network can run without asking the user to install anything."""
        return not self.logic.runner.needsPackages or not missingPackages()

    def _warmUp(self) -> None:
        """Loads the model while a box is drawn, so that Apply finds it."""
        if self._canCompute() and not self.logic.runner.worker.busy:
            try:
                self.logic.runner.warmUp(self._get("model"), self._get("device"))
            except RuntimeError as error:
                logger.debug("The model wasn't loaded ahead, and Apply will say why: %s", error)

    def _prefetch(self) -> None:
        """Embeds the slices of the first box, unless something else runs; whatever is started next ends it."""
        if self._get("prefetch") and self.isReady()[0] and self.run.job is None and self._canCompute():
            try:
                self.logic.runner.prefetch(self._request(self.rois()[:1]))
            except ValueError as error:
                logger.debug("Nothing was prepared: %s", error)
                return

    @staticmethod
    def _newTimer(milliseconds: int, slot: Callable[[], None]) -> qt.QTimer:
        timer = qt.QTimer()
        timer.setSingleShot(True)
        timer.setInterval(milliseconds)
        timer.connect("timeout()", slot)
        return timer
