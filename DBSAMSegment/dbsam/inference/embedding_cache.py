"""Image embeddings that are kept for the next prompt, within a memory limit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from dbsam.inference.predictor import Embedding
from dbsam.preprocess.sampling import Region

DEFAULT_MAX_BYTES = 512 * 2**20


@dataclass(frozen=True)
class EmbeddingKey:
    """All that an embedding depends on.

    Attributes:
        image: `Volume.identity`.
        axis: 0, 1, 2 for a slice along I, J, K.
        slice: Index of the slice.
        intensity: Identifies the range of values that is shown as 0..255.
        channels: What the three channels of the slice image are.
        model: `SlicePredictor.signature`.
        region: The part of the slice that was encoded; None only in the keys that group a slice's regions.
    """

    image: str
    axis: int
    slice: int
    intensity: str
    channels: str
    model: str
    region: Region | None


class EmbeddingCache:
    """Embeddings, the least recently used of which give way when memory is full. All methods are thread-safe.

    Args:
        max_bytes: Limit of the embeddings' memory, in bytes; it is never exceeded.
    """

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        if max_bytes < 0:
            raise ValueError(f"The cache's limit must not be negative, not {max_bytes} bytes.")
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self._embeddings: OrderedDict[EmbeddingKey, Embedding] = OrderedDict()
        self._keys_of_slice: dict[EmbeddingKey, list[EmbeddingKey]] = {}
        self._nbytes = self._hits = self._misses = 0

    def find(self, key: EmbeddingKey, serves: Callable[[Region], bool]) -> Embedding | None:
        """Returns the embedding of `key`, or else of another region of the same slice.

        Args:
            key: What is wanted.
            serves: Whether an embedding of the given region would do instead. The region of the newest is asked first.
        """
        with self._lock:
            found = self._lookup(key, serves)
            if found is None:
                self._misses += 1
                return None
            self._hits += 1
            self._embeddings.move_to_end(found)
            return self._embeddings[found]

    def holds(self, key: EmbeddingKey, serves: Callable[[Region], bool]) -> bool:
        """Returns whether `find` would find an embedding, without counting as a use of it."""
        with self._lock:
            return self._lookup(key, serves) is not None

    def put(self, key: EmbeddingKey, embedding: Embedding) -> None:
        """Keeps an embedding, unless it alone is larger than the limit."""
        with self._lock:
            self._remove(key)
            if embedding.nbytes > self.max_bytes:
                return
            while self._nbytes + embedding.nbytes > self.max_bytes:
                self._remove(next(iter(self._embeddings)))
            self._embeddings[key] = embedding
            self._keys_of_slice.setdefault(replace(key, region=None), []).append(key)
            self._nbytes += embedding.nbytes

    def clear(self) -> None:
        """Frees all embeddings; the counts of hits and misses stay."""
        with self._lock:
            self._embeddings.clear()
            self._keys_of_slice.clear()
            self._nbytes = 0

    def __len__(self) -> int:
        with self._lock:
            return len(self._embeddings)

    @property
    def nbytes(self) -> int:
        """Memory of the embeddings that are kept, in bytes."""
        return self._nbytes

    @property
    def hits(self) -> int:
        """How often `find` found an embedding."""
        return self._hits

    @property
    def misses(self) -> int:
        """How often `find` found none."""
        return self._misses

    def _lookup(self, key: EmbeddingKey, serves: Callable[[Region], bool]) -> EmbeddingKey | None:
        if key in self._embeddings:
            return key
        others = reversed(self._keys_of_slice.get(replace(key, region=None), []))
        return next((other for other in others if other.region is not None and serves(other.region)), None)

    def _remove(self, key: EmbeddingKey) -> None:
        embedding = self._embeddings.pop(key, None)
        if embedding is None:
            return
        self._nbytes -= embedding.nbytes
        of_slice = replace(key, region=None)
        self._keys_of_slice[of_slice].remove(key)
        if not self._keys_of_slice[of_slice]:
            del self._keys_of_slice[of_slice]
