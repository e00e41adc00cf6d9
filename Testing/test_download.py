"""Downloads against a real HTTP server on this computer that behaves badly on request."""

import errno
import hashlib
import re
import threading
import time
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from dbsam.io.files import exclusive_lock
from dbsam.progress import Cancelled, CancelToken, Progress
from dbsam.weights import download
from dbsam.weights.download import Digest, DownloadError, RemoteFile, RetryPolicy, download_file

CONTENT = bytes(range(256)) * 4096  # 1 MiB
HALF = len(CONTENT) // 2
SHA256 = hashlib.sha256(CONTENT).hexdigest()
IMPATIENT = RetryPolicy(stall_seconds=1.2, attempts=2, pause_seconds=0.01)


class Server(ThreadingHTTPServer):
    """Serves CONTENT; each attribute is one misbehaviour."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requested_ranges: list[str | None] = []
        self.bytes_per_connection = len(CONTENT)  # fewer: closes the connection early
        self.stalls = False  # instead of closing early, says nothing more
        self.knows_ranges = True
        self.status = 200
        self.failures = 0  # so many requests are answered with `status`
        self.content = CONTENT
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights.pth"

    def handle_error(self, request: object, client_address: object) -> None:
        """The client may hang up at any time."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server = self.server
        wanted = self.headers.get("Range")
        server.requested_ranges.append(wanted)
        if server.failures:
            server.failures -= 1
            self.send_error(server.status)
            return
        start = 0
        if wanted and server.knows_ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(server.content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(server.content) - 1}/{len(server.content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(server.content) - start))
        self.end_headers()
        self.wfile.write(server.content[start : start + server.bytes_per_connection])
        if server.stalls:
            self.wfile.flush()
            server.released.wait(10)

    def log_message(self, format: str, *args: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server
        server.released.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def remote(server: Server) -> RemoteFile:
    return RemoteFile(server.url, len(CONTENT), Digest("sha256", SHA256))


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "weights.pth"


def part_of(destination: Path, content: bytes | None = None) -> Path:
    part = destination.with_name(destination.name + ".part")
    if content is not None:
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
    return part


def test_a_download_arrives_whole_and_leaves_no_part(server: Server, remote: RemoteFile, destination: Path) -> None:
    seen: list[Progress] = []
    assert download_file(remote, destination, seen.append) == destination
    assert destination.read_bytes() == CONTENT
    assert not part_of(destination).exists()
    assert server.requested_ranges == [None]
    assert [p.stage for p in seen if p.done == p.total == len(CONTENT)] == ["download", "verify"]
    assert [p.done for p in seen if p.stage == "download"] == sorted(p.done for p in seen if p.stage == "download")


def test_an_md5_digest_is_checked_too(remote: RemoteFile, destination: Path) -> None:
    md5 = Digest("md5", hashlib.md5(CONTENT).hexdigest())
    assert download_file(replace(remote, digest=md5), destination).read_bytes() == CONTENT


def test_a_file_that_is_there_is_not_fetched_again(server: Server, remote: RemoteFile, destination: Path) -> None:
    download_file(remote, destination)
    download_file(remote, destination)
    assert len(server.requested_ranges) == 1


def test_a_damaged_file_that_is_there_is_fetched_again(remote: RemoteFile, destination: Path) -> None:
    destination.parent.mkdir()
    destination.write_bytes(bytes(len(CONTENT)))
    download_file(remote, destination)
    assert destination.read_bytes() == CONTENT


def test_an_earlier_part_is_continued_from_its_end(server: Server, remote: RemoteFile, destination: Path) -> None:
    part_of(destination, CONTENT[:HALF])
    download_file(remote, destination)
    assert server.requested_ranges == [f"bytes={HALF}-"]
    assert destination.read_bytes() == CONTENT


def test_a_complete_part_needs_no_connection(server: Server, remote: RemoteFile, destination: Path) -> None:
    part_of(destination, CONTENT)
    download_file(remote, destination)
    assert server.requested_ranges == []
    assert destination.read_bytes() == CONTENT


def test_a_part_of_another_file_is_replaced(server: Server, remote: RemoteFile, destination: Path) -> None:
    part_of(destination, bytes(HALF))
    download_file(remote, destination)
    assert server.requested_ranges == [f"bytes={HALF}-", None]
    assert destination.read_bytes() == CONTENT


def test_a_part_longer_than_the_file_is_replaced(server: Server, remote: RemoteFile, destination: Path) -> None:
    part_of(destination, CONTENT + b"more")
    download_file(remote, destination)
    assert server.requested_ranges == [None]
    assert destination.read_bytes() == CONTENT


def test_a_server_that_closes_early_is_asked_for_the_rest(
    server: Server, remote: RemoteFile, destination: Path
) -> None:
    server.bytes_per_connection = HALF
    download_file(remote, destination, retry=IMPATIENT)
    assert server.requested_ranges == [None, f"bytes={HALF}-"]
    assert destination.read_bytes() == CONTENT


def test_a_server_that_ignores_ranges_sends_the_whole_file(
    server: Server, remote: RemoteFile, destination: Path
) -> None:
    server.knows_ranges = False
    part_of(destination, CONTENT[:HALF])
    download_file(remote, destination)
    assert server.requested_ranges == [f"bytes={HALF}-"]
    assert destination.read_bytes() == CONTENT


def test_a_server_that_closes_early_and_ignores_ranges_ends_in_an_error(
    server: Server, remote: RemoteFile, destination: Path
) -> None:
    server.knows_ranges, server.bytes_per_connection = False, HALF
    with pytest.raises(DownloadError, match="closed the connection early"):
        download_file(remote, destination, retry=IMPATIENT)
    assert len(server.requested_ranges) == 1 + IMPATIENT.attempts
    assert not destination.exists()


def test_a_stalled_connection_is_dropped_and_what_arrived_is_kept(
    server: Server, remote: RemoteFile, destination: Path
) -> None:
    server.bytes_per_connection, server.stalls = HALF // 2, True
    part_of(destination, CONTENT[:HALF])
    began = time.monotonic()
    download_file(remote, destination, retry=IMPATIENT)
    assert destination.read_bytes() == CONTENT
    assert server.requested_ranges == [f"bytes={HALF}-", f"bytes={HALF + HALF // 2}-"]
    assert time.monotonic() - began < 150


def test_a_server_that_never_sends_a_byte_ends_in_an_error(
    server: Server, remote: RemoteFile, destination: Path
) -> None:
    server.bytes_per_connection, server.stalls = 0, True
    part_of(destination, CONTENT[:HALF])
    with pytest.raises(DownloadError, match=rf"no byte arrived for 1.2 s. {HALF:,} of {len(CONTENT):,} bytes are kept"):
        download_file(remote, destination, retry=IMPATIENT)
    assert len(server.requested_ranges) == IMPATIENT.attempts
    assert part_of(destination).read_bytes() == CONTENT[:HALF]


def test_a_corrupted_download_is_removed_and_reported_with_both_digests(
    server: Server, remote: RemoteFile, destination: Path
) -> None:
    server.content = CONTENT[:-1] + b"x"
    with pytest.raises(DownloadError) as caught:
        download_file(remote, destination)
    assert hashlib.sha256(server.content).hexdigest() in str(caught.value)
    assert SHA256 in str(caught.value)
    assert not destination.exists()
    assert not part_of(destination).exists()


@pytest.mark.parametrize("content", [b"<html>log in first</html>", CONTENT + b"x"])
def test_a_file_of_another_size_is_refused_before_it_is_stored(
    server: Server, remote: RemoteFile, destination: Path, content: bytes
) -> None:
    server.content = content
    with pytest.raises(DownloadError, match=f"offers {len(content):,} bytes and {len(CONTENT):,} were expected"):
        download_file(remote, destination)
    assert not destination.exists()
    assert not part_of(destination).exists()


def test_a_file_that_shrank_on_the_server_is_refused_and_its_part_removed(
    server: Server, remote: RemoteFile, destination: Path
) -> None:
    server.content = CONTENT[:HALF]
    part_of(destination, CONTENT[: HALF + 1])
    with pytest.raises(DownloadError, match=f"offers {HALF:,} bytes"):
        download_file(remote, destination, retry=IMPATIENT)
    assert server.requested_ranges == [f"bytes={HALF + 1}-", None]
    assert not part_of(destination).exists()


def test_a_missing_file_is_reported_at_once(server: Server, remote: RemoteFile, destination: Path) -> None:
    server.status, server.failures = 404, 9
    with pytest.raises(DownloadError, match=f"{re.escape(server.url)}: the server answered 404 Not Found"):
        download_file(remote, destination)
    assert len(server.requested_ranges) == 1


def test_a_busy_server_is_asked_again(server: Server, remote: RemoteFile, destination: Path) -> None:
    server.status, server.failures = 503, 1
    download_file(remote, destination, retry=IMPATIENT)
    assert destination.read_bytes() == CONTENT


def test_a_server_that_is_not_there_is_an_error_that_names_another_way(remote: RemoteFile, destination: Path) -> None:
    with Server() as gone:
        url = gone.url
    with pytest.raises(DownloadError, match=rf"connection failed .*save it as {re.escape(str(destination))}"):
        download_file(replace(remote, url=url), destination, retry=IMPATIENT)


def test_cancelling_a_stalled_download_returns_at_once_and_keeps_the_part(
    server: Server, remote: RemoteFile, destination: Path
) -> None:
    server.bytes_per_connection, server.stalls = HALF, True
    cancel = CancelToken()
    arrived = threading.Timer(0.5, cancel.cancel)
    arrived.start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        download_file(remote, destination, cancel=cancel, retry=RetryPolicy(stall_seconds=30))
    assert time.monotonic() - began < 15
    assert part_of(destination).read_bytes() == CONTENT[:HALF]
    server.stalls = False
    download_file(remote, destination)
    assert server.requested_ranges == [None, f"bytes={HALF}-"]


def test_two_downloads_of_one_file_at_once_fetch_it_once(server: Server, remote: RemoteFile, destination: Path) -> None:
    threads = [threading.Thread(target=download_file, args=(remote, destination)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.requested_ranges) == 1
    assert destination.read_bytes() == CONTENT


def test_waiting_for_another_process_can_be_cancelled(remote: RemoteFile, destination: Path) -> None:
    destination.parent.mkdir()
    cancel = CancelToken()
    with exclusive_lock(destination.with_name(destination.name + ".lock")):
        threading.Timer(0.3, cancel.cancel).start()
        with pytest.raises(Cancelled):
            download_file(remote, destination, cancel=cancel)


def test_a_lock_file_left_by_a_crash_blocks_nobody(remote: RemoteFile, destination: Path) -> None:
    destination.parent.mkdir()
    destination.with_name(destination.name + ".lock").touch()
    download_file(remote, destination)
    assert destination.read_bytes() == CONTENT


def test_too_little_space_is_reported_before_the_download(
    server: Server, remote: RemoteFile, destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 100, 100))
    with pytest.raises(DownloadError, match=r"has 0 MB free and weights\.pth needs 1 MB more.*DBSAM_CACHE"):
        download_file(remote, destination)
    assert server.requested_ranges == []


def test_a_disk_that_fills_up_gets_its_space_back(
    remote: RemoteFile, destination: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(DownloadError, match="is full; what had arrived was removed"):
        download_file(remote, destination)
    assert not part_of(destination).exists()
    assert not destination.exists()


def test_a_folder_that_cannot_be_made_is_reported_with_a_way_out(remote: RemoteFile, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match=r"Cannot write weights\.pth to .*cache.*DBSAM_CACHE"):
        download_file(remote, tmp_path / "cache" / "weights.pth")
