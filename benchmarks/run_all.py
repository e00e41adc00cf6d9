"""Runs the benchmarks one after another and writes docs/benchmarks.md.

    make benchmarks

Takes about half an hour on two cores. Leave the machine alone meanwhile: whatever else runs shows in the figures.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path

import torch

FOLDER = Path(__file__).resolve().parent
SCRIPTS = (
    "compact_latency", "volume_latency", "scaling", "startup", "encoder_vs_sam", "lite_encoder",
    "training_step", "repeatability", "endurance", "faults",
)  # fmt: skip
PACKAGES = ("torch", "torchvision", "segment-anything", "numpy", "SimpleITK")
HEAD = """# Benchmarks

Written by `make benchmarks`, which runs the scripts in `benchmarks/`. Ratios are of times that were taken in turns in
one run. The matrix rate is what this machine reaches in a large matrix product in the same run, which is the most that
a network could reach.
"""


def main() -> None:
    """Run all or the named ones, and write their tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=FOLDER.parent / "docs/benchmarks.md")
    parser.add_argument("scripts", nargs="*", default=SCRIPTS, help=f"of {', '.join(SCRIPTS)}")
    options = parser.parse_args()
    sections = []
    for script in options.scripts:
        print(f"{script} ...", file=sys.stderr)
        done = subprocess.run(
            [sys.executable, str(FOLDER / f"{script}.py")], stdout=subprocess.PIPE, text=True, check=True
        )
        sections.append(done.stdout)
    options.output.write_text(f"{HEAD}\n{machine()}\n{''.join(sections)}", encoding="utf-8")


def machine() -> str:
    """Date, computer and versions."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    load = f", load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{datetime.date.today().isoformat()}; {_processor()}, {os.cpu_count()} cores, {capability}, "
        f"{torch.get_num_threads()} threads{load}; {platform.system()}, Python {platform.python_version()}, {versions}."
    )


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
