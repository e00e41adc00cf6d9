"""Starts a Python process beside the application and ends it with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_LAST_BYTES = 4000
_LAST_LINES = 12


class ChildProcess:
    """A process in a group of its own, what it says kept in a file that has no name or goes with its last user.

    Args:
        command: The program and its arguments.
        environment: Its environment variables.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the process
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=subprocess.STDOUT,
                env=dict(environment),
                **_apart(),
            )
        except OSError:
            self._log.close()
            raise

    @property
    def process_id(self) -> int:
        """The process's own; where a launcher was started, that one's."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it lives; below 0 for the signal that ended it."""
        return self._process.poll()

    def said(self) -> str:
        """The end of what it has said so far; "" on Windows while it lives, where that can't be read."""
        if sys.platform != "win32":
            size = os.fstat(self._log.fileno()).st_size
            return _lines(os.pread(self._log.fileno(), _LAST_BYTES, max(0, size - _LAST_BYTES)))
        return "" if self.exit_code is None else self.last_lines()

    def last_lines(self) -> str:
        """The end of what it said; to be asked when it has ended, as the file's position is shared."""
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LAST_BYTES))
        return _lines(self._log.read())

    def kill(self) -> None:
        """Ends it and all that it started, without asking."""
        if sys.platform == "win32":
            subprocess.run(
                ["taskkill", "/F", "/T", "/PID", str(self._process.pid)],
                capture_output=True,
                check=False,
                creationflags=subprocess.CREATE_NO_WINDOW,
            )
        else:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            except PermissionError:  # macOS, where all of the group have ended but were not waited for
                self._process.kill()

    def wait(self, seconds: float) -> bool:
        """Waits for its end; returns whether it has ended."""
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """Lets go of what it said, which can't be asked for any more."""
        self._log.close()


def _lines(content: bytes) -> str:
    return "\n".join(content.decode("utf-8", "replace").strip().splitlines()[-_LAST_LINES:])


def library_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Python finds this library first, and nothing that lies in the current folder."""
    folder = str(Path(__file__).resolve().parents[2])
    paths = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    return {**environment, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONSAFEPATH": "1"}


def worker_command(python: str = sys.executable) -> list[str]:
    """The worker's command line, without its arguments."""
    return [python, "-m", "dbsam.worker"]


def _apart() -> dict:
    """What keeps Ctrl+C in the application's terminal from the process."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}
