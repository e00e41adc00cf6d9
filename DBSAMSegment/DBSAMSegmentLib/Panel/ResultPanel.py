"""The slices of the last run: confidence, warnings, and boxes corrected on single slices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from ..Mrml.Geometry import roiBox, volumeGeometry
from ..Mrml.Nodes import removeWithHelpers
from ..Mrml.SliceViews import AXIS_LETTERS, setRoiInWorld, showSlice, sliceOffset_mm, worldBoxOfSlice
from ..Mrml.Views import sliceWidgets, viewAlong
from .ConfidencePlot import ConfidencePlot, weakestSlices
from .Dialogs import errorsShown

if TYPE_CHECKING:
    from dbsam.inference.segmenter import SliceReport

    from ..Run.Reports import RunReport, SegmentReport


class ResultPanel:
    """Shows the report of the last run and lets the user correct its boxes.

    Args:
        ui: the panel's widgets.
        currentVolume: the volume that is segmented.
        onRedo: called with the segment's report, the slice and its corrected box (xyxy).
        onClear: called when the corrections of the shown segment are to be forgotten.

    Attributes:
        report: what is shown; None for nothing.
    """

    def __init__(
        self,
        ui: Any,
        currentVolume: Callable[[], slicer.vtkMRMLScalarVolumeNode | None],
        onRedo: Callable[[SegmentReport, int, list[float]], None],
        onClear: Callable[[SegmentReport], None],
    ) -> None:
        self.ui = ui
        self._currentVolume = currentVolume
        self._onRedo = onRedo
        self._onClear = onClear
        self.report: RunReport | None = None
        self._correction: tuple[slicer.vtkMRMLMarkupsROINode, int] | None = None
        self.plot = ConfidencePlot(self.goToSlice)
        ui.plotContainer.layout().addWidget(self.plot)
        ui.resultCombo.connect("currentIndexChanged(int)", self._onSegmentChosen)
        ui.correctButton.connect("clicked()", self.onCorrect)
        ui.weakestLabel.connect("linkActivated(QString)", self._onLink)
        ui.redoFromHereButton.connect("clicked()", self.onRedoFromHere)
        ui.clearKeyBoxesButton.connect("clicked()", self.onClearKeyBoxes)
        self.show(None)

    def close(self) -> None:
        """Disconnects and removes the box that is being corrected."""
        self.endCorrection()
        self.ui.resultCombo.disconnect("currentIndexChanged(int)", self._onSegmentChosen)
        self.ui.correctButton.disconnect("clicked()", self.onCorrect)
        self.ui.weakestLabel.disconnect("linkActivated(QString)", self._onLink)
        self.ui.redoFromHereButton.disconnect("clicked()", self.onRedoFromHere)
        self.ui.clearKeyBoxesButton.disconnect("clicked()", self.onClearKeyBoxes)

    @property
    def segment(self) -> SegmentReport | None:
        """The report of the segment that is shown."""
        index = self.ui.resultCombo.currentIndex
        if self.report is None or not 0 <= index < len(self.report.segments):
            return None
        return self.report.segments[index]

    def show(self, report: RunReport | None) -> None:
        """Shows a run; None empties the panel."""
        former = self.segment
        self.endCorrection()
        self.report = report
        combo = self.ui.resultCombo
        blocked = combo.blockSignals(True)
        combo.clear()
        for segment in report.segments if report is not None else ():
            combo.addItem(segment.name)
        names = [segment.name for segment in report.segments] if report is not None else []
        if former is not None and former.name in names:
            combo.setCurrentIndex(names.index(former.name))
        combo.blockSignals(blocked)
        if report is not None:
            self.ui.resultButton.collapsed = False
        self._onSegmentChosen()

    def goToSlice(self, index: int) -> None:
        """Moves the views that show slices along the run's axis."""
        segment, volumeNode = self.segment, self._currentVolume()
        if segment is not None and volumeNode is not None:
            showSlice([widget.mrmlSliceNode() for widget in sliceWidgets()], volumeNode, segment.axis, index)
            self.plot.setCurrentSlice(index)

    def onCorrect(self) -> None:
        """Shows the box of the slice in view as an ROI that can be dragged; it isn't saved with the scene."""
        segment, volumeNode = self.segment, self._currentVolume()
        if segment is None or volumeNode is None:
            return
        found = viewAlong(volumeNode, segment.axis)
        if found is None:
            letter = AXIS_LETTERS[segment.axis]
            slicer.util.warningDisplay(_("No view shows slices along {axis}.").format(axis=letter), "DB-SAM")
            return
        index = found[1].index
        reports = {report.index: report for report in segment.slices}
        if not reports:
            return
        nearest = reports[min(reports, key=lambda one: abs(one - index))]
        self.endCorrection()
        matrix, size = worldBoxOfSlice(volumeNode, segment.axis, index, nearest.box_xyxy)
        roiNode = volumeNode.GetScene().AddNewNodeByClass("vtkMRMLMarkupsROINode", f"Box on slice {index}")
        roiNode.SetSaveWithScene(False)
        roiNode.SetHideFromEditors(True)  # it is no box to segment
        roiNode.CreateDefaultDisplayNodes()
        setRoiInWorld(roiNode, matrix, size)
        self._correction = (roiNode, index)
        self._update()

    def onRedoFromHere(self) -> None:
        """Computes again from the corrected slice outwards."""
        segment, volumeNode = self.segment, self._currentVolume()
        if segment is None or volumeNode is None or self._correction is None:
            return
        roiNode, index = self._correction
        with errorsShown(_("The box can't be used.")):
            box_xyxy = boxOnSlice(roiNode, volumeNode, segment.axis, index)
            self._onRedo(segment, index, box_xyxy)
            self.endCorrection()

    def onClearKeyBoxes(self) -> None:
        """Forgets all corrected boxes of the shown segment."""
        if self.segment is not None:
            self._onClear(self.segment)

    def endCorrection(self) -> None:
        """Removes the box that is being corrected."""
        if self._correction is not None:
            roiNode = self._correction[0]
            self._correction = None
            scene = roiNode.GetScene()
            if scene is not None:
                removeWithHelpers(scene, roiNode)
        self._update()

    def _onLink(self, link: str) -> None:
        self.goToSlice(int(link))

    def _onSegmentChosen(self, _index: int = 0) -> None:
        segment, volumeNode = self.segment, self._currentVolume()
        self.plot.setCurrentSlice(None)
        if segment is None or volumeNode is None:
            self.plot.setSlices([])
            for label in (self.ui.weakestLabel, self.ui.warningsLabel, self.ui.intensityLabel):
                label.text = ""
        else:
            offset_mm = partial(sliceOffset_mm, volumeNode, segment.axis)
            self.plot.setSlices(segment.slices, AXIS_LETTERS[segment.axis], offset_mm)
            self.ui.weakestLabel.text = weakestInWords(segment.slices)
            self.ui.warningsLabel.text = "\n".join(one[0].upper() + one[1:] + "." for one in segment.warnings)
            intensity = segment.intensity
            text = _("Shown to the network: {low:g} to {high:g} ({name}; {reason})")
            self.ui.intensityLabel.text = text.format(
                low=intensity.low, high=intensity.high, name=intensity.name, reason=intensity.reason
            )
        for label in (self.ui.weakestLabel, self.ui.warningsLabel, self.ui.intensityLabel):
            label.setVisible(bool(label.text))
        self._update()

    def _update(self) -> None:
        hasResult = self.segment is not None
        self.ui.correctButton.enabled = hasResult
        self.ui.clearKeyBoxesButton.enabled = hasResult
        self.ui.redoFromHereButton.enabled = self._correction is not None


