"""The registry of tasks: what the paper segments, in which images, and how their voxels become grey levels."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic.dataclasses import dataclass

from dbsam.preprocess.intensity import RULE_NAMES
from dbsam_training.data.dataset_info import DatasetInfo
from dbsam_training.resources import resource_folder
from dbsam_training.schema import STRICT, SettingError, one_of, read_settings


@dataclass(frozen=True, config=STRICT)
class Task:
    """One task.

    Attributes:
        name: Its name in the paper's tables.
        modality: As data sets state it.
        dimension: 2 or 3.
        structure: Shell pattern of the structures' names, in lower case.
        intensity: Name of an intensity rule.
        datasets: Shell patterns of the names of its data sets; by modality, dimension and structure if empty.
    """

    name: str
    modality: str
    dimension: Literal[2, 3]
    structure: str
    intensity: Annotated[str, one_of(RULE_NAMES)] = "auto"
    datasets: tuple[str, ...] = ()

    def includes(self, info: DatasetInfo) -> bool:
        """Whether a data set belongs to this task."""
        if self.datasets:
            return any(fnmatchcase(info.name, pattern) for pattern in self.datasets)
        same = self.modality.casefold() == info.modality.casefold() and info.dimension == self.dimension
        return same and any(fnmatchcase(name.casefold(), self.structure.casefold()) for name, _ in info.structures)


@dataclass(frozen=True)
class TaskRegistry:
    """All tasks."""

    tasks: tuple[Task, ...]

    def task_of(self, info: DatasetInfo) -> Task | None:
        """The first task to which a data set belongs."""
        return next((task for task in self.tasks if task.includes(info)), None)

    def intensity_for(self, info: DatasetInfo) -> str | None:
        """The intensity rule of a data set's task; None if it belongs to none, or its task leaves it open."""
        task = self.task_of(info)
        return None if task is None or task.intensity == "auto" else task.intensity


def load_tasks(path: Path | None = None) -> TaskRegistry:
    """Read a registry; the paper's 30 tasks by default.

    Raises:
        SettingError: The file is no registry, or one of its tasks cannot be used.
    """
    path = path or resource_folder("Registry") / "tasks.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise SettingError(f"{path} is not valid YAML: {error}") from error
    rows = content.get("tasks") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise SettingError(f"{path} must hold a list named 'tasks'.")
    return TaskRegistry(tuple(read_settings(Task, row, f"{path.name}, task {n + 1}") for n, row in enumerate(rows)))
