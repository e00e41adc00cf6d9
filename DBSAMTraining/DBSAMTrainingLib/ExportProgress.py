"""How far the writing of the scene's data is, with a Cancel: it holds the main thread, volume by volume."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import qt
import slicer
from slicer.i18n import tr as _

if TYPE_CHECKING:
    from .SceneData import Progress


@contextmanager
def exportProgress(parent: qt.QWidget | None) -> Iterator[Progress]:
    """A dialog that lasts as long as the block; gives what SceneData.exportPairs reports to."""
    dialog = slicer.util.createProgressDialog(
        parent=parent,
        windowTitle=_("DB-SAM Training: writing the data"),
        windowModality=qt.Qt.ApplicationModal,  # nothing else may change the scene meanwhile
        autoClose=False,
        autoReset=False,  # a reset at the end would forget Cancel
    )

    def report(done: int, total: int, name: str) -> bool:
        dialog.maximum = total
        dialog.labelText = _("Writing {volume}").format(volume=name) if name else _("Starting the training")
        dialog.value = done
        slicer.app.processEvents()
        return not dialog.wasCanceled

    try:
        yield report
    finally:
        dialog.close()
        dialog.deleteLater()
