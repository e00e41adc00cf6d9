"""Many cases by one load of the model: goes on past failures, and a second run does only what is left.

What was done is kept in a file; a case is done again when its row, its inputs or the model have changed, or its outputs
are gone, see `batch_log`.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Generator, Iterator, Sequence
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
from dbsam.inference.predictor import DeviceError
from dbsam.io.files import check_place
from dbsam.progress import Cancelled
from dbsam.weights.download import DownloadError
from dbsam.weights.metadata import CheckpointError

if TYPE_CHECKING:
    from dbsam.cli.cluster import Workers
    from dbsam.inference.predictor import SlicePredictor
    from dbsam.progress import CancelToken, ProgressCallback

logger = logging.getLogger(__name__)


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
        cases: The cases, see `dbsam.cli.manifest`.
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
        ended = ((task, partial(run_case, task[1], model.load, progress, cancel, model.name)) for task in left())
    else:
        ended = workers.run(partial(_run_on_worker, pickle.dumps(model.load), model.name), left(), cancel)
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


def _run_on_worker(get_predictor: bytes, model: str, task: tuple[int, Case]) -> dict[str, Any]:
    return run_case(task[1], partial(_kept_predictor, get_predictor), model=model)


@lru_cache(maxsize=1)
def _kept_predictor(get_predictor: bytes) -> SlicePredictor:
    """The model of a worker, loaded at its first case; as bytes, because equal functions unpickled twice differ."""
    predictor: SlicePredictor = pickle.loads(get_predictor)()
    return predictor


def _written(case: Case) -> bool:
    return case.output.is_file() and (case.overlay is None or case.overlay.is_file())
