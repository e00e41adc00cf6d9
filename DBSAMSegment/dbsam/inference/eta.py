"""Measured speed and memory, from which batch sizes and the time that is left follow."""

from __future__ import annotations

from dbsam.progress import Progress, ProgressCallback

# How long a cancellation may go unnoticed.
_SECONDS_PER_BATCH = 0.5


class SliceCost:
    """What a slice costs with one model, learned while working.

    Attributes:
        embedding_nbytes: Memory of an image embedding; None before the first was computed.
    """

    def __init__(self) -> None:
        self._encodings, self._decodings = _Timings(), _Timings()
        self.embedding_nbytes: int | None = None

    def encoded(self, count: int, seconds: float) -> None:
        """Notes that `count` slices were encoded in `seconds`."""
        self._encodings.add(seconds / count)

    def decoded(self, seconds: float) -> None:
        """Notes that the mask of one slice was decoded in `seconds`."""
        self._decodings.add(seconds)

    def batch_size(self, largest: int) -> int:
        """Returns how many slices to encode at once: one on slow computers, so that cancelling is prompt."""
        each = self._encodings.seconds
        return 1 if each is None else max(1, min(largest, int(_SECONDS_PER_BATCH / max(each, 1e-6))))

    def seconds_for(self, encoded: int, decoded: int) -> float | None:
        """Returns how long slices will take; None if no such slice was timed yet."""
        seconds = 0.0
        for count, timings in ((encoded, self._encodings), (decoded, self._decodings)):
            if count > 0:
                if timings.seconds is None:
                    return None
                seconds += count * timings.seconds
        return seconds


class ProgressReporter:
    """Counts slices and tells a callback.

    Args:
        callback: Gets each step; may be None.
        cost: Measured speed.
        total: Number of slices.
        stage: What is done with them.
    """

    def __init__(self, callback: ProgressCallback | None, cost: SliceCost, total: int, stage: str) -> None:
        self._callback, self._cost, self._total, self._stage = callback, cost, total, stage
        self._done = 0

    def advance(self, count: int, to_encode: int, to_decode: int | None = None) -> None:
        """Tells that `count` more slices are done.

        Args:
            count: Slices done since the last call.
            to_encode: How many of the remaining ones are still to be encoded.
            to_decode: How many are still to be decoded; all remaining ones if None.
        """
        self._done = min(self._done + count, self._total)  # what is followed anew isn't counted again
        if self._callback is not None:
            remaining = self._total - self._done
            seconds_left = self._cost.seconds_for(to_encode, remaining if to_decode is None else to_decode)
            self._callback(Progress(self._done, self._total, self._stage, seconds_left))


class _Timings:
    """What one step takes by the last ones; the first counts until there is a second, as it also sets a library up."""

    def __init__(self) -> None:
        self.seconds: float | None = None
        self._count = 0

    def add(self, seconds: float) -> None:
        self._count += 1
        self.seconds = seconds if self._count <= 2 or self.seconds is None else (self.seconds + seconds) / 2
