"""Takes out of nodes what a run needs, and refuses what can't be used; on the main thread."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import slicer

from .Geometry import displayedWindow, nodeName, roiBox, snapshotVolume
from .PointLists import PointList, clicksIn, pointPrompts
from .Requests import KeyBoxes, RunPrompt, RunRequest, withKeyBoxes

_AS_DISPLAYED = "displayed"


_WORDS = {
    "vtkMRMLScalarVolumeNode": "a volume",
    "vtkMRMLMarkupsROINode": "an ROI",
    "vtkMRMLMarkupsFiducialNode": "a point list",
    "vtkMRMLSegmentationNode": "a segmentation",
    "vtkMRMLSequenceBrowserNode": "a sequence browser",
}


def requireNode(node: Any, className: str, what: str) -> None:
    """Refuses what is no such node, or one that has left its scene.

    Args:
        node: what was given.
        className: the MRML class that it must be of.
        what: the argument's name, for the message.

    Raises:
        ValueError: it is something else.
    """
    wanted = _WORDS[className]
    if node is None:
        raise ValueError(f"{what} is None: give {wanted} ({className}).")
    if not hasattr(node, "IsA") or not node.IsA(className):
        name = f"{node.GetClassName()} {nodeName(node)}" if hasattr(node, "GetName") else repr(node)
        raise ValueError(f"{what} must be {wanted} ({className}), not {name}.")
    if node.GetScene() is None:
        raise ValueError(f"{what}, {nodeName(node)}, is in no scene any more: it was removed.")


def requestOf(
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    roiNodes: Sequence[slicer.vtkMRMLMarkupsROINode],
    segmentIds: Sequence[str | None] | None = None,
    segmentationNode: slicer.vtkMRMLSegmentationNode | None = None,
    *,
    model: str = "compact",
    device: str = "auto",
    axis: str | int = "auto",
    strategy: str = "track",
    intensity: Any = "auto",
    keyBoxes: Sequence[KeyBoxes | None] | None = None,
    include: PointList | None = None,
    exclude: PointList | None = None,
    spread: str = "both",
) -> RunRequest:
    """Checks the nodes and takes everything out of them that a run needs.

    The arguments are those of the module's `segment`.

    Raises:
        ValueError: an input that can't be used; the message says what to do.
    """
    if not roiNodes:
        raise ValueError("No ROI is selected: place one around the structure, or choose one.")
    for name, values in (("segmentIds", segmentIds), ("keyBoxes", keyBoxes)):
        if values is not None and len(values) != len(roiNodes):
            raise ValueError(f"{name} has {len(values)} entries for {len(roiNodes)} ROIs: give one for each ROI.")
    requireNode(volumeNode, "vtkMRMLScalarVolumeNode", "volumeNode")
    for roiNode in roiNodes:
        requireNode(roiNode, "vtkMRMLMarkupsROINode", "roiNodes")
    if segmentationNode is not None:
        requireNode(segmentationNode, "vtkMRMLSegmentationNode", "segmentationNode")
    for name, node in (("include", include), ("exclude", exclude)):
        if node is not None:
            requireNode(node, "vtkMRMLMarkupsFiducialNode", name)
    points = pointPrompts(clicksIn(include, exclude), (include, exclude), volumeNode)
    snapshot = snapshotVolume(volumeNode)
    axisIndex = snapshot.geometry.axis_index(axis)
    prompts = []
    for number, roiNode in enumerate(roiNodes):
        box: Any = roiBox(roiNode, volumeNode)
        if keyBoxes is not None and keyBoxes[number]:
            box = withKeyBoxes(box, snapshot.geometry, axisIndex, keyBoxes[number])
        segmentId = segmentIds[number] if segmentIds is not None else None
        if not segmentId and segmentationNode is not None:
            taken = {*(segmentIds or ()), *(prompt.segmentId for prompt in prompts)}
            segmentId = _segmentOfName(segmentationNode, roiNode.GetName(), taken)
        prompts.append(RunPrompt(roiNode.GetName(), box, segmentId or ""))
    shown = intensityOf(volumeNode, intensity)
    return RunRequest(snapshot, tuple(prompts), model, device, axisIndex, strategy, shown, points, spread)


def _segmentOfName(
    segmentationNode: slicer.vtkMRMLSegmentationNode, name: str, taken: Collection[str | None]
) -> str | None:
    """The first segment of exactly this name that isn't another box's; Slicer's own search ignores case."""
    segmentation = segmentationNode.GetSegmentation()
    named = (one for one in segmentation.GetSegmentIDs() if segmentation.GetSegment(one).GetName() == name)
    return next((one for one in named if one not in taken), None)


def sliceRequestOf(volumeNode: slicer.vtkMRMLScalarVolumeNode, prompt: Any, axis: int, **settings: Any) -> RunRequest:
    """The request of rectangles on slices, without an ROI.

    Args:
        volumeNode: the volume.
        prompt: a `dbsam.inference.segmenter.SliceBoxes`.
        axis: 0, 1, 2 for slices along I, J, K.
        settings: model, device, strategy and intensity, as `requestOf` takes them.
    """
    settings["intensity"] = intensityOf(volumeNode, settings["intensity"])
    return RunRequest(snapshotVolume(volumeNode), (RunPrompt("", prompt),), axis=axis, **settings)


def intensityOf(volumeNode: slicer.vtkMRMLScalarVolumeNode, intensity: Any) -> Any:
    """The rule itself, or (level, width) of the volume's display for "displayed"."""
    return displayedWindow(volumeNode) if intensity == _AS_DISPLAYED else intensity
