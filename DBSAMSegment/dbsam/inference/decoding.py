"""From an embedding and a rectangle to the mask of one slice, on the volume's own pixels."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.grid import FloatArray
from dbsam.inference.decoded_cache import DecodedKey
from dbsam.inference.embedding_cache import EmbeddingKey
from dbsam.inference.predictor import DecodedMasks, Embedding
from dbsam.inference.shared import SharedPredictor
from dbsam.preprocess.prompts import PromptPlan, SlicePoint, Window
from dbsam.preprocess.sampling import Region, logits_to_slice
from dbsam.progress import CancelToken


@dataclass(frozen=True, eq=False)
class SliceMask:
    """The mask of one slice.

    Attributes:
        index: The slice.
        box_xyxy: (4,) rectangle that prompted it.
        mask: Over the plan's window, [y, x].
        predicted_iou: The decoder's own estimate of the mask's IoU.
        touches_edge: Whether the mask reaches the edge of the rectangle or of the prompt's cut.
        clicks: How many clicks prompted it, too.
    """

    index: int
    box_xyxy: FloatArray
    mask: NDArray[np.bool_]
    predicted_iou: float
    touches_edge: bool
    clicks: int = 0

    @property
    def area_pixels(self) -> int:
        """Number of pixels in the mask."""
        return int(np.count_nonzero(self.mask))


class SliceDecoder:
    """Decodes masks within a plan.

    Args:
        shared: The model and the cache of its answers.
        plan: What may be set.
        key_of: Gives the key of the embedding of a slice and region.
        cancel: Ends the work.
    """

    def __init__(
        self,
        shared: SharedPredictor,
        plan: PromptPlan,
        key_of: Callable[[int, Region], EmbeddingKey],
        cancel: CancelToken,
    ) -> None:
        self._shared, self._plan, self._key_of, self._cancel = shared, plan, key_of, cancel

    def decode(
        self, index: int, box_xyxy: FloatArray, embedding: Embedding, points: tuple[SlicePoint, ...] = ()
    ) -> SliceMask:
        """Returns the mask of a rectangle and clicks, without the pixels that the plan doesn't allow.

        Clicks are given as they were made: the model sees each with those before it and with the mask that these had
        given, the first with the rectangle's own.

        Raises:
            Cancelled: the token was cancelled.
        """
        started = time.perf_counter()
        decoded = self._decoded(index, box_xyxy, embedding, points)
        window = self._plan.window
        # Seen from the window's first pixel, so that only the window is sampled.
        region = Region(
            embedding.region.x0 - window.x_first,
            embedding.region.y0 - window.y_first,
            embedding.region.x1 - window.x_first,
            embedding.region.y1 - window.y_first,
        )
        logits, pixels = logits_to_slice(decoded.logits[0], region, window.shape_hw)
        inside = self._plan.inside(index)
        mask = np.zeros(window.shape_hw, dtype=bool)
        mask[pixels] = (logits > 0) & inside[pixels]
        touches = self._touches(mask, inside, box_xyxy)
        self._shared.cost.decoded(time.perf_counter() - started)
        return SliceMask(index, box_xyxy, mask, float(decoded.predicted_iou[0]), touches, len(points))

    def _decoded(
        self, index: int, box_xyxy: FloatArray, embedding: Embedding, points: tuple[SlicePoint, ...]
    ) -> DecodedMasks:
        key = DecodedKey(self._key_of(index, embedding.region), tuple(float(edge) for edge in box_xyxy), points)
        decoded = self._shared.decoded.find(key)
        if decoded is not None:
            return decoded
        if points:
            former = self._decoded(index, box_xyxy, embedding, points[:-1])
            points_xy = np.array([[(point.x, point.y) for point in points]])
            labels = np.array([[int(point.include) for point in points]])
        self._cancel.raise_if_cancelled()
        with self._shared.lock:
            if points:
                decoded = self._shared.predictor.decode(embedding, box_xyxy[None], points_xy, labels, former.logits)
            else:
                decoded = self._shared.predictor.decode(embedding, box_xyxy[None])
        self._shared.decoded.put(key, decoded)
        return decoded

    def empty(self, index: int, box_xyxy: FloatArray) -> SliceMask:
        """Returns the mask of a slice without the object."""
        return SliceMask(index, box_xyxy, np.zeros(self._plan.window.shape_hw, dtype=bool), 0.0, False)

    def _touches(self, mask: NDArray[np.bool_], inside: NDArray[np.bool_], box_xyxy: FloatArray) -> bool:
        """Whether the mask has a pixel beside one, on the slice, that the rectangle or the prompt leaves out."""
        window = self._plan.window
        height, width = self._plan.slice_hw
        allowed = np.zeros((mask.shape[0] + 2, mask.shape[1] + 2), dtype=bool)
        core = allowed[1:-1, 1:-1]
        in_box = Window.of_centres_in(box_xyxy).within(window)
        core[in_box] = inside[in_box]
        # The image's own border cuts an object off, but no larger box would show more of it.
        if window.x_first == 0:
            allowed[:, 0] = True
        if window.y_first == 0:
            allowed[0] = True
        if window.x_last == width - 1:
            allowed[:, -1] = True
        if window.y_last == height - 1:
            allowed[-1] = True
        surrounded = core & allowed[:-2, 1:-1] & allowed[2:, 1:-1] & allowed[1:-1, :-2] & allowed[1:-1, 2:]
        return bool((mask & ~surrounded).any())
