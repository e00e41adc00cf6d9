"""Downloads one file of known size and digest: resumed, verified, and put in place in one step.

The bytes go to `NAME.part` beside the destination, so that an interrupted download is continued by the next call; the
destination appears by a rename, after its digest has been checked.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import requests

from dbsam.io.files import exclusive_lock
from dbsam.progress import CancelToken, Progress, ProgressCallback

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.1
_POLL_SECONDS = 0.1
_CHUNK_BYTES = 1 << 16
_USER_AGENT = "dbsam (3D Slicer extension)"
_RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504)


class DownloadError(RuntimeError):
    """A download that failed; the message says why and what to do."""


class _Interrupted(Exception):
    """The transfer stopped before its end; what has arrived can be continued."""


class _RangeRefused(_Interrupted):
    """The server has no such part of the file; only a transfer from the first byte can go on."""


@dataclass(frozen=True)
class Digest:
    """A published digest.

    Attributes:
        algorithm: Name known to hashlib, such as "sha256" or "md5".
        value: Lower-case hexadecimal digits.
    """

    algorithm: str
    value: str


@dataclass(frozen=True)
class RemoteFile:
    """A file at its official address.

    Attributes:
        url: http or https address.
        size_bytes: Its exact size.
        digest: Its published digest.
    """

    url: str
    size_bytes: int
    digest: Digest

    @property
    def by_hand(self) -> str:
        """How to get the file without dbsam."""
        return f"fetch {self.url} by other means"


@dataclass(frozen=True)
class RetryPolicy:
    """When a download gives up.

    Attributes:
        stall_seconds: Time without a single byte after which the connection is dropped.
        attempts: Connections in a row that bring nothing new before the download fails.
        pause_seconds: Wait before the second connection, doubled before each further one.
    """

    stall_seconds: float = 30.0
    attempts: int = 4
    pause_seconds: float = 1.0


def digest_of(
    path: Path, algorithm: str, progress: ProgressCallback | None = None, cancel: CancelToken | None = None
) -> str:
    """Hexadecimal digest of a file.

    Raises:
        Cancelled: `cancel` was cancelled.
        OSError: The file cannot be read.
    """
    meter = Meter("verify", path.stat().st_size, progress)
    # MD5 guards against accidents only, which hospital computers in FIPS mode must be told.
    state = hashlib.new(algorithm, usedforsecurity=False)
    done = 0
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            if cancel is not None:
                cancel.raise_if_cancelled()
            state.update(block)
            done += len(block)
            meter.report(done)
    return state.hexdigest()


def download_file(
    remote: RemoteFile,
    destination: Path,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    retry: RetryPolicy | None = None,
) -> Path:
    """Fetch a file unless it is already there.

    Processes that ask for the same destination wait for each other, and the second finds the first one's file.

    Args:
        remote: What to fetch.
        destination: Where the file is to lie; its folder is made.
        progress: Called with bytes done and to do, in stages "download" and "verify".
        cancel: Ends the download within a fraction of a second; what has arrived is kept for the next call.
        retry: When to give up; the default suits people waiting in front of a screen.

    Returns:
        `destination`.

    Raises:
        DownloadError: The server, the connection, the disk or the digest failed.
        Cancelled: `cancel` was cancelled.
    """
    with place_for_download(destination, cancel):
        if not is_intact(remote, destination, progress, cancel):
            _Transfer(remote, destination, progress, cancel, retry or RetryPolicy()).run()
    return destination


@contextmanager
def place_for_download(destination: Path, cancel: CancelToken | None) -> Iterator[None]:
    """The folder of a file that is to be fetched, made if needed, and the file this process's alone meanwhile.

    Raises:
        DownloadError: The disk failed.
        Cancelled: `cancel` was cancelled while another process had the file.
    """
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        with exclusive_lock(destination.with_name(destination.name + ".lock"), cancel):
            yield
    except OSError as error:
        raise DownloadError(
            f"Cannot write {destination.name} to {destination.parent}: {error.strerror or error}. Make the folder "
            "writable, or name another with the environment variable DBSAM_CACHE."
        ) from error


class PublishedFile(Protocol):
    """What is known of a file before it is here."""

    @property
    def url(self) -> str:
        """Where people find it."""

    @property
    def size_bytes(self) -> int:
        """Its exact size."""

    @property
    def digest(self) -> Digest:
        """Its published digest."""


def is_intact(remote: PublishedFile, path: Path, progress: ProgressCallback | None, cancel: CancelToken | None) -> bool:
    """Whether a file is there and is the published one; says so where it is another."""
    if not path.is_file():
        return False
    same_size = path.stat().st_size == remote.size_bytes
    if same_size and digest_of(path, remote.digest.algorithm, progress, cancel) == remote.digest.value:
        return True
    logger.warning("%s is not the file published at %s: it is downloaded again.", path, remote.url)
    return False


class Meter:
    """Reports progress at most every `PROGRESS_SECONDS`, with the time left at the mean speed so far."""

    def __init__(self, stage: str, total: int, callback: ProgressCallback | None, start: int = 0) -> None:
        self.stage, self.total, self.callback, self.start = stage, total, callback, start
        self.began = time.monotonic()
        self.next_report = 0.0
        self.reported = -1

    def report(self, done: int) -> None:
        """Say that `done` bytes are done, if it is time to."""
        now = time.monotonic()
        if self.callback is None or done == self.reported or (now < self.next_report and done < self.total):
            return
        self.next_report, self.reported = now + PROGRESS_SECONDS, done
        seconds_left = None
        if done > self.start:
            seconds_left = (now - self.began) / (done - self.start) * (self.total - done)
        self.callback(Progress(done, self.total, self.stage, seconds_left))


class _Transfer:
    """One download of one file, over as many connections as it takes."""

    def __init__(
        self,
        remote: RemoteFile,
        destination: Path,
        progress: ProgressCallback | None,
        cancel: CancelToken | None,
        retry: RetryPolicy,
    ) -> None:
        self.remote, self.destination = remote, destination
        self.part = destination.with_name(destination.name + ".part")
        self.progress, self.cancel, self.retry = progress, cancel, retry

    def run(self) -> None:
        resumed = self._have() > 0
        self._fetch()
        seen = self._verify()
        if seen != self.remote.digest.value and resumed:
            # The first bytes came from an earlier call, perhaps of another file: only a whole download proves a fault.
            logger.warning("The continued download of %s is damaged: starting again.", self.destination.name)
            self.part.unlink()
            self._fetch()
            seen = self._verify()
        wanted = self.remote.digest
        if seen != wanted.value:
            self.part.unlink()
            raise DownloadError(
                f"{self.remote.url} arrived damaged: its {wanted.algorithm.upper()} is {seen}, and {wanted.value} was "
                "expected. The file was removed; try again, and if it fails again, a proxy changes what you download."
            )
        os.replace(self.part, self.destination)
        logger.info("Downloaded %s", self.destination)

    def _have(self) -> int:
        return self.part.stat().st_size if self.part.is_file() else 0

    def _verify(self) -> str:
        return digest_of(self.part, self.remote.digest.algorithm, self.progress, self.cancel)

    def _fetch(self) -> None:
        """Fill the part file to its full size, over several connections if they break."""
        if self._have() > self.remote.size_bytes:
            self.part.unlink()
        self._check_disk()
        meter = Meter("download", self.remote.size_bytes, self.progress, self._have())
        failures = 0
        while (before := self._have()) < self.remote.size_bytes:
            if self.cancel is not None:
                self.cancel.raise_if_cancelled()
            try:
                self._connect(before, meter)
            except _Interrupted as error:
                if isinstance(error, _RangeRefused):
                    self.part.unlink(missing_ok=True)
                failures = 0 if self._have() > before else failures + 1
                if failures >= self.retry.attempts:
                    raise DownloadError(
                        f"{self.remote.url}: {error}. {self._have():,} of {self.remote.size_bytes:,} bytes are kept: "
                        "try again to continue, or download the file by other means and save it as "
                        f"{self.destination}."
                    ) from error
                logger.info("%s: %s; connecting again.", self.remote.url, error)
                self._pause(self.retry.pause_seconds * 2 ** max(failures - 1, 0))
        meter.report(self.remote.size_bytes)

    def _check_disk(self) -> None:
        needed = self.remote.size_bytes - self._have()
        free = shutil.disk_usage(self.destination.parent).free
        if free < needed:
            raise DownloadError(
                f"{self.destination.parent} has {free / 1e6:.0f} MB free and {self.destination.name} needs "
                f"{needed / 1e6:.0f} MB more. Free some space, or name another folder with the environment variable "
                "DBSAM_CACHE."
            )

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if self.cancel is not None:
                self.cancel.raise_if_cancelled()
            time.sleep(min(left, _POLL_SECONDS))

    def _connect(self, offset: int, meter: Meter) -> None:
        """Append what one connection brings to the part file, from `offset`.

        Raises:
            _Interrupted: The connection ended, stalled or failed before the end of the file.
            DownloadError: Trying again will not help.
        """
        response = _Response(self.remote, self.part, offset, self.retry.stall_seconds)
        response.start()
        done, grew = offset, time.monotonic()
        try:
            while response.is_alive():
                if self.cancel is not None:
                    self.cancel.raise_if_cancelled()
                response.join(_POLL_SECONDS)
                if response.done != done:
                    done, grew = response.done, time.monotonic()
                    meter.report(done)
                elif response.is_alive() and time.monotonic() - grew > self.retry.stall_seconds:
                    raise _Interrupted(f"no byte arrived for {self.retry.stall_seconds:g} s")
        finally:
            response.abandon()
        if response.error is not None:
            raise self._explained(response.error) from response.error
        if response.done < self.remote.size_bytes:
            raise _Interrupted("the server closed the connection early")

    def _explained(self, error: Exception) -> Exception:
        if isinstance(error, requests.exceptions.SSLError):
            return DownloadError(
                f"{self.remote.url}: the server's certificate is not trusted ({error}). Behind a proxy that inspects "
                "traffic, name its certificates with the environment variable REQUESTS_CA_BUNDLE."
            )
        if isinstance(error, requests.exceptions.ChunkedEncodingError):
            return _Interrupted("the server closed the connection early")
        if isinstance(error, requests.RequestException):
            return _Interrupted(f"the connection failed ({error})")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            # A full disk harms everything else on the computer: give the space back.
            self.part.unlink(missing_ok=True)
            return DownloadError(
                f"The disk of {self.destination.parent} is full; what had arrived was removed. {self.destination.name} "
                f"needs {self.remote.size_bytes / 1e6:.0f} MB: free some space, or name another folder with the "
                "environment variable DBSAM_CACHE."
            )
        return error


class _Response(threading.Thread):
    """One response, which a thread writes to the part file.

    Name look-up, connecting and reading may each block for long, out of reach of a cancellation. A thread that is
    abandoned writes nothing more, and ends with its socket's time-out.

    Attributes:
        done: Bytes of the file that are written.
        error: What ended the transfer, if anything did.
    """

    def __init__(self, remote: RemoteFile, part: Path, offset: int, stall_seconds: float) -> None:
        super().__init__(name="dbsam-download", daemon=True)
        self.done = offset
        self.error: Exception | None = None
        self._remote, self._part, self._offset, self._timeout = remote, part, offset, 2 * stall_seconds
        self._writing, self._abandoned = threading.Lock(), False

    def abandon(self) -> None:
        """Leave the part file as it is from now on."""
        with self._writing:
            self._abandoned = True

    def run(self) -> None:
        """Fetch and write; an error is kept for whoever waits."""
        headers = {"User-Agent": _USER_AGENT, "Accept-Encoding": "identity"}
        if self._offset:
            headers["Range"] = f"bytes={self._offset}-"
        try:
            with requests.get(self._remote.url, headers=headers, stream=True, timeout=self._timeout) as response:
                self._write(response, self._start_of(response))
        except Exception as error:
            self.error = error

    def _write(self, response: requests.Response, start: int) -> None:
        with self._writing:
            if self._abandoned:
                return
            stream = self._part.open("r+b" if start else "wb")
        with stream:
            stream.seek(start)
            self.done = start
            for chunk in response.iter_content(_CHUNK_BYTES):
                if self.done + len(chunk) > self._remote.size_bytes:
                    raise DownloadError(self._wrong_size(f"more than {self._remote.size_bytes:,}"))
                with self._writing:
                    if self._abandoned:
                        return
                    stream.write(chunk)
                    stream.flush()
                self.done += len(chunk)
            os.fsync(stream.fileno())

    def _start_of(self, response: requests.Response) -> int:
        """The byte of the file with which the response's body starts."""
        status, reason = response.status_code, f"the server answered {response.status_code} {response.reason}"
        if status == requests.codes.requested_range_not_satisfiable:
            raise _RangeRefused(reason)
        if status in _RETRIED_STATUS:
            raise _Interrupted(reason)
        if status not in (200, 206):
            raise DownloadError(f"{self._remote.url}: {reason}. Is there a newer version of dbsam?")
        start, total = 0, response.headers.get("Content-Length")
        if status == 206:
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) > self._offset:
                raise _RangeRefused(f"the server sent another range than the one from byte {self._offset:,}")
            start, total = int(match[1]), match[2]
        if total is not None and int(total) != self._remote.size_bytes:
            raise DownloadError(self._wrong_size(f"{int(total):,}"))
        return start

    def _wrong_size(self, offered: str) -> str:
        return (
            f"{self._remote.url} offers {offered} bytes and {self._remote.size_bytes:,} were expected: this is not "
            f"{self._part.stem}. A proxy may have answered with its own page; or the file at that address has changed, "
            "and dbsam needs an update."
        )
