"""What the effect's self-test checks, in Slicer and under pytest alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import slicer

from ..Mrml.Geometry import arrayFromMatrix
from ..Mrml.SliceViews import showSlice
from ..Mrml.Views import sliceWidgets
from ..Run.Runner import SegmentationRunner
from ..SelfTest import BRIGHT_INSIDE_BOX, brightBlockScene


def checkBoxOnSlice() -> None:
    """A box on one slice, previewed, applied and undone by the editor."""
    with _effectOnSlice() as (effect, runner, editor, volumeNode, segmentationNode, segmentId, block):
        effect.previewBox(2, 7, (9.5, 7.5, 35.5, 29.5))
        runner.worker.waitFor(effect.job)
        assert not _segment(segmentationNode, segmentId, volumeNode).any(), "a preview must write nothing"
        effect.onApply()
        found = _segment(segmentationNode, segmentId, volumeNode)
        assert np.flatnonzero(found.any(axis=(1, 2))).tolist() == [7], "other slices must stay empty"
        assert (found[7] != block[7]).sum() < 0.1 * block[7].sum()
        editor.undo()
        assert not _segment(segmentationNode, segmentId, volumeNode).any(), "undo must empty the segment"


def checkClicksOnSlice() -> None:
    """Clicks take the block out of the preview, bring it back, and are taken back; nothing where there is no view."""
    if not sliceWidgets():
        return
    with _effectOnSlice() as (effect, runner, _editor, volumeNode, segmentationNode, segmentId, block):
        view = sliceWidgets()[0]
        position = [22.0, 18.0, 14.0, 1.0]  # in the block, on slice 7
        xy = np.linalg.inv(arrayFromMatrix(view.mrmlSliceNode().GetXYToRAS())) @ position
        effect.previewBox(2, 7, (9.5, 7.5, 35.5, 29.5))
        runner.worker.waitFor(effect.job)
        shown = []
        for step in (
            lambda: effect.onClick(view, xy[:2], include=False),
            lambda: effect.onClick(view, xy[:2], include=True),
            effect.onBack,
            effect.onBack,
        ):
            step()
            runner.worker.waitFor(effect.job)
            shown.append(bool(effect._preview[0].mask_KJI.any()))
        assert shown == [False, True, False, True], shown
        effect.onApply()
        found = _segment(segmentationNode, segmentId, volumeNode)
        assert (found[7] != block[7]).sum() < 0.1 * block[7].sum()


@contextmanager
def _effectOnSlice() -> Iterator[tuple[Any, SegmentationRunner, Any, Any, Any, str, np.ndarray]]:
    """The effect on a bright block, with slice 7 in view."""
    volumeNode, _roiNode, segmentationNode, block = brightBlockScene()
    segmentId = segmentationNode.GetSegmentation().AddEmptySegment("bright")
    editorNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    editor = slicer.qMRMLSegmentEditorWidget()
    runner = SegmentationRunner(slicer.mrmlScene, BRIGHT_INSIDE_BOX)
    try:
        editor.setMRMLScene(slicer.mrmlScene)
        editor.setMRMLSegmentEditorNode(editorNode)
        editor.setSegmentationNode(segmentationNode)
        editor.setSourceVolumeNode(volumeNode)
        editor.setCurrentSegmentID(segmentId)
        editor.setActiveEffectByName("DB-SAM")
        effect = editor.activeEffect().self()
        effect.setRunner(runner)
        # Only what was seen is written; where there is no view at all, as in a script, nothing can be.
        showSlice([widget.mrmlSliceNode() for widget in sliceWidgets()], volumeNode, 2, 7)
        yield effect, runner, editor, volumeNode, segmentationNode, segmentId, block
    finally:
        editor.setActiveEffectByName("")
        runner.close()


def _segment(segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str, volumeNode: object) -> np.ndarray:
    return slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, segmentId, volumeNode) != 0
