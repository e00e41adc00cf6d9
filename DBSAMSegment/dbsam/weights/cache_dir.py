"""The user's cache folder, and digests of large files remembered in it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from pathlib import Path

from dbsam.io.files import write_text
from dbsam.progress import CancelToken, ProgressCallback
from dbsam.weights.download import digest_of

logger = logging.getLogger(__name__)

CACHE_VARIABLE = "DBSAM_CACHE"


def cache_folder() -> Path:
    """Where downloaded weights lie: the folder that DBSAM_CACHE names, else the platform's per-user cache folder.

    The folder need not exist.

    Raises:
        FileNotFoundError: This user has no home folder, and nothing else says where.
    """
    try:
        return _cache_folder()
    except RuntimeError as error:
        raise FileNotFoundError(
            f"There is no home folder to keep weights in: name a folder in {CACHE_VARIABLE}."
        ) from error


def _cache_folder() -> Path:
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "dbsam"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dbsam"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dbsam"


def remembered_digest(
    path: Path, algorithm: str, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> str:
    """Digest of a file, computed once for each state (size and modification time) of it.

    Raises:
        Cancelled: `cancel` was cancelled.
        OSError: The file cannot be read.
    """
    path = path.resolve()
    status = path.stat()
    state = {"path": str(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    record = digest_record(path)
    known = _read_record(record)
    digests: dict[str, str] = known["digests"] if known and known["state"] == state else {}
    if algorithm not in digests:
        digests[algorithm] = digest_of(path, algorithm, progress, cancel)
        _write_record(record, {"state": state, "digests": digests})
    return digests[algorithm]


def digest_record(path: Path) -> Path:
    """The file in the cache folder that remembers the digests of `path`."""
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]
    return cache_folder() / "digests" / f"{name}.json"


def _read_record(record: Path) -> dict | None:
    try:
        values = json.loads(record.read_text(encoding="utf-8"))
        return values if {"state", "digests"} <= values.keys() else None
    except FileNotFoundError:
        return None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        logger.info("Ignoring the unreadable record %s: %s", record, error)
        return None


def _write_record(record: Path, values: dict) -> None:
    try:
        write_text(record, json.dumps(values))
    except OSError as error:
        # A cache folder that cannot be written costs a second at the next start, no more.
        logger.info("The digest of %s is not remembered: %s", values["state"]["path"], error)
