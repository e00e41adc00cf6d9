"""A training in a process of its own: start, watch, stop with everything it started."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from DBSAMSegmentLib.Run.Interpreter import pythonExecutable

# Which dbsam_training.trainer.run_folder watches for.
STOP_FILE = "stop"
_LOG_LINES = 200
_STOP_SECONDS = 5.0
_RUN_FILES = ("recipe.yaml", "train.csv", "last.pt", "best.pt", "process.log")


@dataclass(frozen=True)
class TrainingState:
    """What a run has done so far.

    Attributes:
        folder: where the run lies.
        running: whether its process lives.
        exitCode: of its process, None while it lives, or where it was another session's.
        stopping: whether it was asked to end and has not yet.
        stopped: whether it was asked to end.
        step: last step; 0 before the first.
        steps: of the whole run; 0 while that is unknown.
        loss: of the last step.
        score: last validation DSC, None before the first.
        log: last lines of what it said.
    """

    folder: Path
    running: bool
    exitCode: int | None
    stopping: bool
    stopped: bool
    step: int
    steps: int
    loss: float | None
    score: float | None
    log: str


class TrainingProcess:
    """Runs `dbsam-train` by Slicer's Python, outside the application.

    Args:
        runFolder: where the run lies; the process's log is `process.log` in it.
    """

    def __init__(self, runFolder: Path) -> None:
        self.runFolder = runFolder
        self._process: subprocess.Popen | None = None
        self.asked = False

    def start(self, arguments: Sequence[str]) -> None:
        """Starts the command with these arguments, such as "fit", "--config", "finetune".

        Raises:
            RuntimeError: it runs already, or Slicer's Python isn't there.
            OSError: the process cannot be started.
        """
        if self.running:
            raise RuntimeError("A training is running: stop it first.")
        self.asked = False
        self.runFolder.mkdir(parents=True, exist_ok=True)
        self._stopFile.unlink(missing_ok=True)
        script = Path(__file__).resolve().parents[1] / "dbsam_training" / "train.py"
        options: dict = {"start_new_session": True}
        if os.name == "nt":
            options = {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [pythonExecutable(), "-u", str(script), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=_environment(),
                **options,
            )

    @property
    def running(self) -> bool:
        """Whether the process lives."""
        return self._process is not None and self._process.poll() is None

    def ask(self) -> None:
        """Asks the training to save itself after its present step and to end; a file does on all systems."""
        if self.running:
            self.asked = True
            self._stopFile.touch()

    def stop(self) -> None:
        """Ends the process and all that it started, after some seconds in which it may save itself."""
        if self._process is None or not self.running:
            return
        if not self.asked:
            self.ask()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_SECONDS)
        self._endGroup()
        self._stopFile.unlink(missing_ok=True)

    def _endGroup(self) -> None:
        assert self._process is not None
        if os.name == "nt":
            subprocess.run(["taskkill", "/F", "/T", "/PID", str(self._process.pid)], capture_output=True, check=False)
        else:
            with suppress(ProcessLookupError):  # all have ended by themselves
                os.killpg(self._process.pid, signal.SIGTERM)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            if os.name != "nt":
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def state(self) -> TrainingState:
        """What the run's files say."""
        train, validation = _lastRow(self.runFolder / "train.csv"), _lastRow(self.runFolder / "validation.csv")
        running = self.running
        return TrainingState(
            folder=self.runFolder,
            running=running,
            exitCode=None if self._process is None else self._process.poll(),
            stopping=self.asked and running,
            stopped=self.asked,
            step=int(_number(train, "step") or 0),
            steps=_steps(self.runFolder / "recipe.yaml"),
            loss=_number(train, "loss"),
            score=_number(validation, "score"),
            log="\n".join(_tail(self._log, whole=running)),
        )

    @property
    def _stopFile(self) -> Path:
        return self.runFolder / STOP_FILE

    @property
    def _log(self) -> Path:
        return self.runFolder / "process.log"


def holdsRun(folder: Path) -> bool:
    """Whether a training has been in a folder; False where that can't be read."""
    try:
        return any((folder / name).is_file() for name in _RUN_FILES)
    except OSError:
        return False


def canGoOn(folder: Path) -> bool:
    """Whether a run that was stopped in a folder can go on with the data and the recipe that lie there."""
    return all((folder / name).is_file() for name in ("last.pt", "recipe.yaml", "data/dataset.json"))


def _environment() -> dict[str, str]:
    environment = dict(os.environ)
    root = Path(__file__).resolve().parents[2]
    folders = [folder for folder in (root / "DBSAMTraining", root / "DBSAMSegment") if folder.is_dir()]
    inherited = environment.get("PYTHONPATH")
    environment["PYTHONPATH"] = os.pathsep.join([*map(str, folders), *([inherited] if inherited else [])])
    return environment


def _lastRow(path: Path) -> dict[str, str]:
    """The last whole row of a table that another process writes."""
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    rows = list(csv.DictReader(whole.splitlines()))
    return rows[-1] if rows else {}


def _number(row: dict[str, str], name: str) -> float | None:
    try:
        return float(row[name])
    except (KeyError, TypeError, ValueError):  # another program's table
        return None


def _steps(path: Path) -> int:
    """Steps of a run by its recipe, read without a YAML library, which Slicer may lack."""
    if not path.is_file():
        return 0
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.strip().partition(":")
        if name == "steps" and value.strip().isdigit():
            return int(value)
    return 0


def _tail(path: Path, whole: bool) -> list[str]:
    """The last lines of a file, without one that is still being written where only whole ones are wanted."""
    if not path.is_file():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    return (text[: text.rfind("\n") + 1] if whole else text).splitlines()[-_LOG_LINES:]
