"""`dbsam-train` as a script: the same file under python, torchrun, PythonSlicer and 3D Slicer itself.

    python train.py fit --config compact.yaml --data DIR --output RUN
    torchrun --nproc-per-node 4 train.py fit --config paper.yaml --store STORE --output RUN
    PythonSlicer train.py fit ...
    Slicer --no-main-window --no-splash --python-script train.py fit ...

Inside the application (the last) batches are prepared in the training process, and the application ends with the
command's exit code whatever happens: a script that raises would leave it running for ever.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Any

EXIT_FAILED = 1


def application() -> Any:
    """The running 3D Slicer application, None in every other interpreter."""
    host = sys.modules.get("slicer")
    return getattr(host, "app", None)


def run(arguments: list[str]) -> int:
    """Run the command; never raises.

    Args:
        arguments: Of the command line, without the script.

    Returns:
        The exit code.
    """
    try:
        # Slicer and torchrun run this file without installing the packages: they lie beside it and in DBSAMSegment.
        # Their own folder must not be searched: its statistics.py would hide Python's.
        here = Path(__file__).resolve().parent
        sys.path[:] = [folder for folder in sys.path if Path(folder or ".").resolve() != here]
        for folder in (here.parent, here.parents[1] / "DBSAMSegment"):
            if folder.is_dir() and str(folder) not in sys.path:
                sys.path.append(str(folder))
        from dbsam_training.cli import main

        if application() is not None and "fit" in arguments[:2]:
            arguments = [*arguments, "--set", "run.workers=0", "run.devices=1"]
        return main(arguments)
    except SystemExit as stop:  # argparse: --help, or a wrong option
        return stop.code if isinstance(stop.code, int) else EXIT_FAILED if stop.code else 0
    except BaseException:
        traceback.print_exc()
        return EXIT_FAILED


def leave(code: int) -> None:
    """End the application, or the interpreter."""
    sys.stdout.flush()
    sys.stderr.flush()
    if application() is not None:
        sys.modules["slicer"].util.exit(code)
    else:
        sys.exit(code)


if __name__ == "__main__":
    leave(run(sys.argv[1:]))
