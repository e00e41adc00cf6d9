"""From nodes to segments: checks the input, lets the worker compute, writes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import slicer

from dbsam.progress import Cancelled
from dbsam.worker.client import Job
from dbsam.worker.protocol import CorrectTask, LoadTask, PrefetchTask, Priority, SegmentTask, encode

from ..Mrml.Geometry import nodeName, roiBox, volumeIdentity
from ..Mrml.NodeRequests import requestOf
from ..Mrml.Requests import KeyBoxes, RunRequest, onOneSlice, sliceCount, slicesFrom, withKeyBoxes
from ..Mrml.SceneEvents import observeNodes
from ..Write.SegmentWriter import SegmentMask, SegmentWriter, requireWritable
from .LastResults import LastResults
from .Pace import Pace
from .Predictors import Predictors
from .Reports import RunReport, reportOf
from .Requirements import requirePackages
from .RunErrors import SegmentationError, explainedError
from .WorkerProcess import WorkerProcess

if TYPE_CHECKING:
    from dbsam.inference.segmenter import VolumeSegmentation
    from dbsam.progress import CancelToken, Progress
    from dbsam.worker.protocol import DecidedSlice

logger = logging.getLogger(__name__)

DEFAULT_CACHE_BYTES = 1024 * 2**20


class SegmentationRunner:
    """Runs DB-SAM on nodes of one scene. All methods are for the main thread.

    Args:
        scene: the scene whose nodes are segmented.
        predictors: where networks come from; by default dbsam's weights by name or path.
        cacheBytes: limit of the memory for image embeddings.
    """

    def __init__(
        self,
        scene: slicer.vtkMRMLScene,
        predictors: Predictors | None = None,
        cacheBytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        self.scene = scene
        self.worker = WorkerProcess(Predictors() if predictors is None else predictors, cacheBytes)
        self.writer = SegmentWriter(scene)
        self._jobNodes: dict[Job, list[slicer.vtkMRMLNode]] = {}
        self.lastResults = LastResults()
        self._pace = Pace()
        self._loaded: tuple[str, str] | None = None
        self._observations = [
            scene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, self._onSceneStartClose),
            observeNodes(scene, slicer.vtkMRMLScene.NodeRemovedEvent, self._onNodeRemoved),
        ]

    def close(self) -> None:
        """Cancels everything, ends the worker and lets go of the scene."""
        for tag in self._observations:
            self.scene.RemoveObserver(tag)
        self._observations = []
        self._jobNodes.clear()
        self.lastResults.forget()
        self.writer.forget()
        self.worker.close()

    def start(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        segmentationNode: slicer.vtkMRMLSegmentationNode,
        request: RunRequest,
        *,
        mode: str = "set",
        editorNode: slicer.vtkMRMLSegmentEditorNode | None = None,
        cancel: CancelToken | None = None,
        onFinished: Callable[[Job], None] | None = None,
        onProgress: Callable[[Progress], None] | None = None,
        onSlice: Callable[[DecidedSlice], None] | None = None,
        redoOnly: range | None = None,
    ) -> Job:
        """Starts a run; its segments are written when it has finished, as one step that can be undone.

        `onFinished` gets the job: `job.result` is then the RunReport, or `job.error` says why nothing was changed.
        `onSlice` gets each slice as soon as it is decided.

        Where clicks correct what was last written to the segment, they go on from there.

        Raises:
            ValueError: the segmentation can't be written to; clicks for several structures, or to correct a segment
                that isn't replaced.
        """
        requireWritable(volumeNode, segmentationNode, [prompt.segmentId for prompt in request.prompts])
        former = self._toCorrect(request, self._known(request, segmentationNode))
        if former is not None and mode != "set":
            raise ValueError("Clicks correct a segment only where the result replaces it: set Result so.")

        def finish(job: Job) -> None:
            # The user may have pressed Cancel when the last slice had just been computed.
            job.cancelled = job.cancelled or job.cancel.cancelled
            if job.error is None and not job.cancelled:
                try:
                    job.result = self._write(
                        volumeNode, segmentationNode, request, job.result, mode, editorNode, redoOnly
                    )
                except Exception as error:
                    job.error = explainedError(error)
            if job.error is not None:
                job.result = None
            if onFinished is not None:
                onFinished(job)

        return self.compute(request, finish, onProgress, cancel, (volumeNode, segmentationNode), onSlice, former)

    def segment(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        segmentationNode: slicer.vtkMRMLSegmentationNode,
        request: RunRequest,
        *,
        mode: str = "set",
        editorNode: slicer.vtkMRMLSegmentEditorNode | None = None,
        progress: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
    ) -> RunReport:
        """Runs and waits.

        Raises:
            RuntimeError: Python packages are missing, or the run failed (SegmentationError); nothing was changed.
            Cancelled: it was cancelled; nothing was changed.
        """
        if self.needsPackages:
            requirePackages()
        job = self.start(
            volumeNode,
            segmentationNode,
            request,
            mode=mode,
            editorNode=editorNode,
            cancel=cancel,
            onProgress=progress,
        )
        self.worker.waitFor(job)
        if job.cancelled:
            raise Cancelled("The segmentation was cancelled; nothing was changed.")
        if job.error is not None:
            raise job.error
        return job.result

    def startRedo(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        roiNode: slicer.vtkMRMLMarkupsROINode,
        segmentationNode: slicer.vtkMRMLSegmentationNode,
        segmentId: str,
        index: int,
        keyBoxes: KeyBoxes,
        **options: Any,
    ) -> Job:
        """Computes the slices from `index` outwards again, with corrected boxes, and keeps the others.

        Args:
            volumeNode: the volume that was segmented.
            roiNode: the ROI of the former run.
            segmentationNode: where its result was written.
            segmentId: the segment with the result.
            index: the slice to begin with.
            keyBoxes: slice index -> corrected box; see `withKeyBoxes`.
            options: what `requestOf` and `start` take by name.

        Raises:
            ValueError: there is no former result of this segment to redo.
        """
        former = self.lastResults.of(segmentationNode, segmentId)
        names = ("model", "device", "axis", "strategy", "intensity")
        settings = {name: options.pop(name) for name in names if name in options}
        settings["axis"] = former.axis
        request = requestOf(volumeNode, [roiNode], [segmentId], **settings)
        geometry = request.snapshot.geometry
        box = roiBox(roiNode, volumeNode)
        slices = slicesFrom(index, box, geometry, former.axis)
        prompt = withKeyBoxes(box, geometry, former.axis, keyBoxes, slices)
        request = replace(request, prompts=(replace(request.prompts[0], prompt=prompt),))
        return self.start(volumeNode, segmentationNode, request, redoOnly=slices, **options)

    def preview(
        self,
        request: RunRequest,
        index: int,
        onFinished: Callable[[Job], None],
        cancel: CancelToken | None = None,
        onProgress: Callable[[Progress], None] | None = None,
        segmentationNode: slicer.vtkMRMLSegmentationNode | None = None,
    ) -> Job | None:
        """Computes one slice of the first prompt with its clicks; writes nothing.

        Args:
            request: what a run would compute.
            index: the slice.
            onFinished: gets the job.
            cancel: ends it.
            onProgress: is told of loading and reading.
            segmentationNode: where the run would write to: its clicks correct what was written there.

        Returns:
            The job, whose result is a list with one VolumeSegmentation; None if the box doesn't cut this slice.
        """
        single = onOneSlice(request, index)
        if single is None:
            return None

        def finish(job: Job) -> None:
            self._takeResults(single, job)
            onFinished(job)

        known = None if segmentationNode is None else self._known(request, segmentationNode)
        former = None if known is None else known.on_slice(index, single.prompts[0].prompt)
        former = self._toCorrect(single, former)
        return self.worker.submit(
            Job(_task(single, False, former), cancel, Priority.PREVIEW, single.snapshot, finish, onProgress)
        )

    def correctedOnSlice(
        self, request: RunRequest, index: int, segmentationNode: slicer.vtkMRMLSegmentationNode
    ) -> VolumeSegmentation | None:
        """What was written of a slice, where no click has come to it since; None where a run computes it anew."""
        known, single = self._known(request, segmentationNode), onOneSlice(request, index)
        if known is None or single is None or set(single.points) - set(known.points):
            return None
        return known.on_slice(index, single.prompts[0].prompt)

    def prefetch(self, request: RunRequest) -> Job:
        """Embeds the slices of the first prompt while nothing else is to do; any other work ends it."""
        options = {"axis": request.axis, "intensity": request.intensity}
        snapshot = request.snapshot
        task = PrefetchTask(snapshot.identity, request.prompts[0].prompt, request.model, request.device, options)
        return self.worker.submit(Job(task, priority=Priority.IDLE, volume=snapshot))

    def warmUp(self, model: str, device: str) -> Job:
        """Starts the worker and loads a model while nothing else is to do; a run tells what goes wrong with it."""

        def loaded(job: Job) -> None:
            if job.error is None and not job.cancelled:
                self._loaded = (model, device)

        return self.worker.submit(Job(LoadTask(model, device), priority=Priority.IDLE, on_finished=loaded))

    def compute(
        self,
        request: RunRequest,
        onFinished: Callable[[Job], None],
        onProgress: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
        nodes: Sequence[slicer.vtkMRMLNode] = (),
        onSlice: Callable[[DecidedSlice], None] | None = None,
        former: VolumeSegmentation | None = None,
    ) -> Job:
        """Computes a request and writes nothing; `onFinished` gets the job, whose result is a list of segmentations.

        The job is cancelled when one of `nodes` is removed from the scene. Clicks correct `former` where it is given.
        """

        def finish(job: Job) -> None:
            self._jobNodes.pop(job, None)
            self._takeResults(request, job)
            onFinished(job)

        job = Job(
            _task(request, onSlice is not None, former),
            cancel,
            volume=request.snapshot,
            on_finished=finish,
            on_progress=onProgress,
            on_slice=onSlice,
        )
        self.worker.submit(job)
        self._jobNodes[job] = list(nodes)
        return job

    def requireCurrent(
        self,
        request: RunRequest,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        segmentationNode: slicer.vtkMRMLSegmentationNode,
    ) -> None:
        """Refuses to write a result whose nodes are gone or changed since.

        Raises:
            SegmentationError: the result must be dropped.
        """
        for node, what in ((volumeNode, "volume"), (segmentationNode, "segmentation")):
            if not self.scene.IsNodePresent(node):
                raise SegmentationError(
                    f"The {what} {nodeName(node)} was removed from the scene while it was being segmented; the result"
                    " was dropped."
                )
        if volumeIdentity(volumeNode) != request.snapshot.identity:
            raise SegmentationError(
                f"The volume {nodeName(volumeNode)} was changed while it was being segmented; the result was dropped."
                " Run again."
            )

    def estimateSeconds(self, request: RunRequest) -> float:
        """Expected time of a run: as measured on this computer with this model and device, else a usual pace."""
        seconds = self._pace.secondsPerSlice(request.model, request.device) * sliceCount(request)
        if self._loaded != (request.model, request.device) or self.worker.processId is None:
            seconds += self._pace.secondsToLoad(request.model, request.device)
        return seconds

    def undo(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """Takes back the last run; what was computed for this segmentation can't be redone in part any more."""
        self.writer.undo(segmentationNode)
        self.lastResults.forget(segmentationNode)

    def redo(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """Brings back what `undo` took back."""
        self.writer.redo(segmentationNode)
        self.lastResults.forget(segmentationNode)

    @property
    def needsPackages(self) -> bool:
        """Whether runs need torch and its like, which a rule given in place of the networks doesn't."""
        return self.worker.predictors.needsTorch

    def takesClicks(self, model: str) -> bool:
        """Whether a model was trained with clicks; True where that can't be known yet, and a run will tell."""
        return self.worker.predictors.takesClicks(model)

    def _known(
        self, request: RunRequest, segmentationNode: slicer.vtkMRMLSegmentationNode
    ) -> VolumeSegmentation | None:
        """The newest result of a request, written to its segment, that has no clicks but some of the request's."""
        if len(request.prompts) != 1:
            if request.points:
                raise ValueError(f"Clicks correct one structure, and there are {len(request.prompts)}: check one box.")
            return None
        segmentId = request.prompts[0].segmentId
        return self.lastResults.correctable(segmentationNode, segmentId, _question(request), request.points)

    @staticmethod
    def _toCorrect(request: RunRequest, known: VolumeSegmentation | None) -> VolumeSegmentation | None:
        """The result that clicks go on from; None where none is new, so that the box is segmented anew."""
        return None if known is None or set(request.points) <= set(known.points) else known

    def _takeResults(self, request: RunRequest, job: Job) -> None:
        """Turns what the worker sent into segmentations, or its error into one for users."""
        if job.error is not None:
            job.error = explainedError(job.error)
        elif not job.cancelled:
            if not request.points:  # a correction reports more slices than it computes
                self._pace.measured(request.model, request.device, job.result)
            self._loaded = (request.model, request.device)
            job.result = list(job.result.segmentations)

    def _write(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        segmentationNode: slicer.vtkMRMLSegmentationNode,
        request: RunRequest,
        results: list[VolumeSegmentation],
        mode: str,
        editorNode: slicer.vtkMRMLSegmentEditorNode | None,
        redoOnly: range | None,
    ) -> RunReport:
        self.requireCurrent(request, volumeNode, segmentationNode)
        if editorNode is not None and not self.scene.IsNodePresent(editorNode):
            editorNode = None
        slices = None if redoOnly is None else (results[0].axis, redoOnly[0], redoOnly[-1])
        masks = [
            SegmentMask(prompt.segmentId, result.mask_KJI, result.extent_ijk, prompt.name, prompt.color_rgb, slices)
            for prompt, result in zip(request.prompts, results, strict=True)
        ]
        if redoOnly is not None:
            former = self.lastResults.of(segmentationNode, request.prompts[0].segmentId)
            results = [former.with_slices_of(results[0], redoOnly)]
        written = self.writer.write(volumeNode, segmentationNode, masks, mode, editorNode)
        if segmentationNode.GetDisplayNode() is None:
            segmentationNode.CreateDefaultDisplayNodes()
        for segment, result, prompt in zip(written, results, request.prompts, strict=True):
            question = _question(replace(request, prompts=(prompt,))) if redoOnly is None else None
            self.lastResults.keep(segmentationNode, segment.segmentId, result, question)
        segmentation = segmentationNode.GetSegmentation()
        names = [segmentation.GetSegment(one.segmentId).GetName() for one in written]
        report = reportOf(request, results, written, names)
        for warning in report.warnings:
            logger.warning(warning)
        return report

    def _onSceneStartClose(self, *_: Any) -> None:
        self.worker.cancelAll()
        self.worker.forgetVolumes()
        self.writer.forget()
        self.lastResults.forget()

    def _onNodeRemoved(self, node: slicer.vtkMRMLNode) -> None:
        for job, nodes in list(self._jobNodes.items()):
            if node in nodes:
                job.cancel.cancel()
        if node.IsA("vtkMRMLSegmentationNode"):
            self.writer.forget(node.GetID())
            self.lastResults.forget(node)


def _task(request: RunRequest, withSlices: bool, former: VolumeSegmentation | None = None) -> SegmentTask | CorrectTask:
    if former is not None:
        known = set(former.points)
        return CorrectTask(
            request.snapshot.identity,
            former,
            tuple(point for point in request.points if point not in known),
            request.model,
            request.device,
            request.spread,
            withSlices,
        )
    return SegmentTask(
        request.snapshot.identity,
        tuple(one.prompt for one in request.prompts),
        tuple(one.name for one in request.prompts),
        request.model,
        request.device,
        {"axis": request.axis, "strategy": request.strategy, "intensity": request.intensity},
        withSlices,
        request.points,
        request.spread,
    )


def _question(request: RunRequest) -> bytes:
    """All that a result depends on, clicks and names apart."""
    prompts = tuple(replace(one, name="") for one in request.prompts)
    structure, arrays = encode(_task(replace(request, prompts=prompts, points=(), spread=""), False))
    return b"".join((structure, *arrays))


_shared: SegmentationRunner | None = None
_users = 0


def acquireRunner(cacheBytes: int | None = None) -> SegmentationRunner:
    """The application's runner, created at first use; every call needs its `releaseRunner`.

    The module and all effects share it, so that one worker, one network and one cache are in memory.

    Args:
        cacheBytes: limit of the memory for image embeddings, if this call creates the runner.
    """
    global _shared, _users
    if _shared is None:
        options = {} if cacheBytes is None else {"cacheBytes": cacheBytes}
        _shared = SegmentationRunner(slicer.mrmlScene, **options)
        slicer.app.connect("aboutToQuit()", _closeShared)
    _users += 1
    return _shared


def releaseRunner() -> None:
    """Closes the runner when its last user lets go of it."""
    global _users
    _users = max(0, _users - 1)
    if _users == 0:
        _closeShared()


def _closeShared() -> None:
    global _shared
    if _shared is not None:
        runner, _shared = _shared, None
        slicer.app.disconnect("aboutToQuit()", _closeShared)
        runner.close()
