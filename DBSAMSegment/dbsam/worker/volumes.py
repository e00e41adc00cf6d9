"""The volumes that the application has sent to the worker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection

import numpy as np

from dbsam.preprocess.volume import Volume
from dbsam.progress import CancelToken
from dbsam.worker.protocol import VolumeBegin, VolumePart
from dbsam.worker.values import ProtocolError

_LOOK_SECONDS = 0.05


class _Arriving:
    def __init__(self, begin: VolumeBegin) -> None:
        self.begin = begin
        self.voxels = np.empty(begin.shape, np.dtype(begin.dtype))
        self.bytes = self.voxels.reshape(-1).view(np.uint8).data
        self.filled = 0


class VolumeStore:
    """Keeps what is needed, and the newest; two large volumes at once may not fit.

    Args:
        ask: Asks the application for a volume that isn't here.
        needed: Identities of the volumes of all jobs that wait or run.
    """

    def __init__(self, ask: Callable[[str], None], needed: Callable[[], Collection[str]]) -> None:
        self._ask = ask
        self._needed = needed
        self._condition = threading.Condition()
        self._volumes: dict[str, Volume] = {}
        self._gone: dict[str, BaseException] = {}
        self._asked: set[str] = set()
        self._arriving: _Arriving | None = None

    def get(self, identity: str, cancel: CancelToken) -> Volume:
        """The volume, after waiting for it where it has to come.

        Raises:
            Cancelled: The token was cancelled meanwhile.
            ValueError: The application doesn't have it any more.
            MemoryError: It didn't fit.
        """
        with self._condition:
            # What a former job was told of it: the application may have it again.
            self._gone.pop(identity, None)
            while True:
                cancel.raise_if_cancelled()
                if identity in self._volumes:
                    return self._volumes[identity]
                if identity in self._gone:
                    raise self._gone.pop(identity)
                coming = self._arriving is not None and self._arriving.begin.identity == identity
                if not coming and identity not in self._asked:
                    self._asked.add(identity)
                    self._ask(identity)
                self._condition.wait(_LOOK_SECONDS)

    def expect(self, identity: str) -> None:
        """A volume is on its way: whoever needs it waits without asking, or it would be sent twice."""
        with self._condition:
            self._asked.add(identity)

    def begin(self, message: VolumeBegin) -> None:
        """A volume follows; others that nobody needs make room for it."""
        with self._condition:
            needed = self._needed()
            self._volumes = {name: one for name, one in self._volumes.items() if name in needed}
            self._gone.pop(message.identity, None)
            self._arriving = None
            try:
                self._arriving = _Arriving(message)
            except (MemoryError, ValueError) as error:
                self._end(message.identity, error)

    def part(self, message: VolumePart) -> None:
        """The next voxels.

        Raises:
            ProtocolError: More than was announced.
        """
        arriving = self._arriving
        if arriving is None or arriving.begin.identity != message.identity:
            return  # its memory could not be had
        after = arriving.filled + len(message.content)
        if after > len(arriving.bytes):
            raise ProtocolError(f"The volume {message.identity!r} has more voxels than its shape says.")
        arriving.bytes[arriving.filled : after] = message.content
        arriving.filled = after
        if after == len(arriving.bytes):
            with self._condition:
                self._arriving = None
                self._asked.discard(message.identity)
                begin = arriving.begin
                self._volumes[begin.identity] = Volume(arriving.voxels, begin.geometry, begin.identity)
                self._condition.notify_all()

    def gone(self, identity: str, error: BaseException) -> None:
        """The volume won't come."""
        with self._condition:
            if self._arriving is not None and self._arriving.begin.identity == identity:
                self._arriving = None
            self._end(identity, error)

    def clear(self) -> None:
        """Lets go of all volumes."""
        with self._condition:
            self._volumes.clear()
            self._gone.clear()

    def _end(self, identity: str, error: BaseException) -> None:
        self._asked.discard(identity)
        self._gone[identity] = error
        self._condition.notify_all()
