"""What a run writes as it goes: a line for each step and each validation."""

from __future__ import annotations

import csv
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from torch import Tensor

from dbsam.io.files import atomic_path, naming_what_is_written, write_text
from dbsam_training.data.json_files import write_json
from dbsam_training.trainer.checks import check_finite
from dbsam_training.trainer.run_folder import RECIPE
from dbsam_training.trainer.validation import validation_prompts

if TYPE_CHECKING:
    from dbsam_training.trainer.callbacks import Callback
    from dbsam_training.trainer.run import Run
    from dbsam_training.trainer.validation import Example, Validation

logger = logging.getLogger(__name__)

STEPS, VALIDATIONS = "train.csv", "validation.csv"


class RunLog:
    """Writes the figures of each step and validation, and tells the callbacks.

    A step is written when the next one has been given to the device, so that a GPU never waits for it.

    Args:
        run: The run.
        callbacks: Who is told; nobody but in the first process.
    """

    def __init__(self, run: Run, callbacks: Sequence[Callback]) -> None:
        self._run, self._callbacks = run, callbacks
        self._waiting: tuple[int, float, Tensor, Tensor] | None = None
        self._row: dict[str, float] = {}
        self._began = time.monotonic()
        self._tables: tuple[CsvLog, ...] = ()
        if run.fabric.is_global_zero:
            text = yaml.safe_dump(run.recipe.to_dict(), sort_keys=False, allow_unicode=True)
            write_text(run.folder / RECIPE, text)
            columns = ("step", "loss", "learning_rate", "gradient_norm", "seconds")
            scores = ("step", "score", *validation_prompts(run.recipe.prompts))
            self._tables = tuple(
                CsvLog(run.folder / name, of, run.step) for name, of in ((STEPS, columns), (VALIDATIONS, scores))
            )

    def __enter__(self) -> RunLog:
        for callback in self._callbacks:
            callback.on_start(self._run)
        return self

    def __exit__(self, *_: object) -> None:
        for callback in self._callbacks:
            callback.on_end(self._run)
        for table in self._tables:
            table.close()

    def add(self, step: int, lr: float, loss: Tensor, gradient_norm: Tensor) -> None:
        """Keep the figures of a step, which the device may still be computing, and write those of the step before."""
        self.flush()
        self._waiting = step, lr, loss, gradient_norm

    def flush(self) -> None:
        """Write what is waiting.

        Raises:
            TrainingError: The loss or its gradient is not finite.
        """
        if self._waiting is None:
            return
        step, lr, loss, norm = self._waiting
        self._waiting = None
        self._row = {"step": step, "loss": float(loss), "learning_rate": lr, "gradient_norm": float(norm)}
        check_finite(self._run, self._row)
        if self._tables:
            self._tables[0].add({**self._row, "seconds": round(time.monotonic() - self._began, 2)})
        for callback in self._callbacks:
            callback.on_step(self._run, self._row)

    def add_validation(self, validation: Validation | None, examples: Sequence[Example]) -> None:
        """Write the scores of a validation; None if there was nothing to validate on."""
        if validation is None or not self._tables:
            return
        run = self._run
        self._tables[1].add({"step": run.step, **validation.means})
        write_json(run.folder / "validation.json", {"step": run.step, **asdict(validation)})
        means = ", ".join(f"{kind} {100 * value:.2f}" for kind, value in validation.means.items())
        logger.info("step %d: loss %.4f, validation DSC %s", run.step, self._row["loss"], means)
        for callback in self._callbacks:
            callback.on_validation(run, validation, examples)


class CsvLog:
    """A CSV table with a column `step`, to which rows are appended as training goes.

    Args:
        path: The file.
        columns: Its columns, "step" first.
        last_step: Rows beyond this step are removed: a resumed run writes them again.
    """

    def __init__(self, path: Path, columns: Iterable[str], last_step: int) -> None:
        self.path, self._columns = path, list(columns)
        kept = [row for row in read_log(path) if row["step"] <= last_step]
        with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns, restval="", extrasaction="ignore", lineterminator="\n")
            writer.writeheader()
            writer.writerows({**row, "step": int(row["step"])} for row in kept)
        self._file = path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, self._columns, restval="", lineterminator="\n")

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row, and hand it to the operating system, so that a killed process does not lose it."""
        with naming_what_is_written(self.path):
            self._writer.writerow(row)
            self._file.flush()

    def close(self) -> None:
        """Finish the file."""
        with naming_what_is_written(self.path):  # what a full disk did not take is tried again
            self._file.close()


def read_log(path: Path) -> list[dict[str, float]]:
    """Rows of a `CsvLog`; a last row that a killed process left unfinished is left out."""
    if not path.is_file():
        return []
    rows: list[dict[str, float]] = []
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        for row in reader:
            try:
                rows.append({key: float(value) for key, value in row.items() if value != ""})
            except (TypeError, ValueError):
                break
    return [row for row in rows if "step" in row]
