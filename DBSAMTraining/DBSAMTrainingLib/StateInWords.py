"""What a run has done so far, in words for the panel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from slicer.i18n import tr as _

from .TrainingProcess import canGoOn

if TYPE_CHECKING:
    from .TrainingProcess import TrainingState

# Of dbsam_training.cli, which need not be installed yet when the panel opens.
_EXIT_OK, _EXIT_FAILED, _EXIT_USAGE, _EXIT_FILE = 0, 1, 2, 3


def describe(state: TrainingState) -> str:
    """One line: steps, loss, score, and how the process ended."""
    known = _("step {step} of {steps}") if state.steps else _("step {step}")
    words = [known.format(step=state.step, steps=state.steps)]
    if state.loss is not None:
        words.append(_("loss {loss:.3f}").format(loss=state.loss))
    if state.score is not None:
        words.append(_("validation DSC {score:.1f} %").format(score=100 * state.score))
    if state.stopping:
        words.append(_("stopping after this step; press Stop again to end it unsaved"))
    if not state.running and state.exitCode is not None:
        words.append(_ending(state))
    return ", ".join(words)


def _ending(state: TrainingState) -> str:
    if state.exitCode == _EXIT_OK and (not state.stopped or state.step == state.steps):
        return _("finished")
    if state.stopped:
        return _("stopped, and can go on") if canGoOn(state.folder) else _("stopped before it was saved")
    ending = {
        _EXIT_FAILED: _("failed"),
        _EXIT_FILE: _("refused, as a file or folder isn't there or can't be read"),
        _EXIT_USAGE: _("refused, as the data, the folder or a setting can't be used"),
    }.get(
        state.exitCode, _("ended by the system (code {code}), perhaps for want of memory").format(code=state.exitCode)
    )
    log = state.folder / "process.log"
    return _("{ending}: see the end of the log below ({path})").format(ending=ending, path=log)


def linesAfter(shown: Sequence[str], lines: Sequence[str]) -> list[str] | None:
    """What follows the shown lines in the last lines of the same log; None where they aren't of the same log."""
    for start in range(len(shown)):
        common = len(shown) - start
        if list(shown[start:]) == list(lines[:common]):
            return list(lines[common:])
    return None if shown else list(lines)
