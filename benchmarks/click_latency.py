"""How long a click takes in the module's panel, from the placed point to the outline on its slice.

The panel is Slicer's own in the stand-in of the application. The slices, 512 x 512, are embedded already, as after a
run; by default the network is the compact one with random weights, as the time doesn't depend on these:

    python benchmarks/click_latency.py [--model WEIGHTS] [--clicks 20]

Prints wall time, and the processor time of the worker and of the application, which say more on a computer that does
other work meanwhile (Linux).
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).parents[1]
os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT / "DBSAMSegment"), os.environ.get("PYTHONPATH", "")])
sys.path[:0] = [str(ROOT / "Testing"), str(ROOT / "DBSAMSegment"), str(ROOT / "benchmarks")]

import host  # noqa: E402
import numpy as np  # noqa: E402
from slicer_worker import processor_seconds  # noqa: E402

SIDE, SLICES = 512, 9
LONGEST_SECONDS = 600


def random_weights(path: Path) -> None:
    """The compact network as if it had been trained with clicks."""
    from dbsam.modeling.builder import build_model
    from dbsam.modeling.config import named_config
    from dbsam.weights.checkpoint import save_checkpoint
    from dbsam.weights.metadata import CheckpointInfo

    config = replace(named_config("compact"), trained_clicks=True)
    save_checkpoint(path, build_model(config), CheckpointInfo("random", "0", config, "CC0-1.0", "2026-01-01"))


def measured(model: str, count: int) -> list[tuple[float, float, float]]:
    """Per click: wall seconds, processor seconds of the worker, and of the application."""
    import slicer
    import slicer_scene as scenes
    import vtk

    host.start()
    host.new_scene()
    rng = np.random.default_rng(0)
    voxels = rng.normal(40, 20, (SLICES, SIDE, SIDE)).astype(np.int16)
    voxels[:, 180:330, 170:340] += 100
    widget = host.open_module("DBSAMSegment")
    node = widget.logic.getParameterNode()
    node.volume, node.model, node.device = scenes.add_volume(slicer.mrmlScene, voxels), model, "cpu"
    node.axis, node.strategy = "K", "box"
    node.rois = [scenes.add_roi(slicer.mrmlScene, (255, 255, SLICES // 2), (190, 170, SLICES), "block")]
    widget.ui.applyButton.click()
    assert host.process_events(LONGEST_SECONDS, lambda: widget.panel.run.job is None)
    assert widget.panel.result.segment is not None, widget.ui.statusLabel.text
    widget.ui.includeButton.click()
    points, preview = node.includePoints, widget.panel.clicks.preview
    found, place = [], random.Random(0)
    for _ in range(count + 1):
        position = place.uniform(200, 310), place.uniform(200, 310), place.randrange(SLICES)
        worker = widget.logic.runner.worker.processId
        before = time.perf_counter(), processor_seconds(worker), time.process_time()
        points.AddControlPointWorld(vtk.vtkVector3d(*map(float, position)))
        assert host.process_events(LONGEST_SECONDS, lambda: not preview.busy)
        after = time.perf_counter(), processor_seconds(worker), time.process_time()
        assert preview.outlines.wasSeen, widget.ui.statusLabel.text
        found.append(tuple(end - begin for begin, end in zip(before, after, strict=True)))
    host.close_module("DBSAMSegment")
    return found[1:]  # the first finds code that isn't in memory yet


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="weights that take clicks; random ones by default")
    parser.add_argument("--clicks", type=int, default=20)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = chosen.model or str(Path(folder) / "random.safetensors")
        if not chosen.model:
            random_weights(Path(model))
        columns = list(zip(*measured(model, chosen.clicks), strict=True))
    for name, seconds in zip(("wall", "processor, worker", "processor, application"), columns, strict=True):
        print(f"{name}: median {statistics.median(seconds):.3f} s, longest {max(seconds):.3f} s")


if __name__ == "__main__":
    main()
