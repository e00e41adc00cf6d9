"""Live mode: while an ROI is dragged the slice in view is outlined; on release the whole volume follows."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import qt
import slicer
import vtk
from slicer.i18n import tr as _

from ..Mrml.Requests import RunRequest
from ..Mrml.SliceViews import AXIS_LETTERS
from ..Mrml.Views import sliceWidgets, viewAlong
from .Durations import progressText
from .SlicePreview import SlicePreview

if TYPE_CHECKING:
    from dbsam.progress import Progress
    from dbsam.worker.client import Job

    from ..Run.Runner import SegmentationRunner

logger = logging.getLogger(__name__)

# Dragging sends dozens of events a second; one preview at a time is computed, and always of the newest box.
_PAUSE_MILLISECONDS = 60
_RELEASE_MILLISECONDS = 300


class LivePreview:
    """Watches ROIs.

    Args:
        runner: computes.
        makeRequest: the request for one ROI as the panel is set now; raises ValueError where that can't be.
        onReleased: called with the ROI that the user let go of.
        say: gets why no outline is shown; "" when one is.
    """

    def __init__(
        self,
        runner: SegmentationRunner,
        makeRequest: Callable[[slicer.vtkMRMLMarkupsROINode], tuple[slicer.vtkMRMLScalarVolumeNode, RunRequest]],
        onReleased: Callable[[slicer.vtkMRMLMarkupsROINode], None],
        say: Callable[[str], None],
    ) -> None:
        self._runner = runner
        self._makeRequest = makeRequest
        self._onReleased = onReleased
        self._say = say
        self._observed: list[tuple[slicer.vtkMRMLMarkupsROINode, int]] = []
        self._changed: slicer.vtkMRMLMarkupsROINode | None = None
        self._dropped: slicer.vtkMRMLMarkupsROINode | None = None
        self._job: Job | None = None
        self.outlines = SlicePreview()
        self._pause = qt.QTimer()
        self._pause.setSingleShot(True)
        self._pause.setInterval(_PAUSE_MILLISECONDS)
        self._pause.connect("timeout()", self._preview)
        self._release = qt.QTimer()
        self._release.setSingleShot(True)
        self._release.setInterval(_RELEASE_MILLISECONDS)
        self._release.connect("timeout()", self._released)

    def watch(self, roiNodes: Sequence[slicer.vtkMRMLMarkupsROINode]) -> None:
        """Watches these ROIs and no others; none ends live mode."""
        for node, tag in self._observed:
            node.RemoveObserver(tag)
        self._observed = []
        for node in roiNodes:
            for event in (slicer.vtkMRMLMarkupsNode.PointModifiedEvent, vtk.vtkCommand.ModifiedEvent):
                self._observed.append((node, node.AddObserver(event, self._onModified)))
            endEvent = slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent
            self._observed.append((node, node.AddObserver(endEvent, self._onEndInteraction)))
        if not roiNodes:
            self._stopTimers()
            self.outlines.clear()

    def close(self) -> None:
        """Ends for good."""
        self.watch([])
        self._pause.disconnect("timeout()", self._preview)
        self._release.disconnect("timeout()", self._released)

    def clear(self) -> None:
        """Removes outlines and forgets what was pending."""
        self._stopTimers()
        self.outlines.clear()

    def _stopTimers(self) -> None:
        self._pause.stop()
        self._release.stop()
        self._changed = self._dropped = None
        if self._job is not None:
            self._job.cancel.cancel()

    def _onModified(self, node: slicer.vtkMRMLMarkupsROINode, _event: str) -> None:
        self._changed = node
        if not self._pause.active:
            self._pause.start()

    def _onEndInteraction(self, node: slicer.vtkMRMLMarkupsROINode, _event: str) -> None:
        self._changed = self._dropped = node
        self._release.start()

    def _released(self) -> None:
        if self._dropped is not None:
            self._onReleased(self._dropped)

    def _preview(self) -> None:
        node = self._changed
        if node is None:
            return
        if self._job is not None:
            self._pause.start()  # the newest box is taken up when the running preview has ended
            return
        self._changed = None
        job, why = None, ""
        try:
            volumeNode, request = self._makeRequest(node)
            axis = request.snapshot.geometry.axis_index(request.axis)
            found = viewAlong(volumeNode, axis)
            if found is None or not found[1].aligned:
                why = _(
                    "No view shows slices along {axis}, so nothing is outlined: turn one to the volume (Rotate to"
                    " volume plane, in its menu)."
                ).format(axis=AXIS_LETTERS[axis])
            else:
                index = found[1].index
                job = self._runner.preview(
                    request, index, lambda job: self._show(job, volumeNode, index), onProgress=self._waiting
                )
                if job is None:
                    why = _("The slice in view lies outside the box, so nothing is outlined.")
        except ValueError as error:
            why = str(error)
        self._say(why)
        if job is None:
            self.outlines.clear()
            return
        self._job = job

    def _waiting(self, progress: Progress) -> None:
        """Says what the first outline waits for: the model is loaded, or the volume read."""
        if progress.total == 0:
            self._say(progressText(progress))

    def _show(self, job: Job, volumeNode: slicer.vtkMRMLScalarVolumeNode, index: int) -> None:
        self._job = None
        if job.error is not None:
            logger.warning("The preview failed: %s", job.error)
            self._say(str(job.error))
        if job.error is not None or job.cancelled or job.cancel.cancelled or volumeNode.GetScene() is None:
            return
        self._say("")
        self.outlines.show(job.result[0], index, volumeNode, sliceWidgets())
