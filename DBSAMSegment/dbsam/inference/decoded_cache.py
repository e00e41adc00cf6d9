"""What the mask decoder gave, kept for the next click on the same slice, within a memory limit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from dbsam.inference.embedding_cache import EmbeddingKey
from dbsam.inference.predictor import DecodedMasks
from dbsam.preprocess.prompts import SlicePoint

MAX_BYTES = 64 * 2**20
"""Limit of the logits' memory."""


@dataclass(frozen=True)
class DecodedKey:
    """All that the logits of one prompt depend on.

    Attributes:
        embedding: The embedding that was decoded.
        box_xyxy: The rectangle.
        points: The clicks, in their order: each was given with the logits of those before it.
    """

    embedding: EmbeddingKey
    box_xyxy: tuple[float, ...]
    points: tuple[SlicePoint, ...]


class DecodedCache:
    """Logits of single prompts, the least recently used of which give way. All methods are thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._decoded: OrderedDict[DecodedKey, DecodedMasks] = OrderedDict()
        self._nbytes = 0

    def find(self, key: DecodedKey) -> DecodedMasks | None:
        """Returns what was kept of a prompt."""
        with self._lock:
            if key not in self._decoded:
                return None
            self._decoded.move_to_end(key)
            return self._decoded[key]

    def put(self, key: DecodedKey, decoded: DecodedMasks) -> None:
        """Keeps what the decoder gave."""
        with self._lock:
            if key in self._decoded:
                self._nbytes -= self._decoded.pop(key).logits.nbytes
            self._decoded[key] = decoded
            self._nbytes += decoded.logits.nbytes
            while self._nbytes > MAX_BYTES:
                self._nbytes -= self._decoded.popitem(last=False)[1].logits.nbytes
