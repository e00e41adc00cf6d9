"""The weights manager: which models there are, where their files lie, download, choose, open folder, clear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import qt
from slicer.i18n import tr as _

from ..Run.Pace import Pace
from ..Run.RunErrors import explainedError
from ..Run.Runner import acquireRunner, releaseRunner
from .Dialogs import confirmed, errorsShown

if TYPE_CHECKING:
    from dbsam.worker.client import Job

_COLUMNS = (_("Model"), _("On this computer"), _("Size"), _("What for"), _("Licence"), _("Whose"))


class WeightsDialog(qt.QDialog):
    """Shows and changes the weights on this computer; `chosenModel` is what the user picked, or ""."""

    def __init__(self, parent: qt.QWidget | None = None) -> None:
        qt.QDialog.__init__(self, parent)
        self.setWindowTitle(_("DB-SAM models"))
        self.chosenModel = ""
        self._worker = acquireRunner().worker
        self._pace = Pace()
        self._job: Job | None = None

        self.table = qt.QTableWidget()
        self.table.setColumnCount(len(_COLUMNS))
        self.table.setHorizontalHeaderLabels(list(_COLUMNS))
        self.table.setSelectionBehavior(qt.QAbstractItemView.SelectRows)
        self.table.setSelectionMode(qt.QAbstractItemView.SingleSelection)
        self.table.setEditTriggers(qt.QAbstractItemView.NoEditTriggers)
        self.table.verticalHeader().setVisible(False)
        self.table.horizontalHeader().setStretchLastSection(True)
        self.table.connect("itemSelectionChanged()", self._updateButtons)
        self.progressBar = qt.QProgressBar()
        self.progressBar.setVisible(False)
        self.statusLabel = qt.QLabel("")
        self.statusLabel.setWordWrap(True)

        self.useButton = self._button(_("Use"), _("Choose the selected model."), self.onUse)
        self.downloadButton = self._button(_("Download"), _("Fetch it from its official address."), self.onDownload)
        self.cancelButton = self._button(_("Cancel"), _("Stop the download; it can be continued later."), self.onCancel)
        self.chooseButton = self._button(_("Choose file..."), _("Use weights of your own."), self.onChooseFile)
        self.folderButton = self._button(_("Open folder"), _("Where downloads are kept."), self.onOpenFolder)
        self.clearButton = self._button(_("Clear"), _("Delete the selected download from the disk."), self.onClear)
        self.closeButton = self._button(_("Close"), "", self.close)
        row = qt.QHBoxLayout()
        for button in (self.useButton, self.downloadButton, self.cancelButton, self.chooseButton, self.folderButton):
            row.addWidget(button)
        row.addWidget(self.clearButton)
        row.addWidget(self.closeButton)
        layout = qt.QVBoxLayout(self)
        layout.addWidget(self.table)
        layout.addWidget(self.progressBar)
        layout.addWidget(self.statusLabel)
        layout.addLayout(row)
        self.resize(1100, 360)
        self.refresh()

    def refresh(self) -> None:
        """Reads the disk again."""
        from dbsam.weights.load import list_weights

        self.statuses = list_weights()
        self.table.setRowCount(len(self.statuses))
        for row, status in enumerate(self.statuses):
            entry = status.entry
            if status.path is not None:
                place = _("shipped with the extension") if entry.shipped else str(status.path)
            elif status.partial_bytes:
                place = _("interrupted download, {size}").format(size=megabytes(status.partial_bytes))
            else:
                place = _("no; part of the extension, install it again") if entry.shipped else _("no; to be trained")
                if entry.remote is not None:
                    place = _("no")
            seconds = self._pace.secondsPerSlice(entry.name, "cpu")
            purpose = _("{purpose} About {seconds:g} s a slice on this computer's processor.").format(
                purpose=entry.purpose,
                seconds=float(f"{seconds:.1g}"),  # of ten and more, `.1g` alone makes powers of ten
            )
            size = megabytes(status.size_bytes)
            texts = (entry.title, place, size, purpose, entry.licence or "-", entry.source)
            for column, text in enumerate(texts):
                item = qt.QTableWidgetItem(text)
                item.setToolTip(text)
                self.table.setItem(row, column, item)
        self.table.resizeColumnsToContents()
        self._updateButtons()

    def selectModel(self, name: str) -> None:
        """Selects a model's row."""
        for row, status in enumerate(self.statuses):
            if status.entry.name == name:
                self.table.selectRow(row)

    def shutDown(self) -> None:
        """Stops a running download; the worker goes on."""
        if self._job is not None:
            self._job.release()
            self._job.cancel.cancel()
        releaseRunner()

    def onUse(self) -> None:
        """Takes the selected model."""
        self.chosenModel = self._selected().entry.name
        self.accept()

    def onChooseFile(self) -> None:
        """Takes a file of the user's own, after looking into its header."""
        from dbsam.worker.protocol import DescribeTask

        path = qt.QFileDialog.getOpenFileName(
            self, _("Choose weights"), "", _("Weights (*.safetensors *.pth *.pt);;All files (*)")
        )
        if not path:
            return

        def described(job: Job) -> None:
            self._ended()
            if job.error is not None:
                self.statusLabel.text = str(explainedError(job.error))
            elif not job.cancelled:
                self.statusLabel.text = _("{name}: {licence}").format(name=job.result.name, licence=job.result.licence)
                self.chosenModel = path
                self.accept()

        # SAM's and MedSAM's files are known by their digest, which takes seconds.
        self._begin(DescribeTask(path), described, _("Reading {path}...").format(path=path))

    def onDownload(self) -> None:
        """Fetches the selected model in the background."""
        from dbsam.worker.protocol import DownloadTask

        status = self._selected()
        entry = status.entry
        question = _("Download {title} ({size}) from {url}?\n\nLicence of the weights: {licence}. Whose: {source}.")
        text = question.format(
            title=entry.title,
            size=megabytes(entry.remote.size_bytes),
            url=entry.remote.url,
            licence=entry.licence,
            source=entry.source,
        )
        if not confirmed(text, self, _("DB-SAM models")):
            return
        self._begin(DownloadTask(entry.name), self._onDownloaded, _("Connecting..."))

    def onCancel(self) -> None:
        """Stops the download or the reading of a file; what has arrived is kept."""
        if self._job is not None:
            self._job.cancel.cancel()

    def onOpenFolder(self) -> None:
        """Shows the cache folder in the system's file manager."""
        from dbsam.weights.cache_dir import cache_folder

        cache_folder().mkdir(parents=True, exist_ok=True)
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(cache_folder())))

    def onClear(self) -> None:
        """Deletes the selected download."""
        from dbsam.weights.load import clear_weights

        status = self._selected()
        text = _("Delete {path}? It can be downloaded again.").format(path=status.path or _("the interrupted download"))
        if confirmed(text, self, _("DB-SAM models")):
            with errorsShown(_("The file could not be deleted.")):
                freed = clear_weights([status.entry.name])
                self.statusLabel.text = _("{size} freed.").format(size=megabytes(freed))
                self.refresh()

    def _begin(self, task: Any, onFinished: Any, text: str) -> None:
        from dbsam.worker.client import Job

        self._job = self._worker.submit(Job(task, on_finished=onFinished, on_progress=self._onProgress))
        self.statusLabel.text = text
        self.progressBar.maximum = 0
        self.progressBar.setVisible(True)
        self._updateButtons()

    def _ended(self) -> None:
        self._job = None
        self.progressBar.setVisible(False)
        self._updateButtons()

    def _onProgress(self, progress: Any) -> None:
        self.progressBar.maximum = 1000
        self.progressBar.value = int(1000 * progress.done / max(1, progress.total))
        self.statusLabel.text = f"{progress.stage}: {megabytes(progress.done)} of {megabytes(progress.total)}"

    def _onDownloaded(self, job: Job) -> None:
        self._ended()
        if job.error is not None:
            self.statusLabel.text = str(explainedError(job.error))
        elif job.cancelled:
            self.statusLabel.text = _("Cancelled. Download again to continue where it stopped.")
        else:
            self.statusLabel.text = _("Downloaded and verified: {path}").format(path=job.result)
        self.refresh()

    def _selected(self) -> Any:
        row = self.table.currentRow()
        return self.statuses[row] if 0 <= row < len(self.statuses) else None

    def _updateButtons(self) -> None:
        status, idle = self._selected(), self._job is None
        downloadable = status is not None and status.entry.remote is not None
        self.useButton.enabled = idle and status is not None and status.path is not None
        self.downloadButton.enabled = idle and downloadable and status.path is None
        self.clearButton.enabled = idle and downloadable and (status.path is not None or status.partial_bytes > 0)
        self.cancelButton.enabled = not idle
        self.chooseButton.enabled = self.closeButton.enabled = idle

    def _button(self, text: str, tip: str, onClicked: Any) -> qt.QPushButton:
        button = qt.QPushButton(text)
        button.toolTip = tip
        button.connect("clicked()", onClicked)
        return button


def chooseModel(parent: qt.QWidget, current: str) -> str:
    """Opens the weights manager.

    Returns:
        A model's name or a file's path; "" if none was chosen.
    """
    dialog = WeightsDialog(parent)
    dialog.selectModel(current)
    dialog.exec_()
    dialog.shutDown()
    dialog.deleteLater()
    return dialog.chosenModel


def megabytes(size: int | None) -> str:
    """A size for people."""
    return "-" if size is None else f"{size / 1e6:.0f} MB" if size >= 1e6 else f"{size / 1e3:.0f} kB"
