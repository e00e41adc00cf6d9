"""How long do the library, the command line and the modules of 3D Slicer take to start?

    python benchmarks/startup.py

Each in a process of its own, in turns. What Python and torch take themselves is measured beside.
"""

from __future__ import annotations

import argparse
import ast
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from timing import print_table

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("DBSAMSegment/DBSAMSegment.py", "DBSAMSegment/SegmentEditorDBSAM.py", "DBSAMTraining/DBSAMTraining.py")
ENGINE = "import dbsam.api, dbsam.inference.segmenter, dbsam.weights.load, dbsam.modeling.builder"
PYTHON = "Python alone"
CODE = {
    PYTHON: "pass",
    "import numpy": "import numpy",
    "import dbsam": "import dbsam",
    "import torch, torchvision": "import torch, torchvision",
    "import torch, torchvision, then all of the library": f"import torch, torchvision; {ENGINE}",
}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    commands = {name: ["-c", code] for name, code in CODE.items()}
    commands["dbsam --help"] = ["-m", "dbsam", "--help"]
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for arguments in commands.values():
        _run(arguments)
    for _ in range(options.rounds):
        for name, arguments in commands.items():
            seconds[name].append(_run(arguments))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    beyond = {
        "import dbsam": PYTHON,
        "import torch, torchvision, then all of the library": "import torch, torchvision",
        "dbsam --help": PYTHON,
    }
    rows = [
        (name, f"{took:.3f} s", f"{took - medians[beyond[name]]:.3f} s over {beyond[name]}" if name in beyond else "")
        for name, took in medians.items()
    ]
    for module in MODULES:
        rows.append((module, *_module(ROOT / module, options.rounds)))
    print_table(
        "Start-up",
        [
            f"Medians of {options.rounds}, whole processes, files in the system's cache. Slicer's module files need "
            "Slicer to be run; what they add to its start-up beyond its own modules is their compilation, which is "
            "timed here without Python's cache, and what they import at file scope, which is listed."
        ],
        ["what", "time", "of which ours"],
        rows,
    )


def _run(arguments: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - began


def _module(path: Path, rounds: int) -> tuple[str, str]:
    """Time to compile a module file, and the packages that it imports at file scope."""
    source = path.read_text(encoding="utf-8")
    times = []
    for _ in range(rounds):
        began = time.perf_counter()
        compile(source, str(path), "exec")
        times.append(time.perf_counter() - began)
    packages = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.Import):
            packages.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            packages.add(node.module.split(".")[0])
    return f"{statistics.median(times):.3f} s", f"imports {', '.join(sorted(packages - {'__future__'}))}"


if __name__ == "__main__":
    main()
