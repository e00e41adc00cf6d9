"""Many volumes in one call, and the frames of a sequence."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import slicer

from ..Mrml.Geometry import nodeName
from ..Mrml.NodeRequests import requestOf, requireNode
from ..Mrml.Nodes import removeWithHelpers
from .Reports import RunReport
from .Runner import SegmentationError, SegmentationRunner

if TYPE_CHECKING:
    from dbsam.progress import CancelToken, Progress

logger = logging.getLogger(__name__)

# Slicer writes segmentations to the first, and volumes of labels to the others.
_SEGMENTATION_ENDINGS = (".seg.nrrd", ".nrrd", ".seg.nhdr", ".nhdr")
_LABELMAP_ENDINGS = (".nii.gz", ".nii", ".mha", ".mhd")


@dataclass(frozen=True)
class BatchCase:
    """One volume of a batch.

    Attributes:
        volume: a volume node, or a file that Slicer can load.
        rois: ROI nodes, or files with ROIs; one segment each.
        segmentation: where to write to; None for a new segmentation, which is removed again once it was saved to
            `output`.
        output: file to save to; None keeps the segmentation in the scene only. `case.seg.nrrd` and `.nrrd` hold it with
            names and colours, `.nii.gz`, `.nii`, `.mha` and `.mhd` a labelmap: 1 in its first segment, 2 in the second.
        name: for the report; the volume's name by default.
    """

    volume: slicer.vtkMRMLScalarVolumeNode | str | Path
    rois: Sequence[slicer.vtkMRMLMarkupsROINode | str | Path]
    segmentation: slicer.vtkMRMLSegmentationNode | None = None
    output: str | Path | None = None
    name: str = ""


def runBatch(
    runner: SegmentationRunner,
    cases: Sequence[BatchCase],
    progress: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
    **options: Any,
) -> list[RunReport]:
    """Segments case by case; a case that fails is reported and the others go on.

    Args:
        runner: does the work.
        cases: the volumes with their prompts.
        progress: called with the steps of each case; the stage begins with the case's name.
        cancel: stops before the next slice; finished cases stay.
        options: what `SegmentationRunner.request` and `segment` take by name.

    Returns:
        One report per case, in order; `error` says why a case has no segments.

    Raises:
        Cancelled: the batch was cancelled.
    """
    from dataclasses import replace

    from dbsam.progress import Cancelled

    reports = []
    for number, case in enumerate(cases):
        isNode = hasattr(case.volume, "GetName")
        name = case.name or (case.volume.GetName() if isNode else str(case.volume))

        def report(step: Progress, label: str = f"{name} ({number + 1} of {len(cases)})") -> None:
            if progress is not None:
                progress(replace(step, stage=f"{label}: {step.stage}", seconds_left=None))

        if cancel is not None:
            cancel.raise_if_cancelled()
        try:
            result = _runCase(runner, case, report, cancel, options)
        except Cancelled:
            raise
        except Exception as error:
            logger.warning("%s was not segmented: %s", name, error)
            result = RunReport([], str(options.get("model", "compact")), "", 0.0, 0, error=str(error))
        result.case = name
        reports.append(result)
    return reports


def runSequence(
    runner: SegmentationRunner,
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    roiNodes: Sequence[slicer.vtkMRMLMarkupsROINode],
    browserNode: slicer.vtkMRMLSequenceBrowserNode,
    frames: Sequence[int] | None = None,
    progress: Callable[[Progress], None] | None = None,
    cancel: CancelToken | None = None,
    **options: Any,
) -> tuple[list[RunReport], slicer.vtkMRMLSequenceNode]:
    """Segments frames of a 4D volume into a new sequence of segmentations, browsed together with the volume.

    Args:
        runner: does the work.
        volumeNode: the sequence's proxy, that is the volume that the views show.
        roiNodes: the prompts, the same for all frames.
        browserNode: the browser that plays the volume.
        frames: item numbers of the browser; all by default. The others get an empty segmentation.
        progress: called with the steps of each frame.
        cancel: stops before the next slice; nothing is added to the scene then.
        options: what `SegmentationRunner.request` and `segment` take by name.

    Returns:
        (one report per frame, the new sequence).

    Raises:
        ValueError: the volume is no proxy of this browser, or a frame doesn't exist.
        SegmentationError: a frame failed; nothing is added to the scene then.
        Cancelled: it was cancelled.
    """
    from dataclasses import replace

    requireNode(volumeNode, "vtkMRMLScalarVolumeNode", "volumeNode")
    requireNode(browserNode, "vtkMRMLSequenceBrowserNode", "browserNode")
    sequenceNode = browserNode.GetSequenceNode(volumeNode)
    if sequenceNode is None:
        raise ValueError(
            f"{nodeName(volumeNode)} isn't played by the sequence browser {nodeName(browserNode)}: choose the volume"
            " that the browser shows."
        )
    count = browserNode.GetNumberOfItems()
    chosen = list(range(count)) if frames is None else [int(frame) for frame in frames]
    wrong = [frame for frame in chosen if not 0 <= frame < count]
    if wrong:
        raise ValueError(f"The sequence has frames 0 to {count - 1}, not {wrong}.")
    scene = runner.scene
    shown = browserNode.GetSelectedItemNumber()
    # The browser goes by the items of its master, of which another sequence may have fewer.
    master = browserNode.GetMasterSequenceNode()
    results = {master.GetNthIndexValue(frame): slicer.vtkMRMLSegmentationNode() for frame in range(count)}
    work = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{volumeNode.GetName()} segmentation")
    output = None
    try:
        work.CreateDefaultDisplayNodes()
        work.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
        reports = []
        for position, frame in enumerate(chosen):

            def report(step: Progress, label: str = f"Frame {frame + 1} ({position + 1} of {len(chosen)})") -> None:
                if progress is not None:
                    progress(replace(step, stage=f"{label}: {step.stage}", seconds_left=None))

            browserNode.SetSelectedItemNumber(frame)
            sequences = slicer.vtkSlicerSequencesLogic()
            sequences.UpdateProxyNodesFromSequences(browserNode)
            work.GetSegmentation().RemoveAllSegments()
            work.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
            request, segmentOptions = _split(volumeNode, roiNodes, work, options)
            one = runner.segment(volumeNode, work, request, progress=report, cancel=cancel, **segmentOptions)
            one.frame = frame
            reports.append(one)
            copy = slicer.vtkMRMLSegmentationNode()
            copy.GetSegmentation().DeepCopy(work.GetSegmentation())
            copy.SetName(work.GetName())
            results[master.GetNthIndexValue(frame)] = copy
        output = scene.AddNewNodeByClass("vtkMRMLSequenceNode", f"{sequenceNode.GetName()} segmentation")
        output.SetIndexName(master.GetIndexName())
        output.SetIndexUnit(master.GetIndexUnit())
        output.SetIndexType(master.GetIndexType())
        for value, node in results.items():
            output.SetDataNodeAtValue(node, value)
    finally:
        removeWithHelpers(scene, work)
        browserNode.SetSelectedItemNumber(shown)
        slicer.vtkSlicerSequencesLogic().UpdateProxyNodesFromSequences(browserNode)
    browserNode.AddSynchronizedSequenceNode(output)
    slicer.vtkSlicerSequencesLogic().UpdateProxyNodesFromSequences(browserNode)
    browserNode.GetProxyNode(output).SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
    return reports, output


def _runCase(
    runner: SegmentationRunner,
    case: BatchCase,
    progress: Callable[[Progress], None],
    cancel: CancelToken | None,
    options: dict[str, Any],
) -> RunReport:
    """Segments one case and removes what it loaded, also when it fails."""
    temporary: list[slicer.vtkMRMLNode] = []
    try:
        save = _writerOf(case.output)
        volumeNode = case.volume
        if isinstance(volumeNode, (str, Path)):
            volumeNode = _loaded(slicer.util.loadVolume, volumeNode, {"show": False})
            temporary.append(volumeNode)
        roiNodes = []
        for roi in case.rois or ():
            if isinstance(roi, (str, Path)):
                roi = _loaded(slicer.util.loadMarkups, roi, None)
                temporary.append(roi)
            roiNodes.append(roi)
        segmentationNode = case.segmentation
        requireNode(volumeNode, "vtkMRMLScalarVolumeNode", "volume")
        if segmentationNode is None:
            name = f"{volumeNode.GetName()} segmentation"
            segmentationNode = runner.scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
            segmentationNode.CreateDefaultDisplayNodes()
            segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
            segmentationNode.SetAndObserveTransformNodeID(volumeNode.GetTransformNodeID())
            temporary.append(segmentationNode)
        request, segmentOptions = _split(volumeNode, roiNodes, segmentationNode, options)
        result = runner.segment(
            volumeNode, segmentationNode, request, progress=progress, cancel=cancel, **segmentOptions
        )
        if case.output is not None:
            path = Path(case.output).resolve()  # the scene has another idea of the current folder
            path.parent.mkdir(parents=True, exist_ok=True)
            if not save(segmentationNode, path):
                raise SegmentationError(
                    f"The segmentation could not be saved to {path}: check the folder and the disk."
                )
        elif segmentationNode in temporary:
            temporary.remove(segmentationNode)
        return result
    finally:
        for node in temporary:
            removeWithHelpers(runner.scene, node)


def _writerOf(output: str | Path | None) -> Callable[[slicer.vtkMRMLSegmentationNode, Path], bool]:
    """What saves a segmentation to a file of this name.

    Raises:
        ValueError: nothing writes files of its ending.
    """
    name = "" if output is None else Path(output).name.lower()
    if output is None or name.endswith(_SEGMENTATION_ENDINGS):
        return lambda segmentationNode, path: bool(slicer.util.saveNode(segmentationNode, str(path)))
    if name.endswith(_LABELMAP_ENDINGS):
        return _saveLabelmap
    endings = ", ".join((*_SEGMENTATION_ENDINGS, *_LABELMAP_ENDINGS))
    raise ValueError(f"Nothing was computed: {output} can't be written, as its ending is none of {endings}.")


def _saveLabelmap(segmentationNode: slicer.vtkMRMLSegmentationNode, path: Path) -> bool:
    """Writes all segments as one volume of labels on the segmentation's geometry."""
    scene = segmentationNode.GetScene()
    tables = slicer.util.getNodesByClass("vtkMRMLColorTableNode", scene)
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", path.name)
    try:
        exported = slicer.vtkSlicerSegmentationsModuleLogic.ExportAllSegmentsToLabelmapNode(
            segmentationNode, labels, slicer.vtkSegmentation.EXTENT_REFERENCE_GEOMETRY
        )
        return bool(exported) and bool(slicer.util.saveNode(labels, str(path)))
    finally:
        removeWithHelpers(scene, labels)
        for table in slicer.util.getNodesByClass("vtkMRMLColorTableNode", scene):
            if table not in tables:  # the export's, with a colour for each segment
                removeWithHelpers(scene, table)


def _split(
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    roiNodes: Sequence[slicer.vtkMRMLMarkupsROINode],
    segmentationNode: slicer.vtkMRMLSegmentationNode,
    options: dict[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """The request, and the options that are `segment`'s."""
    segmentOptions = {name: value for name, value in options.items() if name in ("mode", "editorNode")}
    requestOptions = {name: value for name, value in options.items() if name not in segmentOptions}
    segmentIds = requestOptions.pop("segmentIds", None)
    return requestOf(volumeNode, roiNodes, segmentIds, segmentationNode, **requestOptions), segmentOptions


def _loaded(load: Callable[..., Any], path: str | Path, properties: dict[str, Any] | None) -> slicer.vtkMRMLNode:
    if not Path(path).exists():
        raise SegmentationError(f"There is no file {path}.")
    path = str(Path(path).resolve())
    return load(path, properties) if properties is not None else load(path)
