"""One HTTP request for the rest of a file, which a cancellation can leave at once."""

from __future__ import annotations

import http
import http.client
import queue
import ssl
import threading
import time
import urllib.error
import urllib.request

from dbsam.progress import CancelToken

CHUNK_BYTES = 1 << 18
POLL_SECONDS = 0.1
USER_AGENT = "dbsam (3D Slicer extension)"
_RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504)


class DownloadError(RuntimeError):
    """A download that failed; the message says why and what to do."""


class Interrupted(Exception):
    """The transfer stopped before its end; what has arrived can be continued."""


class RangeRefused(Interrupted):
    """The server has no such part of the file; only a transfer from the first byte can go on."""


class RangeRequest:
    """One HTTP response, read by a thread.

    Name look-up, connecting and reading may each block for long, out of reach of a cancellation; the thread does that,
    and the caller looks at a queue. An abandoned thread ends with its socket's time-out.
    """

    def __init__(self, url: str, offset: int, stall_seconds: float) -> None:
        """Send the request.

        Args:
            url: http or https address.
            offset: First byte that is asked for; the server may answer with the whole file all the same.
            stall_seconds: Time without a byte after which the request is given up.
        """
        headers = {"User-Agent": USER_AGENT}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        self.request = urllib.request.Request(url, headers=headers)
        self.stall_seconds = stall_seconds
        self.items: queue.Queue[http.client.HTTPResponse | bytes | Exception] = queue.Queue(maxsize=16)
        self.closed = threading.Event()
        threading.Thread(target=self._read, name="dbsam-download", daemon=True).start()

    def wait_for_headers(self, cancel: CancelToken | None) -> http.client.HTTPResponse:
        """The response, its body not yet read."""
        item = self._next(cancel)
        assert isinstance(item, http.client.HTTPResponse)
        return item

    def next_chunk(self, cancel: CancelToken | None) -> bytes:
        """The next bytes of the body; none at its end."""
        item = self._next(cancel)
        assert isinstance(item, bytes)
        return item

    def close(self) -> None:
        """Let the thread end."""
        self.closed.set()

    def _next(self, cancel: CancelToken | None) -> http.client.HTTPResponse | bytes:
        deadline = time.monotonic() + self.stall_seconds
        while True:
            if cancel is not None:
                cancel.raise_if_cancelled()
            try:
                item = self.items.get(timeout=POLL_SECONDS)
            except queue.Empty:
                if time.monotonic() > deadline:
                    raise Interrupted(f"no byte arrived for {self.stall_seconds:g} s") from None
                continue
            if isinstance(item, Exception):
                raise self._explained(item) from item
            return item

    def _explained(self, error: Exception) -> Exception:
        if isinstance(error, urllib.error.HTTPError):
            reason = f"the server answered {error.code} {error.reason}"
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                return RangeRefused(reason)
            if error.code in _RETRIED_STATUS:
                return Interrupted(reason)
            return DownloadError(f"{self.request.full_url}: {reason}. Is there a newer version of dbsam?")
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(cause, ssl.SSLCertVerificationError):
            return DownloadError(
                f"{self.request.full_url}: the server's certificate is not trusted ({cause.verify_message}). Behind a "
                "proxy that inspects traffic, name its certificates with the environment variable SSL_CERT_FILE."
            )
        if isinstance(cause, TimeoutError):
            return Interrupted(f"no byte arrived for {self.stall_seconds:g} s")
        return Interrupted(f"the connection failed ({cause})")

    def _put(self, item: http.client.HTTPResponse | bytes | Exception) -> None:
        while not self.closed.is_set():
            try:
                self.items.put(item, timeout=POLL_SECONDS)
                return
            except queue.Full:
                continue

    def _read(self) -> None:
        try:
            with urllib.request.urlopen(self.request, timeout=self.stall_seconds) as response:
                self._put(response)
                while not self.closed.is_set():
                    chunk = response.read1(CHUNK_BYTES)
                    self._put(chunk)
                    if not chunk:
                        return
        # ValueError: http.client raises it for a read of a response that was closed under it.
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._put(error)
