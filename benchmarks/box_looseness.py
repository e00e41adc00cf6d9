"""Does a mask hang on how the box was drawn, and is it said when it is wrong?

    python benchmarks/box_looseness.py --data DATA --model compact --cases 1 --objects 3

Objects of 3D validation sets, each in one ROI that is 1, 3, 6 or 10 voxels loose, and in five that are 3 voxels loose
with their sides moved at random, as `dbsam-train evaluate --looseness --jitter` draws them. Beside the engine as it is
stands one that follows each object from a single start, whatever speaks against the mask.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from timing import print_table

import dbsam
from dbsam.inference.embedding_cache import EmbeddingCache
from dbsam.inference.segmenter import TrackingRule, Volume, VolumeSegmenter
from dbsam_training.data.nnunet import RawDataset
from dbsam_training.evaluate.metrics import dice
from dbsam_training.evaluate.prompts import BoolArray, roi_box

LOOSENESS = (1, 3, 6, 10)
MOVED_LOOSENESS = 3
RULES = {"several starts": TrackingRule(), "one start": TrackingRule(least_trust=0.0)}


class Found(NamedTuple):
    """One object in all of its boxes: DSC, and whether the mask was called likely wrong."""

    dsc: list[float]
    warned: list[bool]
    trust: list[float]


def main() -> None:
    """Print a line for each object as it is done, then the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, type=Path, help="data sets in nnU-Net's raw layout")
    parser.add_argument("--model", default="compact", help="name or weights file")
    parser.add_argument("--datasets", nargs="+", metavar="NAME", help="some of them, by the start of their names")
    parser.add_argument("--cases", type=int, default=1, help="of each data set")
    parser.add_argument("--skip", type=int, default=0, help="cases of each data set to leave out first")
    parser.add_argument("--objects", type=int, default=3, help="of each case")
    parser.add_argument("--moved", type=int, default=5, help="boxes with sides moved at random")
    options = parser.parse_args()
    predictor = dbsam.load_predictor(options.model, "cpu")
    found: dict[str, list[Found]] = {name: [] for name in RULES}
    for where, volume, axis, truth in _objects(options):
        cache = EmbeddingCache()
        for name, rule in RULES.items():
            engine = VolumeSegmenter(predictor, cache, tracking=rule)
            found[name].append(_in_all_boxes(engine, volume, axis, truth, where, options.moved))
            print(f"{where}, {name}: {' '.join(f'{dsc:.2f}' for dsc in found[name][-1].dsc)}", flush=True)
    _print_tables(options.model, found)


def _objects(options: argparse.Namespace) -> Iterator[tuple[str, Volume, int, BoolArray]]:
    for folder in sorted(options.data.glob("Dataset*")):
        if options.datasets and not folder.name.startswith(tuple(options.datasets)):
            continue
        dataset = RawDataset(folder)
        if dataset.info.dimension != 3:
            continue
        for name in dataset.list_cases("val")[options.skip : options.skip + options.cases]:
            case = dataset.read_case(name)
            volume, axis = Volume(case.voxels_KJI, case.geometry), case.geometry.default_axis()
            for structure in list(dataset.structures(case))[: options.objects]:
                yield f"{folder.name}/{name}/{structure.name}", volume, axis, structure.mask_KJI


def _in_all_boxes(
    engine: VolumeSegmenter, volume: Volume, axis: int, truth: BoolArray, where: str, moved: int
) -> Found:
    found = Found([], [], [])
    boxes = [roi_box(truth, volume.geometry, axis, looseness) for looseness in LOOSENESS]
    boxes += [roi_box(truth, volume.geometry, axis, MOVED_LOOSENESS, f"{where}/{n}") for n in range(moved)]
    for box in boxes:
        result = engine.segment(volume, box, axis=axis)
        found.dsc.append(dice(truth, result.labelmap_KJI() > 0))
        found.warned.append(result.likely_wrong)
        found.trust.append(result.trust.value if result.trust else 0.0)
    return found


def _print_tables(model: str, found: dict[str, list[Found]]) -> None:
    rows, warnings = [], []
    for name, objects in found.items():
        dsc = np.array([one.dsc for one in objects])
        loose, moved = dsc[:, : len(LOOSENESS)].mean(axis=0), dsc[:, len(LOOSENESS) :]
        worst = (moved.mean(axis=1) - moved.min(axis=1)).mean()
        figures = [*loose, loose.max() - loose.min(), moved.mean(), moved.std(axis=1).mean(), worst]
        rows.append([name, *(f"{figure:.3f}" for figure in figures)])
        warned = np.array([one.warned for one in objects])
        warnings.append([name, *(_share(warned, dsc, *limits) for limits in ((0, 0.5), (0.5, 0.8), (0.8, 1.01)))])
    head = [f"{model}, {len(next(iter(found.values())))} objects", *(f"{n} voxels loose" for n in LOOSENESS)]
    print_table(
        "Looseness of the box (DSC)", (), [*head, "range", "moved", "standard deviation", "mean less worst"], rows
    )
    print_table("Masks called likely wrong", (), ["", "DSC below .5", ".5 to .8", "above .8"], warnings)


def _share(warned: np.ndarray, dsc: np.ndarray, low: float, high: float) -> str:
    inside: Sequence[bool] = warned[(dsc >= low) & (dsc < high)].tolist()
    return f"{np.mean(inside):.0%} of {len(inside)}" if inside else "none"


if __name__ == "__main__":
    main()
