"""Apply, Cancel, Undo, Redo, progress and messages of the module's panel."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _

from .Dialogs import confirmed, errorsShown
from .Durations import duration, progressText
from .Packages import NOT_INSTALLED, ensurePackages

if TYPE_CHECKING:
    from dbsam.progress import Progress
    from dbsam.worker.client import Job

    from ..Run.Reports import RunReport
    from ..Run.Runner import SegmentationRunner

logger = logging.getLogger(__name__)

# Longer runs are announced before they start.
_LONG_SECONDS = 60.0


class RunPanel:
    """Starts one run at a time and shows how far it is.

    Args:
        ui: the panel's widgets.
        runner: computes and writes.
        startRun: starts what the panel is set to and returns its job; raises ValueError where that can't be.
        onDone: gets the report of a run that was written; None after undo and redo.
        onChanged: called when a run has begun, and when one has ended, in whatever way.
        currentSegmentation: the segmentation that undo and redo are for.
    """

    def __init__(
        self,
        ui: Any,
        runner: SegmentationRunner,
        startRun: Callable[[Callable[[Job], None], Callable[[Progress], None], Callable[[float], bool]], Job | None],
        onDone: Callable[[RunReport | None], None],
        onChanged: Callable[[], None],
        currentSegmentation: Callable[[], slicer.vtkMRMLSegmentationNode | None],
    ) -> None:
        self.ui = ui
        self._runner = runner
        self._startRun = startRun
        self._onDone = onDone
        self._onChanged = onChanged
        self._currentSegmentation = currentSegmentation
        self._missing = self._message = self._outlook = self._reason = ""
        self.job: Job | None = None
        ui.applyButton.connect("clicked()", self.onApply)
        ui.cancelButton.connect("clicked()", self.onCancel)
        ui.undoButton.connect("clicked()", self.onUndo)
        ui.redoButton.connect("clicked()", self.onRedo)

    def close(self) -> None:
        """Disconnects; a running job is the runner's to cancel."""
        self.ui.applyButton.disconnect("clicked()", self.onApply)
        self.ui.cancelButton.disconnect("clicked()", self.onCancel)
        self.ui.undoButton.disconnect("clicked()", self.onUndo)
        self.ui.redoButton.disconnect("clicked()", self.onRedo)

    def setReady(self, missing: str, outlook: str = "") -> None:
        """Says why Apply isn't possible; where it is ("" is missing), what is to be expected of it."""
        self._missing, self._outlook = missing, outlook
        self.update()

    def say(self, message: str) -> None:
        """Shows what has happened, until something else does."""
        self._message = message
        self.update()

    def update(self) -> None:
        """Shows what can be clicked now, and why Apply can't."""
        idle = self.job is None
        self.ui.applyButton.enabled = idle and not self._missing
        self.ui.cancelButton.enabled = not idle
        segmentationNode = self._currentSegmentation()
        self.ui.undoButton.enabled = idle and self._runner.writer.canUndo(segmentationNode)
        self.ui.redoButton.enabled = idle and self._runner.writer.canRedo(segmentationNode)
        self.ui.progressBar.setVisible(not idle)
        lines = [self._message, (self._missing or self._outlook) if idle else ""]
        self.ui.statusLabel.text = "\n".join(line for line in lines if line)

    def onApply(self) -> None:
        """Segments; errors are shown once, in a dialog."""
        self.begin(self._startRun)

    def begin(self, startRun: Callable[..., Job | None]) -> None:
        """Starts a run of any kind, unless one is running."""
        if self.job is not None:
            return
        self._message = self._reason = ""
        with errorsShown(_("DB-SAM could not start.")):
            if self._runner.needsPackages and not ensurePackages(self.ui.applyButton.window()):
                self._message = NOT_INSTALLED
            else:
                self.job = startRun(self._onFinished, self._onProgress, self._confirmLong)
        if self.job is not None:
            self.ui.progressBar.setRange(0, 0)
            self._message = _("Starting...")
            self._onChanged()
        self.update()

    def onCancel(self) -> None:
        """Stops the run before its next slice; nothing is changed."""
        if self.job is not None:
            self.job.cancel.cancel()
            self.say(_("Cancelling..."))

    def cancelBecause(self, reason: str) -> None:
        """Stops the run, whose result isn't wanted any more, and tells why."""
        if self.job is not None:
            self._reason = reason
            self.onCancel()

    def onUndo(self) -> None:
        """Takes back the last run; what was edited by hand since only if the user agrees."""
        self._step(self._runner.undo)

    def onRedo(self) -> None:
        """Brings back what was undone; the same holds."""
        self._step(self._runner.redo)

    def _step(self, step: Callable[[slicer.vtkMRMLSegmentationNode], None]) -> None:
        segmentationNode = self._currentSegmentation()
        with errorsShown(_("This step could not be taken.")):
            if self._mayStep(segmentationNode):
                step(segmentationNode)
                self._message = ""
                self._onDone(None)
        self.update()

    def _mayStep(self, segmentationNode: slicer.vtkMRMLSegmentationNode) -> bool:
        if not self._runner.writer.editedSince(segmentationNode):
            return True
        question = _("The segmentation was edited since the last run. These edits are lost by this step. Go on?")
        return confirmed(question, self.ui.undoButton.window())

    def _confirmLong(self, seconds: float) -> bool:
        """Asks before a run that takes long."""
        if seconds < _LONG_SECONDS:
            return True
        question = _("This run will take about {time} on this device. Start it?").format(time=duration(seconds))
        return confirmed(question, self.ui.applyButton.window())

    def _onProgress(self, progress: Progress) -> None:
        self.ui.progressBar.setRange(0, progress.total)
        self.ui.progressBar.value = progress.done
        self.say(progressText(progress))

    def _onFinished(self, job: Job) -> None:
        self.job = None
        if job.cancelled:
            self._message = self._reason or _("Cancelled; nothing was changed.")
        elif job.error is not None:
            self._message = str(job.error)
            logger.error("The run failed", exc_info=job.error)
            slicer.util.errorDisplay(str(job.error), windowTitle="DB-SAM", parent=self.ui.applyButton.window())
        else:
            report: RunReport = job.result
            done = _("{count} segments in {time}.") if len(report.segments) != 1 else _("{count} segment in {time}.")
            self._message = done.format(count=len(report.segments), time=duration(report.seconds))
            with errorsShown(_("The result could not be shown.")):
                self._onDone(report)
        with errorsShown(_("The panel could not be brought up to date.")):
            self._onChanged()
        self.update()
