"""The model card of weights, made from what their file says about itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dbsam.modeling.config import DBSAMConfig
from dbsam.modeling.slice_view import SLICE_SIZE
from dbsam.weights.checkpoint import outline
from dbsam.weights.metadata import CheckpointInfo
from dbsam_training.data.licences import is_open

_LIMITS = """\
- For research; not a medical device, and not evaluated for diagnosis or treatment.
- It segments what a box encloses and does not know what that is. A box round no object still gives a mask.
- One box gives one connected idea of an object: rings, shells, vessel trees and scattered lesions are ill-posed for it.
- Images unlike those it was trained on may give poor masks with a high predicted IoU: look at every mask."""


def model_card(info: CheckpointInfo, path: Path) -> str:
    """The card as Markdown.

    Args:
        info: From the checkpoint's header.
        path: The checkpoint.
    """
    return "\n".join(_lines(info, path)) + "\n"


def _lines(info: CheckpointInfo, path: Path) -> Iterator[str]:
    config, recipe = info.config, info.recipe
    model = outline(config)
    total = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    yield from (f"# {info.name} {info.version}", "", str(recipe.get("description", "")), "")
    yield from _table(
        ("", ""),
        [
            ("file", f"`{path.name}`, {path.stat().st_size / 1e6:.1f} MB"),
            ("SHA-256 of the weights", f"`{info.tensors_sha256}`"),
            ("date", info.date),
            ("licence of the weights", info.licence),
            ("system", config.system),
            ("parameters", f"{total:,}, of which {trained:,} were trained"),
            ("input", f"{config.image_size} x {config.image_size}, {_INPUTS[config.input_region]}{_view(config)}"),
            (
                "stands on",
                f"{info.base.name}, SHA-256 `{info.base.sha256}`" if info.base else "nothing: it is whole",
            ),
        ],
    )
    yield from ("", "## Use", "")
    yield f"`dbsam segment --model {path.name} ...`, or choose the file as the model in 3D Slicer's DBSAM Segment."
    yield from ("", "## Limits", "", _LIMITS, "", "## Training", "")
    yield from _training(recipe)
    yield from ("", "## Data sets and their licences", "")
    yield from _data_sets(info)
    yield from ("", "## Figures", "")
    yield from _figures(info.metrics)


_INPUTS = {
    "pad": "the whole slice, padded to a square",
    "stretch": "the whole slice, stretched to a square",
    "box": "the box with the region round it",
}


def _view(config: DBSAMConfig) -> str:
    return f"; {SLICE_SIZE} x {SLICE_SIZE}, the whole slice, padded to a square" if config.slice_view else ""


def _training(recipe: Mapping[str, Any]) -> Iterator[str]:
    if not recipe:
        yield "Not stated."
        return
    run, optimizer = recipe["run"], recipe["optimizer"]
    yield (
        f"Recipe `{recipe['name']}`: {recipe['trained_steps']:,} steps of {run['batch_size']} samples out of "
        f"{recipe['trained_samples']:,}, AdamW with a peak rate of {optimizer['learning_rate']:g} and a weight "
        f"decay of {optimizer['weight_decay']:g}, {run['precision']}, seed {run['seed']}. The header holds all of it."
    )
    if recipe.get("blend", 1) != 1:
        yield from ("", f"Blended: {recipe['blend']:g} of the trained weights, the rest of those they started from.")
    if recipe.get("remarks"):
        yield from ("", str(recipe["remarks"]))


def _data_sets(info: CheckpointInfo) -> Iterator[str]:
    if not info.datasets:
        yield "Not stated."
        return
    closed = [credit for credit in info.datasets if not is_open(credit.licence)]
    if closed:
        yield (
            f"{len(closed)} of {len(info.datasets)} data sets state no licence or one that restricts use. Whether and "
            "how that binds weights trained on them is disputed: check them before any use beyond research."
        )
    else:
        yield "The licence of every data set allows any use, most with credit."
    yield ""
    rows = [
        (
            credit.name,
            credit.licence,
            credit.source.replace("|", "/"),
            "" if credit.cases is None else str(credit.cases),
        )
        for credit in info.datasets
    ]
    yield from _table(("data set", "licence", "source", "training cases"), rows)


def _figures(metrics: Mapping[str, Any]) -> Iterator[str]:
    validation = metrics.get("validation")
    evaluation = metrics.get("evaluation")
    if validation:
        yield "Validation while training: DSC in % at the input's resolution, mean over data sets."
        yield ""
        means = {kind: value for kind, value in validation["means"].items() if kind != "score"}
        yield from _table(("prompt", "DSC"), [(kind, f"{100 * value:.2f}") for kind, value in means.items()])
        yield ""
    if evaluation:
        yield "Evaluation by `dbsam-train evaluate` (its whole summary is in the file's header):"
        yield ""
        yield from _evaluation(evaluation)
    if not validation and not evaluation:
        yield "None."


def _evaluation(evaluation: Mapping[str, Any]) -> Iterator[str]:
    rows = []
    for entry in evaluation.get("means", ()):
        figures = [f"{100 * entry[metric]['value']:.2f}" for metric in ("dsc", "nsd")]
        rows.append((entry["prompt"], entry["group"], entry["model"], *figures, str(entry.get("count", ""))))
    yield from _table(("prompt", "group", "model", "DSC", "NSD", "cases"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield "|" + " --- |" * len(head)
    for row in rows:
        yield f"| {' | '.join(row)} |"
