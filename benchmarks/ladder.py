"""What does each part of DB-SAM add, at compact size? The paper's Table 3 on data sets at hand.

    python benchmarks/ladder.py --data DATA --store STORE --base-store BASE_STORE --output LADDER --seeds 0 1

The stores come from `dbsam-train prepare` with the recipes `ladder-decoder.yaml` and `ladder-base.yaml` beside this
file. A plain SAM of compact size is pre-trained on super-pixels once; every row starts from it, with the same steps,
samples and seeds. What is there already is kept, so that a run that was interrupted goes on; several processes may
train a seed each.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from timing import print_table

from dbsam_training.cli import main as dbsam_train
from dbsam_training.data.dataset_info import DatasetInfo
from dbsam_training.data.discover import find_sources
from dbsam_training.evaluate.bootstrap import Row, compare_models, group_by, mean_over_datasets, read_rows
from dbsam_training.evaluate.evaluate import PROMPTS
from dbsam_training.evaluate.summary import GROUPS, METRICS

RECIPES = Path(__file__).parent / "recipes"
BASE = "base"
ROWS = {
    "decoder": "decoder only (MedSAM's way)",
    "channel-attention": "+ channel attention",
    "bilateral": "+ bilateral cross-attention",
    "fusion": "+ final fusion (DB-SAM)",
}
TITLES = {BASE: "no adaptation"} | ROWS
GROUPS_3D_2D = [group for group in GROUPS if group.name in ("3d", "2d")]


def main() -> None:
    """Train and evaluate what isn't there yet, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="data sets in nnU-Net's raw layout")
    parser.add_argument("--store", required=True, help="training store of the rows")
    parser.add_argument("--base-store", required=True, help="training store of the pre-training")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1))
    parser.add_argument("--prompts", nargs="+", choices=PROMPTS, default=PROMPTS, help="the paper's table has its own")
    parser.add_argument("--base-only", action="store_true", help="stop after the pre-training")
    options = parser.parse_args()
    base = _train(options.output, BASE, options.base_store, 0)
    if options.base_only:
        return
    reports = []
    for seed in options.seeds:
        starts = f"model.base={base}"
        weights = [base, *(_train(options.output, row, options.store, seed, starts) for row in ROWS)]
        reports.append(_evaluate(options.output / f"report-{seed}", options.data, weights, options.prompts))
    infos = {dataset.info.name: dataset.info for dataset in find_sources([options.data])}
    by_seed = [read_rows(report / "cases.csv") for report in reports]
    for prompt in options.prompts:
        _print(prompt, [[row for row in rows if row.prompt == prompt] for rows in by_seed], infos)


def _train(output: Path, row: str, store: str, seed: int, *settings: str) -> Path:
    """The weights of a row, trained if they are not there."""
    name = row if row == BASE else f"{row}-{seed}"
    weights = output / str(seed) / f"{row}.safetensors"
    if not weights.exists():
        run = str(output / "runs" / name)
        recipe = ["--config", str(RECIPES / f"ladder-{row}.yaml"), "--set", f"run.seed={seed}", *settings]
        _run("fit", *recipe, "--store", store, "--output", run)
        _run("export", run, "--state", "last", "--name", name, "--output", str(weights))
    return weights


def _evaluate(report: Path, data: str, weights: Sequence[Path], prompts: Sequence[str]) -> Path:
    if not (report / "summary.json").exists():
        models = [str(path) for path in weights]
        _run("evaluate", "--data", data, "--model", *models, "--prompt", *prompts, "--report", str(report))
    return report


def _run(*arguments: str) -> None:
    if status := dbsam_train(arguments):
        raise SystemExit(status)


def _print(prompt: str, by_seed: Sequence[Sequence[Row]], infos: dict[str, DatasetInfo]) -> None:
    rows = []
    means = mean_of_seeds(by_seed)
    chosen = {g.name: [row for row in means if g.includes(infos[row.dataset], row)] for g in GROUPS_3D_2D}
    for name, title in TITLES.items():
        cells = [title]
        for group in GROUPS_3D_2D:
            for metric in METRICS:
                cells.append(_interval([row for row in chosen[group.name] if row.model == name], metric))
            each = [[r for r in one if r.model == name and group.includes(infos[r.dataset], r)] for one in by_seed]
            cells.append(" / ".join(f"{100 * mean_over_datasets(one, 'dsc').value:.2f}" for one in each))
        rows.append(cells)
    head = [f"{group.name.upper()} {what}" for group in GROUPS_3D_2D for what in ("DSC", "NSD", "DSC of each seed")]
    notes = ["Well-posed data sets, percent, mean of the seeds, 95 % interval of a bootstrap over cases."]
    print_table(f"Prompt {prompt}", notes, ["trained", *head], rows)
    steps = []
    for before, after in zip(list(TITLES)[:-1], list(TITLES)[1:], strict=True):
        cells = [TITLES[after]]
        for group in GROUPS_3D_2D:
            pair = [row for model in (before, after) for row in chosen[group.name] if row.model == model]
            (found,) = compare_models(pair, "dsc")
            cells.append(f"{100 * found.difference:+.2f} ({100 * found.low:+.2f} to {100 * found.high:+.2f})")
        steps.append(cells)
    notes = ["Difference of DSC to the row above, on the same objects."]
    print_table(f"What each part adds, prompt {prompt}", notes, ["part", "3D", "2D"], steps)


def _interval(rows: Sequence[Row], metric: str) -> str:
    mean = mean_over_datasets(rows, metric)
    return f"{100 * mean.value:.2f} ({100 * mean.low:.2f}–{100 * mean.high:.2f})"


def mean_of_seeds(by_seed: Sequence[Sequence[Row]]) -> list[Row]:
    """One row for each object and model, with the mean of the seeds' scores."""
    every = [row for rows in by_seed for row in rows]
    groups = group_by(every, lambda row: (row.model, row.dataset, row.case, row.structure))
    return [
        replace(rows[0], **{metric: float(np.mean([getattr(row, metric) for row in rows])) for metric in METRICS})
        for rows in groups.values()
    ]


if __name__ == "__main__":
    main()
