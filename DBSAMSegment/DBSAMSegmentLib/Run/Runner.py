"""From nodes to segments: checks the input, computes on the inference thread, writes on the main thread."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import slicer

from ..Mrml.Geometry import nodeName, roiBox, volumeIdentity
from ..Mrml.NodeRequests import requestOf
from ..Mrml.Requests import KeyBoxes, RunRequest, onOneSlice, sliceCount, slicesFrom, withKeyBoxes
from ..Mrml.SceneEvents import observeNodes
from ..Write.SegmentWriter import SegmentMask, SegmentWriter, requireWritable
from .InferenceThread import InferenceThread, Job, Priority
from .LastResults import LastResults
from .Pace import Pace
from .Predictors import PredictorSource
from .RunErrors import SegmentationError, explainedError
from .Runs import Engine, Predictors, RunReport, mergedResult, reportOf
from .Tokens import newCancelToken

if TYPE_CHECKING:
    from dbsam.progress import CancelToken, Progress

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
        self.thread = InferenceThread()
        self.writer = SegmentWriter(scene)
        self.predictors: Predictors = predictors if predictors is not None else PredictorSource()
        self._cacheBytes = cacheBytes
        self._cache: Any = None
        self._engine: Engine | None = None
        self._jobNodes: dict[Job, list[slicer.vtkMRMLNode]] = {}
        self.lastResults = LastResults()
        self._pace = Pace()
        self._observations = [
            scene.AddObserver(slicer.vtkMRMLScene.StartCloseEvent, self._onSceneStartClose),
            observeNodes(scene, slicer.vtkMRMLScene.NodeRemovedEvent, self._onNodeRemoved),
        ]

    def close(self) -> bool:
        """Cancels everything, ends the thread and lets go of the scene.

        Returns:
            Whether the thread has ended in time.
        """
        for tag in self._observations:
            self.scene.RemoveObserver(tag)
        self._observations = []
        self._jobNodes.clear()
        self.lastResults.forget()
        self.writer.forget()
        ended = self.thread.stop()
        if ended:
            if self._engine is not None:
                self._engine.forget()
            self.predictors.clear()
        if self._cache is not None:
            self._cache.clear()
        return ended

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
        redoOnly: range | None = None,
    ) -> Job:
        """Starts a run; its segments are written when it has finished, as one step that can be undone.

        `onFinished` gets the job: `job.result` is then the RunReport, or `job.error` says why nothing was changed.

        Raises:
            ValueError: the segmentation can't be written to.
        """
        requireWritable(volumeNode, segmentationNode, [prompt.segmentId for prompt in request.prompts])

        def finish(job: Job) -> None:
            # The user may have pressed Cancel when the last slice had just been computed.
            job.cancelled = job.cancelled or job.cancel.cancelled
            if job.error is None and not job.cancelled:
                try:
                    job.result = self._write(
                        volumeNode, segmentationNode, request, job.result, mode, editorNode, redoOnly
                    )
                except Exception as error:
                    job.error = explainedError(error, self.cache)
            if job.error is not None:
                job.result = None
            if onFinished is not None:
                onFinished(job)

        return self.compute(request, finish, onProgress, cancel, (volumeNode, segmentationNode))

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
            SegmentationError: the run failed; nothing was changed.
            Cancelled: it was cancelled; nothing was changed.
        """
        from dbsam.progress import Cancelled

        job = self.start(
            volumeNode,
            segmentationNode,
            request,
            mode=mode,
            editorNode=editorNode,
            cancel=cancel,
            onProgress=progress,
        )
        self.thread.waitFor(job)
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
    ) -> Job | None:
        """Computes one slice of the first prompt; writes nothing.

        Returns:
            The job, whose result is a list with one VolumeSegmentation; None if the box doesn't cut this slice.
        """
        single = onOneSlice(request, index)
        if single is None:
            return None
        job = Job(
            lambda job: self.engine.compute(single, job),
            cancel if cancel is not None else newCancelToken(),
            Priority.PREVIEW,
            onFinished,
        )
        return self.thread.submit(job)

    def prefetch(self, request: RunRequest) -> Job:
        """Embeds the slices of the first prompt while nothing else is to do; any other work ends it."""
        job = Job(lambda job: self.engine.prefetch(request, job), newCancelToken(), Priority.IDLE)
        return self.thread.submit(job)

    def compute(
        self,
        request: RunRequest,
        onFinished: Callable[[Job], None],
        onProgress: Callable[[Progress], None] | None = None,
        cancel: CancelToken | None = None,
        nodes: Sequence[slicer.vtkMRMLNode] = (),
    ) -> Job:
        """Computes a request and writes nothing; `onFinished` gets the job with the results.

        The job is cancelled when one of `nodes` is removed from the scene.
        """

        def finish(job: Job) -> None:
            self._jobNodes.pop(job, None)
            if job.error is not None:
                job.error = explainedError(job.error, self.cache)
            onFinished(job)

        token = cancel if cancel is not None else newCancelToken()
        job = Job(lambda job: self.engine.compute(request, job), token, Priority.RUN, finish, onProgress)
        self._jobNodes[job] = list(nodes)
        return self.thread.submit(job)

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
        """Expected time of a run: from the slices computed so far with this model and device, else a usual pace."""
        return self._pace.secondsPerSlice(request.model, request.device) * sliceCount(request)

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
        return isinstance(self.predictors, PredictorSource)

    @property
    def engine(self) -> Engine:
        """What computes; created at first use."""
        if self._engine is None:
            self._engine = Engine(self.predictors, self.cache)
        return self._engine

    @property
    def cache(self) -> Any:
        """The embedding cache; created at first use, as it is the library's."""
        if self._cache is None:
            from dbsam.inference.embedding_cache import EmbeddingCache

            self._cache = EmbeddingCache(max_bytes=self._cacheBytes)
        return self._cache

    def _write(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        segmentationNode: slicer.vtkMRMLSegmentationNode,
        request: RunRequest,
        results: list[Any],
        mode: str,
        editorNode: slicer.vtkMRMLSegmentEditorNode | None,
        redoOnly: range | None,
    ) -> RunReport:
        self.requireCurrent(request, volumeNode, segmentationNode)
        if editorNode is not None and not self.scene.IsNodePresent(editorNode):
            editorNode = None
        for result in results:
            self._pace.measured(request.model, request.device, result.seconds / max(1, len(result.slices)))
        slices = None if redoOnly is None else (results[0].axis, redoOnly[0], redoOnly[-1])
        masks = [
            SegmentMask(prompt.segmentId, result.mask_KJI, result.extent_ijk, prompt.name, prompt.color_rgb, slices)
            for prompt, result in zip(request.prompts, results, strict=True)
        ]
        if redoOnly is not None:
            former = self.lastResults.of(segmentationNode, request.prompts[0].segmentId)
            results = [mergedResult(former, results[0], redoOnly)]
        written = self.writer.write(volumeNode, segmentationNode, masks, mode, editorNode)
        if segmentationNode.GetDisplayNode() is None:
            segmentationNode.CreateDefaultDisplayNodes()
        for segment, result in zip(written, results, strict=True):
            self.lastResults.keep(segmentationNode, segment.segmentId, result)
        segmentation = segmentationNode.GetSegmentation()
        names = [segmentation.GetSegment(one.segmentId).GetName() for one in written]
        report = reportOf(request, results, written, names)
        for warning in report.warnings:
            logger.warning(warning)
        return report

    def _onSceneStartClose(self, *_: Any) -> None:
        self.thread.cancelAll()
        if self._engine is not None:  # the engine is the thread's
            engine = self._engine
            self.thread.submit(Job(lambda job: engine.forgetVolume(), newCancelToken(), Priority.RUN))
        self.writer.forget()
        self.lastResults.forget()
        if self._cache is not None:
            self._cache.clear()

    def _onNodeRemoved(self, node: slicer.vtkMRMLNode) -> None:
        for job, nodes in list(self._jobNodes.items()):
            if node in nodes:
                job.cancel.cancel()
        if node.IsA("vtkMRMLSegmentationNode"):
            self.writer.forget(node.GetID())
            self.lastResults.forget(node)
