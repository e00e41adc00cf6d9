"""DSC on the validation patches of a training store, after the box and after each simulated click.

    dbsam-train prepare --config two-view --data DATA --output STORE
    python benchmarks/patch_clicks.py --store STORE --recipe two-view [--run RUN] [--clicks 3]

Quick to compute and comparable between trainings, not with `dbsam-train evaluate`, which scores whole cases. Without a
run, the weights that the recipe starts from are scored; they have learned no clicks. Data sets that are ill-posed for
one box are left out.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from timing import print_table

from dbsam_training.batches.augment import make_batch
from dbsam_training.batches.clicks import SimulatedClicks
from dbsam_training.batches.rng import COUNT
from dbsam_training.recipe import AugmentOptions, PromptOptions, load_recipe
from dbsam_training.trainer.distributed import launch
from dbsam_training.trainer.losses import OUTSIDE_LOGIT, intersection_over_union, resize_logits
from dbsam_training.trainer.run import Run
from dbsam_training.trainer.run_folder import read_state
from dbsam_training.trainer.validation import choose_samples, validation_prompts

AT_ONCE = 32
SEED = 1234


@torch.no_grad()
def scores(run: Run, positions: NDArray[np.int64], prompts: PromptOptions, clicks: int) -> NDArray[np.float64]:
    """DSC (N, 1 + clicks) of samples after the box and after each click."""
    size = run.recipe.model.config.image_size
    found = []
    for start in range(0, len(positions), AT_ONCE):
        chosen = positions[start : start + AT_ONCE]
        table = np.stack([np.random.default_rng([SEED, int(p)]).random(COUNT, np.float32) for p in chosen])
        arrays = run.dataset.read(torch.from_numpy(chosen))
        batch = make_batch(arrays, size, size, torch.from_numpy(table), prompts, AugmentOptions())
        with run.fabric.autocast():
            clicker = SimulatedClicks(batch.masks, batch.mask_valid, size) if clicks else None
            boxes = batch.images, batch.boxes_xyxy, batch.valid
            logits, _ = run.exported(*boxes, clicker, clicks, batch.seen)
        rounds = []
        for part in resize_logits(logits.float(), size).split(len(chosen)):
            inside = part * batch.mask_valid - OUTSIDE_LOGIT * (1 - batch.mask_valid)
            iou = intersection_over_union(inside, batch.masks)
            rounds.append((2 * iou / (1 + iou)).numpy())
        found.append(np.stack(rounds, 1))
    return np.concatenate(found)


def main() -> None:
    """Score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--run", type=Path, help="run folder, whose last state is scored")
    parser.add_argument("--clicks", type=int, default=3)
    parser.add_argument("--per-dataset", type=int, default=12)
    arguments = parser.parse_args()
    recipe = load_recipe(arguments.recipe, {"run.accelerator": "cpu"})
    with tempfile.TemporaryDirectory() as folder:
        run = Run(recipe, [arguments.store], Path(folder), launch(recipe.run))
    if arguments.run:
        run.exported.load_state_dict(read_state(arguments.run / "last.pt")["exported"], strict=False)
    run.exported.eval()
    store = run.store
    positions = choose_samples(store, arguments.per_dataset)
    names = np.array([store.dataset_names[code] for code in store.dataset[positions]])
    well_posed = np.array([not store.datasets[name]["ill_posed_for_one_box"] for name in names])
    positions, names = positions[well_posed], names[well_posed]
    rows = []
    for kind, prompts in validation_prompts(recipe.prompts).items():
        dsc = scores(run, positions, prompts, arguments.clicks)
        sets = np.stack([dsc[names == name].mean(0) for name in sorted(set(names))]).mean(0)
        worst = dsc[dsc[:, 0] <= np.median(dsc[:, 0])].mean(0)
        rows += [
            (kind, "mean over data sets", *(f"{value:.3f}" for value in sets)),
            (kind, "worst half after the box", *(f"{value:.3f}" for value in worst)),
        ]
    heads = ("prompt", "", "box", *(f"{n} clicks" for n in range(1, arguments.clicks + 1)))
    print_table("Patches", [f"{len(positions)} validation patches, DSC."], heads, rows)


if __name__ == "__main__":
    main()
