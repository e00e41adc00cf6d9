"""Many cases from a manifest: goes on past failures, and a second run does only what is left.

A manifest is a CSV file with a header; relative paths are relative to it. Its columns are those of `COLUMNS`.
What was done is kept in a file beside it; a case is done again when its row, its inputs or the model have
changed, or its outputs are gone, see `batch_log`.
"""

from __future__ import annotations

import csv
import logging
import math
import pickle
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbsam.cli.batch_log import (
    BatchRecords,
    Record,
    State,
    fingerprint,
    name_of,
    state_of_model,
    states_of_inputs,
)
from dbsam.cli.case import Case, run_case
from dbsam.geometry.grid import AXIS_NAMES
from dbsam.inference.predictor import DeviceError
from dbsam.inference.segmenter import SPREADS, STRATEGIES
from dbsam.io.files import check_place
from dbsam.progress import Cancelled
from dbsam.weights.download import DownloadError
from dbsam.weights.metadata import CheckpointError

if TYPE_CHECKING:
    from dbsam.cli.cluster import Workers
    from dbsam.inference.predictor import SlicePredictor
    from dbsam.progress import CancelToken, ProgressCallback

logger = logging.getLogger(__name__)

COLUMNS = {
    "volume": "image file or DICOM folder (required)",
    "output": ".seg.nrrd or labelmap to write (required, each only once)",
    "roi": "ROI files, separated by semicolons",
    "box_ijk": "boxes of voxels: six numbers I0 J0 K0 I1 J1 K1, several boxes separated by semicolons",
    "box": "rectangles on a 2D image: four numbers X0 Y0 X1 Y1, several separated by semicolons",
    "points": "point lists, separated by semicolons, as --points",
    "include": "as --include: three numbers X Y Z, several points separated by semicolons",
    "exclude": "as --exclude, likewise",
    "include_ijk": "as --include-ijk, likewise",
    "exclude_ijk": "as --exclude-ijk, likewise",
    "spread": "as --spread",
    "axis": "as --axis",
    "strategy": "as --strategy",
    "window": "as --window",
    "overlay": "picture to write",
    "series": "as --series",
}
"""Columns of a manifest; a row needs one of roi, box_ijk and box, and an empty cell means the default."""


class ManifestError(ValueError):
    """A manifest that cannot be understood; the message names the line and what is wrong with it."""


