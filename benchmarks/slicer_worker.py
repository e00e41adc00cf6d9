"""What the worker process costs: the sample's liver through the module's panel, beside the command line.

The panel is Slicer's own in the stand-in of the application, whose event loop keeps the interpreter's lock as Slicer's
does. Both are measured in turn, as computers are not equally fast all the time:

    python benchmarks/slicer_worker.py [--pairs 5]

Prints seconds of the library's own computation in a plain process and of the panel's run from the click on Apply to the
segment, with the worker warm; the ratio of the two; the longest gap between two ticks of a timer of 10 ms on the main
thread; and the time from the click to the first slice, with the worker warm and from cold. Each is wall time, and
processor time of the worker, which says more on a computer that does other work meanwhile (Linux).
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "Resources" / "Sample"
VOLUME, ROI = str(SAMPLE / "phantom_ct.nrrd"), str(SAMPLE / "phantom_roi.mrk.json")
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "DBSAMSegment"), os.environ.get("PYTHONPATH", "")])
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "DBSAMSegment")]

import host  # noqa: E402

# What the command `dbsam segment` does with one ROI, timed without reading the model; a first run warms it up.
ALONE = f"""
import json, time, dbsam
volume = dbsam.read_volume({VOLUME!r})
predictor = dbsam.load_predictor("compact", "cpu")
for _ in range(2):
    wall, cpu = time.perf_counter(), time.process_time()
    result = dbsam.segment(volume, {ROI!r}, predictor)
    spent = time.perf_counter() - wall, time.process_time() - cpu
print(json.dumps([*spent, len(result.slices)]))
"""


def command_line() -> tuple[float, float, int]:
    """Wall and processor seconds of the command line's own computation, and its slices."""
    done = subprocess.run([sys.executable, "-c", ALONE], check=True, capture_output=True, text=True)
    wall, cpu, slices = json.loads(done.stdout.splitlines()[-1])
    return wall, cpu, slices


def processor_seconds(process: int | None) -> float:
    """What a process has used of the processors; 0 where that can't be known."""
    if process is None or not Path("/proc/self/stat").exists():
        return 0.0
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Panel:
    """The module's panel on the sample."""

    def __init__(self) -> None:
        import qt
        import slicer

        self.slicer = slicer
        self.widget = host.open_module("DBSAMSegment")
        self.runner = self.widget.logic.runner
        self.parameters = self.widget.logic.getParameterNode()
        self.parameters.volume = slicer.util.loadVolume(VOLUME)
        self.parameters.rois = [slicer.util.loadMarkups(ROI)]
        self.parameters.device = "cpu"
        host.process_events(0.2)
        self._first: tuple[float, float] | None = None
        start = self.runner.start

        def watched(*arguments, **options):
            seen = options.get("onSlice")

            def on_slice(decided):
                if self._first is None:
                    self._first = self._now()
                if seen is not None:
                    seen(decided)

            return start(*arguments, **{**options, "onSlice": on_slice})

        self.runner.start = watched
        self._ticks: list[tuple[float, float]] = []
        self._timer = qt.QTimer()
        self._timer.setTimerType(qt.Qt.PreciseTimer)
        self._timer.setInterval(10)
        self._timer.connect("timeout()", lambda: self._ticks.append((time.perf_counter(), time.thread_time())))
        self._timer.start()

    def _now(self) -> tuple[float, float]:
        return time.perf_counter(), processor_seconds(self.runner.worker.processId)

    def run(self) -> dict[str, float]:
        """Clicks Apply on a volume that the worker has not seen; seconds of what happens."""
        self.parameters.volume.GetImageData().GetPointData().GetScalars().Modified()
        host.process_events(0.3)
        self._ticks.clear()
        self._first = None
        clicked = self._now()
        self.widget.ui.applyButton.click()
        if not host.process_events(600, lambda: self.widget.panel.run.job is None):
            raise RuntimeError("the run did not end")
        done = self._now()
        host.process_events(0.1)
        pairs = list(itertools.pairwise(self._ticks))
        report = self.widget.panel._report
        segment = report.segments[0]
        return {
            "total": done[0] - clicked[0],
            "total cpu": done[1] - clicked[1],
            "computed": report.seconds,
            "first slice": self._first[0] - clicked[0],
            "first slice cpu": self._first[1] - clicked[1],
            "longest gap": max(after[0] - before[0] for before, after in pairs),
            "longest work": max(after[1] - before[1] for before, after in pairs),
            "slices": len(segment.slices),
        }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    pairs = parser.parse_args().pairs
    host.start()
    panel = Panel()
    cold = panel.run()
    print(f"cold: first slice {cold['first slice']:.2f} s, all {cold['total']:.2f} s, gap {cold['longest gap']:.3f} s")
    ratios, cpu_ratios, runs = [], [], []
    for _ in range(pairs):
        alone, alone_cpu, slices = command_line()
        run = panel.run()
        assert run["slices"] == slices
        ratios.append(run["total"] / alone)
        cpu_ratios.append(run["total cpu"] / alone_cpu)
        runs.append(run)
        print(
            f"{slices} slices: alone {alone:.2f} s ({alone_cpu:.2f} s of a processor), panel {run['total']:.2f} s"
            f" ({run['total cpu']:.2f} s), worker {run['computed']:.2f} s"
        )
    for name, values in (("wall", ratios), ("processor", cpu_ratios)):
        print(f"ratio of {name} time: median {statistics.median(values):.3f}, {min(values):.3f} to {max(values):.3f}")
    for name in ("first slice", "first slice cpu", "longest gap", "longest work"):
        values = [1000 * run[name] for run in runs]
        print(f"{name}: median {statistics.median(values):.0f} ms, {min(values):.0f} to {max(values):.0f} ms")
    host.close_module("DBSAMSegment")


if __name__ == "__main__":
    main()
