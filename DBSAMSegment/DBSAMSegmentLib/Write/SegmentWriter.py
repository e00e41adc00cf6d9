"""The one way in which DB-SAM changes a segmentation: through Slicer's own segment editing logic.

Masking, editable intensity range, overwrite mode and undo are therefore Slicer's, not ours.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import slicer

from ..Mrml.Geometry import matrixBetween, nodeName
from ..Mrml.Labelmaps import Extent, ModifierLabelmap, modifierLabelmap
from ..Mrml.SegmentVoxels import digestOf, grownToSegment, heldBackOf, keptOutside
from .Terminology import describeSegment

# Ten runs can be undone; restoring the tenth needs the present state on the stack, too.
MAXIMUM_UNDO_STATES = 11

MODES = {"set": "ModificationModeSet", "add": "ModificationModeAdd", "remove": "ModificationModeRemove"}


@dataclass(frozen=True)
class SegmentMask:
    """What is to become of one segment.

    Attributes:
        segmentId: an existing segment, or "" for a new one.
        mask_KJI: mask over `extent_ijk` of the volume's grid; non-zero is inside.
        extent_ijk: where the mask lies.
        name: of a new segment; where Slicer's terminology knows it, its code and colour are the segment's, too.
        color_rgb: of a new segment, 0..1; None: by its name, else Slicer's choice.
        slices: (axis, first, last) of the volume: only these are changed, the others stay as they are; None for all.
    """

    segmentId: str
    mask_KJI: np.ndarray
    extent_ijk: Extent
    name: str = ""
    color_rgb: tuple[float, float, float] | None = None
    slices: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class WrittenSegment:
    """A segment after writing.

    Attributes:
        segmentId: its ID.
        extent: what was touched, in the reference geometry's indices.
        clipped: part of the mask lies outside the segmentation's geometry.
        heldBack: voxels of the mask that masking kept out, or that another segment of the same call took over.
    """

    segmentId: str
    extent: list[int]
    clipped: bool
    heldBack: int


class SegmentWriter:
    """Writes masks to segments, one undo state per call; main thread only.

    Every segmentation has its own undo stack. No node is added to the scene: the parameter node that Slicer's logic
    needs refers to the scene without being part of it.
    """

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self._scene = scene
        self._editors: dict[str, slicer.vtkSlicerSegmentEditorLogic] = {}
        self._left: dict[str, list[tuple[str, str, int]]] = {}
        self._digests: dict[tuple[str, str], int] = {}

    def write(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        segmentationNode: slicer.vtkMRMLSegmentationNode,
        masks: Sequence[SegmentMask],
        mode: str = "set",
        editorNode: slicer.vtkMRMLSegmentEditorNode | None = None,
    ) -> list[WrittenSegment]:
        """Writes all masks as one step that can be undone.

        Args:
            volumeNode: the volume that was segmented; also the one whose intensities limit the editable area.
            segmentationNode: the segmentation to change.
            masks: one per segment.
            mode: "set" (the segment becomes the mask), "add" or "remove".
            editorNode: whose masking, intensity range and overwrite mode are to be respected, usually the Segment
                Editor's; None edits everywhere and leaves all other segments alone.

        Raises:
            ValueError: unknown mode, or a segment that the segmentation doesn't have. Nothing was changed.
            GeometryError: a node is under a non-linear transform. Nothing was changed.
        """
        if mode not in MODES:
            raise ValueError(f"Unknown mode {mode!r}: use one of {', '.join(MODES)}.")
        requireWritable(volumeNode, segmentationNode, [mask.segmentId for mask in masks])
        labelmaps = [_labelmapOf(mask, volumeNode, segmentationNode) for mask in masks]

        logic = self._editor(segmentationNode)
        parameters = logic.GetSegmentEditorNode()
        logic.SetSourceVolumeNode(volumeNode)
        _copyMasking(editorNode, parameters, segmentationNode)
        if not logic.SaveStateForUndo():
            logging.warning("The present state of %s could not be saved for undo", nodeName(segmentationNode))
        ids: list[str] = []
        try:
            for mask, labelmap in zip(masks, labelmaps, strict=True):
                ids.append(mask.segmentId or _newSegment(segmentationNode, mask))
                parameters.SetSelectedSegmentID(ids[-1])
                if mode == "set" and limitsEditing(parameters):
                    labelmap = grownToSegment(labelmap, segmentationNode, ids[-1])
                logic.ModifySegmentByLabelmap(
                    segmentationNode,
                    ids[-1],
                    labelmap.image,
                    getattr(slicer.vtkSlicerSegmentEditorLogic, MODES[mode]),
                    labelmap.extent,
                    True,  # isPerSegment
                    False,  # bypassMasking
                )
        except Exception:
            logic.Undo()
            raise
        finally:
            self._remember(segmentationNode, ids)
        return [
            WrittenSegment(
                segmentId,
                labelmap.extent,
                labelmap.clipped,
                heldBackOf(labelmap, segmentationNode, segmentId, mode),
            )
            for segmentId, labelmap in zip(ids, labelmaps, strict=True)
        ]

    def undo(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """Takes back the last `write` to this segmentation, if there is one."""
        self._editor(segmentationNode).Undo()
        self._remember(segmentationNode)

    def redo(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        """Brings back what `undo` took back."""
        self._editor(segmentationNode).Redo()
        self._remember(segmentationNode)

    def editedSince(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> bool:
        """Whether others changed segments since the last `write`, `undo` or `redo`, which undo would take back, too."""
        left = self._left.get(segmentationNode.GetID())
        return left is not None and left != _contents(segmentationNode)

    def editedSegments(
        self, segmentationNode: slicer.vtkMRMLSegmentationNode, segmentIds: Sequence[str]
    ) -> list[slicer.vtkSegment]:
        """Those of some segments whose voxels others changed since they were last written here."""
        segmentation, node = segmentationNode.GetSegmentation(), segmentationNode.GetID()
        known = [one for one in segmentIds if (node, one) in self._digests and segmentation.GetSegment(one) is not None]
        return [
            segmentation.GetSegment(one) for one in known if self._digests[node, one] != digestOf(segmentationNode, one)
        ]

    def canUndo(self, segmentationNode: slicer.vtkMRMLSegmentationNode | None) -> bool:
        """Whether a `write` to this segmentation can be taken back."""
        return segmentationNode is not None and self._known(segmentationNode, "CanUndo")

    def canRedo(self, segmentationNode: slicer.vtkMRMLSegmentationNode | None) -> bool:
        """Whether an undone `write` can be brought back."""
        return segmentationNode is not None and self._known(segmentationNode, "CanRedo")

    def forget(self, segmentationId: str | None = None) -> None:
        """Drops the undo stack of a segmentation that left the scene; all of them without an ID."""
        for key in [segmentationId] if segmentationId is not None else list(self._editors):
            self._left.pop(key, None)
            self._digests = {known: value for known, value in self._digests.items() if known[0] != key}
            logic = self._editors.pop(key, None)
            if logic is not None:
                logic.ClearUndoState()
                logic.SetSegmentEditorNode(None)
                logic.SetMRMLScene(None)

    def _remember(self, segmentationNode: slicer.vtkMRMLSegmentationNode, segmentIds: Sequence[str] = ()) -> None:
        node, segmentation = segmentationNode.GetID(), segmentationNode.GetSegmentation()
        self._left[node] = _contents(segmentationNode)
        for segmentId in {*segmentIds, *(known for owner, known in self._digests if owner == node)}:
            if segmentation.GetSegment(segmentId) is not None:
                self._digests[node, segmentId] = digestOf(segmentationNode, segmentId)

    def _known(self, segmentationNode: slicer.vtkMRMLSegmentationNode, question: str) -> bool:
        logic = self._editors.get(segmentationNode.GetID())
        return logic is not None and bool(getattr(logic, question)())

    def _editor(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> slicer.vtkSlicerSegmentEditorLogic:
        logic = self._editors.get(segmentationNode.GetID())
        if logic is not None and logic.GetSegmentationNode() is not segmentationNode:
            self.forget(segmentationNode.GetID())
            logic = None
        if logic is None:
            parameters = slicer.vtkMRMLSegmentEditorNode()
            parameters.SetScene(self._scene)
            logic = slicer.vtkSlicerSegmentEditorLogic()
            logic.SetMRMLScene(self._scene)
            logic.SetSegmentEditorNode(parameters)
            logic.SetSegmentationNode(segmentationNode)
            logic.SetMaximumNumberOfUndoStates(MAXIMUM_UNDO_STATES)
            self._editors[segmentationNode.GetID()] = logic
        return logic


def requireWritable(
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode,
    segmentIds: Sequence[str],
) -> None:
    """Refuses a segmentation that results can't be written to, best before they are computed.

    Raises:
        ValueError: it has no such segment, or isn't stored as binary labelmap.
        GeometryError: a node is under a non-linear transform.
    """
    segmentation = segmentationNode.GetSegmentation()
    for segmentId in segmentIds:
        if segmentId and segmentation.GetSegment(segmentId) is None:
            raise ValueError(
                f"{nodeName(segmentationNode)} has no segment with the ID {segmentId!r}: it may have been deleted."
                " Choose a segment and run again."
            )
    binary = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    if segmentation.GetNumberOfSegments() and segmentation.GetSourceRepresentationName() != binary:
        raise ValueError(
            f"{nodeName(segmentationNode)} is stored as {segmentation.GetSourceRepresentationName()}, not as binary"
            " labelmap: make the labelmap its source representation (Segmentations module), then run again."
        )
    matrixBetween(volumeNode, segmentationNode)


def _copyMasking(
    source: slicer.vtkMRMLSegmentEditorNode | None,
    target: slicer.vtkMRMLSegmentEditorNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode,
) -> None:
    """Takes over what limits editing, and nothing else: selection and effect stay the user's."""
    if source is None:
        target.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere)
        target.SetMaskSegmentID(None)
        target.SetOverwriteMode(slicer.vtkMRMLSegmentEditorNode.OverwriteNone)
        target.SetSourceVolumeIntensityMask(False)
        return
    target.SetMaskMode(source.GetMaskMode())
    target.SetMaskSegmentID(source.GetMaskSegmentID())
    if source.GetMaskMode() == slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment:
        segment = segmentationNode.GetSegmentation().GetSegment(source.GetMaskSegmentID())
        if segment is None:  # of another segmentation, which the Segment Editor shows
            target.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere)
    target.SetOverwriteMode(source.GetOverwriteMode())
    target.SetSourceVolumeIntensityMask(source.GetSourceVolumeIntensityMask())
    target.SetSourceVolumeIntensityMaskRange(source.GetSourceVolumeIntensityMaskRange())


