"""How much worse is the compact model on a source that it has never seen?

    python benchmarks/unseen_sources.py --data DATA --store STORE --output FOLDS

Every source is left out of training in one of the folds, with all its data sets; sources of one modality are spread
over the folds. Each fold is trained by the recipe `compact`, with a shallower network, an input of 64 pixels and
smaller batches, with the same steps and seed as a run on all sources, and both are scored on the validation samples of
the left-out sources. Super-pixels, which don't say which source they are from, are left out of all. The run `open`
leaves out what the recipe `compact-open` does: all data sets whose licence restricts use. The store comes from
`dbsam-train prepare --config compact`. What is there already is kept; `--runs` trains only some, so that several
processes may share the work.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import yaml
from timing import print_table

from dbsam_training.cli import main as dbsam_train
from dbsam_training.data.dataset_info import DatasetInfo
from dbsam_training.data.discover import find_sources
from dbsam_training.data.licences import is_open
from dbsam_training.store.superpixels import DATASET_NAME as SUPERPIXELS

RECIPE = "compact"
SMALL = {"depth": 6, "stage_ends": [2, 5], "conv_stage_depth": 1, "image_size": 64, "conv_image_size": 64}
"""Of the networks that are compared, so that a CPU trains them in hours."""
BATCH_SIZE = 64
ALL, OPEN = "all", "open"
Scores = Mapping[str, Mapping[str, float]]
Pairs = dict[str, list[tuple[float, ...]]]


def main() -> None:
    """Train what isn't there yet, and print the table of the folds that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="data sets in nnU-Net's raw layout")
    parser.add_argument("--store", required=True, type=Path)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--count", type=int, default=8, help="number of folds")
    parser.add_argument("--runs", nargs="+", metavar="RUN", help='of "all", "open" and the folds from "1" on')
    options = parser.parse_args()
    infos = {dataset.info.name: dataset.info for dataset in find_sources([options.data])}
    left_out = runs_of(infos, options.count)
    if unknown := set(options.runs or ()) - set(left_out):
        parser.error(f"Unknown runs {sorted(unknown)}: choose from {', '.join(left_out)}.")
    if options.runs:
        left_out = {run: left_out[run] for run in options.runs}
    found = {run: _train(options.output / run, options.store, names, options.steps) for run, names in left_out.items()}
    if ALL in found:
        _print_folds(found, left_out, infos, options.count, options.steps)
        _print_open(found, left_out, infos, options.steps)


def runs_of(infos: Mapping[str, DatasetInfo], count: int) -> dict[str, list[str]]:
    """Data sets that each run leaves out: none, those of a fold, or those whose licence restricts use."""
    folds = {str(number): names for number, names in enumerate(folds_of(infos, count), 1)}
    restricted = [name for name, info in infos.items() if not is_open(info.licence)]
    return {ALL: [], **folds, OPEN: restricted}


def folds_of(infos: Mapping[str, DatasetInfo], count: int) -> list[list[str]]:
    """Data sets of each fold: a source stays together, the sources of a modality are dealt out in turn."""
    sources: dict[str, list[str]] = defaultdict(list)
    for name, info in infos.items():
        sources[info.reference or name].append(name)
    dealt = sorted(sources.values(), key=lambda names: (infos[names[0]].modality, names[0]))
    return [[name for names in dealt[fold::count] for name in names] for fold in range(count)]


def _train(run: Path, store: Path, left_out: Sequence[str], steps: int) -> Scores:
    """Validation DSC by prompt and data set of a run without some data sets, trained if it isn't finished."""
    result = run / "validation.json"
    if not result.exists():
        run.mkdir(parents=True, exist_ok=True)
        recipe = {
            "extends": RECIPE,
            "model": {"settings": SMALL},
            "data": {"dataset_weights": dict.fromkeys([SUPERPIXELS, *left_out], 0.0)},
            "optimizer": {"warm_up_steps": steps // 10, "ema": 0.98},
            "run": {"steps": steps, "batch_size": BATCH_SIZE, "validate_every": steps},
        }
        (run / "fold.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        arguments = ["fit", "--config", str(run / "fold.yaml"), "--store", str(store), "--output", str(run)]
        if status := dbsam_train(arguments):
            raise SystemExit(status)
    scores: Scores = json.loads(result.read_text(encoding="utf-8"))["per_set"]
    return scores


def _print_folds(
    found: Mapping[str, Scores],
    left_out: Mapping[str, Sequence[str]],
    infos: Mapping[str, DatasetInfo],
    count: int,
    steps: int,
) -> None:
    folds = [run for run in found if run not in (ALL, OPEN)]
    if not folds:
        return
    pairs: Pairs = defaultdict(list)
    for fold in folds:
        for name in _scored(found, infos, left_out[fold]):
            pairs[infos[name].modality].append(_both(found, fold, name))
    print_table(
        "Sources that were left out of training",
        [f"{len(folds)} of {count} folds, {_how(steps)}"],
        ["modality", "data sets", *_head(found, "left out")],
        _rows(dict(sorted(pairs.items()))),
    )


def _print_open(
    found: Mapping[str, Scores], left_out: Mapping[str, Sequence[str]], infos: Mapping[str, DatasetInfo], steps: int
) -> None:
    if OPEN not in found:
        return
    groups = {"open licence": infos.keys() - left_out[OPEN], "licence restricts use": left_out[OPEN]}
    pairs = {
        group: [_both(found, OPEN, name) for name in _scored(found, infos, sorted(names))]
        for group, names in groups.items()
    }
    print_table(
        "Trained on data sets of open licence alone",
        [_how(steps)],
        ["data sets", "number", *_head(found, "trained on the open ones")],
        _rows(pairs),
    )


def _how(steps: int) -> str:
    return (
        f"{steps} steps of {BATCH_SIZE} samples each, one seed; DSC in percent on validation samples, means over data "
        "sets that are well posed for one box. The interval is of a bootstrap over data sets."
    )


def _rows(pairs: Pairs) -> list[tuple[str, ...]]:
    """A row for each group of data sets, and one for all."""
    every = [values for of in pairs.values() for values in of]
    return [(group, str(len(of)), *_cells(of)) for group, of in {**pairs, "all": every}.items()]


def _scored(found: Mapping[str, Scores], infos: Mapping[str, DatasetInfo], names: Iterable[str]) -> list[str]:
    """Data sets that have validation samples and are well posed for one box."""
    scored = next(iter(found[ALL].values()))
    return [name for name in names if name in scored and not infos[name].ill_posed_for_one_box]


def _both(found: Mapping[str, Scores], run: str, name: str) -> tuple[float, ...]:
    """DSC on a data set of the run on all sources and of another one, for each prompt."""
    return tuple(found[one][prompt][name] for prompt in found[ALL] for one in (ALL, run))


def _head(found: Mapping[str, Scores], less: str) -> list[str]:
    return [f"{prompt}: {what}" for prompt in found[ALL] for what in ("trained on all", less, "drop")]


def _cells(values: Sequence[tuple[float, ...]]) -> list[str]:
    table = np.array(values) * 100
    cells = []
    for column in range(0, table.shape[1], 2):
        seen, unseen = table[:, column], table[:, column + 1]
        cells += [f"{seen.mean():.1f}", f"{unseen.mean():.1f}", _with_interval(seen - unseen)]
    return cells


def _with_interval(drops: np.ndarray) -> str:
    if len(drops) == 1:
        return f"{drops[0]:.1f}"
    drawn = np.random.default_rng(0).choice(drops, (2000, len(drops))).mean(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{drops.mean():.1f} ({low:.1f} to {high:.1f})"


if __name__ == "__main__":
    main()
