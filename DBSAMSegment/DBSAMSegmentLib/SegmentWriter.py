"""The one way in which DB-SAM changes a segmentation: through Slicer's own segment editing logic.

Masking, editable intensity range, overwrite mode and undo are therefore Slicer's, not ours.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import slicer

from .Geometry import nodeName
from .Labelmaps import Extent, grownToSegment, modifierLabelmap

if TYPE_CHECKING:
    from dbsam.volume import VolumeSegmentation

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
        name: of a new segment.
        color_rgb: of a new segment, 0..1; None lets Slicer choose.
        mode: "set", "add" or "remove", if it isn't the same for all masks of a call.
    """

    segmentId: str
    mask_KJI: np.ndarray
    extent_ijk: Extent
    name: str = ""
    color_rgb: tuple[float, float, float] | None = None
    mode: str | None = None


@dataclass(frozen=True)
class WrittenSegment:
    """A segment after writing: its ID, the extent that was touched (reference geometry's indices), what was lost."""

    segmentId: str
    extent: list[int]
    clipped: bool


class SegmentWriter:
    """Writes masks to segments, one undo state per call; main thread only.

    Every segmentation has its own undo stack. No node is added to the scene: the parameter node that Slicer's logic
    needs refers to the scene without being part of it.
    """

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self._scene = scene
        self._editors: dict[str, slicer.vtkSlicerSegmentEditorLogic] = {}
        self._left: dict[str, list[tuple[str, str, int]]] = {}

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
        segmentation = segmentationNode.GetSegmentation()
        for mask in masks:
            if mask.segmentId and segmentation.GetSegment(mask.segmentId) is None:
                raise ValueError(
                    f"{nodeName(segmentationNode)} has no segment with the ID {mask.segmentId!r}: it may have been"
                    " deleted. Choose a segment and run again."
                )
        if segmentation.GetNumberOfSegments() and (
            segmentation.GetSourceRepresentationName()
            != slicer.vtkSegmentationConverter.GetSegmentationBinaryLabelmapRepresentationName()
        ):
            raise ValueError(
                f"{nodeName(segmentationNode)} is stored as {segmentation.GetSourceRepresentationName()}, not as binary"
                " labelmap: make the labelmap its source representation (Segmentations module), then run again."
            )
        labelmaps = [modifierLabelmap(mask.mask_KJI, mask.extent_ijk, volumeNode, segmentationNode) for mask in masks]

        logic = self._editor(segmentationNode)
        parameters = logic.GetSegmentEditorNode()
        logic.SetSourceVolumeNode(volumeNode)
        _copyMasking(editorNode, parameters)
        if not logic.SaveStateForUndo():
            logging.warning("The present state of %s could not be saved for undo", nodeName(segmentationNode))
        written = []
        try:
            for mask, labelmap in zip(masks, labelmaps, strict=True):
                segmentId = mask.segmentId or _newSegment(segmentationNode, mask)
                parameters.SetSelectedSegmentID(segmentId)
                maskMode = mask.mode or mode
                if maskMode == "set" and limitsEditing(parameters):
                    labelmap = grownToSegment(labelmap, segmentationNode, segmentId)
                logic.ModifySegmentByLabelmap(
                    segmentationNode,
                    segmentId,
                    labelmap.image,
                    getattr(slicer.vtkSlicerSegmentEditorLogic, MODES[maskMode]),
                    labelmap.extent,
                    True,  # isPerSegment
                    False,  # bypassMasking
                )
                written.append(WrittenSegment(segmentId, labelmap.extent, labelmap.clipped))
        except Exception:
            logic.Undo()
            raise
        finally:
            self._remember(segmentationNode)
        return written

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
            logic = self._editors.pop(key, None)
            if logic is not None:
                logic.ClearUndoState()
                logic.SetSegmentEditorNode(None)
                logic.SetMRMLScene(None)

    def _remember(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> None:
        self._left[segmentationNode.GetID()] = _contents(segmentationNode)

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


def _copyMasking(source: slicer.vtkMRMLSegmentEditorNode | None, target: slicer.vtkMRMLSegmentEditorNode) -> None:
    """Takes over what limits editing, and nothing else: selection and effect stay the user's."""
    if source is None:
        target.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere)
        target.SetMaskSegmentID(None)
        target.SetOverwriteMode(slicer.vtkMRMLSegmentEditorNode.OverwriteNone)
        target.SetSourceVolumeIntensityMask(False)
        return
    target.SetMaskMode(source.GetMaskMode())
    target.SetMaskSegmentID(source.GetMaskSegmentID())
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


def replacedSlices(segmentId: str, result: VolumeSegmentation, slices: range) -> list[SegmentMask]:
    """Masks that make some slices of a segment those of a result and leave the others as they are now.

    Args:
        segmentId: an existing segment.
        result: of these slices alone.
        slices: indices along the result's axis.
    """
    extent = [(0, size - 1) for size in result.geometry.dimensions_ijk]
    extent[result.axis] = (max(0, slices[0]), min(slices[-1], extent[result.axis][1]))
    (i0, i1), (j0, j1), (k0, k1) = extent
    slab = np.ones((k1 - k0 + 1, j1 - j0 + 1, i1 - i0 + 1), np.uint8)
    return [
        SegmentMask(segmentId, slab, (extent[0], extent[1], extent[2]), mode="remove"),
        SegmentMask(segmentId, result.mask_KJI, result.extent_ijk, mode="add"),
    ]


def _newSegment(segmentationNode: slicer.vtkMRMLSegmentationNode, mask: SegmentMask) -> str:
    segmentation = segmentationNode.GetSegmentation()
    segmentId = segmentation.AddEmptySegment(segmentation.GenerateUniqueSegmentID("DBSAM"), mask.name)
    if mask.color_rgb is not None:
        segmentation.GetSegment(segmentId).SetColor(*mask.color_rgb)
    return segmentId
