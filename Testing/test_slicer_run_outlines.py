"""What is done before and during a run: the model loaded ahead, the slice in view outlined as soon as it is decided."""

import pytest

pytest.importorskip("slicer")
pytest.importorskip("host", reason="needs slicer-core and PySide6")
import host
import numpy as np
import slicer
import slicer_scene as scenes
from slicer_stage import block_mask, block_roi, block_volume, opened_module
from threshold_worker import ThresholdSettings


def visible(panel):
    outlines = [one for preview in panel.decided._previews.values() for *_, one in preview._outlines]
    return sum(one.actor.GetVisibility() for one in outlines)


def test_the_slice_in_view_is_outlined_before_the_run_has_ended_and_not_after():
    with opened_module(ThresholdSettings("slice", 48, seconds_per_slice=0.1)) as widget:
        node = widget.logic.getParameterNode()
        node.volume, node.rois = block_volume(), [block_roi()]
        node.segmentation = scenes.add_segmentation(slicer.mrmlScene, node.volume)
        for name in slicer.app.layoutManager().sliceViewNames():
            slicer.app.layoutManager().sliceWidget(name).mrmlSliceNode().JumpSliceByCentering(22.5, 18.5, 6.0)
        panel = widget.panel
        widget.ui.applyButton.click()
        assert host.process_events(20, lambda: visible(panel) > 0)
        assert panel.run.job is not None
        decided = panel.decided._decided[0, 6]
        (y, x), (height, width) = decided.origin_yx, decided.mask.shape
        found = np.zeros(block_mask().shape[1:], bool)
        found[y : y + height, x : x + width] = decided.mask
        assert (found ^ block_mask()[6]).sum() < 0.1 * block_mask()[6].sum()
        assert host.process_events(30, lambda: panel.run.job is None)
        assert visible(panel) == 0
        assert panel.decided._decided == {}
        assert node.segmentation.GetSegmentation().GetNumberOfSegments() == 1


def test_a_cancelled_run_leaves_no_outline():
    with opened_module(ThresholdSettings("slice", 48, seconds_per_slice=0.1)) as widget:
        node = widget.logic.getParameterNode()
        node.volume, node.rois = block_volume(), [block_roi()]
        panel = widget.panel
        widget.ui.applyButton.click()
        assert host.process_events(20, lambda: bool(panel.decided._decided))
        widget.ui.cancelButton.click()
        assert host.process_events(20, lambda: panel.run.job is None)
        assert visible(panel) == 0
        assert panel.decided._decided == {}


def test_the_model_is_loaded_while_a_box_is_drawn():
    with opened_module(ThresholdSettings("slice", 48)) as widget:
        node = widget.logic.getParameterNode()
        node.volume = block_volume()
        worker = widget.logic.runner.worker
        assert worker.processId is None
        widget.ui.placeRoiButton.click()
        assert host.process_events(20, lambda: worker.processId is not None and not worker.busy)
        assert worker.predictors.asked == [("compact", "auto")]