def weakestInWords(slices: Sequence[SliceReport]) -> str:
    """The slices to look at first, as links to their indices; "" where all are sure."""
    words = []
    for report in weakestSlices(slices):
        why = _("confidence {share:.2f}").format(share=report.predicted_iou)
        if report.area_pixels == 0:
            why = _("empty")
        elif report.touches_edge:
            why += _(", touches its box")
        words.append(f'<a href="{report.index}">{report.index}</a> ({why})')
    return _("Look first at slices: {slices}").format(slices=", ".join(words)) if words else ""


def boxOnSlice(
    roiNode: slicer.vtkMRMLMarkupsROINode, volumeNode: slicer.vtkMRMLScalarVolumeNode, axis: int, index: int
) -> list[float]:
    """What an ROI covers on one slice of a volume: x_min, y_min, x_max, y_max in continuous pixel coordinates.

    Raises:
        ValueError: the ROI was moved off this slice.
    """
    from dbsam.geometry.grid import slice_boxes_xyxy

    boxes = slice_boxes_xyxy(roiBox(roiNode, volumeNode), volumeGeometry(volumeNode), axis)
    if index not in boxes:
        raise ValueError(f"The box was moved off slice {index}: drag its corners in that slice's view only.")
    return np.asarray(boxes[index]).tolist()
