"""Kills a training run with SIGKILL at random moments, resumes it, and compares its losses with an unkilled run.

    python benchmarks/kill_and_resume.py --store STORE --config compact --kills 20 --set run.steps=200

Says after each kill at which step the run was and from which one it goes on; at the end the largest difference of a
loss and of a weight. Every state file of the run is read after every kill.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from dbsam_training.trainer.log import read_log
from dbsam_training.trainer.run_folder import read_state

TRAIN = Path(__file__).parents[1] / "DBSAMTraining" / "dbsam_training" / "train.py"


def main() -> int:
    """Returns 0 if the losses agree to 1e-5."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", required=True)
    parser.add_argument("--config", default="compact")
    parser.add_argument("--set", nargs="+", default=[])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, killed = Path(folder, "whole"), Path(folder, "killed")
        command = [sys.executable, TRAIN, "fit", "--config", options.config, "--store", options.store]
        tail = ["--set", *options.set] if options.set else []
        subprocess.run([*command, "--output", whole, *tail], check=True, env=os.environ)
        steps = len(read_log(whole / "train.csv"))
        for kill in range(options.kills):
            process = subprocess.Popen([*command, "--output", killed, *tail], stderr=subprocess.DEVNULL)
            before = len(read_log(killed / "train.csv"))
            goal = min(steps - 1, before + chance.randint(1, max(1, 2 * (steps - before) // (options.kills - kill))))
            while process.poll() is None and len(read_log(killed / "train.csv")) < goal:
                time.sleep(0.01)
            time.sleep(chance.uniform(0.0, 0.2))
            process.send_signal(signal.SIGKILL)
            process.wait()
            states = [read_state(path)["step"] for path in sorted(killed.glob("*.pt"))]
            print(f"kill {kill + 1} after step {len(read_log(killed / 'train.csv'))}, states {states}", flush=True)
        subprocess.run([*command, "--output", killed, *tail], check=True, env=os.environ)
        one, two = (read_log(path / "train.csv") for path in (whole, killed))
        assert [row["step"] for row in one] == [row["step"] for row in two]
        loss = max(abs(a["loss"] - b["loss"]) for a, b in zip(one, two, strict=True))
        a, b = (read_state(path / "last.pt")["model"] for path in (whole, killed))
        weight = max(float((a[key].double() - b[key].double()).abs().max()) for key in a)
        print(f"{options.kills} kills in {steps} steps: largest difference of a loss {loss:g}, of a weight {weight:g}")
        return int(loss > 1e-5)


if __name__ == "__main__":
    sys.exit(main())
