"""The panel's click tools: two point lists, what is placed to them, and what a run gets of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from ..Mrml.PointLists import (
    Click,
    PointList,
    addClick,
    clicksIn,
    isFor,
    listOf,
    makeFor,
    newPointList,
    numberClicks,
    ownersOf,
    pointPrompts,
    removeClick,
)
from ..Mrml.SliceViews import directionInWords
from ..Mrml.Views import placedTo, startPlacing, stopPlacing
from .Choices import SPREADS, fillCombo, showChoice
from .ClickPreview import ClickedSlice, ClickPreview
from .Dialogs import errorsShown

if TYPE_CHECKING:
    from ..Mrml.Requests import RunRequest
    from ..Run.Runner import SegmentationRunner

Roi = slicer.vtkMRMLMarkupsROINode

_PARAMETERS = {True: "includePoints", False: "excludePoints"}
_EVENTS = (
    slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent,
    slicer.vtkMRMLMarkupsNode.PointPositionUndefinedEvent,
    slicer.vtkMRMLMarkupsNode.PointModifiedEvent,
    slicer.vtkMRMLMarkupsNode.PointRemovedEvent,
    slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
)


class Clicks(VTKObservationMixin):
    """Lets the user place, move and take back clicks, which belong to one box on one volume, as its point lists tell.

    Args:
        ui: the panel's widgets.
        runner: computes.
        parameters: the module's parameters; None while the panel shows none.
        rois: the checked boxes.
        makeRequest: what a run of one box would compute now; raises ValueError where that can't be.
        canCompute: whether an outline can be computed without asking for anything to be installed.
        say: shows a message in the status line.
        onChanged: called when there are other clicks than before.
    """

    def __init__(
        self,
        ui: Any,
        runner: SegmentationRunner,
        parameters: Callable[[], Any],
        rois: Callable[[], list[Roi]],
        makeRequest: Callable[[list[Roi]], RunRequest],
        canCompute: Callable[[], bool],
        say: Callable[[str], None],
        onChanged: Callable[[], None],
    ) -> None:
        VTKObservationMixin.__init__(self)
        self._ui = ui
        self._runner = runner
        self._parameters = parameters
        self._rois = rois
        self._makeRequest = makeRequest
        self._canCompute = canCompute
        self._onChanged = onChanged
        self._owners: tuple[Roi | None, Any] = (None, None)
        self._lists: tuple[PointList | None, PointList | None] = (None, None)
        self._clicks: list[Click] = []
        self._taken: list[Click] = []
        self._newest: Click | None = None
        self._inRun: list[Click] = []
        self._numbering = False
        self.preview = ClickPreview(runner, self._clicked, say)
        self._buttons = {True: ui.includeButton, False: ui.excludeButton}
        fillCombo(ui.spreadCombo, SPREADS, self._onSpread)
        self._slots = (
            (ui.includeButton, "clicked()", partial(self.onPlace, True)),
            (ui.excludeButton, "clicked()", partial(self.onPlace, False)),
            (ui.takeBackButton, "clicked()", self.onTakeBack),
            (ui.bringBackButton, "clicked()", self.onBringBack),
        )
        for widget, signal, slot in self._slots:
            widget.connect(signal, slot)
        interactionNode = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
        if interactionNode is not None:
            modeChanged = slicer.vtkMRMLInteractionNode.InteractionModeChangedEvent
            self.addObserver(interactionNode, modeChanged, self._onPlacing)

    def close(self) -> None:
        """Ends timers, observers and connections."""
        self.preview.close()
        self.removeObservers()
        for widget, signal, slot in self._slots:
            widget.disconnect(signal, slot)

    def forget(self) -> None:
        """Lets go of the nodes of a scene that is closed."""
        self.preview.clear()
        self.removeObservers(self._onPoints)
        self._owners = self._lists = (None, None)
        self._clicks, self._taken, self._newest = [], [], None

    def follow(self) -> None:
        """Takes up the parameters: with another box or volume come its own lists, and a chosen list becomes theirs."""
        parameters = self._parameters()
        if parameters is None:
            self.preview.clear()
            return
        owners = (self._roi(), parameters.volume)
        chosen = (parameters.includePoints, parameters.excludePoints)
        if owners != self._owners:
            self._owners = owners
            chosen = self._listsOfOwners(chosen)
        elif chosen[0] is not None and chosen[0] is chosen[1]:  # the one that was chosen last gives the other up
            chosen = (None, chosen[1]) if chosen[0] is self._lists[0] else (chosen[0], None)
        for include, node in zip((True, False), chosen, strict=True):
            if None not in owners and node is not None and not isFor(node, *owners, include):
                makeFor(node, *owners, include)
            if getattr(parameters, _PARAMETERS[include]) is not node:
                setattr(parameters, _PARAMETERS[include], node)
        if chosen != self._lists:
            self.removeObservers(self._onPoints)
            self._lists = chosen
            for node in chosen:
                for event in _EVENTS if node is not None else ():
                    self.addObserver(node, event, self._onPoints)
            self._number()
            self._clicks, self._taken, self._newest = clicksIn(*chosen), [], None
            self.preview.clear()
        self._show()

    def lists(self) -> tuple[PointList | None, PointList | None]:
        """The lists whose points a run takes along: none where the model or the choice of boxes forbids it."""
        return self._lists if not self._whyOff() else (None, None)

    @property
    def areNew(self) -> bool:
        """Whether there are clicks that count and that the last run had not."""
        return bool(self._clicks) and self._clicks != self._inRun and not self._whyOff()

    def begin(self) -> None:
        """A run begins, with the clicks that there are."""
        self._inRun = list(self._clicks)

    def end(self) -> None:
        """A run was written: its clicks need no outline any more, those that came meanwhile do."""
        self.preview.clear()
        if self._clicks != self._inRun:
            self.preview.update()

    def onPlace(self, include: bool) -> None:
        """Clicks in the slice views become points of a list, which is made where none is chosen; again ends that."""
        with errorsShown(_("Clicks can't be placed.")):
            node = self._lists[0 if include else 1]
            if node is not None and placedTo(slicer.mrmlScene) is node:
                stopPlacing(slicer.mrmlScene)
            elif not self._whyOff():
                if node is None:
                    node = newPointList(slicer.mrmlScene, include)
                    makeFor(node, *self._owners, include)
                    setattr(self._parameters(), _PARAMETERS[include], node)
                startPlacing(node, persistent=True)
        self._show()

    def onTakeBack(self) -> None:
        """Removes the last click."""
        if self._clicks:
            last = self._clicks[-1]
            taken = [*self._taken, last]
            removeClick(self._lists[0 if last.include else 1], last)
            self._taken = taken
            self._show()

    def onBringBack(self) -> None:
        """Brings back what was taken back last."""
        if self._taken:
            *taken, last = self._taken
            node = self._lists[0 if last.include else 1]
            if node is not None:
                addClick(node, last)
            self._taken = taken
            self._show()

    def _onSpread(self, value: str) -> None:
        if self._parameters() is not None:
            self._parameters().spread = value

    def _onPlacing(self, *_: object) -> None:
        self._show()

    def _onPoints(self, *_: object) -> None:
        """A point was placed, moved or removed; also called at every step of the mouse while one is placed."""
        if self._numbering or self._parameters() is None:
            return
        self._number()
        former, self._clicks = self._clicks, clicksIn(*self._lists)
        came = [one for one in self._clicks if one not in former]
        changed = came or [one for one in former if one not in self._clicks]
        if not changed:
            return
        self._newest, self._taken = changed[-1], []
        self.preview.update()
        self._show()
        self._onChanged()

    def _number(self) -> None:
        self._numbering = True
        try:
            numberClicks(*self._lists)
        finally:
            self._numbering = False

    def _clicked(self) -> ClickedSlice | None:
        """What the preview shows: the slice of the click that was placed, moved or taken back last."""
        parameters, roiNode = self._parameters(), self._roi()
        if self._newest is None or parameters is None or roiNode is None or parameters.volume is None:
            return None
        why = self._whyOff()
        if why:
            raise ValueError(why)
        if not self._canCompute():
            raise ValueError(_("Outlines need packages that aren't installed: Apply offers to install them."))
        request, volumeNode = self._makeRequest([roiNode]), parameters.volume
        (point,) = pointPrompts([self._newest], self._lists, volumeNode)
        return ClickedSlice(request, volumeNode, parameters.segmentation, point, self._newest.position)

    def _roi(self) -> Roi | None:
        rois = self._rois()
        return rois[0] if len(rois) == 1 else None

    def _listsOfOwners(
        self, chosen: tuple[PointList | None, PointList | None]
    ) -> tuple[PointList | None, PointList | None]:
        """The lists of the box and the volume: what is chosen where it is theirs or nobody's, else what there is."""
        if None in self._owners:
            return (None, None)
        found = [
            node
            if node is not None and (isFor(node, *self._owners, include) or ownersOf(node) == (None, None))
            else listOf(*self._owners, include)
            for include, node in zip((True, False), chosen, strict=True)
        ]
        return (found[0], found[1])

    def _whyOff(self) -> str:
        """Why clicks can't be placed and don't count; "" where they can."""
        parameters, rois = self._parameters(), self._rois()
        if parameters is None or parameters.volume is None or not rois:
            return _("Clicks correct what is in a box: choose a volume and place a box.")
        if len(rois) > 1:
            return _("Clicks correct one structure: check one box only.")
        if not self._runner.takesClicks(parameters.model):
            return _(
                "The model {model} wasn't trained with clicks, so these tools are off. Correct the box on the slice"
                " instead, or choose a model that takes clicks."
            ).format(model=parameters.model)
        return ""

    def _show(self) -> None:
        parameters, why = self._parameters(), self._whyOff()
        placed = placedTo(slicer.mrmlScene)
        for include, node in zip((True, False), self._lists, strict=True):
            button = self._buttons[include]
            button.enabled = not why
            button.checked = node is not None and placed is node
        self._ui.takeBackButton.enabled = bool(self._clicks)
        self._ui.bringBackButton.enabled = bool(self._taken)
        included = sum(click.include for click in self._clicks)
        text = _("{included} included, {excluded} excluded.").format(
            included=included, excluded=len(self._clicks) - included
        )
        if not self._clicks:
            text = _("Click on a part that is missing (Include), or on one that doesn't belong (Exclude).")
        self._ui.clicksLabel.text = why + (" " + _("Apply leaves them out.") if why and self._clicks else "") or text
        if parameters is not None:
            showChoice(self._ui.spreadCombo, parameters.spread)
            if parameters.volume is not None:
                self._nameDirections()

    def _nameDirections(self) -> None:
        """Says in the patient's words where slices lead."""
        volumeNode, combo = self._parameters().volume, self._ui.spreadCombo
        try:
            words = directionInWords(volumeNode, self._parameters().axis)
        except ValueError:  # no voxels yet, or a transform that bends: the run says so
            return
        for value, word in zip(("ascending", "descending"), words, strict=True):
            combo.setItemText(combo.findData(value), _("Towards the {end}").format(end=word))
