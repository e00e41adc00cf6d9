"""Renders the pictures of the panel, the effect, the weights manager and the results into Resources/Screenshots.

Runs in the stand-in of the application, with the compact model on the repository's phantoms: `make screenshots`. The
picture of a correction by a click needs a model that takes clicks: the compact one, where it does, or another with

    python Testing/render_screenshots.py --clicks MODEL
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.path.insert(0, str(Path(__file__).resolve().parent))

import host
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "Resources" / "Sample"
# Name of the picture -> volume and ROI.
CASES = {
    "ct": ("phantom_ct.nrrd", "phantom_roi.mrk.json"),
    "mr": ("phantom_mr.nrrd", "phantom_mr_roi.mrk.json"),
    "ultrasound": ("phantom_ultrasound.nrrd", "phantom_ultrasound_roi.mrk.json"),
}
# Volume, box and true mask of the picture of a click.
CLICKED_CASE = ("phantom_ct.nrrd", "phantom_roi.mrk.json", "phantom_truth.nrrd")
MOST_SLICES, LEAST_BEFORE, LEAST_GAIN, LEAST_AFTER = 8, 0.5, 0.05, 0.9
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

    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, DBSAM_CACHE=cache):
        dialog = WeightsDialog()  # as on a computer without downloads, whose folders are nobody's business
        dialog.selectModel("sam")
        pictures.append(host.grab(dialog, folder / "weights.png", 900, 360))
        dialog.shutDown()
    if widget.logic.runner.takesClicks("compact"):
        pictures.append(renderClick(widget, folder / "clicks.png", "compact"))
    host.close_module("DBSAMSegment")
    scene.Clear(0)
    return pictures


def renderClicksOnly(folder: Path, model: str) -> list[Path]:
    """The picture of a click with another model than the compact one."""
    host.start()
    folder.mkdir(parents=True, exist_ok=True)
    host.new_scene()
    widget = host.open_module("DBSAMSegment")
    picture = renderClick(widget, folder / "clicks.png", model)
    host.close_module("DBSAMSegment")
    host.new_scene()
    return [picture]


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


def renderClick(widget: Any, path: Path, model: str, case: tuple[str, str, str] = CLICKED_CASE) -> Path:
    """A slice with a wrong mask, the click in its largest wrong part, and what *Apply* makes of it, side by side.

    Raises:
        RuntimeError: on none of the worst slices on which the object was found does a click make the mask right.
    """
    import slicer

    from dbsam_training.evaluate.prompts import next_click

    slicer.mrmlScene.Clear(0)
    host.process_events()
    parameters = widget.logic.getParameterNode()
    parameters.model, parameters.axis = model, "K"
    volumeNode, roiNode = segmentCase(widget, *case[:2])
    truthNode = slicer.util.loadVolume(str(SAMPLE / case[2]), {"show": False})
    truth = slicer.util.arrayFromVolume(truthNode) > 0
    slicer.mrmlScene.RemoveNode(truthNode)
    before = maskInPanel(widget)
    scores = np.array([dice(mask, wanted) for mask, wanted in zip(before, truth, strict=True)])
    found = np.flatnonzero(scores >= LEAST_BEFORE)
    for index in found[np.argsort(scores[found])][:MOST_SLICES]:
        fault = next_click(truth[index : index + 1], before[index : index + 1], volumeNode.GetSpacing())
        if fault is None:
            break  # the others are better still
        ijk = np.array([*fault.ijk[:2], index])
        after = clicked(widget, volumeNode, ijk, fault.include)
        score = dice(after[index], truth[index])
        kind = "include" if fault.include else "exclude"
        logger.info("Slice %d: DSC %.3f, after a click (%s) %.3f", index, scores[index], kind, score)
        if score >= max(LEAST_AFTER, scores[index] + LEAST_GAIN):
            writeTriptych(path, volumeNode, roiNode, ijk, fault.include, before[index], after[index])
            return path
        widget.ui.takeBackButton.click()
    raise RuntimeError(f"With the model {model} no click makes one of the worst slices right (DSC {LEAST_AFTER}).")


def clicked(widget: Any, volumeNode: Any, ijk: np.ndarray, include: bool) -> np.ndarray:
    """Places a click at a voxel and applies it; returns the mask."""
    import slicer
    import vtk
    from DBSAMSegmentLib.Mrml.Geometry import volumeGeometry
    from DBSAMSegmentLib.Mrml.Views import placedTo, stopPlacing

    (widget.ui.includeButton if include else widget.ui.excludeButton).click()
    position = volumeGeometry(volumeNode).ijk_to_ras @ [*ijk, 1]
    placedTo(slicer.mrmlScene).AddControlPointWorld(vtk.vtkVector3d(*map(float, position[:3])))
    stopPlacing(slicer.mrmlScene)
    host.process_events(LONGEST_RUN_SECONDS, lambda: not widget.panel.clicks.preview.busy)
    widget.ui.applyButton.click()
    if not host.process_events(LONGEST_RUN_SECONDS, lambda: widget.panel.run.job is None):
        raise TimeoutError("the correction did not end")
    return maskInPanel(widget)


def maskInPanel(widget: Any) -> np.ndarray:
    """The last result on the volume's whole grid."""
    parameters = widget.logic.getParameterNode()
    segmentId = parameters.segmentation.GetSegmentation().GetNthSegmentID(0)
    return widget.logic.runner.lastResults.of(parameters.segmentation, segmentId).labelmap_KJI() > 0


