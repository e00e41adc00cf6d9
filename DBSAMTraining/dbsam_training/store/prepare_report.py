"""What became of the data sets from which a training store was made."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

from dbsam_training.data.case import Source

logger = logging.getLogger(__name__)


class BrokenDataError(ValueError):
    """Data sets with broken cases; the message names them."""


@dataclass(frozen=True)
class Fault:
    """A case that cannot be used, and why."""

    dataset: str
    case: str
    reason: str


@dataclass
class Report:
    """What became of the data sets.

    Attributes:
        faults: Broken cases.
        left_out: Data sets and images that were left out, with the reason.
        samples: Samples of each data set and split.
    """

    faults: list[Fault] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    samples: dict[str, dict[str, int]] = field(default_factory=dict)


def note_unlabelled(source: Source, report: Report) -> None:
    """Enter the images of a data set that have no label file."""
    names = source.unlabelled()
    for name in names:
        report.left_out[f"{source.info.name}, image {name}"] = "it has no label file"
    if names:
        shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
        logger.warning("%s: %d images have no label file and are left out: %s", source.info.name, len(names), shown)


def faults_text(report: Report, folder: Path) -> str:
    """What is broken and what to do about it."""
    shown = [f"{fault.dataset}, case {fault.case}: {fault.reason}" for fault in report.faults[:20]]
    rest = len(report.faults) - len(shown)
    if rest:
        shown.append(f"and {rest} more")
    return (
        f"{len(report.faults)} cases are broken:\n  "
        + "\n  ".join(shown)
        + f"\nMend them, or leave them out with --skip-bad. The whole list is in {folder / 'report.json'}."
    )
