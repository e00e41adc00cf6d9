"""What the benchmarks share: interleaved timing, arithmetic, the machine's own matrix rate, peak memory, tables."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from dbsam.modeling.builder import build_model
from dbsam.modeling.config import named_config
from dbsam.modeling.dbsam import DBSAM


def interleaved(cases: Mapping[str, Callable[[], Any]], rounds: int, device: str = "cpu") -> dict[str, float]:
    """Median seconds of each case, after one run of each to warm up; the cases take turns.

    So a machine that slows down in the middle slows all of them, and their ratios stand.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for case in cases.values():
        case()
    for _ in range(rounds):
        for name, case in cases.items():
            seconds[name].append(once(case, device))
    return {name: statistics.median(values) for name, values in seconds.items()}


def once(case: Callable[[], Any], device: str = "cpu") -> float:
    """Seconds of one run."""
    _wait_for(device)
    began = time.perf_counter()
    case()
    _wait_for(device)
    return time.perf_counter() - began


def flops_of(case: Callable[[], Any]) -> float:
    """Floating-point operations of matrix products, convolutions and attention; a product and a sum count as two."""
    with FlopCounterMode(display=False) as counter:
        case()
    return float(counter.get_total_flops())


def matrix_rate(dtype: torch.dtype, device: str = "cpu", repeats: int = 7) -> float:
    """FLOP/s of the best of several products of square matrices: what this machine can do at most."""
    side = 8192 if device != "cpu" else 2048
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    left @ right
    return 2 * side**3 / min(once(lambda: left @ right, device) for _ in range(repeats))


def peak_memory_mb(device: str = "cpu") -> float:
    """The most memory this process has had: the GPU's tensors, or resident pages of the CPU.

    /proc is asked first: `ru_maxrss` of a new process starts from what its parent had.
    """
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device) / 2**20
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="utf-8").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    import resource

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def alone(script: str, arguments: Sequence[str]) -> Any:
    """Run a script in a process of its own and read the JSON in its last line."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def random_model(system: str, **settings: Any) -> DBSAM:
    """A network in which every part counts: what starts as zero, such as relative positions, gets small values."""
    torch.manual_seed(0)
    model = build_model(replace(named_config(system), **settings))
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    return model


def phantom(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Noise in soft tissue's range around a brighter ellipsoid in the middle, int16."""
    rng = np.random.default_rng(seed)
    axes = np.ogrid[tuple(slice(-1, 1, complex(0, n)) for n in shape)]
    inside = sum((axis / 0.3) ** 2 for axis in axes) < 1
    noise = rng.normal(0, 15, shape).astype(np.float32)
    return (noise + np.where(inside, 90.0, -20.0)).astype(np.int16)


def print_table(title: str, notes: Sequence[str], head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A section in Markdown."""
    print(f"\n## {title}\n")
    for note in notes:
        print(f"{note}\n")
    print(f"| {' | '.join(head)} |")
    print(f"|{'---|' * len(head)}")
    for row in rows:
        print(f"| {' | '.join(row)} |")


def _wait_for(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)
