"""What is known about a model: its parts and their sizes, architecture, licence and provenance."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from dbsam.modeling.config import DBSAMConfig, named_config
from dbsam.weights.checkpoint import outline
from dbsam.weights.load import locate, weights_info
from dbsam.weights.metadata import CheckpointInfo
from dbsam.weights.registry import REGISTRY

# In the order of the data flow; a parameter belongs to the longest prefix of its key.
_PARTS = {
    "image_encoder.": "ViT branch",
    "image_encoder.channel_attention.": "channel attention",
    "image_encoder.conv_branch.": "convolution branch",
    "image_encoder.bilateral.": "bilateral cross-attention",
    "image_encoder.fusion.": "ViT-Conv fusion",
    "image_encoder.neck.": "neck",
    "slice_encoder.": "ViT of the slice view",
    "image_encoder.slice_blend.": "blend of the slice view",
    "prompt_encoder.": "prompt encoder",
    "mask_decoder.": "mask decoder",
}


@dataclass(frozen=True)
class PartSize:
    """Parameters of one part of a network.

    Attributes:
        name: The part, in the paper's words.
        trained: Parameters that training changes.
        frozen: Parameters that it does not.
    """

    name: str
    trained: int
    frozen: int


@dataclass(frozen=True)
class ModelDescription:
    """What is known about a model.

    Attributes:
        name: Name of the weights, or of the system where there are none.
        title: The name for people.
        config: The architecture.
        parts: Sizes of the parts, in the order of the data flow.
        licence: The weights' licence; empty where there are none.
        source: Whose the weights are.
        info: Their provenance; None where they are not on this computer.
        path: Their file; None where they are not on this computer.
        size_bytes: Size of the file, or of its download; None if neither exists.
    """

    name: str
    title: str
    config: DBSAMConfig
    parts: tuple[PartSize, ...]
    licence: str
    source: str
    info: CheckpointInfo | None
    path: Path | None
    size_bytes: int | None

    @property
    def trained(self) -> int:
        """Parameters that training changes."""
        return sum(part.trained for part in self.parts)

    @property
    def frozen(self) -> int:
        """Parameters that training leaves as they are."""
        return sum(part.frozen for part in self.parts)


def describe(name_or_path: str | Path) -> ModelDescription:
    """Describe a model by name, whether its weights are on this computer or not, or a weights file.

    Raises:
        CheckpointError: It is neither a name nor a file, or the file is damaged or foreign.
    """
    path = locate(name_or_path)
    info = weights_info(path) if path else None
    entry = REGISTRY.get(str(name_or_path)) or (REGISTRY.get(info.name) if info else None)
    name = info.name if info else str(name_or_path)
    config = info.config if info else named_config(name)
    size = path.stat().st_size if path else entry.remote.size_bytes if entry and entry.remote else None
    return ModelDescription(
        name=name,
        title=entry.title if entry else name,
        config=config,
        parts=part_sizes(outline(config)),
        licence=info.licence if info else entry.licence if entry else "",
        source=entry.source if entry else "",
        info=info,
        path=path,
        size_bytes=size,
    )


def part_sizes(model: nn.Module) -> tuple[PartSize, ...]:
    """Count a network's parameters by part, in the order of the data flow; parts without parameters are left out."""
    trained: Counter[str] = Counter()
    frozen: Counter[str] = Counter()
    for key, parameter in model.named_parameters():
        prefix = max((prefix for prefix in _PARTS if key.startswith(prefix)), key=len)
        (trained if parameter.requires_grad else frozen)[prefix] += parameter.numel()
    return tuple(
        PartSize(name, trained[prefix], frozen[prefix]) for prefix, name in _PARTS.items() if prefix in trained | frozen
    )
