"""Where the worker gets its networks from, and whether a model's weights are on this computer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Predictors:
    """A source of predictors by its name, as the worker is another process.

    Attributes:
        source: "package.module:Name" of what the worker imports and calls; what it returns is a
            `dbsam.worker.networks.NetworkSource`. By default dbsam's weights by name or path.
        options: its arguments by name: numbers, text, lists.
        needsTorch: whether it needs torch and its like.
    """

    source: str = "dbsam.worker.networks:Networks"
    options: Mapping[str, Any] = field(default_factory=dict)
    needsTorch: bool = True

    def takesClicks(self, model: str) -> bool:
        """Whether a model was trained with clicks; True where that can't be known yet, and a run will tell."""
        if not self.needsTorch:
            return True  # a rule in place of the networks
        try:
            from dbsam.weights.load import takes_clicks
            from dbsam.weights.metadata import CheckpointError
        except ImportError:  # safetensors isn't installed yet
            return True
        try:
            return takes_clicks(model)
        except (CheckpointError, OSError):
            return True


def requireWeights(model: str) -> None:
    """Refuses a model whose weights aren't on this computer, before a run is set up.

    Raises:
        CheckpointError: there is no such model or file.
        ValueError: its weights have to be fetched first.
    """
    from dbsam.weights.load import locate

    if locate(model) is None:
        raise ValueError(
            f"The weights of {model} are not on this computer: press Weights... to download them, or to choose a file"
            " of your own."
        )
