"""Renders the pictures of the panel, the effect, the weights manager and the results into Resources/Screenshots.

Runs in the stand-in of the application, with the compact model on the repository's phantoms: `make screenshots`.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import host

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "Resources" / "Sample"
# Name of the picture -> volume and ROI.
CASES = {
    "ct": ("phantom_ct.nrrd", "phantom_roi.mrk.json"),
    "mr": ("phantom_mr.nrrd", "phantom_mr_roi.mrk.json"),
    "ultrasound": ("phantom_ultrasound.nrrd", "phantom_ultrasound_roi.mrk.json"),
}
LONGEST_RUN_SECONDS = 300
logger = logging.getLogger("screenshots")


def render(folder: Path) -> list[Path]:
    """Opens everything once and grabs it."""
    host.start()
    folder.mkdir(parents=True, exist_ok=True)
    scene = host.new_scene()
    host.load_module(host.MODULES["SegmentEditorDBSAM"])
    host.complete_startup()
    widget = host.open_module("DBSAMSegment")
    useRuleWithoutWeights(widget)
    pictures = []
    for name in reversed(CASES):  # CT last, as its scene is the one for the other pictures
        scene.Clear(0)
        host.process_events()
        volumeNode, roiNode = segmentCase(widget, *CASES[name])
        pictures.append(renderResult(widget, folder / f"result_{name}.png"))
    pictures.append(host.grab(widget.parent, folder / "module.png", 480))

    segmentationNode = widget.logic.getParameterNode().segmentation
    segmentId = segmentationNode.GetSegmentation().GetNthSegmentID(0)
    adaptor = host.activate_effect("DB-SAM", segmentationNode, volumeNode, segmentId)
    adaptor.setNodeReference("ROI", roiNode)
    adaptor.setParameter("Scope", "roi")
    adaptor.self().updateGUIFromMRML()
    pictures.append(host.grab(adaptor.optionsFrame(), folder / "effect.png", 480))
    host.activate_effect("")

    from DBSAMSegmentLib.Panel.WeightsDialog import WeightsDialog

    dialog = WeightsDialog()
    dialog.selectModel("sam")
    pictures.append(host.grab(dialog, folder / "weights.png", 900, 360))
    dialog.shutDown()
    host.close_module("DBSAMSegment")
    scene.Clear(0)
    return pictures


def segmentCase(widget: Any, volume: str, roi: str) -> tuple[Any, Any]:
    """Runs the panel on a phantom and goes to a slice in the middle of the result."""
    import slicer

    volumeNode = slicer.util.loadVolume(str(SAMPLE / volume))
    roiNode = slicer.util.loadMarkups(str(SAMPLE / roi))
    slicer.util.setSliceViewerLayers(background=volumeNode, fit=True)
    widget.initializeParameterNode()
    parameters = widget.logic.getParameterNode()
    parameters.volume, parameters.rois = volumeNode, [roiNode]
    widget.ui.applyButton.click()
    if not host.process_events(LONGEST_RUN_SECONDS, lambda: widget.panel.run.job is None):
        raise TimeoutError("the run did not end")
    slices = widget.panel.result.segment.slices
    widget.panel.result.goToSlice(slices[len(slices) // 2].index)
    host.process_events(0.2)
    widget.panel.result.plot.draw()
    return volumeNode, roiNode


def renderResult(widget: Any, path: Path) -> Path:
    """The result's contour and its box on the middle slices, in the grid that Slicer read the volume into."""
    from DBSAMSegmentLib.Mrml.Geometry import roiBox, snapshotVolume

    from dbsam.io.images import write_png
    from dbsam.io.overlay import render_overlay
    from dbsam.io.seg_nrrd import Segment
    from dbsam.preprocess.volume import Volume

    parameters = widget.logic.getParameterNode()
    segmentId = parameters.segmentation.GetSegmentation().GetNthSegmentID(0)
    result = widget.logic.runner.lastResults.of(parameters.segmentation, segmentId)
    snapshot = snapshotVolume(parameters.volume)
    volume = Volume(snapshot.voxels, snapshot.geometry)
    box = roiBox(parameters.rois[0], parameters.volume)
    segment = Segment.from_result(parameters.rois[0].GetName(), result)
    write_png(path, render_overlay(volume, [segment], [box], result.intensity.apply))
    return path


def useRuleWithoutWeights(widget: Any) -> None:
    """Lets pictures be rendered before the compact model is there; says so."""
    from DBSAMSegmentLib.SelfTest import BRIGHT_INSIDE_BOX

    from dbsam.weights.load import find_weights

    if find_weights("compact") is None:
        logger.warning("The compact weights are not there: a brightness rule stands in for them in these pictures.")
        widget.logic.runner.worker.predictors = BRIGHT_INSIDE_BOX


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    for picture in render(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "Resources" / "Screenshots"):
        logger.info("%s: %d kB", picture, picture.stat().st_size // 1000)
