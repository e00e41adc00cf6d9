"""The command `dbsam`: segment a volume or many, and manage models. Torch is loaded only when a model is."""

from __future__ import annotations

import argparse
import io
import json
import logging
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import Decimal
from enum import IntEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbsam import __version__
from dbsam.api import load_predictor
from dbsam.cli import cluster
from dbsam.cli.batch import BatchModel, run_batch
from dbsam.cli.case import Case, run_case
from dbsam.cli.manifest import COLUMNS, parse_component, parse_spacing, parse_stack, read_manifest
from dbsam.cli.models import add_commands as add_model_commands
from dbsam.cli.terminal import ProgressBar, log_to_terminal
from dbsam.geometry.grid import AXIS_NAMES
from dbsam.inference.predictor import PRECISIONS, DeviceError
from dbsam.inference.segmenter import SPREADS
from dbsam.preprocess.intensity import RULE_NAMES, parse_window
from dbsam.progress import Cancelled, CancelToken
from dbsam.weights.download import DownloadError
from dbsam.weights.metadata import CheckpointError

if TYPE_CHECKING:
    from dbsam.inference.predictor import ModelPredictor, SlicePredictor

logger = logging.getLogger("dbsam")


class ExitCode(IntEnum):
    """What the command returns to the shell."""

    DONE = 0
    BUG = 1
    USAGE = 2
    FILES = 3
    WEIGHTS = 4
    DEVICE = 5
    SOME_FAILED = 6
    INTERRUPTED = 130


_EXIT_CODES = """\
exit codes:
  0    done
  1    an error in dbsam itself; please report it with the output of --verbose
  2    wrong arguments
  3    a file cannot be read or written, or an input does not fit: no image, ROI outside the volume, bad manifest;
       or worker processes cannot be used
  4    the model's weights are missing, damaged or could not be downloaded
  5    the device is not there, or out of memory
  6    batch: some cases failed; the others are done
  130  interrupted by Ctrl-C; no output is left half written
"""

_SEGMENT_HELP = """\
Segment the structure in a box, drawn in 3D Slicer as an ROI or given as voxels.

examples:
  dbsam segment ct.nrrd --roi liver.mrk.json --output liver.seg.nrrd
      Each ROI file becomes a segment, with the ROI's name and colour; rotated ROIs are used as they are.
  dbsam segment ct.nii.gz --roi liver.mrk.json spleen.mrk.json --output organs.nii.gz --overlay check.png
      A labelmap, 1 in the liver and 2 in the spleen, and a picture to check them by eye.
  dbsam segment dicom_folder/ --box-ijk 120 90 10 260 210 42 --window ct-lung --output lung.nrrd
      Voxels from I=120, J=90, K=10 to I=260, J=210, K=42, both ends included.
  dbsam segment ct.nrrd --box-mm -80 -40 12.5 20 60 140 --output liver.nrrd
      Two opposite corners R A S in mm, as Slicer and NIfTI count them (DICOM and ITK: the first two with other signs).
  dbsam segment ct.nrrd --box-from rough.nii.gz --margin 5 --output better.nii.gz
      A box round each label of a mask, 5 mm wider on every side.
  dbsam segment polyp.png --box 40 60 180 170 --output polyp_mask.png
      A rectangle on a 2D image, X0 Y0 X1 Y1 in pixels from the upper left corner, both ends included.

Many volumes, by one load of the model: dbsam batch TABLE.csv, see dbsam batch --help.
"""

