"""The DB-SAM effect: a box dragged in a slice view, or an ROI, becomes part of the selected segment; clicks correct it.

Slicer loads this file by its path, under the name of its folder: it is the only file there, as that name hides any
package that is called the same, and imports are absolute. Masking, overwrite mode, intensity range, undo and redo are
the Segment Editor's own.
"""

import logging
import os

import numpy as np
import qSlicerSegmentationsEditorEffectsPythonQt as effects
import qt
import slicer
import vtk
from SegmentEditorEffects import AbstractScriptedSegmentEditorEffect
from slicer.i18n import tr as _

logger = logging.getLogger(__name__)


class SegmentEditorEffect(AbstractScriptedSegmentEditorEffect):
    """Draw a box, look at the outline, correct it by clicks, apply; or segment all slices of an ROI."""

    def __init__(self, scriptedEffect):
        scriptedEffect.name = "DB-SAM"
        scriptedEffect.title = _("DB-SAM")
        scriptedEffect.perSegment = True
        AbstractScriptedSegmentEditorEffect.__init__(self, scriptedEffect)
        self.options = None
        self._runner = None
        self._ownsRunner = False
        self._bands = {}
        self._outlines = None
        self._boxes = {}
        self._clicks = None
        self._roiOfClicks = None
        self._preview = None
        self._fill = None
        self._message = self._reason = ""
        self._applyWhenSeen = False
        self._jobVolume = self._jobTarget = self._guard = None
        self.job = None

    def clone(self):
        """Another instance, for another editor."""
        clonedEffect = effects.qSlicerSegmentEditorScriptedEffect(None)
        clonedEffect.setPythonSource(__file__.replace("\\", "/"))
        return clonedEffect

    def icon(self):
        """The effect's button."""
        path = os.path.join(os.path.dirname(__file__), "..", "Resources", "Icons", "SegmentEditorDBSAM.png")
        return qt.QIcon(path) if os.path.exists(path) else qt.QIcon()

    def helpText(self):
        """Shown below the effect's name."""
        return "<html>" + _(
            "Segment what is in a box.<br><ul>"
            "<li>Drag a box in any slice view; its outline is shown at once.</li>"
            "<li><b>Click</b> on a part that is missing, <b>Ctrl+click</b> (Cmd on a Mac) on one that doesn't belong;"
            " the outline follows. Shift stays Slicer's.</li>"
            "<li><b>Return</b> (mouse in a view) applies it, <b>Backspace</b> takes back the last click, then drops the"
            " box; Escape leaves the effect.</li>"
            "<li>Choose an ROI and <b>All slices of the ROI</b> to follow the structure through the volume; a box"
            " dragged, or a click made, on a slice corrects the ROI there.</li></ul>"
        )

    def setRunner(self, runner):
        """Takes another runner than the application's, as tests do."""
        self._letGoOfRunner()
        self._runner, self._ownsRunner = runner, False

    def setupOptionsFrame(self):
        """Builds the options."""
        from DBSAMSegmentLib.Effect.EffectOptions import EffectOptions

        self.options = EffectOptions(self.scriptedEffect, self.onApply, self.onCancel, self.onParameterChanged)

    def setMRMLDefaults(self):
        """Values of a new parameter node."""
        from DBSAMSegmentLib.Effect.EffectOptions import CHOICES

        for name, (_label, _choices, default) in CHOICES.items():
            self.scriptedEffect.setParameterDefault(name, default)

    def updateGUIFromMRML(self):
        """Shows the parameters."""
        if self.options is None:
            return
        if self._jobTarget is not None and self._target() != self._jobTarget:
            self._stopBecause(
                _("Another segment was selected, so the run was stopped; nothing was changed. Select it, apply again.")
            )
        idle, missing = self.job is None, self._missing()
        self.options.update(self._roi(), idle and not missing, not idle or self._preview is not None)
        lines = [self._message, missing if idle else ""]
        self.options.statusLabel.text = "\n".join(line for line in lines if line)

    def updateMRMLFromGUI(self):
        """Nothing to do: the widgets write as they are changed."""

    def activate(self):
        """The effect was chosen."""
        from DBSAMSegmentLib.Effect.EffectClicks import EffectClicks
        from DBSAMSegmentLib.Mrml.BoxFill import BoxFill
        from DBSAMSegmentLib.Panel.SlicePreview import SlicePreview

        self._clicks = EffectClicks()
        self._outlines = SlicePreview(self._onSeen)
        self._fill = BoxFill(slicer.mrmlScene)
        self._message = ""
        self.updateGUIFromMRML()

    def deactivate(self):
        """Another effect was chosen: previews go, a run is stopped."""
        self.onCancel()
        self._drop()
        for viewWidget, band in self._bands.items():
            self.scriptedEffect.removeActor2D(viewWidget, band.actor)
        self._bands = {}
        if self._fill is not None:
            self._fill.close()
            self._fill = None

    def cleanup(self):
        """The effect is deleted."""
        self.onCancel()
        self._drop()
        if self.options is not None:
            self.options.close()
            self.options = None
        self._letGoOfRunner()

    def createCursor(self, widget):
        """A cross, as for drawing."""
        return qt.QCursor(qt.Qt.CrossCursor)

    def interactionNodeModified(self, interactionNode):
        """Placing an ROI must not deactivate the effect, which the base class would do."""

    def sourceVolumeNodeChanged(self):
        """A box belongs to one volume, and so does a run."""
        if self.job is not None and self._volume() is not self._jobVolume:
            self._stopBecause(_("Another volume was selected, so the run was stopped; nothing was changed."))
        self._drop()
        self.updateGUIFromMRML()

    def processInteractionEvents(self, callerInteractor, eventId, viewWidget):
        """Drags a box with the left button, or clicks; Return applies, Backspace goes back; all else stays Slicer's.

        Escape is the Segment Editor's: it leaves the effect, which drops the preview, too.

        Returns:
            Whether the event was used up.
        """
        if eventId == vtk.vtkCommand.KeyPressEvent:
            keys = {
                "Return": self.onApply,
                "KP_Enter": self.onApply,
                "BackSpace": self.onBack,
                "Delete": self.onBack,
            }
            action = keys.get(callerInteractor.GetKeySym())
            if action is None:
                return False
            action()
            return True
        from DBSAMSegmentLib.Mrml.Views import isPlacing

        if viewWidget.className() != "qMRMLSliceWidget" or isPlacing(slicer.mrmlScene):
            return False
        band = self._band(viewWidget)
        position = tuple(float(value) for value in callerInteractor.GetEventPosition())
        if eventId == vtk.vtkCommand.LeftButtonPressEvent and not band.dragging:
            # With Shift the crosshair moves; a drag that has begun goes on whatever keys are pressed.
            if self._jobTarget is not None or self._volume() is None or callerInteractor.GetShiftKey():
                return False
            band.start(position)
        elif eventId == vtk.vtkCommand.MouseMoveEvent and band.dragging:
            band.moveTo(position)
        elif eventId == vtk.vtkCommand.LeftButtonReleaseEvent and band.dragging:
            from DBSAMSegmentLib.Panel.Dialogs import errorsShown

            corners = band.finish()
            if corners is not None:
                with errorsShown(_("This box can't be used.")):
                    self.onBoxDrawn(viewWidget, *corners)
            else:
                with errorsShown(_("This click can't be used.")):
                    self.onClick(viewWidget, position, include=not callerInteractor.GetControlKey())
        else:
            return False
        self.scriptedEffect.scheduleRender(viewWidget)
        return True

    def onParameterChanged(self):
        """The user changed an option; clicks for one ROI aren't clicks for another."""
        if self._clicks is not None and self._clicks.points and self._roi() is not self._roiOfClicks:
            self._drop()
        self.updateGUIFromMRML()

    def onBoxDrawn(self, viewWidget, firstXy, secondXy):
        """Previews the box on the volume's slice under the view."""
        from DBSAMSegmentLib.Mrml.SliceViews import boxOfRectangle, describe

        if not self._canRun():
            return
        viewed, box_xyxy = boxOfRectangle(viewWidget.mrmlSliceNode(), self._volume(), firstXy, secondXy)
        self._status("" if viewed.aligned else describe(viewed, self._volume()))
        self.previewBox(viewed.axis, viewed.index, box_xyxy)

    def previewBox(self, axis, index, box_xyxy):
        """Computes one slice and shows its outline.

        Args:
            axis: 0, 1, 2 for slices along I, J, K.
            index: the slice.
            box_xyxy: x_min, y_min, x_max, y_max in continuous pixel coordinates.
        """
        if not self._isThroughRoi():
            self._clicks.clear()
        self._boxes = {"axis": axis, "index": index, "box": np.asarray(box_xyxy, float).tolist()}
        self._previewSlice(self._roiRequest() if self._clicks.points else self._sliceRequest(), index)

    def onClick(self, viewWidget, xy, include):
        """Takes a click on the volume's slice under the view, and previews the slice that it belongs to."""
        from dataclasses import replace

        from DBSAMSegmentLib.Mrml.Geometry import volumeGeometry
        from DBSAMSegmentLib.Mrml.Requests import sliceOf
        from DBSAMSegmentLib.Mrml.SliceViews import AXIS_LETTERS, describe, pointOfClick
        from DBSAMSegmentLib.Mrml.Views import sliceWidgets

        volumeNode, throughRoi = self._volume(), self._isThroughRoi()
        if not self._boxes and not throughRoi:
            self._status(_("Drag a box first: clicks correct what is found in it."))
            return
        if not self._canRun():
            return
        model = self.scriptedEffect.parameter("Model")
        if not self._runnerInUse().takesClicks(model):
            text = _(
                "The model {model} wasn't trained with clicks: drag another box, or choose a model that takes them."
            )
            self._status(text.format(model=model))
            return
        viewed, point = pointOfClick(viewWidget.mrmlSliceNode(), volumeNode, xy, include)
        axis, geometry = self._axis(), volumeGeometry(volumeNode)
        index = sliceOf(point, geometry, axis)
        if not throughRoi and index != self._boxes["index"]:
            text = _("The box is on slice {axis} = {index}, this click on {other}: click there, or drag a box here.")
            self._status(text.format(axis=AXIS_LETTERS[axis], index=self._boxes["index"], other=index))
            return
        request = self._roiRequest() if throughRoi else self._sliceRequest()  # refused before the click counts
        said = [] if viewed.aligned else [describe(viewed, volumeNode)]
        if not include and self.scriptedEffect.parameter("Mode") == "add":
            said.append(_("What the segment has already stays, as the result is added: Replace takes it out."))
        self._status(" ".join(said))
        self._roiOfClicks = self._roi()
        self._clicks.add(point, volumeNode, axis, sliceWidgets())
        self._previewSlice(replace(request, points=self._clicks.points), index)

    def onBack(self):
        """Takes back the last click; without one, drops the preview."""
        from DBSAMSegmentLib.Mrml.Views import sliceWidgets

        if self._jobTarget is not None or self._clicks is None or not self._clicks.points:
            self.onCancel()
            return
        self._status("")
        index = self._clicks.takeBack(self._axis(), sliceWidgets())
        self._previewSlice(self._roiRequest() if self._isThroughRoi() else self._sliceRequest(), index)

    def _previewSlice(self, request, index):
        """Computes one slice of a request and shows its outline; a preview that is still computed gives way."""
        from DBSAMSegmentLib.Mrml.Requests import onOneSlice

        volumeNode, single = self._volume(), onOneSlice(request, index)
        if self.job is not None:
            self.job.cancel.cancel()
        self._preview, self._applyWhenSeen = None, False
        self._outlines.clear()

        def show(job):
            from DBSAMSegmentLib.Mrml.Views import sliceWidgets
            from DBSAMSegmentLib.Panel.Dialogs import errorsShown

            if job is not self.job:
                return  # another click has come
            self._ended()
            if job.error is not None:
                self._status(str(job.error))
            elif job.cancelled or job.cancel.cancelled or volumeNode.GetScene() is None:
                self._status(self._reason)
            else:
                self._status(before)
                self._preview = (job.result[0], single)
                with errorsShown(_("The outline can't be shown.")):
                    self._fill.hideFor([self._roi()] if self._roi() is not None else [])
                    self._outlines.show(job.result[0], index, volumeNode, sliceWidgets())
                    if self._applyWhenSeen and self._outlines.wasSeen:
                        self.onApply()
            self._applyWhenSeen = False
            self.updateGUIFromMRML()

        def waiting(progress):
            from DBSAMSegmentLib.Panel.Durations import progressText

            if progress.total == 0:  # nothing is computed yet: the model is loaded, or the volume read
                self._status(progressText(progress))

        self._jobVolume, self._reason, before = volumeNode, "", self._message
        self.job = self._runnerInUse().preview(request, index, show, onProgress=waiting)
        if self.job is None:
            self._status(_("The slice lies outside the box, or the box outside the volume."))
        self.updateGUIFromMRML()

    def onApply(self):
        """Writes the preview, or segments all slices of the ROI; asked for too early, when the preview is there."""
        from DBSAMSegmentLib.Panel.Dialogs import errorsShown

        if self.job is not None:
            self._applyWhenSeen = self._jobTarget is None
            return
        with errorsShown(_("DB-SAM could not segment.")):
            if self._missing():
                pass  # the status line says what
            elif self._isThroughRoi():
                self._startRoi()
            elif self._write(*self._preview):
                self._drop()
        self.updateGUIFromMRML()

    def onCancel(self):
        """Stops the run, after which its clicks can be gone on with, or drops the preview; nothing is changed."""
        self._applyWhenSeen = False
        isRun = self._jobTarget is not None
        if self.job is not None:
            self.job.cancel.cancel()
        if not isRun:
            self._drop()
        self.updateGUIFromMRML()

    def _startRoi(self):
        from DBSAMSegmentLib.Mrml.SceneEvents import SegmentGuard
        from DBSAMSegmentLib.Panel.Dialogs import errorsShown
        from DBSAMSegmentLib.Write.SegmentWriter import requireWritable

        if not self._canRun():
            return
        runner, volumeNode, request = self._runnerInUse(), self._volume(), self._roiRequest()
        target = self._target()
        requireWritable(volumeNode, target[0], [target[1]])
        self._preview = None
        self._outlines.clear()

        def finished(job):
            self._ended()
            if self.options is None:  # the effect was deleted
                return
            self.options.progressBar.setVisible(False)
            if job.error is not None:
                logger.error("The run failed", exc_info=job.error)
                self._status(str(job.error))
            elif job.cancelled or job.cancel.cancelled:
                self._status(self._reason or _("Cancelled; nothing was changed."))
            else:
                self._status("")
                with errorsShown(_("The result could not be written.")):
                    self._write(job.result[0], request)
            self.updateGUIFromMRML()

        gone = _("The segment {name} was deleted, so the run was stopped; nothing was changed.")
        self._guard = SegmentGuard(target[0], [target[1]], lambda name: self._stopBecause(gone.format(name=name)))
        self._jobVolume, self._jobTarget, self._reason = volumeNode, target, ""
        self.job = runner.compute(request, finished, self._onProgress, nodes=[volumeNode, target[0]])
        self.options.progressBar.setRange(0, 0)
        self.options.progressBar.setVisible(True)

    def _write(self, result, request):
        """Gives the mask to the editor: one undo state, its masking, its overwrite mode; returns whether it was."""
        from DBSAMSegmentLib.Run.Reports import warningsOf
        from DBSAMSegmentLib.Write.EffectWriting import writeThroughEffect

        volumeNode, segmentationNode = self._volume(), self._segmentation()
        self._runnerInUse().requireCurrent(request, volumeNode, segmentationNode)
        if not self.scriptedEffect.confirmCurrentSegmentVisible():
            return False
        clipped, heldBack = writeThroughEffect(
            self.scriptedEffect, result, volumeNode, segmentationNode, self.scriptedEffect.parameter("Mode")
        )
        self._boxes = {}
        self._clicks.clear()
        warnings = warningsOf(result, clipped, heldBack)
        self._status("\n".join(warning[0].upper() + warning[1:] + "." for warning in warnings))
        self._fill.hideFor([self._roi()] if self._roi() is not None else [])
        return True

    def _sliceRequest(self):
        """The box on its slice, with the clicks there."""
        from dataclasses import replace

        from DBSAMSegmentLib.Mrml.NodeRequests import sliceRequestOf

        from dbsam.inference.segmenter import SliceBoxes

        axis, index = self._boxes["axis"], self._boxes["index"]
        prompt = SliceBoxes(axis, {index: self._boxes["box"]})
        request = sliceRequestOf(self._volume(), prompt, axis, **self._settings())
        return replace(request, points=self._clicks.points)

    def _roiRequest(self):
        """The ROI, with the box that corrects it on a slice, and all clicks."""
        from dataclasses import replace

        from DBSAMSegmentLib.Mrml.NodeRequests import requestOf

        keyBoxes = [{self._boxes["index"]: self._boxes["box"]}] if self._boxes else None
        axis = self._axis()
        request = requestOf(self._volume(), [self._roi()], axis=axis, keyBoxes=keyBoxes, **self._settings())
        return replace(request, points=self._clicks.points, spread=self.scriptedEffect.parameter("Spread"))

    def _axis(self):
        """The axis of the box, or that along which the ROI is cut."""
        from DBSAMSegmentLib.Mrml.Geometry import volumeGeometry

        return self._boxes["axis"] if self._boxes else volumeGeometry(self._volume()).axis_index("auto")

    def _canRun(self):
        """Whether what a network needs is installed, after asking for it."""
        from DBSAMSegmentLib.Panel.Packages import NOT_INSTALLED, ensurePackages

        if self._runner is not None or ensurePackages(self.options.applyButton.window()):
            return True
        self._status(NOT_INSTALLED)
        return False

    def _settings(self):
        names = {"model": "Model", "device": "Device", "intensity": "Intensity", "strategy": "Strategy"}
        return {key: self.scriptedEffect.parameter(name) for key, name in names.items()}

    def _onProgress(self, progress):
        from DBSAMSegmentLib.Panel.Durations import progressText

        self.options.progressBar.setRange(0, progress.total)
        self.options.progressBar.value = progress.done
        self._status(progressText(progress))

    def _drop(self):
        self._preview = None
        self._boxes = {}
        if self._outlines is not None:
            self._outlines.clear()
        if self._clicks is not None:
            self._clicks.clear()

    def _status(self, text):
        """Says what has happened, beside why Apply is off."""
        self._message = text
        self.updateGUIFromMRML()

    def _missing(self):
        """Why there is nothing to apply; "" if there is."""
        if self._scope() == "roi":
            return "" if self._roi() is not None else _("Choose an ROI to segment all its slices.")
        if self._preview is None:
            return _("Drag a box round the structure in a slice view.")
        if self._outlines.wasSeen:
            return ""
        from DBSAMSegmentLib.Mrml.SliceViews import AXIS_LETTERS

        unseen = _(
            "No view shows the outline on slice {axis} = {index}, so it isn't written: turn a view to the volume."
        )
        result = self._preview[0]
        return unseen.format(axis=AXIS_LETTERS[result.axis], index=result.extent_ijk[result.axis][0])

    def _onSeen(self):
        """A view shows the outline now."""
        if self.job is None:
            self.updateGUIFromMRML()

    def _stopBecause(self, reason):
        """Stops what runs, whose result isn't wanted any more."""
        self._jobTarget = None
        if self.job is not None and not self.job.cancel.cancelled:
            self._reason = reason
            self.job.cancel.cancel()
            self._status(reason)

    def _ended(self):
        """The job is done, in whatever way."""
        self.job = self._jobVolume = self._jobTarget = None
        if self._guard is not None:
            self._guard.close()
            self._guard = None

    def _band(self, viewWidget):
        from DBSAMSegmentLib.Effect.RubberBand import RubberBand

        if viewWidget not in self._bands:
            self._bands[viewWidget] = RubberBand()
            self.scriptedEffect.addActor2D(viewWidget, self._bands[viewWidget].actor)
        return self._bands[viewWidget]

    def _scope(self):
        return self.scriptedEffect.parameter("Scope")

    def _isThroughRoi(self):
        return self._scope() == "roi" and self._roi() is not None

    def _roi(self):
        return self.scriptedEffect.nodeReference("ROI")

    def _volume(self):
        node = self.scriptedEffect.parameterSetNode()
        return node.GetSourceVolumeNode() if node is not None else None

    def _segmentation(self):
        node = self.scriptedEffect.parameterSetNode()
        return node.GetSegmentationNode() if node is not None else None

    def _target(self):
        """What is written to: the segmentation and the ID of its selected segment."""
        node = self.scriptedEffect.parameterSetNode()
        return self._segmentation(), node.GetSelectedSegmentID() if node is not None else None

    def _runnerInUse(self):
        if self._runner is None:
            from DBSAMSegmentLib.Run.Runner import acquireRunner

            self._runner, self._ownsRunner = acquireRunner(), True
        return self._runner

    def _letGoOfRunner(self):
        if self._ownsRunner:
            from DBSAMSegmentLib.Run.Runner import releaseRunner

            releaseRunner()
        self._runner, self._ownsRunner = None, False
