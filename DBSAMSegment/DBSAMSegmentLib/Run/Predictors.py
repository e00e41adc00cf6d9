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
