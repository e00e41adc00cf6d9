"""The threshold rule in the worker process, set and watched from the test by two files."""

from __future__ import annotations

import itertools
import json
import os
import tempfile
import threading
from pathlib import Path
from typing import Any

from threshold_predictor import ThresholdPredictor

TESTING = str(Path(__file__).parent)
# The worker imports this file.
if TESTING not in os.environ.get("PYTHONPATH", "").split(os.pathsep):
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (TESTING, os.environ.get("PYTHONPATH", ""))))

ERRORS = {"RuntimeError": RuntimeError, "ValueError": ValueError, "MemoryError": MemoryError}
_folder = tempfile.TemporaryDirectory(prefix="dbsam-threshold-")
_numbers = itertools.count()


class ThresholdSettings:
    """What a `ThresholdPredictor` in the worker is set to, at once also in the middle of a run, and what it did."""

    def __init__(self, sees: str = "box", size: int = 128, **values: Any) -> None:
        number = next(_numbers)
        self.__dict__["log"] = Path(_folder.name) / f"{number}.log"
        self.__dict__["file"] = Path(_folder.name) / f"{number}.json"
        self.__dict__["values"] = {"sees": sees, "size": size}
        for name, value in values.items():
            self.values[name] = _plain(value)
        self._write()

    def __setattr__(self, name: str, value: Any) -> None:
        self.values[name] = _plain(value)
        self._write()

    def __getattr__(self, name: str) -> Any:
        values = self.__dict__.get("values", {})
        if name not in values:
            raise AttributeError(f"the rule wasn't given any {name}")
        return values[name]

    def _write(self) -> None:
        beside = self.file.with_suffix(".new")
        beside.write_text(json.dumps({"log": str(self.log), "values": self.values}), encoding="utf-8")
        os.replace(beside, self.file)

    @property
    def encoded_slices(self) -> int:
        return self._logged().count("encoded")

    @property
    def threads(self) -> set[str]:
        return {line.removeprefix("thread ") for line in self._logged() if line.startswith("thread ")}

    def _logged(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines() if self.log.is_file() else []


class ThresholdInWorker:
    """What `Predictors` is for the application, with the rule's settings as `predictor`; it may be replaced."""

    source = "threshold_worker:Source"
    needsTorch = False

    def __init__(self, predictor: ThresholdSettings | None = None) -> None:
        number = next(_numbers)
        self._choice = Path(_folder.name) / f"{number}.chosen"
        self._log = Path(_folder.name) / f"{number}.asked"
        self.options = {"chosen": str(self._choice), "log": str(self._log)}
        self.predictor = predictor or ThresholdSettings("slice")

    def takesClicks(self, model: str) -> bool:
        return getattr(self.predictor, "takes_points", True)

    @property
    def predictor(self) -> ThresholdSettings:
        return self._predictor

    @predictor.setter
    def predictor(self, value: ThresholdSettings) -> None:
        self._predictor = value
        beside = self._choice.with_suffix(".new")
        beside.write_text(str(value.file), encoding="utf-8")
        os.replace(beside, self._choice)

    @property
    def asked(self) -> list[tuple[str, str]]:
        lines = self._log.read_text(encoding="utf-8").splitlines() if self._log.is_file() else []
        return [tuple(json.loads(line)) for line in lines]


class Source:
    """In the worker: a `dbsam.worker.networks.NetworkSource`."""

    def __init__(self, chosen: str, log: str) -> None:
        self._chosen, self._log = Path(chosen), Path(log)
        self._predictors: dict[str, _SetFromFile] = {}

    def __call__(self, model: str, device: str, cancel: object, progress: object) -> ThresholdPredictor:
        _append(self._log, json.dumps([model, device]))
        path = self._chosen.read_text(encoding="utf-8")
        if path not in self._predictors:
            self._predictors[path] = _SetFromFile(Path(path))
        self._predictors[path].read()
        return self._predictors[path]

    def clear(self) -> None:
        """Nothing to free."""


class _SetFromFile(ThresholdPredictor):
    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        self._read_at = 0
        self.read()

    def read(self) -> None:
        changed = self._file.stat().st_mtime_ns
        if changed == self._read_at:
            return
        self._read_at = changed
        content = json.loads(self._file.read_text(encoding="utf-8"))
        self._record = Path(content["log"])
        for name, value in content["values"].items():
            setattr(self, name, ERRORS[value[0]](*value[1:]) if name == "error" else value)

    def encode(self, images: Any, regions: Any) -> Any:
        self.read()
        _append(self._record, f"thread {threading.current_thread().name}")
        before = self.encoded_slices
        crops = super().encode(images, regions)
        for _ in range(self.encoded_slices - before):
            _append(self._record, "encoded")
        return crops


def _plain(value: Any) -> Any:
    return [type(value).__name__, *value.args] if isinstance(value, BaseException) else value


def _append(path: Path, line: str) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(f"{line}\n")


class Dying(Source):
    """Ends the worker before it is ready."""

    def __init__(self, chosen: str, log: str, dies: bool) -> None:
        os.write(2, b"these are my last words\n")
        os._exit(7)
