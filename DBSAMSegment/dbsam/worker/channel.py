"""Frames over a socket: the application's end never waits, the worker's end may.

A frame is two lengths (structure and data, 8 bytes each, big-endian), then the structure, then the data.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator, Sequence

from dbsam.worker.values import ProtocolError

_LENGTHS = struct.Struct("!QQ")
_READ_BYTES = 1 << 20
# What a stranger may make this side keep in memory before it has shown that it knows the key.
UNKNOWN_PEER_BYTES = 4096
LARGEST_STRUCTURE_BYTES = 64 << 20
LARGEST_DATA_BYTES = 1 << 34

Frame = tuple[bytes, memoryview]


class FrameReader:
    """Puts frames together from what arrives.

    Attributes:
        largest: The most bytes that structure and data of a frame may have.
    """

    def __init__(self) -> None:
        self._bytes = bytearray()
        self.largest = (UNKNOWN_PEER_BYTES, 0)

    def trust(self) -> None:
        """Lets frames be as large as the protocol has them."""
        self.largest = (LARGEST_STRUCTURE_BYTES, LARGEST_DATA_BYTES)

    def feed(self, received: bytes | memoryview) -> Iterator[Frame]:
        """Yields the frames that are complete now.

        Raises:
            ProtocolError: A frame is larger than it may be.
        """
        self._bytes += received
        while len(self._bytes) >= _LENGTHS.size:
            structure, data = _LENGTHS.unpack_from(self._bytes)
            if structure > self.largest[0] or data > self.largest[1]:
                raise ProtocolError(f"A message of {structure:,} and {data:,} bytes is refused.")
            whole = _LENGTHS.size + structure + data
            if len(self._bytes) < whole:
                return
            content = bytes(memoryview(self._bytes)[_LENGTHS.size : whole])
            del self._bytes[:whole]
            yield content[:structure], memoryview(content)[structure:]


def framed(structure: bytes, buffers: Sequence[memoryview]) -> list[memoryview]:
    """The bytes of a frame; large arrays are not copied."""
    head = _LENGTHS.pack(len(structure), sum(len(one) for one in buffers)) + structure
    return [memoryview(head), *buffers]


class _End:
    """One end of a connection.

    Args:
        connection: A connected socket, which is the channel's from now on.
        waits: Whether calls on it wait until they can be done.
    """

    def __init__(self, connection: socket.socket, waits: bool) -> None:
        connection.setblocking(waits)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket = connection
        self.reader = FrameReader()


class Channel(_End):
    """The application's end: sends and receives what is possible at once, and never waits.

    Args:
        connection: A connected socket, which is the channel's from now on.
    """

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection, waits=False)
        self.closed = False
        self._outgoing: deque[memoryview] = deque()
        self.waiting_bytes = 0

    def send(self, structure: bytes, buffers: Sequence[memoryview] = ()) -> None:
        """Queues a frame; its buffers must not change until it has been sent."""
        for part in framed(structure, buffers):
            if len(part):
                self._outgoing.append(part)
                self.waiting_bytes += len(part)

    def flush(self) -> None:
        """Sends what the system takes now."""
        while self._outgoing and not self.closed:
            part = self._outgoing[0]
            try:
                sent = self.socket.send(part)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                # What the other side had sent before it ended can still be read.
                self._outgoing.clear()
                self.waiting_bytes = 0
                return
            self.waiting_bytes -= sent
            if sent == len(part):
                self._outgoing.popleft()
            else:
                self._outgoing[0] = part[sent:]

    def receive(self) -> list[Frame]:
        """The frames that have arrived; sets `closed` where the other side has ended.

        Raises:
            ProtocolError: The other side sends what is no frame.
        """
        frames: list[Frame] = []
        # A bounded amount, so that a flood doesn't hold the main thread.
        for _ in range(16):
            try:
                received = self.socket.recv(_READ_BYTES)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                received = b""
            if not received:
                self.closed = True
                break
            frames += self.reader.feed(received)
        return frames

    def wait(self, seconds: float) -> None:
        """Waits until something can be received, or sent where something waits to be; no longer than `seconds`."""
        if not self.closed:
            select.select([self.socket], [self.socket] if self._outgoing else [], [], seconds)

    def close(self) -> None:
        """Ends the connection."""
        self.closed = True
        self._outgoing.clear()
        self.waiting_bytes = 0
        self.socket.close()


class BlockingChannel(_End):
    """The worker's end: any thread may send, one thread receives.

    Args:
        connection: A connected socket, which is the channel's from now on.
    """

    def __init__(self, connection: socket.socket) -> None:
        super().__init__(connection, waits=True)
        self._lock = threading.Lock()

    def send(self, structure: bytes, buffers: Sequence[memoryview] = ()) -> None:
        """Sends a frame and waits until the system has it.

        Raises:
            OSError: The other side has ended.
        """
        with self._lock:
            for part in framed(structure, buffers):
                self.socket.sendall(part)

    def receive(self, seconds: float | None = None) -> list[Frame] | None:
        """The frames that have arrived, after waiting for at least some bytes.

        Args:
            seconds: How long to wait; without end where None.

        Returns:
            The frames, none where nothing came in time or a frame is not complete yet; None where the other side has
            ended.

        Raises:
            ProtocolError: The other side sends what is no frame.
        """
        ready, _, _ = select.select([self.socket], [], [], seconds)
        if not ready:
            return []
        try:
            received = self.socket.recv(_READ_BYTES)
        except OSError:
            return None
        return list(self.reader.feed(received)) if received else None

    def finish(self) -> None:
        """Tells the other side that nothing more comes; what was sent still arrives."""
        with self._lock:
            self.socket.shutdown(socket.SHUT_WR)
