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
from torch import Tensor, nn
from torch import distributed as dist

from dbsam_training.recipe import RunOptions
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
    parts = run.gradient_accumulation_steps
    if run.batch_size % (world * parts):
        raise SettingError(
            f"run.batch_size {run.batch_size} does not split into {world} processes times "
            f"run.gradient_accumulation_steps {parts}: use a multiple of {world * parts}."
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


class _Sum(torch.autograd.Function):
    """Sum over the processes; each process's loss depends on it, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total


class SynchronizedBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d whose training statistics are those of the batches of all processes, in shares of equal size.

    PyTorch's own SyncBatchNorm refuses CPUs; this one computes the same with collectives that every backend has, so
    that a distributed run can be tested, and reproduced, without GPUs.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (B, C, H, W)."""
        if not self.training or not dist.is_initialized():
            return super().forward(input)
        values = input.float()
        count = input.shape[0] * input.shape[2] * input.shape[3] * dist.get_world_size()
        mean = _sum(values.sum((0, 2, 3))) / count
        centred = values - mean.view(1, -1, 1, 1)
        variance = _sum(centred.square().sum((0, 2, 3))) / count
        self._track(mean.detach(), variance.detach() * (count / max(1, count - 1)))
        scale = (variance + self.eps).rsqrt() * self.weight
        return (centred * scale.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)).to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)


def _sum(value: Tensor) -> Tensor:
    total = _Sum.apply(value)
    assert isinstance(total, Tensor)
    return total


def synchronize_batch_norm(module: nn.Module) -> None:
    """Turn every BatchNorm2d inside a module into a synchronized one, in place; weights and keys stay."""
    for child in module.modules():
        if type(child) is nn.BatchNorm2d:
            child.__class__ = SynchronizedBatchNorm2d
