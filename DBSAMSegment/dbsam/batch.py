"""Many cases from a manifest: goes on past failures, and a second run does only what is left.

A manifest is a CSV file with a header; relative paths are relative to it. Its columns are those of `COLUMNS`.
What was done is kept in a file beside it; a case is done again when its row, its inputs or the model have
changed, or its outputs are gone.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import pickle
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dbsam.batch_records import BatchRecords, Record
from dbsam.case import Case, run_case
from dbsam.checkpoint_info import CheckpointError
from dbsam.download import DownloadError
from dbsam.progress import Cancelled

if TYPE_CHECKING:
    from dbsam.cluster import Workers
    from dbsam.predictor import SlicePredictor
    from dbsam.progress import CancelToken, ProgressCallback

logger = logging.getLogger(__name__)

COLUMNS = {
    "volume": "image file or DICOM folder (required)",
    "output": ".seg.nrrd or labelmap to write (required, each only once)",
    "roi": "ROI files, separated by semicolons",
    "box_ijk": "boxes of voxels: six numbers I0 J0 K0 I1 J1 K1, several boxes separated by semicolons",
    "box": "rectangles on a 2D image: four numbers X0 Y0 X1 Y1, several separated by semicolons",
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


def read_manifest(path: Path, parse_window: Callable[[str], str | tuple[float, float]]) -> list[Case]:
    """Read a manifest.

    Args:
        path: CSV file, UTF-8.
        parse_window: Reads the column `window` as the command line reads `--window`.

    Raises:
        FileNotFoundError: There is no such file.
        ManifestError: A column is unknown or missing, a cell cannot be read, or two rows write the same file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such manifest.")
    # utf-8-sig: Excel writes a byte order mark.
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file, skipinitialspace=True)
        columns = list(reader.fieldnames or [])
        if unknown := [str(column) for column in columns if column not in COLUMNS]:
            raise ManifestError(f"{path}: unknown columns {', '.join(unknown)}; there are {', '.join(COLUMNS)}.")
        if missing := [column for column in ("volume", "output") if column not in columns]:
            raise ManifestError(f"{path}: no column {' and no column '.join(missing)} in its first line.")
        cases: list[Case] = []
        lines: dict[Path, int] = {}
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row:
                raise ManifestError(f"{where}: more cells than columns; quote cells that hold commas.")
            cells = {name: (value or "").strip() for name, value in row.items()}
            if not any(cells.values()):
                continue
            try:
                case = _case(cells, path.parent, parse_window)
                case.check_names()
            except ValueError as error:
                raise ManifestError(f"{where}: {error}") from error
            if case.output in lines:
                raise ManifestError(f"{where}: {case.output} is already written by line {lines[case.output]}.")
            lines[case.output] = reader.line_num
            cases.append(case)
    if not cases:
        raise ManifestError(f"{path}: no cases below the header.")
    return cases


def run_batch(
    cases: Sequence[Case],
    records_path: Path,
    get_predictor: Callable[[], SlicePredictor],
    model: str,
    find_model: Callable[[], Path | None],
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    on_case: Callable[[int, Case, str], None] | None = None,
    workers: Workers | None = None,
    precision: str = "auto",
) -> BatchSummary:
    """Do every case that is not done yet.

    Args:
        cases: The cases, see `read_manifest`.
        records_path: Where to remember what was done, see `BatchRecords`; grows with every case.
        get_predictor: Returns the model; not called when nothing is left to do. For workers it can be pickled, and each
            calls it once.
        model: Name or path of the model.
        find_model: Returns its file, by which another model is noticed, or None where it is not on this computer yet.
        progress: Called with the steps of each case, where this process does them.
        cancel: Ends the batch; a later run continues it.
        on_case: Called after each case with its number (from 0), the case, and "done", "skipped" or what went wrong.
        workers: Processes that do the cases instead of this one. They see the same files; only this one writes the
            records.
        precision: The model's, as the command line names it; by it, too, another model is noticed.

    Raises:
        ClusterError: The workers cannot be used, or were lost.
        CheckpointError: The model's weights cannot be used; no case could be done.
        DownloadError: They could not be fetched.
        Cancelled: `cancel` was cancelled.
    """
    records = BatchRecords(records_path)
    summary = BatchSummary()

    def left() -> Iterator[tuple[int, Case]]:
        for number, case in enumerate(cases):
            record = records.get(str(case.output))
            same = record.get("fingerprint") == _fingerprint(case, model, precision, find_model())
            if same and record.get("status") == "done" and _written(case):
                summary.skipped.append(str(case.output))
                if on_case is not None:
                    on_case(number, case, "skipped")
            else:
                yield number, case

    ended: Generator[tuple[tuple[int, Case], Callable[[], dict[str, Any]]], None, None]
    if workers is None:
        ended = ((task, partial(run_case, task[1], get_predictor, progress, cancel)) for task in left())
    else:
        ended = workers.run(partial(_run_on_worker, pickle.dumps(get_predictor)), left(), cancel)
    with closing(ended):
        for (number, case), finish in ended:
            key = str(case.output)
            record: Record
            try:
                report = finish()
            except (CheckpointError, DownloadError, Cancelled):
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
                # Taken now, because the model may have been downloaded in between.
                fingerprint = _fingerprint(case, model, precision, find_model())
                record = {"status": "done", "fingerprint": fingerprint, "report": report}
            records.add(key, {**record, "finished": datetime.now(timezone.utc).isoformat(timespec="seconds")})
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
    return Case(
        volume=folder / cells["volume"],
        output=folder / cells["output"],
        roi_files=tuple(folder / name for name in _split(cells.get("roi", ""))),
        boxes_ijk=tuple(_integers(text, 6, "box_ijk") for text in _split(cells.get("box_ijk", ""))),
        boxes_xyxy=tuple(_integers(text, 4, "box") for text in _split(cells.get("box", ""))),
        axis=cells.get("axis") or "auto",
        strategy=cells.get("strategy") or "track",
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


def _fingerprint(case: Case, model: str, precision: str, weights: Path | None) -> str:
    """Changes with anything that changes the result: the row, the input files, the model and its precision."""
    files = [case.volume, *case.roi_files, *([weights] if weights else [])]
    content = {
        "case": asdict(case),
        "model": model,
        "precision": precision,
        "files": [(str(file), _state_of(file)) for file in files],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _state_of(path: Path) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a file, or of the files in a DICOM folder; empty where there is nothing."""
    if path.is_dir():
        files = sorted(entry for entry in path.iterdir() if entry.is_file())
    else:
        files = [path] if path.is_file() else []
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _written(case: Case) -> bool:
    return case.output.is_file() and (case.overlay is None or case.overlay.is_file())
