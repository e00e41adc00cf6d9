"""Which processes live, for tests that start some."""

from __future__ import annotations

import os
import time
from pathlib import Path


def is_running(process_id: int) -> bool:
    """Whether a process lives; one that has ended and was not waited for doesn't."""
    stat = Path(f"/proc/{process_id}/stat")
    if Path("/proc/self").exists():
        try:
            return stat.read_text().rpartition(")")[2].split()[0] not in "ZX"
        except OSError:
            return False
    try:
        os.kill(process_id, 0)
    except OSError:
        return False
    return True


def has_ended(process_id: int, seconds: float) -> bool:
    """Whether a process ends within a time."""
    deadline = time.monotonic() + seconds
    while is_running(process_id):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
