"""Failures of a training run, in words that say what to change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from dbsam_training.recipe import Recipe


class TrainingError(RuntimeError):
    """A run that cannot go on; the message says why and what to change."""


@contextmanager
def explained(recipe: Recipe, checkpoint: Path) -> Iterator[None]:
    """Turn an out-of-memory error into a `TrainingError`.

    Args:
        recipe: What is being run.
        checkpoint: The resume point, which such an error leaves as it was.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise TrainingError(out_of_memory_text(recipe, checkpoint, error)) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of Python, CUDA, MPS or PyTorch's CPU allocator means that memory ran out."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def out_of_memory_text(recipe: Recipe, checkpoint: Path, error: BaseException) -> str:
    """What happened and which settings need less memory, the cheapest first."""
    run = recipe.run
    ways = []
    if run.precision == "32-true":
        ways.append("run.precision: bf16-mixed")
    ways.append(f"run.accumulate: {run.accumulate * 2} (same batch of {run.batch_size}, in smaller parts)")
    if not run.checkpointing:
        ways.append("run.checkpointing: true (a third slower)")
    ways.append("a smaller run.batch_size")
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return f"Memory ran out ({first}). Change one of: {'; '.join(ways)}. {_intact(checkpoint)}"


def not_finite_text(what: str, step: int, cases: list[str], recipe: Recipe, checkpoint: Path) -> str:
    """What to change when the loss or its gradient is NaN or infinite."""
    ways = [f"a lower optimizer.learning_rate than {recipe.optimizer.learning_rate:g}"]
    if recipe.run.precision == "16-mixed":
        ways.insert(0, "run.precision: bf16-mixed or 32-true (16 bits overflow at 65504)")
    if recipe.optimizer.clip_norm == 0:
        ways.append("optimizer.clip_norm: 1.0")
    shown = ", ".join(cases[:8]) + (", ..." if len(cases) > 8 else "")
    return (
        f"The {what} is not finite at step {step}, on samples of {shown}. Change one of: {'; '.join(ways)}; or leave "
        f"out those cases if they look wrong. {_intact(checkpoint)}"
    )


def _intact(checkpoint: Path) -> str:
    if checkpoint.is_file():
        return f"The last good state is in {checkpoint}; the same command goes on from it."
    return "No resume point had been written yet."
