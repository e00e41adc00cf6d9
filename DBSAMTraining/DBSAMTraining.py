"""Training of DB-SAM on volumes and segmentations of the scene, in a process of its own.

Everything that computes lies in DBSAMTrainingLib and dbsam_training, which are imported when they are first needed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import slicer
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)

if TYPE_CHECKING:
    from DBSAMTrainingLib.SceneData import Progress, ScenePair
    from DBSAMTrainingLib.TrainingProcess import TrainingProcess, TrainingState


class DBSAMTraining(ScriptedLoadableModule):
    """What the module menu and the help section show."""

    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("DB-SAM Training")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["DBSAMSegment", "Segmentations"]
        self.parent.contributors = ["DB-SAM for 3D Slicer contributors"]
        self.parent.helpText = _(
            "Train DB-SAM on your own volumes and segmentations. The recipe finetune needs minutes on a laptop."
            " Training runs in a process of its own: Slicer stays free. For research only, not for clinical use."
        )
        self.parent.acknowledgementText = _(
            "An implementation of DB-SAM (Qin et al., MICCAI 2024, arXiv 2410.04172) on Segment Anything (Kirillov et"
            " al., 2023). Please cite both."
        )


class DBSAMTrainingWidget(ScriptedLoadableModuleWidget):
    """Shows the panel; what it does lies in DBSAMTrainingLib."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        self.logic = None
        self.panel = None

    def setup(self):
        """Builds the panel; called when the module is opened for the first time."""
        ScriptedLoadableModuleWidget.setup(self)
        from DBSAMTrainingLib.Panel import Panel

        self.logic = DBSAMTrainingLogic()
        self.panel = Panel(self.layout, self.logic)
        self.layout.addStretch(1)
        slicer.app.connect("aboutToQuit()", self.logic.stop)

    def enter(self):
        """The module was opened."""
        self.panel.takeUpShownVolume()

    def cleanup(self):
        """Stops watching and the training; called when the module is unloaded or reloaded."""
        if self.panel is not None:
            self.panel.close()
            self.panel = None
        if self.logic is not None:
            slicer.app.disconnect("aboutToQuit()", self.logic.stop)
            self.logic.stop()

    def onReload(self):
        """Drops the packages of this extension, as Slicer itself re-executes the module file only."""
        import sys

        self.cleanup()
        for name in list(sys.modules):
            if name.split(".")[0] in ("dbsam", "dbsam_training", "DBSAMTrainingLib"):
                del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)


class DBSAMTrainingLogic(ScriptedLoadableModuleLogic):
    """Exports data of the scene, runs a training outside the application and hands its weights to DBSAMSegment."""

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self._process: TrainingProcess | None = None

    @property
    def runFolder(self) -> Path | None:
        """Folder of this session's run; None before the first."""
        return None if self._process is None else self._process.runFolder

    def train(
        self,
        pairs: "Sequence[ScenePair]",
        recipe: str,
        runFolder: Path,
        settings: "Sequence[str]" = (),
        progress: "Progress | None" = None,
    ) -> None:
        """Writes the data into the run folder and starts the training; a run that was stopped there goes on.

        Args:
            pairs: DBSAMTrainingLib.SceneData.ScenePair(volumeNode, segmentationNode, segmentIds=()). Without any, the
                run in the folder goes on with its own data and recipe.
            recipe: name of a recipe, or the path of a YAML file.
            runFolder: where everything goes.
            settings: that replace the recipe's, such as "run.steps=100".
            progress: told how far the writing is, and whether to go on.

        Raises:
            ExportCancelled: `progress` said so; the folder is as it was.
            ValueError: the data can't be used, a run on other data lies in the folder, or no folder is named. Nothing
                was changed.
            RuntimeError: a training is running.
        """
        from DBSAMTrainingLib.SceneData import exportForRun
        from DBSAMTrainingLib.TrainingProcess import TrainingProcess, canGoOn

        if not runFolder.name:
            raise ValueError("Name a folder for the run.")
        if self._process is not None and self._process.running:
            raise RuntimeError("A training is running: stop it first.")
        data = runFolder / "data"
        if not pairs and canGoOn(runFolder):
            recipe = str(runFolder / "recipe.yaml")
        else:
            exportForRun(pairs, runFolder, progress)
        arguments = ["fit", "--config", recipe, "--data", str(data), "--output", str(runFolder)]
        process = TrainingProcess(runFolder)
        process.start([*arguments, *(["--set", *settings] if settings else [])])
        self._process = process

    def askToStop(self) -> None:
        """Lets the training end after its present step, saved so that it can go on; asked again, ends it at once."""
        if self._process is not None:
            self._process.stop() if self._process.asked else self._process.ask()

    def stop(self) -> None:
        """Lets the training save itself, for some seconds, and ends it with everything it started."""
        if self._process is not None:
            self._process.stop()

    def state(self, runFolder: Path | None = None) -> "TrainingState | None":
        """What a run has done so far; None where there is none.

        Args:
            runFolder: of an earlier session's run, too; while a training runs, its state is told. None: this session's.
        """
        from DBSAMTrainingLib.TrainingProcess import TrainingProcess, holdsRun

        own = self._process
        if own is not None and (runFolder is None or own.running or own.runFolder == runFolder):
            return own.state()
        return TrainingProcess(runFolder).state() if runFolder is not None and holdsRun(runFolder) else None

    def useCheckpoint(self, runFolder: Path | None = None) -> Path:
        """Exports the best weights of a run and chooses them in DBSAMSegment.

        Args:
            runFolder: of the run; None: this session's.

        Raises:
            ValueError: there is no run, or it has no checkpoint yet.
        """
        folder = runFolder or self.runFolder
        if folder is None or not (folder / "best.pt").is_file():
            raise ValueError("The run has no checkpoint yet: train until its first validation.")
        from dbsam_training.trainer.export import ExportOptions, export_run

        output = folder / "weights.safetensors"
        export_run(folder, output, output.with_suffix(".md"), ExportOptions())
        slicer.util.getModuleLogic("DBSAMSegment").getParameterNode().model = str(output)
        return output


class DBSAMTrainingTest(ScriptedLoadableModuleTest):
    """Runs in Slicer's self-test and under pytest."""

    def setUp(self):
        """Starts from an empty scene."""
        slicer.mrmlScene.Clear()

    def runTest(self):
        """Runs every test."""
        self.setUp()
        self.test_NothingIsTrainedWithoutData()

    def test_NothingIsTrainedWithoutData(self):
        """A run without a pair is refused in words."""
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            refused = ""
            try:
                DBSAMTrainingLogic().train([], "finetune", Path(folder) / "run")
            except ValueError as error:
                refused = str(error)
            assert "at least one volume" in refused
