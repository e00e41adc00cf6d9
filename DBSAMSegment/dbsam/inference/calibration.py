"""How good a mask probably is: from a model's own estimate to what such masks had where the truth was known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

METRIC = "calibration"
"""Name under which a checkpoint's metrics keep the curve."""


@dataclass(frozen=True)
class Calibration:
    """A monotone curve from a model's predicted IoU to the IoU that was measured, straight between its points.

    Attributes:
        predicted: Predicted IoU of the points, ascending.
        measured: Mean measured IoU there, 0..1, not descending.

    Raises:
        ValueError: The points are not such a curve.
    """

    predicted: tuple[float, ...]
    measured: tuple[float, ...]

    def __post_init__(self) -> None:
        x, y = np.asarray(self.predicted, float), np.asarray(self.measured, float)
        rises = (
            x.ndim == 1 and x.shape == y.shape and len(x) >= 2 and (np.diff(x) > 0).all() and (np.diff(y) >= 0).all()
        )
        if not rises or not np.isfinite(x).all() or y.min() < 0 or y.max() > 1:
            raise ValueError(f"No calibration curve: predicted {self.predicted}, measured {self.measured}.")

    def __call__(self, predicted_iou: NDArray[np.floating]) -> NDArray[np.float32]:
        """The IoU to expect of masks with these predicted IoUs; beyond the curve's ends, that of the end."""
        return np.interp(predicted_iou, self.predicted, self.measured).astype(np.float32)

    def to_metric(self) -> dict[str, list[float]]:
        """JSON-ready values, to be kept under `METRIC`."""
        return {"predicted_iou": list(self.predicted), "iou": list(self.measured)}

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> Calibration | None:
        """The curve among a checkpoint's metrics; None where there is none.

        Raises:
            ValueError: It is no curve.
        """
        found = metrics.get(METRIC)
        if found is None:
            return None
        try:
            return cls(tuple(map(float, found["predicted_iou"])), tuple(map(float, found["iou"])))
        except (TypeError, KeyError) as error:
            raise ValueError(f"No calibration curve: {str(found)[:80]}.") from error
