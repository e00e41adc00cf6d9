"""A model as the runs that share it see it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from dbsam.inference.decoded_cache import DecodedCache
from dbsam.inference.embedding_cache import EmbeddingCache
from dbsam.inference.eta import SliceCost
from dbsam.inference.predictor import SlicePredictor


@dataclass(frozen=True, eq=False)
class SharedPredictor:
    """A model, and what its runs share: each finds what the others computed, and how long it took.

    Attributes:
        predictor: The model.
        cache: Where embeddings are looked up and kept.
        batch_size: The most slices that are encoded at once.
        nearby: Whether embeddings that other runs left of other regions serve, too.
        cost: Learns what encoding and decoding take.
        decoded: Where the decoder's answers are looked up and kept.
        lock: Held while the predictor works, which need not be thread-safe.
    """

    predictor: SlicePredictor
    cache: EmbeddingCache
    batch_size: int
    nearby: bool
    cost: SliceCost = field(default_factory=SliceCost)
    decoded: DecodedCache = field(default_factory=DecodedCache)
    lock: threading.Lock = field(default_factory=threading.Lock)
