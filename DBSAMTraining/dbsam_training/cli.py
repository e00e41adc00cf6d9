"""The command `dbsam-train`."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from dbsam.cli.cluster import ClusterError
from dbsam.io.files import write_text
from dbsam.weights.download import DownloadError
from dbsam_training.cli_training import add_training_commands

logger = logging.getLogger(__name__)

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_FILE = 0, 1, 2, 3  # as the command dbsam's
_UNREADABLE = (FileNotFoundError, IsADirectoryError, PermissionError)
_PLACE_TAKEN = (FileExistsError, NotADirectoryError)
"""An output where something else lies: a wrong argument."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand; returns 0 on success, 1 where it failed, 2 for wrong arguments, 3 for missing files."""
    parser = argparse.ArgumentParser(
        prog="dbsam-train", description="Train DB-SAM, evaluate it and export what the extension loads."
    )
    parser.add_argument("--verbose", action="store_true", help="say more while running")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_evaluate(commands)
    add_training_commands(commands)
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.DEBUG if options.verbose else logging.INFO, format="%(message)s", force=True)
    logging.getLogger("dbsam").setLevel(logging.DEBUG if options.verbose else logging.WARNING)
    try:
        return int(options.run(options))
    except OSError as error:
        reason = f"{error.strerror}: {error.filename}" if error.strerror and error.filename else error
        print(f"dbsam-train {options.command}: {reason}", file=sys.stderr)
        if isinstance(error, _PLACE_TAKEN):
            return EXIT_USAGE
        return EXIT_FILE if isinstance(error, _UNREADABLE) else EXIT_FAILED
    except ValueError as error:
        print(f"dbsam-train {options.command}: {error}", file=sys.stderr)
        return EXIT_USAGE
    except ModuleNotFoundError as error:
        print(
            f"dbsam-train {options.command}: the package {error.name} is missing: pip install 'dbsam[train]', and "
            "'dbsam[dicom]' for DICOM SEG and RTSTRUCT.",
            file=sys.stderr,
        )
        return EXIT_FAILED
    except (DownloadError, ClusterError) as error:
        print(f"dbsam-train {options.command}: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print(f"dbsam-train {options.command}: stopped.", file=sys.stderr)
        return EXIT_FAILED


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="score models and baselines on data sets",
        description=(
            "Scores models side by side (DSC, NSD) on data sets of any layout that `prepare` reads, prompted by boxes "
            "of the true masks. Writes report.md, summary.json, cases.csv and picture sheets into the report folder."
        ),
        epilog=(
            "example: dbsam-train evaluate --data /data/nnUNet_raw --model compact otsu grabcut box-ellipse "
            "--prompt paper roi --report report"
        ),
    )
    parser.add_argument(
        "--data", nargs="+", action="extend", required=True, metavar="DIR", help="data sets, or folders that hold them"
    )
    parser.add_argument(
        "--model",
        nargs="+",
        action="extend",
        required=True,
        metavar="NAME|PATH",
        help="compact, dbsam, sam, medsam, a weights file, or a baseline: box-ellipse, otsu, grabcut",
    )
    parser.add_argument(
        "--prompt",
        nargs="+",
        choices=("paper", "roi", "clicks"),
        default=["paper"],
        help="paper: a loose box on every slice; roi: one loose 3D box per object; clicks: the same, then clicks where "
        "the mask is wrong (default: paper)",
    )
    parser.add_argument(
        "--looseness", type=int, nargs="+", default=[], metavar="VOXELS", help="of the prompt roi, each one a prompt"
    )
    parser.add_argument(
        "--jitter", type=int, default=1, metavar="N", help="boxes drawn round each object: mean, spread and worst"
    )
    parser.add_argument("--clicks", type=int, default=10, metavar="N", help="most clicks per object (default: 10)")
    parser.add_argument("--split", default="val", choices=("train", "val", "test", "all"), help="default: val")
    parser.add_argument("--report", required=True, type=Path, metavar="DIR", help="folder to write into")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N cases of each data set")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps (default: auto)")
    parser.add_argument("--axis", default="auto", help="slice axis: auto, axial, coronal, sagittal, I, J, K")
    parser.add_argument("--strategy", default="track", choices=("track", "box"), help="of the prompt roi")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="slices per encoder pass (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="of the loose boxes (default: 0)")
    parser.add_argument(
        "--sheet",
        default="datasets",
        choices=("datasets", "worst"),
        help="on picture sheets: one object of each data set, or those worst under the first model (default: datasets)",
    )
    parser.add_argument("--sheet-rows", type=int, default=10, metavar="N", help="rows of a picture sheet (default: 10)")
    parser.add_argument("--licence", choices=("any", "open"), help="open: only data sets whose licence allows any use")
    parser.set_defaults(run=_evaluate)


def _evaluate(options: argparse.Namespace) -> int:
    from dbsam_training.data.discover import find_sources
    from dbsam_training.data.licences import is_open
    from dbsam_training.evaluate.bootstrap import group_by
    from dbsam_training.evaluate.calibration import write_reliability
    from dbsam_training.evaluate.click_curve import write_click_curve
    from dbsam_training.evaluate.contact_sheet import write_sheet
    from dbsam_training.evaluate.evaluate import Settings, evaluate
    from dbsam_training.evaluate.report import markdown_report
    from dbsam_training.evaluate.segmenters import load_segmenters
    from dbsam_training.evaluate.summary import summarise, summary_as_json

    for name, value in (("--limit", options.limit), ("--sheet-rows", options.sheet_rows)):
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}.")
    prompts = tuple(dict.fromkeys(options.prompt))
    settings = Settings(
        split=options.split,
        prompts=prompts,
        limit=options.limit,
        axis=options.axis,
        seed=options.seed,
        sheet=options.sheet,
        sheet_rows=options.sheet_rows,
        looseness=tuple(options.looseness),
        jitter=options.jitter,
        clicks=options.clicks,
    )
    datasets = [
        dataset for dataset in find_sources(options.data) if options.licence != "open" or is_open(dataset.info.licence)
    ]
    segmenters = load_segmenters(options.model, options.device, options.strategy, options.batch_size)
    folder: Path = options.report
    folder.mkdir(parents=True, exist_ok=True)
    evaluation = evaluate(datasets, segmenters, settings, folder / "cases.csv")
    summary = summarise(evaluation)
    sheets = []
    for kind in settings.kinds:
        if chosen := evaluation.examples.chosen(kind.name):
            sheets.append(f"cases-{kind.name}.png")
            write_sheet(folder / sheets[-1], chosen, evaluation.models)
    if evaluation.judgements:
        by_model = group_by(evaluation.judgements, lambda judgement: judgement.model)
        write_reliability(folder / "calibration.png", by_model)
    if summary.clicks:
        write_click_curve(folder / "clicks.png", summary.clicks)
    write_text(folder / "summary.json", json.dumps(summary_as_json(evaluation, summary), indent=1))
    write_text(folder / "report.md", markdown_report(evaluation, summary, sheets))
    for entry in summary.means:
        if entry.group in ("3d", "2d"):
            logger.info(
                "%s %s %s: DSC %.4f NSD %.4f", entry.prompt, entry.group, entry.model, entry.dsc.value, entry.nsd.value
            )
    skipped = len({(problem.dataset, problem.case) for problem in evaluation.problems if problem.skipped})
    if skipped:
        logger.warning("%d cases were skipped, see %s.", skipped, folder / "report.md")
    if not evaluation.rows:
        print("dbsam-train evaluate: no case could be evaluated.", file=sys.stderr)
        return EXIT_FAILED
    return EXIT_OK