_BATCH_HELP = f"""\
Segment every case of a table. A case that fails is reported and the others go on; a second run does only what is not
done yet, or has changed. What was done is kept in MANIFEST.csv.done.jsonl.

columns of the manifest (CSV with a header, between commas, semicolons or tabs; paths are relative to the manifest):
{chr(10).join(f"  {name:9} {meaning}" for name, meaning in COLUMNS.items())}

example, cases.csv:
  volume,roi,output,overlay
  p01/ct.nrrd,p01/liver.mrk.json;p01/spleen.mrk.json,out/p01.seg.nrrd,out/p01.png
  p02/ct.nrrd,p02/liver.mrk.json,out/p02.seg.nrrd,out/p02.png
then:
  dbsam batch cases.csv
  dbsam batch cases.csv --workers 4
      Four cases at once; needs the extra dbsam[cluster].
  dbsam batch cases.csv --scheduler tcp://host:8786
      On the workers of a Dask cluster that sees the same files.
"""


class _ModelOnDemand:
    """Loads the model when the first case needs it, and keeps it for the next."""

    def __init__(self, arguments: argparse.Namespace, cancel: CancelToken) -> None:
        self._arguments = arguments
        self._cancel = cancel
        self._predictor: SlicePredictor | None = None
        self.device: str | None = None

    def __call__(self) -> SlicePredictor:
        if self._predictor is None:
            with ProgressBar(self._arguments.model, self._arguments.quiet) as bar:
                predictor = _load(self._arguments, progress=bar, cancel=self._cancel)
            self._predictor, self.device = predictor, predictor.device
        return self._predictor


