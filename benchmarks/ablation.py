"""What does each part of DB-SAM add? The paper's Table 3 on LiteMedSAM, with the data sets at hand.

    python benchmarks/ablation.py --data DATA --store STORE --output ABLATION --seeds 0 1

The store comes from `dbsam-train prepare --config benchmarks/recipes/ablation.yaml`. Every row starts from the released
weights and is trained by the same recipe, samples, steps and seeds; only the parts that are trained differ. What is
there already is kept, so that a run that was interrupted goes on; several processes may train a seed each.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from timing import print_table

from dbsam_training.cli import main as dbsam_train
from dbsam_training.data.dataset_info import DatasetInfo
from dbsam_training.data.discover import find_sources
from dbsam_training.evaluate.bootstrap import Row, compare_models, group_by, mean_over_datasets, read_rows
from dbsam_training.evaluate.paper_figures import TABLE_3
from dbsam_training.evaluate.summary import GROUPS, METRICS

RECIPE = Path(__file__).parent / "recipes" / "ablation.yaml"
RELEASED = "medsam-lite"
SYSTEMS = {
    "decoder": "dbsam-lite-decoder",
    "channel-attention": "dbsam-lite-channel-attention",
    "bilateral": "dbsam-lite-bilateral",
    "fusion": "dbsam-lite",
}
TITLES = {
    "decoder": "decoder only (MedSAM's way)",
    "channel-attention": "+ channel attention",
    "bilateral": "+ bilateral cross-attention",
    "fusion": "+ final fusion (DB-SAM)",
}
GROUPS_3D_2D = [group for group in GROUPS if group.name in ("3d", "2d")]


def main(arguments: Sequence[str] | None = None, systems: Mapping[str, str] = SYSTEMS) -> None:
    """Train and evaluate what isn't there yet, and print the tables.

    Args:
        arguments: Of the command line.
        systems: The system that each row trains.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", required=True, help="data sets of any layout that dbsam-train reads")
    parser.add_argument("--store", required=True, help="training store of the rows")
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--recipe", default=str(RECIPE), help="of every row, but for its system")
    parser.add_argument("--base", default=RELEASED, help="released weights, by name or file: the first row")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1))
    parser.add_argument("--prompts", nargs="+", choices=("paper", "roi"), default=("paper", "roi"))
    parser.add_argument("--set", nargs="+", default=[], metavar="NAME=VALUE", help="other settings of the recipe")
    parser.add_argument("--limit", type=int, help="only the first cases of each data set")
    options = parser.parse_args(arguments)
    reports = []
    for seed in options.seeds:
        weights = [_train(options, row, system, seed) for row, system in systems.items()]
        reports.append(_evaluate(options, seed, [*weights, options.base] if not reports else weights))
    infos = {source.info.name: source.info for source in find_sources([options.data])}
    by_seed = [read_rows(report / "cases.csv") for report in reports]
    names = {by_seed[0][-1].model: "as released"} | {row: TITLES[row] for row in systems}
    for prompt in options.prompts:
        print_tables(prompt, [[row for row in rows if row.prompt == prompt] for rows in by_seed], infos, names)


def _train(options: argparse.Namespace, row: str, system: str, seed: int) -> str:
    """The weights of a row, trained if they are not there."""
    weights = options.output / str(seed) / f"{row}.safetensors"
    if not weights.exists():
        run = str(options.output / "runs" / f"{row}-{seed}")
        settings = [f"model.system={system}", f"model.base={options.base}", f"run.seed={seed}", *options.set]
        _run("fit", "--config", options.recipe, "--set", *settings, "--store", options.store, "--output", run)
        _run("export", run, "--state", "last", "--name", f"{row}-{seed}", "--output", str(weights))
    return str(weights)


def _evaluate(options: argparse.Namespace, seed: int, models: Sequence[str]) -> Path:
    report: Path = options.output / f"report-{seed}"
    if not (report / "summary.json").exists():
        limit = ["--limit", str(options.limit)] if options.limit else []
        command = ["evaluate", "--data", options.data, "--model", *models, "--prompt", *options.prompts, *limit]
        _run(*command, "--report", str(report))
    return report


def _run(*arguments: str) -> None:
    if status := dbsam_train(arguments):
        raise SystemExit(status)


def print_tables(
    prompt: str, by_seed: Sequence[Sequence[Row]], infos: Mapping[str, DatasetInfo], names: Mapping[str, str]
) -> None:
    """Print Table 3's form beside the paper's own rows, and what each part adds.

    Args:
        prompt: Of all rows.
        by_seed: Scores of each seed; a model without training may be in the first alone.
        infos: The data sets.
        names: Titles of the models, in the tables' order.
    """
    means = mean_of_seeds(by_seed)
    chosen = {group.name: [row for row in means if group.includes(infos[row.dataset], row)] for group in GROUPS_3D_2D}
    rows = []
    for name, title in names.items():
        cells = [title]
        for group in GROUPS_3D_2D:
            cells += [_interval([row for row in chosen[group.name] if row.model == name], metric) for metric in METRICS]
            each = [[r for r in one if r.model == name and group.includes(infos[r.dataset], r)] for one in by_seed]
            cells.append(" / ".join(f"{100 * mean_over_datasets(one, 'dsc').value:.2f}" for one in each if one))
        rows.append(cells)
    for row in TABLE_3:
        figures = (row.dsc_3d, row.nsd_3d, None, row.dsc_2d, row.nsd_2d, None)
        rows.append([f"the paper's: {row.name}", *("" if value is None else f"{value:.2f}" for value in figures)])
    head = [f"{group.name.upper()} {what}" for group in GROUPS_3D_2D for what in ("DSC", "NSD", "DSC of each seed")]
    notes = ["Well-posed data sets, percent, mean of the seeds, 95 % interval of a bootstrap over cases."]
    print_table(f"Prompt {prompt}", notes, ["trained", *head], rows)
    steps = []
    order = list(names)
    for before, after in [*itertools.pairwise(order), (order[0], order[-1])]:
        cells = [f"{names[after]}, over {names[before]}"]
        for group in GROUPS_3D_2D:
            pair = [row for model in (before, after) for row in chosen[group.name] if row.model == model]
            cells.append(_difference(pair))
        steps.append(cells)
    notes = ["Difference of DSC on the same objects, its interval, and Wilcoxon's signed-rank test over the cases."]
    print_table(f"What each part adds, prompt {prompt}", notes, ["part", "3D", "2D"], steps)


def _difference(pair: Sequence[Row]) -> str:
    found = compare_models(pair, "dsc")
    if not found:
        return "–"
    step = found[0]
    p_value = "p < 0.0001" if step.p_value < 0.0001 else f"p = {step.p_value:.4f}"
    return f"{100 * step.difference:+.2f} ({100 * step.low:+.2f} to {100 * step.high:+.2f}), {p_value}"


def _interval(rows: Sequence[Row], metric: str) -> str:
    if not rows:
        return "–"
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
