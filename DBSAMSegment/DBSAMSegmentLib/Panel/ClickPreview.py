"""The slice of the newest click, outlined as a run would leave it there."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import qt
import slicer
from slicer.i18n import tr as _

from ..Mrml.Geometry import nodeName
from ..Mrml.Requests import RunRequest, sliceOf
from ..Mrml.SliceViews import AXIS_LETTERS, alignedViews, showSlice, turnedViewAt
from ..Mrml.Views import sliceWidgets
from .Durations import progressText
from .SlicePreview import SlicePreview

if TYPE_CHECKING:
    from dbsam.inference.segmenter import PointPrompt
    from dbsam.progress import Progress
    from dbsam.worker.client import Job

    from ..Run.Runner import SegmentationRunner

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClickedSlice:
    """What is to be outlined.

    Attributes:
        request: what a run would compute.
        volumeNode: its volume.
        segmentationNode: where it would write to; None for a new one.
        point: the click, in the volume's own RAS.
        position: the same in world.
    """

    request: RunRequest
    volumeNode: slicer.vtkMRMLScalarVolumeNode
    segmentationNode: slicer.vtkMRMLSegmentationNode | None
    point: PointPrompt
    position: tuple[float, float, float]


class ClickPreview:
    """Computes one slice at a time, always that of the newest click.

    Args:
        runner: computes.
        clicked: what is to be outlined now, None for nothing; raises ValueError where that can't be.
        say: gets the slice's name, and why nothing is outlined.
    """

    def __init__(
        self,
        runner: SegmentationRunner,
        clicked: Callable[[], ClickedSlice | None],
        say: Callable[[str], None],
    ) -> None:
        self._runner = runner
        self._clicked = clicked
        self._say = say
        self._job: Job | None = None
        self._again = False
        self.outlines = SlicePreview()
        # What the event that tells of a click is about is complete only after it.
        self._soon = qt.QTimer()
        self._soon.setSingleShot(True)
        self._soon.setInterval(0)
        self._soon.connect("timeout()", self._begin)

    @property
    def busy(self) -> bool:
        """Whether an outline is on its way."""
        return self._job is not None or self._soon.active

    def update(self) -> None:
        """A click has come, or was moved or taken back."""
        self._soon.start()

    def clear(self) -> None:
        """Removes the outline and forgets what is on its way."""
        self._soon.stop()
        self._again = False
        if self._job is not None:
            self._job.cancel.cancel()
        self.outlines.clear()

    def close(self) -> None:
        """Ends for good."""
        self.clear()
        self._soon.disconnect("timeout()", self._begin)

    def _begin(self) -> None:
        if self._job is not None:
            self._again = True  # the newest is taken up when the running one has ended
            return
        try:
            clicked = self._clicked()
            if clicked is None:
                self.clear()
                return
            self._outline(clicked)
        except ValueError as error:
            self.outlines.clear()
            self._say(str(error))

    def _outline(self, clicked: ClickedSlice) -> None:
        request, volumeNode = clicked.request, clicked.volumeNode
        geometry = request.snapshot.geometry
        axis = geometry.axis_index(request.axis)
        index = sliceOf(clicked.point, geometry, axis)
        where = _inWords(clicked, axis, index)
        if clicked.segmentationNode is not None:
            known = self._runner.correctedOnSlice(request, index, clicked.segmentationNode)
            if known is not None:
                self._show(known, volumeNode, index, where)
                return

        def finished(job: Job) -> None:
            self._job = None
            if self._again:
                self._again = False
                self._begin()
            elif job.error is not None:
                logger.warning("The preview failed: %s", job.error)
                self.outlines.clear()
                self._say(str(job.error))
            elif not job.cancelled and not job.cancel.cancelled and volumeNode.GetScene() is not None:
                self._show(job.result[0], volumeNode, index, where)

        self._say(where)
        self._job = self._runner.preview(
            request, index, finished, onProgress=self._waiting, segmentationNode=clicked.segmentationNode
        )
        if self._job is None:
            self.outlines.clear()
            self._say(where + " " + _("This slice lies outside the box, so that the click changes nothing."))

    def _show(self, result: object, volumeNode: slicer.vtkMRMLScalarVolumeNode, index: int, where: str) -> None:
        self.outlines.show(result, index, volumeNode, sliceWidgets())
        self._say(where)

    def _waiting(self, progress: Progress) -> None:
        """Says what the outline waits for: the model is loaded, or the volume read."""
        if progress.total == 0:
            self._say(progressText(progress))


def _inWords(clicked: ClickedSlice, axis: int, index: int) -> str:
    """The slice that a click belongs to; views that show slices of its axis go there."""
    volumeNode, letter = clicked.volumeNode, AXIS_LETTERS[axis]
    sliceNodes = [widget.mrmlSliceNode() for widget in sliceWidgets()]
    aligned = alignedViews(sliceNodes, volumeNode, axis)
    showSlice(aligned, volumeNode, axis, index)
    turned = turnedViewAt(sliceNodes, volumeNode, clicked.position)
    if turned is not None:
        text = _(
            "The view is turned by {angle:.0f} degrees against the slices of {volume}: the click belongs to the nearest"
            " slice, {axis} = {index}."
        ).format(angle=turned.angle, volume=nodeName(volumeNode), axis=letter, index=index)
    else:
        text = _("The click belongs to slice {axis} = {index}.").format(axis=letter, index=index)
    if sliceNodes and not aligned:
        text += " " + _("No view shows it as it is: turn one to the volume (Rotate to volume plane, in its menu).")
    return text