def dice(mask: np.ndarray, truth: np.ndarray) -> float:
    """Of two masks, one of which holds something."""
    return 2 * float((mask & truth).sum()) / max(1.0, float(mask.sum() + truth.sum()))


def writeTriptych(
    path: Path, volumeNode: Any, roiNode: Any, ijk: np.ndarray, include: bool, before: np.ndarray, after: np.ndarray
) -> None:
    """One slice three times: as it was, with the click as a cross, as it is."""
    from DBSAMSegmentLib.Mrml.Geometry import roiBox, snapshotVolume

    from dbsam.geometry.grid import ImageGeometry
    from dbsam.io.images import write_png
    from dbsam.io.overlay import render_overlay
    from dbsam.io.seg_nrrd import Segment
    from dbsam.preprocess.intensity import resolve_intensity
    from dbsam.preprocess.volume import Volume

    snapshot, box, index = snapshotVolume(volumeNode), roiBox(roiNode, volumeNode), int(ijk[2])
    shift = np.eye(4)
    shift[2, 3] = index
    geometry = ImageGeometry(snapshot.geometry.ijk_to_ras @ shift, (*snapshot.geometry.dimensions_ijk[:2], 1))
    volume = Volume(snapshot.voxels[index : index + 1], geometry)
    cross = np.zeros(before.shape, np.uint8)
    cross[ijk[1], max(ijk[0] - 3, 0) : ijk[0] + 4] = cross[max(ijk[1] - 3, 0) : ijk[1] + 4, ijk[0]] = 1
    click = Segment("click", cross[None], color_rgb=(0.2, 0.9, 0.3) if include else (0.2, 0.65, 1.0))
    toUint8 = resolve_intensity("auto", snapshot.voxels).apply
    pictures = []
    for mask, marks in ((before, []), (before, [click]), (after, [])):
        segments = [Segment("mask", mask[None].astype(np.uint8)), *marks]
        rows = render_overlay(volume, segments, [box] * len(segments), toUint8)
        pictures.append(rows[: rows.shape[1]])  # the first row: every segment is on it
    write_png(path, np.concatenate(pictures, axis=1))


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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "Resources" / "Screenshots")
    parser.add_argument("--clicks", metavar="MODEL", help="only the picture of a click, with this model")
    chosen = parser.parse_args()
    for picture in renderClicksOnly(chosen.folder, chosen.clicks) if chosen.clicks else render(chosen.folder):
        logger.info("%s: %d kB", picture, picture.stat().st_size // 1000)
