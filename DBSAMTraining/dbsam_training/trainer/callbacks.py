"""What watches a training run: progress bar, learning curve, overlays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tqdm import tqdm

from dbsam_training.trainer.log import STEPS, VALIDATIONS, read_log
from dbsam_training.trainer.plots import write_learning_curve, write_overlays
from dbsam_training.trainer.run import Run
from dbsam_training.trainer.validation import Example, Validation


class Callback:
    """Is told of what happens in a run, in its first process; this one does nothing."""

    def on_start(self, run: Run) -> None:
        """The first step is about to be taken."""

    def on_step(self, run: Run, row: Mapping[str, float]) -> None:
        """A step was taken; `row` is its line of the log."""

    def on_validation(self, run: Run, validation: Validation, examples: Sequence[Example]) -> None:
        """The run was validated."""

    def on_end(self, run: Run) -> None:
        """The run has ended, or failed."""


class ProgressBar(Callback):
    """A bar on a terminal; nothing where the output goes elsewhere."""

    def on_start(self, run: Run) -> None:
        """Draw the bar."""
        self._bar = tqdm(total=run.steps, initial=run.step, desc="training", leave=False, disable=None)

    def on_step(self, run: Run, row: Mapping[str, float]) -> None:
        """Move it on."""
        self._bar.set_postfix_str(f"loss {row['loss']:.3f}", refresh=False)
        self._bar.update()

    def on_end(self, run: Run) -> None:
        """Take it away."""
        self._bar.close()


class LearningCurve(Callback):
    """`learning_curve.png` in the run folder, drawn anew at each validation."""

    def on_validation(self, run: Run, validation: Validation, examples: Sequence[Example]) -> None:
        """Draw it."""
        logs = (read_log(run.folder / name) for name in (STEPS, VALIDATIONS))
        write_learning_curve(run.folder / "learning_curve.png", *logs)


class Overlays(Callback):
    """`overlays.png` in the run folder: predictions on a few validation samples."""

    def on_validation(self, run: Run, validation: Validation, examples: Sequence[Example]) -> None:
        """Draw them."""
        write_overlays(run.folder / "overlays.png", examples)


def default_callbacks() -> tuple[Callback, ...]:
    """What the command `dbsam-train fit` shows and draws."""
    return ProgressBar(), LearningCurve(), Overlays()