def limitsEditing(parameters: slicer.vtkMRMLSegmentEditorNode) -> bool:
    """Whether a mask or the editable intensity range protects part of the segmentation."""
    everywhere = slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere
    return parameters.GetMaskMode() != everywhere or parameters.GetSourceVolumeIntensityMask()


def _contents(segmentationNode: slicer.vtkMRMLSegmentationNode) -> list[tuple[str, str, int]]:
    """ID, name and age of the voxels of every segment; what is only shown in another way is the same."""
    segmentation = segmentationNode.GetSegmentation()
    binary = slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
    contents = []
    for segmentId in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segmentId)
        labelmap = segment.GetRepresentation(binary)
        contents.append((segmentId, segment.GetName(), labelmap.GetMTime() if labelmap is not None else 0))
    return contents


def _labelmapOf(
    mask: SegmentMask,
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode,
) -> ModifierLabelmap:
    labelmap = modifierLabelmap(mask.mask_KJI, mask.extent_ijk, volumeNode, segmentationNode)
    if mask.slices is None:
        return labelmap
    axis, first, last = mask.slices
    size = volumeNode.GetImageData().GetDimensions()
    extent = [(first, last) if n == axis else (0, size[n] - 1) for n in range(3)]
    slab = np.ones([b - a + 1 for a, b in reversed(extent)], np.uint8)
    region = modifierLabelmap(slab, (extent[0], extent[1], extent[2]), volumeNode, segmentationNode)
    return keptOutside(labelmap, region, segmentationNode, mask.segmentId)


def _newSegment(segmentationNode: slicer.vtkMRMLSegmentationNode, mask: SegmentMask) -> str:
    segmentation = segmentationNode.GetSegmentation()
    segmentId = segmentation.AddEmptySegment(segmentation.GenerateUniqueSegmentID("DBSAM"), mask.name)
    describeSegment(segmentation.GetSegment(segmentId), mask.name)
    if mask.color_rgb is not None:
        segmentation.GetSegment(segmentId).SetColor(*mask.color_rgb)
    return segmentId
