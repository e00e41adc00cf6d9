"""How long a run is, on what it computes, and what it writes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from dbsam_training.schema import SettingError


@dataclass(frozen=True)
class RunOptions:
    """Length, batch, hardware and bookkeeping of a run.

    Attributes:
        batch_size: Samples of one optimizer step, over all processes together.
        accumulate: Parts into which each process splits its share of a batch, to save memory.
        epochs: Length in epochs; or
        steps: length in optimizer steps.
        precision: "32-true", "bf16-mixed" or "16-mixed" (with loss scaling).
        accelerator: "auto", "cpu", "cuda" or "mps".
        devices: Devices on each node; "auto" for all. torchrun's own number wins.
        nodes: Machines.
        sync_batch_norm: Whether several processes share their batch norm statistics.
        checkpointing: Whether the ViT's blocks are computed again in the backward pass instead of kept.
        workers: Processes that prepare batches; 0 for none.
        resident: Whether all samples are kept in a GPU's memory and prompted and augmented there, which it needs to be
            kept busy by a small network. On a CPU they stay on disk.
        compiled: Whether the network is compiled for a CUDA GPU (torch.compile): a minute at the start, then shorter
            steps.
        graphed: Whether the whole step is recorded as a CUDA graph, which a small network needs to keep a GPU busy:
            with `resident`, on one GPU, without dropout. On a CPU it changes nothing.
        seed: Of new weights, sampling, prompts, augmentation and dropout.
        deterministic: Whether operators without a deterministic algorithm are refused.
        validate_every: Steps between validations; 0 for once an epoch.
        validate_per_dataset: Most validation samples of a data set.
        checkpoint_every: Steps between resume points.
    """

    batch_size: int
    accumulate: int = 1
    epochs: float | None = None
    steps: int | None = None
    precision: Literal["32-true", "bf16-mixed", "16-mixed"] = "32-true"
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    devices: str = "auto"
    nodes: int = 1
    sync_batch_norm: bool = True
    checkpointing: bool = False
    workers: int = 0
    resident: bool = False
    compiled: bool = False
    graphed: bool = False
    seed: int = 0
    deterministic: bool = False
    validate_every: int = 0
    validate_per_dataset: int = 40
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.steps is None):
            raise SettingError("run: give either 'epochs' or 'steps'.")
        least = dict.fromkeys(("batch_size", "accumulate", "nodes", "checkpoint_every", "steps"), 1)
        least |= dict.fromkeys(("seed", "workers", "validate_every", "validate_per_dataset"), 0)
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise SettingError(f"run.{name} must be at least {bound}, not {value}.")
        if self.epochs is not None and not 0 < self.epochs < math.inf:
            raise SettingError(f"run.epochs must be above 0 and finite, not {self.epochs!r}.")
        if self.resident and self.workers:
            raise SettingError(f"run.workers must be 0 with run.resident, not {self.workers}: nothing is to be read.")
        if self.graphed and (not self.resident or self.accumulate > 1 or self.precision == "16-mixed"):
            raise SettingError(
                "run.graphed needs run.resident: true, run.accumulate: 1, and another run.precision than 16-mixed."
            )
        if self.devices != "auto" and not (self.devices.isdigit() and int(self.devices) > 0):
            raise SettingError(f"run.devices must be 'auto' or a number in quotes, not {self.devices!r}.")