def _load(arguments: argparse.Namespace, **callbacks: Any) -> ModelPredictor:
    """The model that the arguments ask for."""
    return load_predictor(
        arguments.model,
        arguments.device,
        base=arguments.base,
        precision=arguments.precision,
        compiled=arguments.compile,
        **callbacks,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that a terminal can't show must not end the work
            stream.reconfigure(errors="backslashreplace")
    arguments = build_parser().parse_args(_with_negative_values(sys.argv[1:] if argv is None else argv))
    with log_to_terminal(arguments.verbose, arguments.quiet):
        return int(_run(arguments))


def _run(arguments: argparse.Namespace) -> ExitCode:
    """Run the chosen command; turns what went wrong into an exit code and one message."""
    cancel = CancelToken()
    previous = signal.signal(signal.SIGINT, partial(_interrupt, cancel))
    try:
        return ExitCode(arguments.run(arguments, cancel))
    except (Cancelled, KeyboardInterrupt, ValueError, OSError, MemoryError, RuntimeError) as error:
        code, message = _what_to_say(error)
        logger.debug("Where it happened:", exc_info=True)
    finally:
        signal.signal(signal.SIGINT, previous)
    print(f"dbsam: {message}", file=sys.stderr)
    return code


def _what_to_say(error: BaseException) -> tuple[ExitCode, str]:
    """The exit code and the message of an error; raises again what is an error of dbsam itself."""
    if isinstance(error, Cancelled | KeyboardInterrupt):
        return ExitCode.INTERRUPTED, "Interrupted."
    if isinstance(error, CheckpointError | DownloadError):
        return ExitCode.WEIGHTS, str(error)
    if isinstance(error, DeviceError):
        return ExitCode.DEVICE, str(error)
    if isinstance(error, ValueError | OSError):
        return ExitCode.FILES, str(error)
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return (
            ExitCode.DEVICE,
            f"{error} Out of memory. Use --device cpu, close other programs, or crop the volume round the structure.",
        )
    raise error


def build_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--json", action="store_true", help="print a report as JSON to standard output")
    common.add_argument("-v", "--verbose", action="store_true", help="tell each step")
    common.add_argument("-q", "--quiet", action="store_true", help="tell nothing but errors")
    models = argparse.ArgumentParser(add_help=False)
    models.add_argument(
        "--model",
        default="compact",
        metavar="NAME|PATH",
        help="compact (default, comes with dbsam), medsam-lite, sam, medsam, dbsam, or a weights file",
    )
    models.add_argument(
        "--base", metavar="PATH", help="SAM or LiteMedSAM weights that a checkpoint of trained parts stands on"
    )
    models.add_argument("--device", default="auto", help="auto (default), cpu, cuda, cuda:N or mps")
    models.add_argument(
        "--precision", choices=PRECISIONS, default="auto",
        help="auto (default): bfloat16 on NVIDIA GPUs from Ampere on, else float32",
    )  # fmt: skip
    models.add_argument(
        "--compile", action="store_true",
        help="compile the image encoder first, which takes about a minute: for hundreds of slices",
    )  # fmt: skip

    parser = _parser(argparse.ArgumentParser, "Box-prompted segmentation of medical images by DB-SAM.", prog="dbsam")
    parser.add_argument("--version", action="version", version=f"dbsam {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add = partial(_parser, commands.add_parser)

    segment = add(
        _SEGMENT_HELP, name="segment", help="segment one volume or image", parents=[common, models],
        usage="dbsam segment VOLUME (--roi FILE ... | --box-ijk I0 J0 K0 I1 J1 K1 | --box-mm R0 A0 S0 R1 A1 S1 | "
        "--box-from MASK ... | --box X0 Y0 X1 Y1) --output OUT [options]",
    )  # fmt: skip
    segment.add_argument(
        "volumes", type=Path, nargs="+", metavar="VOLUME",
        help="one file in NRRD, NIfTI, MHA, PNG, JPEG, TIFF or DICOM, or one DICOM folder",
    )  # fmt: skip
    prompts = segment.add_argument_group("where the structure is (at least one)")
    prompts.add_argument(
        "--roi", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help="Slicer ROI files (.mrk.json)"
    )
    prompts.add_argument(
        "--box-ijk", type=int, nargs=6, action="append", default=[], metavar=("I0", "J0", "K0", "I1", "J1", "K1"),
        help="a box of voxels, may be repeated",
    )  # fmt: skip
    prompts.add_argument(
        "--box-mm", type=float, nargs=6, action="append", default=[], metavar=("R0", "A0", "S0", "R1", "A1", "S1"),
        help="a box between two opposite corners in mm RAS, may be repeated",
    )  # fmt: skip
    prompts.add_argument(
        "--box-from", type=Path, nargs="+", action="extend", default=[], metavar="MASK",
        help="masks: a box round each label",
    )  # fmt: skip
    prompts.add_argument(
        "--margin", type=float, default=0.0, metavar="MM",
        help="with --box-from: how much wider the box is on every side, in mm (in pixels on a picture; default 0)",
    )  # fmt: skip
    prompts.add_argument(
        "--box", type=int, nargs=4, action="append", default=[], metavar=("X0", "Y0", "X1", "Y1"),
        help="a rectangle on a 2D image, may be repeated",
    )  # fmt: skip
    clicks = segment.add_argument_group(
        "clicks that correct the one structure (the model must have been trained with clicks; may be repeated)"
    )
    for name, meaning in (("include", "the structure is here"), ("exclude", "the structure isn't here")):
        clicks.add_argument(
            f"--{name}", type=float, nargs=3, action="append", default=[], metavar=("X", "Y", "Z"),
            help=f"{meaning}: RAS, in mm",
        )  # fmt: skip
        clicks.add_argument(
            f"--{name}-ijk", type=float, nargs=3, action="append", default=[], metavar=("I", "J", "K"),
            help=f"{meaning}: voxel indices",
        )  # fmt: skip
    clicks.add_argument(
        "--points", type=Path, nargs="+", action="extend", default=[], metavar="FILE",
        help="Slicer point lists (.mrk.json); points whose label, or list's name, begins with 'exclude' exclude",
    )  # fmt: skip
    clicks.add_argument(
        "--spread", choices=SPREADS, default="both",
        help="how far clicks reach: both sides (default), the slice alone, or towards larger or smaller indices",
    )  # fmt: skip
    segment.add_argument(
        "--output", "-o", type=Path, required=True, metavar="OUT",
        help="NAME.seg.nrrd: Slicer segmentation; .dcm: DICOM one; .nrrd .nii.gz .nii .mha .npz .png .tif: labelmap",
    )  # fmt: skip
    segment.add_argument(
        "--axis", type=str.lower, choices=AXIS_NAMES, default="auto", metavar="AXIS",
        help="slice along I, J, K, axial, coronal or sagittal; auto (default): the largest spacing, else axial",
    )  # fmt: skip
    segment.add_argument(
        "--strategy", choices=("track", "box"), default="track",
        help="track (default): from the middle slice outwards, each box from the last mask; box: the ROI everywhere",
    )  # fmt: skip
    segment.add_argument(
        "--window", type=partial(_argument, parse_window), default="auto", metavar="RULE|LEVEL,WIDTH",
        help=f"which intensities the model sees: {', '.join(RULE_NAMES)}, or level and width such as 40,400",
    )  # fmt: skip
    segment.add_argument("--overlay", type=Path, metavar="OUT.png", help="picture of contours and box to check by eye")
    segment.add_argument("--series", metavar="UID", help="SeriesInstanceUID, or its start, in a folder of several")
    segment.add_argument(
        "--stack", type=partial(_argument, parse_stack), metavar="N",
        help="which of several stacks, times, echoes, frames or pages, from 1; the error that asks for it lists them",
    )  # fmt: skip
    segment.add_argument(
        "--component", type=partial(_argument, parse_component), metavar="N|rgb",
        help="which of several values a voxel, from 1, or that they are red, green, blue",
    )  # fmt: skip
    segment.add_argument(
        "--slice-spacing", type=partial(_argument, parse_spacing), metavar="MM",
        help="distance of the slices of a DICOM series that have no position; they lie in the order of their numbers",
    )  # fmt: skip
    segment.set_defaults(run=_segment, parser=segment)

    batch = add(_BATCH_HELP, name="batch", help="segment every case of a table", parents=[common, models])
    batch.add_argument("manifest", type=Path, metavar="MANIFEST.csv")
    cluster.add_options(batch)
    batch.set_defaults(run=_batch)

    add_model_commands(add, common)
    return parser


def _parser(make: Callable[..., argparse.ArgumentParser], text: str, **arguments: Any) -> argparse.ArgumentParser:
    name = arguments.pop("name", None)
    return make(
        *([name] if name else []),
        description=text,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **arguments,
    )


def _segment(arguments: argparse.Namespace, cancel: CancelToken) -> ExitCode:
    if len(arguments.volumes) > 1:
        arguments.parser.error(
            f"{len(arguments.volumes)} volumes: this command does one. For many, by one load of the model, write a "
            "table, with the line 'volume,roi,output' and below it a line for each: see dbsam batch --help."
        )
    case = Case(
        volume=arguments.volumes[0],
        output=arguments.output,
        roi_files=tuple(arguments.roi),
        boxes_ijk=tuple(map(tuple, arguments.box_ijk)),
        boxes_xyxy=tuple(map(tuple, arguments.box)),
        boxes_mm=tuple(map(tuple, arguments.box_mm)),
        mask_files=tuple(arguments.box_from),
        margin_mm=arguments.margin,
        point_files=tuple(arguments.points),
        include=tuple(map(tuple, arguments.include)),
        exclude=tuple(map(tuple, arguments.exclude)),
        include_ijk=tuple(map(tuple, arguments.include_ijk)),
        exclude_ijk=tuple(map(tuple, arguments.exclude_ijk)),
        spread=arguments.spread,
        axis=arguments.axis,
        strategy=arguments.strategy,
        intensity=arguments.window,
        overlay=arguments.overlay,
        series_uid=arguments.series,
        stack=arguments.stack,
        component=arguments.component,
        slice_spacing_mm=arguments.slice_spacing,
    )
    try:
        case.check_names()
    except ValueError as error:
        arguments.parser.error(str(error))
    model = _ModelOnDemand(arguments, cancel)
    with ProgressBar(case.volume.name, arguments.quiet) as bar:
        report = (
            {"model": arguments.model} | run_case(case, model, bar, cancel, arguments.model) | {"device": model.device}
        )
    if arguments.json:
        print(json.dumps(report, indent=2))
    elif not arguments.quiet:
        _print_report(report)
    return ExitCode.DONE


def _print_report(report: dict[str, Any]) -> None:
    for segment in report["segments"]:
        found = [row for row in segment["slices"] if row["area_pixels"]]
        line = f"{segment['name']}: "
        if segment["volume_ml"] is None:
            line += f"{segment['voxels']:,} pixels"
        else:
            line += f"{segment['volume_ml']:g} ml, {segment['voxels']:,} voxels"
        if found:
            lowest = min(found, key=lambda row: row["predicted_iou"])
            indices = [row["index"] for row in found]
            line += f", slices {segment['axis']} {min(indices)} to {max(indices)}"
            line += f", lowest confidence {lowest['predicted_iou']:.2f} on slice {lowest['index']}"
        print(line)
    window = report["segments"][0]["intensity"]
    print(f"Intensity {window['name']}: {window['low']:g} to {window['high']:g} ({window['reason']}).")
    written = " and ".join(path for path in (report["output"], report["overlay"]) if path)
    print(f"Wrote {written} in {report['seconds']:.1f} s with {report['model']} on {report['device']}.")


def _batch(arguments: argparse.Namespace, cancel: CancelToken) -> ExitCode:
    from dbsam.weights.load import locate

    cases = read_manifest(arguments.manifest, parse_window)
    speaks = not (arguments.quiet or arguments.json)
    with ProgressBar("", arguments.quiet) as bar:

        def tell(number: int, case: Case, outcome: str) -> None:
            bar.clear()
            with suppress(BrokenPipeError):  # whoever read along has gone; the work goes on
                if speaks:
                    print(f"[{number + 1}/{len(cases)}] {case.output}: {outcome}", flush=True)

        records = arguments.manifest.with_name(arguments.manifest.name + ".done.jsonl")
        workers = cluster.Workers.of(arguments)
        load: Callable[[], SlicePredictor] = partial(_load, arguments) if workers else _ModelOnDemand(arguments, cancel)
        model = BatchModel(load, arguments.model, partial(locate, arguments.model), arguments.precision)
        summary = run_batch(cases, records, model, bar, cancel, tell, workers)
    if arguments.json:
        print(json.dumps({"done": summary.done, "skipped": summary.skipped, "failed": summary.failed}, indent=2))
    elif speaks:
        print(f"{len(summary.done)} done, {len(summary.skipped)} skipped, {len(summary.failed)} failed.")
    return ExitCode.SOME_FAILED if summary.failed else ExitCode.DONE


def _argument(parse: Callable[[str], Any], text: str) -> Any:
    """What `parse` makes of an argument; argparse shows its message."""
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _with_negative_values(argv: Sequence[str]) -> list[str]:
    """The arguments in forms that argparse takes for values where they begin with a minus sign.

    `--window -600,1500` becomes `--window=-600,1500`; -1e-3 and -1. become -0.001 and -1.
    """
    prepared: list[str] = []
    for argument in argv:
        if prepared and prepared[-1] == "--window" and re.match(r"-[.\d]", argument):
            prepared[-1] = f"--window={argument}"
        elif re.fullmatch(r"-\d*\.?\d*(e[+-]?\d+)?", argument, re.IGNORECASE) and any(map(str.isdigit, argument)):
            prepared.append(f"{Decimal(argument):f}")
        else:
            prepared.append(argument)
    return prepared


def _interrupt(cancel: CancelToken, number: int, frame: object) -> None:
    """The first Ctrl-C ends the work tidily, a second one at once."""
    if cancel.cancelled:
        raise KeyboardInterrupt
    cancel.cancel()
