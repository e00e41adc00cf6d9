"""The Segment Editor's mask modes, overwrite modes and intensity range, in numpy and without Slicer."""

from __future__ import annotations

import numpy as np
import slicer

EDITED, VISIBLE, HIDDEN = "edited", "visible", "hidden"
Node = slicer.vtkMRMLSegmentationNode
MASK_MODES = {
    "everywhere": Node.EditAllowedEverywhere,
    "inside all": Node.EditAllowedInsideAllSegments,
    "inside visible": Node.EditAllowedInsideVisibleSegments,
    "outside all": Node.EditAllowedOutsideAllSegments,
    "outside visible": Node.EditAllowedOutsideVisibleSegments,
    "inside one": Node.EditAllowedInsideSingleSegment,
}
OVERWRITE = {
    "all": slicer.vtkMRMLSegmentEditorNode.OverwriteAllSegments,
    "visible": slicer.vtkMRMLSegmentEditorNode.OverwriteVisibleSegments,
    "none": slicer.vtkMRMLSegmentEditorNode.OverwriteNone,
}


def expected_state(start, prompt, mode, maskMode, overwrite, intensity, voxels):
    """What Slicer documents: the masks of all segments after `prompt` was written to the edited one."""
    everything = start[EDITED] | start[VISIBLE] | start[HIDDEN]
    visible = start[EDITED] | start[VISIBLE]
    editable = {
        "everywhere": np.ones_like(prompt),
        "inside all": everything,
        "inside visible": visible,
        # The segment that is being edited never protects itself.
        "outside all": ~(start[VISIBLE] | start[HIDDEN]),
        "outside visible": ~start[VISIBLE],
        "inside one": start[VISIBLE],
    }[maskMode]
    if intensity is not None:
        editable = editable & (voxels >= intensity[0]) & (voxels <= intensity[1])
    result = dict(start)
    if mode == "set":
        result[EDITED] = (prompt & editable) | (start[EDITED] & ~editable)
    else:
        result[EDITED] = start[EDITED] | (prompt & editable)
    overwritten = {"all": (VISIBLE, HIDDEN), "visible": (VISIBLE,), "none": ()}[overwrite]
    for name in overwritten:
        result[name] = start[name] & ~result[EDITED] if mode == "set" else start[name] & ~(prompt & editable)
    return result