@dataclass
class BatchSummary:
    """How a batch went.

    Attributes:
        done: Outputs written by this run.
        skipped: Outputs that an earlier run had written from the same inputs.
        failed: Outputs that could not be written, and why.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BatchModel:
    """What segments the cases of a batch.

    Attributes:
        load: Returns the model; not called when nothing is left to do. For workers it can be pickled, and each calls it
            once.
        name: Its name or path.
        find_file: Returns its file, by which another model is noticed, or None where it is not on this computer yet.
        precision: As the command line names it; by it, too, another model is noticed.
    """

    load: Callable[[], SlicePredictor]
    name: str
    find_file: Callable[[], Path | None]
    precision: str = "auto"


def read_manifest(path: Path, parse_window: Callable[[str], str | tuple[float, float]]) -> list[Case]:
    """Read a manifest.

    Args:
        path: CSV file, UTF-8.
        parse_window: Reads the column `window` as the command line reads `--window`; raises a ValueError.

    Raises:
        FileNotFoundError: There is no such file.
        ManifestError: It is no CSV file in UTF-8, a column is unknown, missing or repeated, a cell cannot be read, or a
            row would write what another one writes or reads.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such manifest.")
    cases: dict[int, Case] = {}
    for line, cells in _rows(path):
        try:
            cases[line] = _case(cells, path.parent, parse_window)
            cases[line].check_names()
        except ValueError as error:
            raise ManifestError(f"{path}, line {line}: {error}") from error
    if not cases:
        raise ManifestError(f"{path}: no cases below the header.")
    _check_apart(path, cases)
    return list(cases.values())


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Line and cells of each row that is not empty."""
    try:
        # utf-8-sig: Excel writes a byte order mark.
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            reader.fieldnames = [column.strip() for column in reader.fieldnames or []]
            _check_columns(path, reader.fieldnames)
            for row in reader:
                if None in row:
                    raise ManifestError(
                        f"{path}, line {reader.line_num}: more cells than columns; quote cells that hold commas."
                    )
                cells = {name: (value or "").strip() for name, value in row.items()}
                if any(cells.values()):
                    yield reader.line_num, cells
    except UnicodeDecodeError as error:
        raise ManifestError(
            f"{path}: not in UTF-8 ({error}). Save it as CSV in UTF-8 (in Excel: CSV UTF-8)."
        ) from error
    except csv.Error as error:
        raise ManifestError(f"{path}: no CSV file that can be read ({error}). Save it as CSV in UTF-8.") from error


def _check_columns(path: Path, columns: Sequence[str]) -> None:
    if unknown := [column for column in columns if column not in COLUMNS]:
        raise ManifestError(f"{path}: unknown columns {', '.join(unknown)}; there are {', '.join(COLUMNS)}.")
    if missing := [column for column in ("volume", "output") if column not in columns]:
        raise ManifestError(f"{path}: no column {' and no column '.join(missing)} in its first line.")
    if repeated := [column for column in COLUMNS if list(columns).count(column) > 1]:
        raise ManifestError(f"{path}: the column {repeated[0]} is there more than once; keep one.")


def _check_apart(path: Path, cases: Mapping[int, Case]) -> None:
    """Refuse rows that would overwrite what another one writes or reads, by whatever path they name it.

    Paths that differ in case alone count as one, which they are on most disks of Windows and macOS.
    """
    read = {_place(file): line for line, case in cases.items() for file in case.inputs}
    written: dict[str, int] = {}
    for line, case in cases.items():
        for output in filter(None, (case.output, case.overlay)):
            place = _place(output)
            if place in written:
                raise ManifestError(f"{path}, line {line}: {output} is already written by line {written[place]}.")
            if place in read:
                raise ManifestError(f"{path}, line {line}: {output} would overwrite an input of line {read[place]}.")
            written[place] = line


def _place(file: Path) -> str:
    return str(file.resolve()).casefold()


def run_batch(
    cases: Sequence[Case],
    records_path: Path,
    model: BatchModel,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    on_case: Callable[[int, Case, str], None] | None = None,
    workers: Workers | None = None,
) -> BatchSummary:
    """Do every case that is not done yet.

    Args:
        cases: The cases, see `read_manifest`.
        records_path: Where to remember what was done, see `BatchRecords`; grows with every case.
        model: What segments.
        progress: Called with the steps of each case, where this process does them.
        cancel: Ends the batch; a later run continues it.
        on_case: Called after each case with its number (from 0), the case, and "done", "skipped" or what went wrong.
        workers: Processes that do the cases instead of this one. They see the same files; only this one writes the
            records.

    Raises:
        ClusterError: The workers cannot be used, or were lost.
        CheckpointError: The model's weights cannot be used; no case could be done.
        DownloadError: They could not be fetched.
        DeviceError: The device to compute on is not there.
        Cancelled: `cancel` was cancelled.
    """
    check_place(records_path)
    records = BatchRecords(records_path)
    summary = BatchSummary()
    folder = records_path.parent.resolve()
    # Taken before the model is loaded and a case is done, so that the next run notices what changes meanwhile.
    loaded = state_of_model(model.name, model.precision, model.find_file())
    before: dict[int, dict[str, State]] = {}

    def left() -> Iterator[tuple[int, Case]]:
        for number, case in enumerate(cases):
            record = records.get(name_of(case.output, folder))
            inputs = states_of_inputs(case, folder)
            same = record.get("fingerprint") == fingerprint(case, folder, inputs, loaded)
            if same and record.get("status") == "done" and _written(case):
                summary.skipped.append(str(case.output))
                if on_case is not None:
                    on_case(number, case, "skipped")
            else:
                before[number] = inputs
                yield number, case

    ended: Generator[tuple[tuple[int, Case], Callable[[], dict[str, Any]]], None, None]
    if workers is None:
        ended = ((task, partial(run_case, task[1], model.load, progress, cancel)) for task in left())
    else:
        ended = workers.run(partial(_run_on_worker, pickle.dumps(model.load)), left(), cancel)
    with closing(ended):
        for (number, case), finish in ended:
            key, inputs = str(case.output), before.pop(number)
            record: Record
            try:
                report = finish()
            except (CheckpointError, DownloadError, DeviceError, Cancelled):
                raise
            except Exception as error:
                # Whatever is wrong with one case, the others go on; its record and the summary name it.
                logger.debug("%s failed.", case.volume, exc_info=True)
                outcome = str(error) or type(error).__name__
                summary.failed[key] = outcome
                record = {"status": "failed", "error": outcome}
            else:
                outcome = "done"
                summary.done.append(key)
                if not loaded[-1]:  # its file has been downloaded in between
                    loaded = state_of_model(model.name, model.precision, model.find_file())
                record = {"status": "done", "fingerprint": fingerprint(case, folder, inputs, loaded), "report": report}
            finished = datetime.now(timezone.utc).isoformat(timespec="seconds")
            records.add(name_of(case.output, folder), {**record, "finished": finished})
            if on_case is not None:
                on_case(number, case, outcome)
    return summary


def _run_on_worker(get_predictor: bytes, task: tuple[int, Case]) -> dict[str, Any]:
    return run_case(task[1], partial(_kept_predictor, get_predictor))


@lru_cache(maxsize=1)
def _kept_predictor(get_predictor: bytes) -> SlicePredictor:
    """The model of a worker, loaded at its first case; as bytes, because equal functions unpickled twice differ."""
    predictor: SlicePredictor = pickle.loads(get_predictor)()
    return predictor


def _case(cells: dict[str, str], folder: Path, parse_window: Callable[[str], str | tuple[float, float]]) -> Case:
    for column in ("volume", "output"):
        if not cells[column]:
            raise ValueError(f"column {column} is empty.")
    axis, strategy = cells.get("axis") or "auto", cells.get("strategy") or "track"
    spread = cells.get("spread") or "both"
    if axis.lower() not in AXIS_NAMES:
        raise ValueError(f"axis {axis!r} is none of {', '.join(AXIS_NAMES)}.")
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r} is none of {', '.join(STRATEGIES)}.")
    if spread not in SPREADS:
        raise ValueError(f"spread {spread!r} is none of {', '.join(SPREADS)}.")
    return Case(
        volume=folder / cells["volume"],
        output=folder / cells["output"],
        roi_files=tuple(folder / name for name in _split(cells.get("roi", ""))),
        boxes_ijk=tuple(_integers(text, 6, "box_ijk") for text in _split(cells.get("box_ijk", ""))),
        boxes_xyxy=tuple(_integers(text, 4, "box") for text in _split(cells.get("box", ""))),
        point_files=tuple(folder / name for name in _split(cells.get("points", ""))),
        **{
            column: tuple(_numbers(text, 3, column) for text in _split(cells.get(column, "")))
            for column in ("include", "exclude", "include_ijk", "exclude_ijk")
        },
        spread=spread,
        axis=axis,
        strategy=strategy,
        intensity=parse_window(cells.get("window") or "auto"),
        overlay=folder / cells["overlay"] if cells.get("overlay") else None,
        series_uid=cells.get("series") or None,
    )


def _split(cell: str) -> Iterator[str]:
    return (part.strip() for part in cell.split(";") if part.strip())


def _integers(text: str, count: int, column: str) -> tuple[int, ...]:
    try:
        numbers = tuple(int(part) for part in text.replace(",", " ").split())
    except ValueError:
        numbers = ()
    if len(numbers) != count:
        raise ValueError(f"column {column} needs {count} whole numbers, not {text!r}.")
    return numbers


def _numbers(text: str, count: int, column: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        numbers = ()
    if len(numbers) != count or not all(map(math.isfinite, numbers)):
        raise ValueError(f"column {column} needs {count} numbers, not {text!r}.")
    return numbers


def _written(case: Case) -> bool:
    return case.output.is_file() and (case.overlay is None or case.overlay.is_file())
