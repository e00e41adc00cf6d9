"""What the panels' combo boxes offer: stored value and translated text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qt
from slicer.i18n import tr as _

AXES = (
    ("auto", _("Automatic")),
    ("axial", _("Axial")),
    ("coronal", _("Coronal")),
    ("sagittal", _("Sagittal")),
    ("I", _("I (first voxel axis)")),
    ("J", _("J (second voxel axis)")),
    ("K", _("K (third voxel axis)")),
)
STRATEGIES = (("track", _("Track from the middle")), ("box", _("Box on every slice")))
SPREADS = (
    ("both", _("To both sides")),
    ("ascending", _("Towards higher slice numbers")),
    ("descending", _("Towards lower slice numbers")),
    ("slice", _("On their own slices only")),
)
MODES = (("set", _("Replace the segment")), ("add", _("Add to the segment")), ("remove", _("Remove from the segment")))
DEVICES = (
    ("auto", _("Automatic")),
    ("cpu", _("CPU")),
    ("cuda", _("GPU (CUDA)")),
    ("cuda:1", _("Second GPU (CUDA)")),
    ("mps", _("GPU (Apple)")),
)
INTENSITIES = (
    ("auto", _("Automatic")),
    ("displayed", _("As displayed")),
    ("ct-soft-tissue", _("CT soft tissue (level 40, width 400)")),
    ("ct-lung", _("CT lung (level -600, width 1500)")),
    ("ct-brain", _("CT brain (level 40, width 80)")),
    ("ct-bone", _("CT bone (level 400, width 1800)")),
    ("percentile", _("Percentiles 0.5 to 99.5 (MR and others)")),
    ("as-is", _("As they are (0 to 255)")),
)
MODELS = (
    ("compact", _("DB-SAM compact (shipped)")),
    ("two-view", _("DB-SAM two-view (shipped; takes clicks)")),
    ("medsam-lite", _("LiteMedSAM")),
    ("dbsam", _("DB-SAM")),
    ("sam", _("SAM ViT-B")),
    ("medsam", _("MedSAM ViT-B")),
)


def fillCombo(combo: qt.QComboBox, choices: Sequence[tuple[str, str]], onChosen: Callable[[str], None]) -> None:
    """Offers choices; `onChosen` gets the stored value when the user changes it."""
    for value, text in choices:
        combo.addItem(text, value)
    combo.connect("currentIndexChanged(int)", lambda index: onChosen(str(combo.itemData(index))))


def showChoice(combo: qt.QComboBox, value: str, text: str = "") -> None:
    """Shows a stored value without telling anyone; one that isn't offered is added, so that scenes keep it."""
    blocked = combo.blockSignals(True)
    index = combo.findData(value)
    if index < 0:
        combo.addItem(text or value, value)
        index = combo.findData(value)
    combo.setCurrentIndex(index)
    combo.blockSignals(blocked)
