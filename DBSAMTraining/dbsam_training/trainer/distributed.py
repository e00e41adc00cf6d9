"""Devices and processes of a run, on Lightning Fabric: alone, by Fabric's launcher, or under torchrun."""

from __future__ import annotations

import logging
import os
import timeit
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy

from dbsam_training.run_options import RunOptions
from dbsam_training.schema import SettingError

logger = logging.getLogger(__name__)


def launch(run: RunOptions) -> Fabric:
    """Join or start the processes of a run.

    Under torchrun its processes are joined; else Fabric starts one process for each further device of this node.

    Raises:
        SettingError: The batch does not split evenly, or there are fewer devices than asked for.
    """
    accelerator = _accelerator(run.accelerator)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        nodes = int(os.environ["WORLD_SIZE"]) // devices
    else:
        devices, nodes = _devices(run.devices, accelerator), run.nodes
    world = devices * nodes
    if run.batch_size % (world * run.accumulate):
        raise SettingError(
            f"run.batch_size {run.batch_size} does not split into {world} processes times run.accumulate "
            f"{run.accumulate}: use a multiple of {world * run.accumulate}."
        )
    if accelerator == "cuda" and torch.cuda.device_count() < devices:
        raise SettingError(f"run.devices asks for {devices} GPUs, and this computer has {torch.cuda.device_count()}.")
    if run.precision == "16-mixed" and accelerator == "cpu":
        raise SettingError("run.precision 16-mixed needs a GPU: use bf16-mixed or 32-true on a CPU.")
    if run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(run.deterministic)
    # SAM's decoder has mask tokens that a box prompt never reads, so some weights get no gradient.
    strategy: Any = DDPStrategy(find_unused_parameters=True) if world > 1 else "auto"
    precision: Any = run.precision
    if precision == "bf16-mixed" and accelerator == "cpu" and not bfloat16_pays():
        logger.warning("This CPU has no arithmetic of its own for bfloat16: training in 32-true instead of bf16-mixed.")
        precision = "32-true"
    fabric = Fabric(accelerator=accelerator, strategy=strategy, devices=devices, num_nodes=nodes, precision=precision)
    fabric.launch()
    return fabric


def is_first_process() -> bool:
    """Whether this is the first process of a run on any number of devices and computers, before `launch`."""
    ranks = ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")
    return all(os.environ.get(rank, "0") in ("", "0") for rank in ranks)


@lru_cache(1)
def bfloat16_pays() -> bool:
    """Whether this CPU multiplies matrices in bfloat16 as fast as in float32; some take a hundred times longer.

    Measured, since PyTorch does not tell.
    """
    single, half = (torch.ones(384, 384, dtype=kind) for kind in (torch.float32, torch.bfloat16))
    return _seconds(lambda: half @ half) <= _seconds(lambda: single @ single)


def _seconds(call: Callable[[], object]) -> float:
    return min(timeit.repeat(call, number=1, repeat=3))


def _accelerator(wanted: str) -> str:
    if wanted != "auto":
        if wanted == "cuda" and not torch.cuda.is_available():
            raise SettingError("run.accelerator is 'cuda', and this computer has no CUDA GPU: use 'auto' or 'cpu'.")
        return wanted
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _devices(wanted: str, accelerator: str) -> int:
    if wanted != "auto":
        return int(wanted)
    return torch.cuda.device_count() if accelerator == "cuda" else 1
