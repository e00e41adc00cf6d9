"""Writing from an effect: the same labelmaps as SegmentWriter's, through the editor's own undo stack."""

from __future__ import annotations

from typing import Any

import slicer

from ..Mrml.Labelmaps import modifierLabelmap
from ..Mrml.SegmentVoxels import grownToSegment, heldBackOf
from .SegmentWriter import MODES, limitsEditing


def writeThroughEffect(
    scriptedEffect: Any,
    result: Any,
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode,
    mode: str,
) -> tuple[bool, int]:
    """Writes a result to the editor's selected segment as one undo state.

    Args:
        scriptedEffect: the effect's adaptor.
        result: a VolumeSegmentation.
        volumeNode: the volume that was segmented.
        segmentationNode: the editor's segmentation.
        mode: "set", "add" or "remove".

    Returns:
        (whether part of the mask lies outside the segmentation's geometry and was left out, how many voxels of it the
        editor's masking kept out).

    Raises:
        GeometryError: a node is under a non-linear transform; nothing was changed.
        ValueError: no segment is selected; nothing was changed.
    """
    editorNode = scriptedEffect.parameterSetNode()
    segmentId = editorNode.GetSelectedSegmentID()
    if not segmentId or segmentationNode.GetSegmentation().GetSegment(segmentId) is None:
        raise ValueError("No segment is selected: choose one in the list, or add one.")
    labelmap = modifierLabelmap(result.mask_KJI, result.extent_ijk, volumeNode, segmentationNode)
    written = labelmap
    if mode == "set" and limitsEditing(editorNode):
        written = grownToSegment(labelmap, segmentationNode, segmentId)
    scriptedEffect.saveStateForUndo()
    modificationMode = getattr(slicer.qSlicerSegmentEditorScriptedEffect, MODES[mode])
    scriptedEffect.modifySelectedSegmentByLabelmap(written.image, modificationMode, written.extent)
    return labelmap.clipped, heldBackOf(labelmap, segmentationNode, segmentId, mode)
