"""Errors and questions in dialogs."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import qt
import slicer

logger = logging.getLogger(__name__)


@contextmanager
def errorsShown(message: str, waitCursor: bool = False) -> Iterator[None]:
    """Shows what goes wrong in the block in a dialog, where it ends: what stands after the block runs in any case.

    Slicer's own `tryWithErrorDisplay` raises again after its dialog.

    Args:
        message: what could not be done.
        waitCursor: whether the mouse cursor tells to wait meanwhile.
    """
    if waitCursor:
        slicer.app.setOverrideCursor(qt.Qt.WaitCursor)
    failure = None
    try:
        yield
    except Exception as error:
        logger.exception(message)
        failure = error, traceback.format_exc()
    finally:
        if waitCursor:
            slicer.app.restoreOverrideCursor()
    if failure is not None:
        slicer.util.errorDisplay(f"{message}\n\n{failure[0]}", windowTitle="DB-SAM", detailedText=failure[1])


def confirmed(question: str, parent: qt.QWidget | None = None, title: str = "DB-SAM") -> bool:
    """Asks before something long, large or final: Return answers no, as Cancel is the default.

    In `Slicer --testing` nobody is asked and the answer is yes, as everywhere in Slicer.
    """
    if slicer.app.testingEnabled():
        return slicer.util.confirmOkCancelDisplay(question, title, parent=parent)
    box = qt.QMessageBox(parent or slicer.util.mainWindow())
    box.setIcon(qt.QMessageBox.Question)
    box.setWindowTitle(title)
    box.setText(question)
    box.setStandardButtons(qt.QMessageBox.Ok | qt.QMessageBox.Cancel)
    box.setDefaultButton(qt.QMessageBox.Cancel)
    answer = box.exec_()
    box.deleteLater()
    return answer == qt.QMessageBox.Ok
