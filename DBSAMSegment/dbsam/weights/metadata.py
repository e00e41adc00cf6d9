"""What a checkpoint file says about itself: architecture and provenance, read without torch.

A checkpoint is one safetensors file. Its header's metadata holds a single entry, `dbsam`: a JSON object with the fields
of `CheckpointInfo` and a format version. (One entry, because safetensors does not keep several in a fixed order.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from dbsam.modeling.config import DBSAMConfig

FORMAT_VERSION = 1
METADATA_KEY = "dbsam"
_FIELDS = ("name", "version", "config", "licence", "date", "base", "datasets", "recipe", "metrics", "tensors_sha256")


class CheckpointError(RuntimeError):
    """Weights that cannot be used; the message names the mismatch and what to do."""


@dataclass(frozen=True)
class DatasetCredit:
    """A data set that weights were trained on.

    Attributes:
        name: The data set's name.
        licence: Its licence, as an SPDX identifier where there is one.
        source: Where it is published.
        cases: How many of its images or volumes were used.
    """

    name: str
    licence: str
    source: str = ""
    cases: int | None = None


@dataclass(frozen=True)
class BaseReference:
    """The weights on which a checkpoint that holds only what was trained stands.

    Attributes:
        name: Name in the registry of weights, such as "sam".
        sha256: SHA-256 of the base's file.
    """

    name: str
    sha256: str


@dataclass(frozen=True)
class CheckpointInfo:
    """Architecture and provenance of weights.

    Attributes:
        name: The weights' name.
        version: The weights' version.
        config: The architecture.
        licence: The weights' licence, as an SPDX identifier where there is one.
        date: Day of the export, ISO 8601.
        base: Where the weights that were not trained come from; None for a checkpoint that holds all weights.
        datasets: What the weights were trained on.
        recipe: How they were trained, as JSON-ready values.
        metrics: What they reach, as JSON-ready values.
        tensors_sha256: Digest of the stored weights; filled in when a checkpoint is written.
    """

    name: str
    version: str
    config: DBSAMConfig
    licence: str
    date: str
    base: BaseReference | None = None
    datasets: tuple[DatasetCredit, ...] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    tensors_sha256: str = ""

    def to_metadata(self) -> dict[str, str]:
        """The safetensors metadata; the same text for the same content.

        Raises:
            ValueError: `recipe` or `metrics` holds what JSON cannot, NaN included.
        """
        try:
            values = {
                "format_version": FORMAT_VERSION,
                "name": self.name,
                "version": self.version,
                "config": self.config.to_dict(),
                "licence": self.licence,
                "date": self.date,
                "base": asdict(self.base) if self.base else None,
                "datasets": [asdict(dataset) for dataset in self.datasets],
                "recipe": self.recipe,
                "metrics": self.metrics,
                "tensors_sha256": self.tensors_sha256,
            }
            return {METADATA_KEY: json.dumps(values, sort_keys=True, allow_nan=False)}
        except (TypeError, ValueError) as error:
            raise ValueError(f"The provenance of {self.name} cannot be written as JSON: {error}") from error

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str] | None, path: Path) -> CheckpointInfo:
        """Read `to_metadata`'s values.

        Args:
            metadata: The safetensors metadata.
            path: The file, for messages.

        Raises:
            CheckpointError: The metadata are not dbsam's, or of a format that this version does not know.
        """
        if not metadata or METADATA_KEY not in metadata:
            raise CheckpointError(
                f"{path} is a safetensors file of another program: its header has no {METADATA_KEY!r} entry. Choose a "
                "checkpoint that dbsam exported."
            )
        try:
            values = json.loads(metadata[METADATA_KEY])
            version = values["format_version"]
            if version != FORMAT_VERSION:
                raise CheckpointError(
                    f"{path} has checkpoint format {version}, and this version of dbsam reads {FORMAT_VERSION}: "
                    "update dbsam, or export the checkpoint again."
                )
            known = {name: values[name] for name in _FIELDS}
            known["config"] = DBSAMConfig.from_dict(known["config"])
            known["base"] = BaseReference(**known["base"]) if known["base"] else None
            known["datasets"] = tuple(DatasetCredit(**dataset) for dataset in known["datasets"])
            return cls(**known)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
            raise CheckpointError(
                f"{path} has a damaged or foreign header ({type(error).__name__}: {error}). Export or download it "
                "again."
            ) from error


def read_info(path: Path | str) -> CheckpointInfo:
    """Read a checkpoint's header, without its weights.

    Raises:
        CheckpointError: The file is missing, truncated, or not a dbsam checkpoint.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata()
    except (OSError, SafetensorError) as error:
        raise unreadable(path, error) from error
    return CheckpointInfo.from_metadata(metadata, path)


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """The error for a file that is not there or is not a whole safetensors file."""
    if isinstance(error, FileNotFoundError) or not path.exists():
        return CheckpointError(f"There is no weights file {path}.")
    if path.is_dir():
        return CheckpointError(f"{path} is a folder: name the weights file in it.")
    return CheckpointError(
        f"{path} ({path.stat().st_size:,} bytes) is truncated or not a safetensors file ({error}): copy, export or "
        "download it again."
    )
