"""The subcommands of `dbsam-train` that make weights: prepare, fit, export, recipes."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from dbsam.cli.cluster import Workers, add_options

logger = logging.getLogger(__name__)


def add_training_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the subcommands to `dbsam-train`."""
    _add_prepare(commands)
    _add_fit(commands)
    _add_export(commands)
    recipes = commands.add_parser("recipes", help="list the recipes that come with the project")
    recipes.set_defaults(run=_recipes)


def _add_prepare(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "prepare",
        help="turn data sets into a training store",
        description=(
            "Cuts data sets into a training store. Goes on where it was interrupted. Layouts are recognised: nnU-Net "
            "raw (dataset.json), MedSAM's npz files and npy folders, folders of volumes with label files, DICOM series "
            "with RTSTRUCT or SEG."
        ),
        epilog=(
            "example: dbsam-train prepare --data /data/nnUNet_raw --config compact.yaml --output store --workers 4"
        ),
    )
    _add_data(parser, required=True)
    parser.add_argument("--output", required=True, type=Path, metavar="STORE", help="folder of the store")
    _add_config(parser)
    add_options(parser)
    parser.set_defaults(run=_prepare)


def _add_fit(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "fit",
        help="train a model by a recipe, or go on with a run",
        description=(
            "Trains by a recipe into a run folder: last.pt and best.pt, train.csv, validation.csv, learning_curve.png, "
            "overlays.png. The same command goes on with a run that was interrupted."
        ),
        epilog="example: dbsam-train fit --config compact.yaml --data /data/nnUNet_raw --output runs/compact",
    )
    _add_config(parser, required=True)
    parser.add_argument("--store", nargs="+", action="extend", type=Path, metavar="STORE", help="prepared stores")
    _add_data(parser, required=False)
    parser.add_argument("--output", required=True, type=Path, metavar="RUN", help="run folder")
    parser.set_defaults(run=_fit)


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "export",
        help="write the checkpoint of a run that dbsam and the extension load",
        description="Writes the weights of a run with their provenance, and a model card beside them.",
        epilog="example: dbsam-train export runs/compact --output my.safetensors --half --metrics report/summary.json",
    )
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the .safetensors file")
    parser.add_argument("--state", choices=("best", "last"), default="best", help="which state (default: best)")
    parser.add_argument(
        "--blend",
        type=float,
        default=1.0,
        metavar="SHARE",
        help="share of the trained weights, the rest from those the run started from: 0.5 to 0.8 keeps more of what "
        "they knew of other images (default: 1)",
    )
    parser.add_argument("--half", action="store_true", help="store matrices and kernels as 16-bit floats")
    parser.add_argument("--name", help="name of the weights (default: the recipe's)")
    parser.add_argument(
        "--weights-version", default="1.0", metavar="TEXT", help="version of the weights (default: 1.0)"
    )
    parser.add_argument("--weights-licence", default="", metavar="SPDX", help="licence of the weights")
    parser.add_argument("--metrics", type=Path, metavar="JSON", help="summary.json of dbsam-train evaluate")
    parser.add_argument(
        "--remarks", default="", metavar="TEXT", help="what else a reader has to know about the training"
    )
    parser.add_argument("--card", type=Path, metavar="FILE", help="model card (default: FILE with the ending .md)")
    parser.set_defaults(run=_export)


def _add_data(parser: argparse.ArgumentParser, required: bool) -> None:
    parser.add_argument(
        "--data",
        nargs="+",
        action="extend",
        required=required,
        metavar="DIR",
        help="data sets, or folders that hold them",
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out broken cases instead of stopping")
    parser.add_argument("--licence", choices=("any", "open"), help="open: only data sets whose licence allows any use")
    parser.add_argument("--tasks", type=Path, metavar="YAML", help="task registry (default: the paper's 30 tasks)")


def _add_config(parser: argparse.ArgumentParser, required: bool = False) -> None:
    help_text = "recipe: a name (see dbsam-train recipes) or a YAML file" + ("" if required else " (default: paper)")
    parser.add_argument("--config", required=required, default="paper", metavar="RECIPE", help=help_text)
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="settings that replace the recipe's, such as run.steps=500",
    )


