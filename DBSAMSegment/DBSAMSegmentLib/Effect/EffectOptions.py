"""The effect's options in the Segment Editor's panel."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ctk
import qt
import slicer
from slicer.i18n import tr as _

from ..Panel.Choices import DEVICES, INTENSITIES, MODELS, MODES, SPREADS, STRATEGIES, fillCombo, showChoice
from ..Panel.Dialogs import errorsShown
from ..Panel.Packages import ensurePackages

SCOPES = (("slice", _("This slice")), ("roi", _("All slices of the ROI")))
# Stored in the editor's parameter node: name -> (label, choices, default).
CHOICES = {
    "Scope": (_("Apply to:"), SCOPES, "slice"),
    "Mode": (_("Result:"), MODES, "add"),
    "Model": (_("Model:"), MODELS, "compact"),
    "Device": (_("Device:"), DEVICES, "auto"),
    "Intensity": (_("Intensities:"), INTENSITIES, "auto"),
    "Strategy": (_("Strategy:"), STRATEGIES, "track"),
    "Spread": (_("Clicks reach:"), SPREADS, "both"),
}
_MORE = ("Model", "Device", "Intensity", "Strategy", "Spread")


class EffectOptions:
    """Widgets that write to the effect's parameters.

    Args:
        scriptedEffect: the effect's adaptor.
        onApply: called by the Apply button.
        onCancel: called by the Cancel button.
        onChanged: called when a parameter was changed by the user.
    """

    def __init__(
        self,
        scriptedEffect: Any,
        onApply: Callable[[], None],
        onCancel: Callable[[], None],
        onChanged: Callable[[], None],
    ) -> None:
        self._effect = scriptedEffect
        self._onApply, self._onCancel, self._onChanged = onApply, onCancel, onChanged
        self.combos: dict[str, Any] = {}
        self.roiSelector = slicer.qMRMLNodeComboBox()
        self.roiSelector.nodeTypes = ["vtkMRMLMarkupsROINode"]
        self.roiSelector.noneEnabled = True
        self.roiSelector.noneDisplay = _("None: drag a box in a slice view")
        self.roiSelector.addEnabled = False
        self.roiSelector.removeEnabled = False
        self.roiSelector.setMRMLScene(slicer.mrmlScene)
        self.roiSelector.toolTip = _(
            "A box in 3D; on each slice its cut is the prompt. A dragged box corrects one slice. So does a click: on"
            " what belongs to the structure, with Ctrl (Cmd on a Mac) on what doesn't."
        )
        self.roiSelector.connect("currentNodeChanged(vtkMRMLNode*)", self._onRoi)
        scriptedEffect.addLabeledOptionsWidget(_("ROI:"), self.roiSelector)
        more = ctk.ctkCollapsibleButton()
        more.text = _("More")
        more.collapsed = True
        moreLayout = qt.QFormLayout(more)
        for name, (label, choices, _default) in CHOICES.items():
            combo = qt.QComboBox()
            fillCombo(combo, choices, lambda value, name=name: self._onChosen(name, value))
            self.combos[name] = combo
            if name in _MORE:
                moreLayout.addRow(label, combo)
                if name == "Model":
                    moreLayout.addRow("", self._newWeightsButton())
            else:
                scriptedEffect.addLabeledOptionsWidget(label, combo)
        scriptedEffect.addOptionsWidget(more)
        self.statusLabel = qt.QLabel("")
        self.statusLabel.setWordWrap(True)
        self.progressBar = qt.QProgressBar()
        self.progressBar.setVisible(False)
        self.applyButton = qt.QPushButton(_("Apply"))
        self.applyButton.toolTip = _("Write the preview, or segment the ROI. Key: Return.")
        self.cancelButton = qt.QPushButton(_("Cancel"))
        self.cancelButton.toolTip = _(
            "Drop the preview with its clicks, or stop the run; nothing is changed. Key: Backspace, which takes back"
            " one click after the other first."
        )
        self.applyButton.connect("clicked()", self._onApply)
        self.cancelButton.connect("clicked()", self._onCancel)
        row = qt.QHBoxLayout()
        row.addWidget(self.applyButton)
        row.addWidget(self.cancelButton)
        scriptedEffect.addOptionsWidget(self.progressBar)
        scriptedEffect.addOptionsWidget(self.statusLabel)
        scriptedEffect.addOptionsWidget(row)

    def update(self, roiNode: Any, canApply: bool, canCancel: bool) -> None:
        """Shows the parameters and what can be clicked."""
        for name, combo in self.combos.items():
            showChoice(combo, self._effect.parameter(name))
        blocked = self.roiSelector.blockSignals(True)
        self.roiSelector.setCurrentNode(roiNode)
        self.roiSelector.blockSignals(blocked)
        self.applyButton.enabled = canApply
        self.cancelButton.enabled = canCancel

    def close(self) -> None:
        """Disconnects, so that the effect can be deleted."""
        self.roiSelector.disconnect("currentNodeChanged(vtkMRMLNode*)", self._onRoi)
        self.applyButton.disconnect("clicked()", self._onApply)
        self.cancelButton.disconnect("clicked()", self._onCancel)
        self.weightsButton.disconnect("clicked()", self.onWeights)
        for combo in self.combos.values():
            combo.blockSignals(True)

    def onWeights(self) -> None:
        """Opens the weights manager and takes up the model or file chosen there."""
        with errorsShown(_("The models can't be shown.")):
            if not ensurePackages(self.weightsButton.window()):
                return
            from ..Panel.WeightsDialog import chooseModel

            chosen = chooseModel(self.weightsButton.window(), self._effect.parameter("Model"))
            if chosen:
                self._onChosen("Model", chosen)

    def _newWeightsButton(self) -> Any:
        self.weightsButton = qt.QPushButton(_("Models..."))
        self.weightsButton.toolTip = _("Download models, or choose a weights file of your own.")
        self.weightsButton.connect("clicked()", self.onWeights)
        return self.weightsButton

    def _onChosen(self, name: str, value: str) -> None:
        self._effect.setParameter(name, value)
        self._onChanged()

    def _onRoi(self, node: Any) -> None:
        self._effect.setNodeReference("ROI", node)
        self._onChanged()
