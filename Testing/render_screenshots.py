"""Renders the pictures of the panel, the effect and the weights manager into Resources/Screenshots.

Runs in the stand-in of the application, with the compact model on the CT phantom:
`QT_QPA_PLATFORM=offscreen python Testing/render_screenshots.py [folder]`.
"""

from __future__ import annotations

import gc
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

import host

ROOT = Path(__file__).resolve().parents[1]
logger = logging.getLogger("screenshots")


def render(folder: Path) -> list[Path]:
    """Opens everything once and grabs it."""
    gc.disable()  # see test_slicer_module
    host.start()
    import slicer

    scene = host.new_scene()
    folder.mkdir(parents=True, exist_ok=True)
    host.load_module(host.MODULES["SegmentEditorDBSAM"])
    widget = host.open_module("DBSAMSegment")
    useRuleWithoutWeights(widget)
    volumeNode = slicer.util.loadVolume(str(ROOT / "Resources/Sample/phantom_ct.nrrd"))
    roiNode = slicer.util.loadMarkups(str(ROOT / "Resources/Sample/phantom_roi.mrk.json"))
    slicer.util.setSliceViewerLayers(background=volumeNode, fit=True)
    parameters = widget.logic.getParameterNode()
    parameters.volume, parameters.rois, parameters.axis = volumeNode, [roiNode], "axial"
    widget.ui.applyButton.click()
    if not host.process_events(300, lambda: widget.panel.run.job is None):
        raise TimeoutError("the run did not end")
    widget.panel.result.goToSlice(
        widget.panel.result.segment.slices[len(widget.panel.result.segment.slices) // 2].index
    )
    host.process_events(0.2)
    widget.panel.result.plot.draw()
    pictures = [host.grab(widget.parent, folder / "module.png", 480)]

    segmentationNode = parameters.segmentation
    segmentId = segmentationNode.GetSegmentation().GetNthSegmentID(0)
    adaptor = host.activate_effect("DB-SAM", segmentationNode, volumeNode, segmentId)
    pictures.append(host.grab(adaptor.optionsFrame(), folder / "effect.png", 480))
    host.activate_effect("")

    from DBSAMSegmentLib.WeightsDialog import WeightsDialog

    dialog = WeightsDialog()
    dialog.selectModel("sam")
    pictures.append(host.grab(dialog, folder / "weights.png", 900))
    dialog.shutDown()
    host.close_module("DBSAMSegment")
    scene.Clear(0)
    return pictures


def useRuleWithoutWeights(widget: object) -> None:
    """Lets pictures be rendered before the compact model is there; says so."""
    from DBSAMSegmentLib.SelfTest import BrightInsideBoxSource

    from dbsam.weights import find_weights

    if find_weights("compact") is None:
        logger.warning("The compact weights are not there: a brightness rule stands in for them in these pictures.")
        widget.logic.runner.predictors = BrightInsideBoxSource()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    for picture in render(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "Resources" / "Screenshots"):
        logger.info("%s", picture)
