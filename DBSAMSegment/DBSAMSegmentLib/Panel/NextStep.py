"""What a user does next, and what is missing for a run, in words."""

from __future__ import annotations

from slicer.i18n import tr as _


def whatIsMissing(hasVolume: bool, hasBox: bool, isDrawn: bool) -> str:
    """Why a run can't start; "" if it can."""
    if not hasVolume:
        return _("Apply needs a volume: load one, or choose one above.")
    if not hasBox:
        return _("Apply needs a box: place one, or check one in the list.")
    if not isDrawn:
        return _("Apply waits for the box: click one corner in a slice view, then the opposite one.")
    return ""


def nextStep(hasVolume: bool, hasBox: bool, isDrawn: bool, isRunning: bool, hasResult: bool, hasNewClicks: bool) -> str:
    """The first sentence of the panel."""
    if isRunning:
        return _("Segmenting. You can look at other slices meanwhile.")
    if not hasVolume:
        return _("Load a volume, or choose one.")
    if not hasBox:
        return _("Press Place and draw a box round a structure.")
    if not isDrawn:
        return _("Click one corner of the box in a slice view, then the opposite one.")
    if hasNewClicks:
        return _("Go on clicking until the outline is right, then press Apply to take the clicks through the volume.")
    if hasResult:
        return _("Look at the weakest slices first. Move the box and press Apply to do it again.")
    return _("Press Apply to segment what is in the box.")