def overrides(options: argparse.Namespace) -> Mapping[str, Any]:
    """The settings given on the command line, by dotted name.

    Raises:
        ValueError: One of them has no "=", or a value that cannot be read.
    """
    import yaml

    found: dict[str, Any] = {}
    for text in options.set:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set takes NAME=VALUE, such as run.steps=500, not {text!r}.")
        try:
            found[name] = value if name == "run.devices" else yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {name}: {value!r} is not valid YAML: {str(error).splitlines()[0]}.") from error
    if options.licence:
        found["data.licence"] = options.licence
    return found


def _prepare(options: argparse.Namespace) -> int:
    from dbsam_training.recipe import load_recipe

    recipe = load_recipe(options.config, overrides(options))
    _fill(options, options.output, recipe.data, Workers.of(options))
    return 0


def _fill(
    options: argparse.Namespace, store: Path, data: Any, workers: Workers | None = None, run: Path | None = None
) -> None:
    """Prepare a store; that of a run which has begun is only completed."""
    from dbsam.cli.terminal import ProgressBar
    from dbsam_training.data.discover import find_sources
    from dbsam_training.data.tasks import load_tasks
    from dbsam_training.store.prepare import prepare

    sources, tasks = find_sources(options.data), load_tasks(options.tasks)
    if run is not None:
        from dbsam_training.trainer.checks import check_own_store

        check_own_store(run, store, sources, data, tasks)
    with ProgressBar("preparing") as bar:
        report = prepare(sources, store, data, options.skip_bad, tasks, bar, workers)
    if report.faults:
        logger.warning("%d broken cases were left out, see %s.", len(report.faults), store / "report.json")


def _fit(options: argparse.Namespace) -> int:
    from dbsam.weights.metadata import CheckpointError
    from dbsam_training.recipe import load_recipe
    from dbsam_training.store.locks import sole_use
    from dbsam_training.trainer.checks import TrainingError
    from dbsam_training.trainer.distributed import is_first_process, launch
    from dbsam_training.trainer.loop import train
    from dbsam_training.trainer.run_folder import StateError

    if not options.store and not options.data:
        raise ValueError("Give --store (from dbsam-train prepare) or --data.")
    recipe = load_recipe(options.config, overrides(options))
    stores: list[Path] = list(options.store or [])
    with sole_use(options.output) if is_first_process() else nullcontext():
        fabric = launch(recipe.run)
        if options.data:
            stores.append(options.output / "store")
            if fabric.is_global_zero:
                _fill(options, stores[-1], recipe.data, run=options.output)
            fabric.barrier()
        try:
            train(recipe, stores, options.output, fabric)
        except (TrainingError, StateError, CheckpointError) as error:
            logger.error("%s", error)
            return 1
    return 0


def _export(options: argparse.Namespace) -> int:
    from dbsam.weights.metadata import CheckpointError
    from dbsam_training.trainer.export import ExportOptions, export_run
    from dbsam_training.trainer.run_folder import StateError

    chosen = ExportOptions(
        state=options.state,
        half=options.half,
        blend=options.blend,
        name=options.name,
        version=options.weights_version,
        licence=options.weights_licence,
        metrics=options.metrics,
        remarks=options.remarks,
    )
    card = options.card or options.output.with_suffix(".md")
    try:
        info = export_run(options.run_folder, options.output, card, chosen)
    except (StateError, CheckpointError) as error:
        logger.error("%s", error)
        return 1
    size = options.output.stat().st_size / 1e6
    logger.info("%s: %s %s, %.1f MB; model card %s", options.output, info.name, info.version, size, card)
    return 0


def _recipes(_: argparse.Namespace) -> int:
    from dbsam_training.recipe import load_recipe, recipe_names

    for name in recipe_names():
        print(f"{name:28} {load_recipe(name).description}")
    return 0
