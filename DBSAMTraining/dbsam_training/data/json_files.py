"""Small JSON files: facts, splits, reports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dbsam.io.files import write_text


def read_json(path: Path, error: type[Exception] = ValueError, advice: str = "") -> Any:
    """Content of a JSON file.

    Args:
        path: The file.
        error: What is raised if it can't be read.
        advice: What to do then, a sentence.

    Raises:
        Exception: An `error`: the file is missing, not readable, or no JSON; the message names it and why.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error(f"{path} cannot be read: {problem.strerror or problem}. {advice}".rstrip()) from problem
    except (ValueError, RecursionError) as damage:  # no JSON, no UTF-8, numbers of thousands of digits
        raise error(f"{path} is not valid JSON: {damage}. {advice}".rstrip()) from damage


def write_json(path: Path, content: Any) -> None:
    """Write JSON in one step: `path` holds the whole new file or what it held before."""
    write_text(path, json.dumps(content, indent=1, sort_keys=True))
