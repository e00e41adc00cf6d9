"""Image embeddings of a volume's slices, through the cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from dbsam.geometry.grid import FloatArray
from dbsam.inference.embedding_cache import EmbeddingKey
from dbsam.inference.predictor import Embedding
from dbsam.inference.shared import SharedPredictor
from dbsam.preprocess.sampling import Region
from dbsam.preprocess.slices import SliceImages
from dbsam.progress import CancelToken

# Of the cache's room, for embeddings that are computed before they are needed: one part for each direction, and as
# much again for the one at hand.
_SHARE_OF_CACHE_AHEAD = 4


class SliceEncoder:
    """Gives the embeddings of one volume along one axis, from the cache where it has them.

    Args:
        shared: The model and the cache.
        images: The slices.
        cancel: Ends the work.
    """

    def __init__(self, shared: SharedPredictor, images: SliceImages, cancel: CancelToken) -> None:
        self._shared, self._images, self._cancel = shared, images, cancel
        self._predictor, self._cache, self._cost = shared.predictor, shared.cache, shared.cost
        self._slice_hw = images.volume.geometry.slice_hw(images.axis)
        self._spacing_xy = images.volume.slice_spacing_xy(images.axis)
        self._intensity = f"{images.window.low!r}:{images.window.high!r}"
        self._encoded: set[EmbeddingKey] = set()
        self._used: set[EmbeddingKey] = set()
        self._found: set[EmbeddingKey] = set()

    @property
    def hits(self) -> int:
        """How many embeddings were there before this run."""
        return len(self._found)

    @property
    def encoded(self) -> int:
        """How many embeddings this run had to compute."""
        return len(self._encoded)

    @property
    def batch_size(self) -> int:
        """How many slices to encode at once at the present pace."""
        return self._cost.batch_size(self._shared.batch_size)

    @property
    def cache_capacity(self) -> int | None:
        """How many embeddings the cache can hold; None before the first was computed."""
        nbytes = self._cost.embedding_nbytes
        return None if nbytes is None else self._cache.max_bytes // max(nbytes, 1)

    def region_for(self, box_xyxy: FloatArray) -> Region:
        """Returns the part of a slice that the model is to see for a rectangle."""
        return self._predictor.region_for(box_xyxy, self._slice_hw, self._spacing_xy)

    def holds(self, index: int, box_xyxy: FloatArray) -> bool:
        """Returns whether the cache has an embedding that serves a rectangle of slice `index`."""
        key = self.key(index, self.region_for(box_xyxy))
        held = self._cache.holds(key, self._serves(index, box_xyxy))
        if held:
            self._used.add(key)
        return held

    def _serves(self, index: int, box_xyxy: FloatArray) -> Callable[[Region], bool]:
        """Which other regions would do: what a run finds must not depend on what was asked before it."""

        def serves(region: Region) -> bool:
            known = self._shared.nearby or self.key(index, region) in self._used
            return known and self._predictor.reusable(region, box_xyxy)

        return serves

    def cached(self, index: int, box_xyxy: FloatArray, region: Region | None = None) -> Embedding | None:
        """Returns the cache's embedding that serves a rectangle of slice `index`, preferably that of `region`."""
        key = self.key(index, region or self.region_for(box_xyxy))
        embedding = self._cache.find(key, self._serves(index, box_xyxy))
        if embedding is not None:
            found = self.key(index, embedding.region)
            if found not in self._encoded:
                self._found.add(found)
            self._used.add(found)
        return embedding

    def embedding(
        self, index: int, box_xyxy: FloatArray, whole_box_xyxy: FloatArray, ahead: Iterable[tuple[int, FloatArray]]
    ) -> Embedding:
        """Returns an embedding that serves a rectangle of slice `index`; computes it if the cache has none.

        Args:
            index: The slice.
            box_xyxy: The rectangle.
            whole_box_xyxy: The rectangle of the whole prompt on the slice. Its region is known before the slices
                before it are segmented, and other rectangles can share it: it is preferred where it serves.
            ahead: Slices, with their whole rectangles, that are likely needed next. They join the batch.

        Raises:
            Cancelled: the token was cancelled.
        """
        region = self.region_for(whole_box_xyxy)
        shared = self._predictor.reusable(region, box_xyxy)
        if not shared:
            region = self.region_for(box_xyxy)
        found = self.cached(index, box_xyxy, region)
        if found is not None:
            return found
        wanted = [(index, region)]
        room = min(self.batch_size, (self.cache_capacity or 0) // _SHARE_OF_CACHE_AHEAD)
        if shared and room > 1:
            for other, other_box in ahead:
                if len(wanted) == room:
                    break
                if not self.holds(other, other_box):
                    wanted.append((other, self.region_for(other_box)))
        return self.encode(wanted)[0]

    def encode(self, wanted: Sequence[tuple[int, Region]]) -> list[Embedding]:
        """Computes the embeddings of some regions of slices in one batch, and keeps them in the cache.

        Raises:
            Cancelled: the token was cancelled.
        """
        started = time.perf_counter()
        images = []
        for index, _ in wanted:
            self._cancel.raise_if_cancelled()
            images.append(self._images.image(index))
        with self._shared.lock:
            self._cancel.raise_if_cancelled()
            embeddings = list(self._predictor.encode(images, [region for _, region in wanted]))
        for (index, region), embedding in zip(wanted, embeddings, strict=True):
            key = self.key(index, region)
            self._cache.put(key, embedding)
            self._encoded.add(key)
            self._used.add(key)
            self._cost.embedding_nbytes = embedding.nbytes
        self._cost.encoded(len(wanted), time.perf_counter() - started)
        return embeddings

    def key(self, index: int, region: Region) -> EmbeddingKey:
        """Returns all that the embedding of a region of slice `index` depends on."""
        return EmbeddingKey(
            image=self._images.volume.identity,
            axis=self._images.axis,
            slice=index,
            intensity=self._intensity,
            channels=self._images.channels,
            model=self._predictor.signature,
            region=region,
        )
