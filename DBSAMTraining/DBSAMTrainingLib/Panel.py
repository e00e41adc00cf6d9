"""The training panel: choose data of the scene, a recipe and a folder; start, watch, stop, use the result."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import ctk
import qt
import slicer
from DBSAMSegmentLib.Mrml.Nodes import segmentationOn
from DBSAMSegmentLib.Mrml.SceneEvents import observeNodes
from DBSAMSegmentLib.Mrml.Views import shownVolume
from DBSAMSegmentLib.Panel.Dialogs import errorsShown
from DBSAMSegmentLib.Panel.Packages import NOT_INSTALLED, ensurePackages
from slicer.i18n import tr as _

from .ExportProgress import exportProgress
from .SceneData import ExportCancelled, ScenePair
from .StateInWords import describe, linesAfter
from .TrainingProcess import canGoOn

if TYPE_CHECKING:
    from DBSAMTraining import DBSAMTrainingLogic

RECIPES = (
    "finetune",
    "compact",
    "compact-clicks",
    "compact-open",
    "dbsam-lite",
    "paper",
    "medsam",
    "ablation-channel-attention",
    "ablation-bilateral",
)
_WATCH_MILLISECONDS = 1000


class Panel:
    """The widgets of the module and what they do.

    Args:
        layout: where the widgets go.
        logic: what does the work.
    """

    def __init__(self, layout: qt.QLayout, logic: DBSAMTrainingLogic) -> None:
        self.logic = logic
        self._pairs: list[ScenePair] = []
        self._curve: tuple[Path, float] | None = None
        self._addData(layout)
        self._addTraining(layout)
        self._addWatching(layout)
        self._timer = qt.QTimer()
        self._timer.setInterval(_WATCH_MILLISECONDS)
        self._timer.connect("timeout()", self.update)
        self.folderEdit.connect("currentPathChanged(QString)", self._onFolderChanged)
        self._scene = slicer.mrmlScene
        self._nodeRemoved = observeNodes(self._scene, slicer.vtkMRMLScene.NodeRemovedEvent, self._onNodeRemoved)
        self.takeUpShownVolume()
        self.update()

    def takeUpShownVolume(self) -> None:
        """Chooses the volume in view, and the segmentation drawn on it, where none are chosen."""
        if self.volumeSelector.currentNode() is None:
            self.volumeSelector.setCurrentNode(shownVolume(self._scene))
        volumeNode = self.volumeSelector.currentNode()
        if volumeNode is not None and self.segmentationSelector.currentNode() is None:
            self.segmentationSelector.setCurrentNode(segmentationOn(volumeNode))

    def close(self) -> None:
        """Stops watching; a training goes on."""
        self._timer.stop()
        self._scene.RemoveObserver(self._nodeRemoved)

    def _addData(self, layout: qt.QLayout) -> None:
        form = self._section(layout, _("Data"))
        self.volumeSelector = self._nodeSelector("vtkMRMLScalarVolumeNode", _("A volume that was segmented."))
        self.segmentationSelector = self._nodeSelector("vtkMRMLSegmentationNode", _("Its true segments."))
        self.pairList = qt.QListWidget()
        self.pairList.setToolTip(_("What is trained on: every segment of each segmentation."))
        self.addButton = self._button(_("Add"), _("Add this volume with its segments."), self.onAdd)
        self.removeButton = self._button(_("Remove"), _("Take the selected pair out of the list."), self.onRemove)
        form.addRow(_("Volume:"), self.volumeSelector)
        form.addRow(_("Segmentation:"), self.segmentationSelector)
        form.addRow(self._row(self.addButton, self.removeButton))
        form.addRow(self.pairList)

    def _addTraining(self, layout: qt.QLayout) -> None:
        form = self._section(layout, _("Training"))
        self.recipeBox = qt.QComboBox()
        self.recipeBox.addItems(list(RECIPES))
        self.recipeBox.setToolTip(_("finetune goes on from the compact model and needs minutes; paper needs GPUs."))
        self.folderEdit = ctk.ctkPathLineEdit()
        self.folderEdit.filters = ctk.ctkPathLineEdit.Dirs
        self.folderEdit.setToolTip(_("Folder of the run; one that was stopped goes on, a finished one can be used."))
        self.startButton = self._button(
            _("Start"), _("Train in a process of its own. Without pairs, the run in the folder goes on."), self.onStart
        )
        self.stopButton = self._button(
            _("Stop"),
            _("Save the run after its present step and end it; it can go on. Pressed again: end it at once."),
            self.onStop,
        )
        form.addRow(_("Recipe:"), self.recipeBox)
        form.addRow(_("Run folder:"), self.folderEdit)
        form.addRow(self._row(self.startButton, self.stopButton))

    def _addWatching(self, layout: qt.QLayout) -> None:
        form = self._section(layout, _("Progress"))
        self.progressBar = qt.QProgressBar()
        self.statusLabel = qt.QLabel("")
        self.statusLabel.setWordWrap(True)
        self.curveLabel = qt.QLabel("")
        self.logText = qt.QPlainTextEdit()
        self.logText.setReadOnly(True)
        self._shownLog: tuple[Path | None, list[str]] = (None, [])
        self.useButton = self._button(
            _("Use this checkpoint"), _("Export the best weights and choose them in DB-SAM."), self.onUse
        )
        for widget in (self.progressBar, self.statusLabel, self.curveLabel, self.logText, self.useButton):
            form.addRow(widget)

    def onAdd(self) -> None:
        """Adds the selected pair, once."""
        volume, segmentation = self.volumeSelector.currentNode(), self.segmentationSelector.currentNode()
        if volume is None or segmentation is None:
            self.statusLabel.setText(_("Choose a volume and its segmentation first."))
            return
        pair = ScenePair(volume, segmentation)
        title = f"{volume.GetName()} / {segmentation.GetName()}"
        if pair in self._pairs:
            self.statusLabel.setText(_("{pair} is in the list already.").format(pair=title))
            return
        self._pairs.append(pair)
        self.pairList.addItem(title)
        self.update()

    def onRemove(self) -> None:
        """Removes the selected pair."""
        row = self.pairList.currentRow
        if 0 <= row < len(self._pairs):
            del self._pairs[row]
            self.pairList.takeItem(row)
        self.update()

    def _onNodeRemoved(self, node: slicer.vtkMRMLNode) -> None:
        """A pair leaves the list with its first node: what was closed is not trained on."""
        for row in reversed(range(len(self._pairs))):
            if node in (self._pairs[row].volumeNode, self._pairs[row].segmentationNode):
                del self._pairs[row]
                self.pairList.takeItem(row)
        self.update()

    def onStart(self) -> None:
        """Writes the data and starts the process."""
        with errorsShown(_("The training could not be started.")):
            if not ensurePackages(self.startButton.window(), training=True):
                self.statusLabel.setText(NOT_INSTALLED)
                return
            pairs, folder = tuple(self._pairs), Path(self.folderEdit.currentPath)
            try:
                with exportProgress(self.startButton.window()) as progress:
                    self.logic.train(pairs, self.recipeBox.currentText, folder, progress=progress)
            except ExportCancelled:
                self.statusLabel.setText(_("Cancelled: nothing was written."))
                return
            self._showLog(None, [])  # the process begins another one
            self._timer.start()
        self.update()

    def onStop(self) -> None:
        """Stops the process."""
        self.logic.askToStop()
        self.update()

    def onUse(self) -> None:
        """Exports the weights and chooses them in the segmentation module."""
        with errorsShown(_("The checkpoint could not be exported."), waitCursor=True):
            if not ensurePackages(self.useButton.window(), training=True):
                self.statusLabel.setText(NOT_INSTALLED)
                return
            path = self.logic.useCheckpoint(self._folder())
            self.statusLabel.setText(_("Chosen in DB-SAM: {path}").format(path=path))

    def _onFolderChanged(self, path: str) -> None:
        self.update()

    def _folder(self) -> Path | None:
        """The chosen folder; None before one is chosen."""
        path = self.folderEdit.currentPath
        return Path(path) if path else None

    def update(self) -> None:
        """Shows what the run that is going on, or else the one in the chosen folder, has done."""
        state = self.logic.state(self._folder())
        running = state is not None and state.running
        resumable = state is not None and canGoOn(state.folder)
        self.startButton.setEnabled((bool(self._pairs) or resumable) and not running)
        self.stopButton.setEnabled(running)
        self.useButton.setEnabled(state is not None and not running and (state.folder / "best.pt").is_file())
        if not running:
            self._timer.stop()
        self.progressBar.setMaximum(max(state.steps, 1) if state else 1)
        self.progressBar.setValue(state.step if state else 0)
        self.statusLabel.setText(describe(state) if state else "")
        self._showLog(state.folder if state else None, state.log.splitlines() if state else [])
        self._showCurve(state.folder / "learning_curve.png" if state else None)

    def _showLog(self, folder: Path | None, lines: list[str]) -> None:
        """Appends what is new, which leaves the view where it is, or at the end where it was there."""
        shownFolder, shown = self._shownLog
        new = linesAfter(shown, lines) if folder == shownFolder else None
        bar = self.logText.verticalScrollBar()
        atEnd = new is None or bar.value >= bar.maximum
        if new is None:
            self.logText.setPlainText("\n".join(lines))
        elif new:
            self.logText.appendPlainText("\n".join(new))
        if atEnd:  # Qt follows the end only while the panel is visible
            bar.setValue(bar.maximum)
        self._shownLog = (folder, lines)

    def _showCurve(self, path: Path | None) -> None:
        curve = (path, path.stat().st_mtime) if path is not None and path.is_file() else None
        if curve == self._curve:
            return
        self._curve = curve
        picture = (
            qt.QPixmap() if curve is None else qt.QPixmap(str(path)).scaledToWidth(400, qt.Qt.SmoothTransformation)
        )
        self.curveLabel.setPixmap(picture)

    @staticmethod
    def _section(layout: qt.QLayout, title: str) -> qt.QFormLayout:
        button = ctk.ctkCollapsibleButton()
        button.text = title
        layout.addWidget(button)
        return qt.QFormLayout(button)

    @staticmethod
    def _nodeSelector(nodeType: str, toolTip: str) -> slicer.qMRMLNodeComboBox:
        selector = slicer.qMRMLNodeComboBox()
        selector.nodeTypes = [nodeType]
        selector.addEnabled = False
        selector.removeEnabled = False
        selector.noneEnabled = True
        selector.setToolTip(toolTip)
        selector.setMRMLScene(slicer.mrmlScene)
        return selector

    @staticmethod
    def _button(text: str, toolTip: str, action) -> qt.QPushButton:
        button = qt.QPushButton(text)
        button.setToolTip(toolTip)
        button.connect("clicked()", action)
        return button

    @staticmethod
    def _row(*widgets: qt.QWidget) -> qt.QWidget:
        row = qt.QWidget()
        layout = qt.QHBoxLayout(row)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in widgets:
            layout.addWidget(widget)
        return row
