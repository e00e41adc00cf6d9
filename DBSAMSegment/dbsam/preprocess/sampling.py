"""Between a slice's pixels and the network's square input, both ways; training and inference share it.

Pixel coordinates have their centres at integers: pixel i spans [i - 0.5, i + 0.5].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LEAST_PIXELS = 16.0


@dataclass(frozen=True)
class Region:
    """A rectangle of a slice that the network sees, by its edges in pixels; it may reach beyond the slice."""

    x0: float
    y0: float
    x1: float
    y1: float

    def __post_init__(self) -> None:
        if not (self.x1 > self.x0 and self.y1 > self.y0):
            raise ValueError(f"Region {self} has no area.")

    @property
    def width(self) -> float:
        """Extent along x in pixels."""
        return self.x1 - self.x0

    @property
    def height(self) -> float:
        """Extent along y in pixels."""
        return self.y1 - self.y0

    def contains(self, box_xyxy: NDArray[np.floating]) -> bool:
        """Whether the box lies inside the region."""
        x0, y0, x1, y1 = box_xyxy
        return bool(x0 >= self.x0 and y0 >= self.y0 and x1 <= self.x1 and y1 <= self.y1)

    def boxes_to_input(self, boxes_xyxy: NDArray[np.floating], input_size: int) -> NDArray[np.float64]:
        """Boxes (N, 4) on the slice to boxes in the pixels of the square input."""
        corners = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 2, 2)
        return self.points_to_input(corners, input_size).reshape(-1, 4)

    def points_to_input(self, points_xy: NDArray[np.floating], input_size: int) -> NDArray[np.float64]:
        """Points (..., 2) on the slice to points in the pixels of the square input."""
        scale = input_size / np.array([self.width, self.height])
        return (np.asarray(points_xy, dtype=np.float64) - [self.x0, self.y0]) * scale - 0.5


def box_region(box_xyxy: NDArray[np.floating], spacing_xy: tuple[float, float], context: float) -> Region:
    """The physically square region round a box, at least 16 pixels of the finer spacing wide.

    Args:
        box_xyxy: Box on the slice, in pixels.
        spacing_xy: Pixel spacing in mm; only the ratio matters.
        context: Side of the region over the longer side of the box.

    Returns:
        The region, centred on the box.
    """
    x0, y0, x1, y1 = (float(v) for v in box_xyxy)
    finest = min(spacing_xy)
    side_mm = max((x1 - x0) * spacing_xy[0], (y1 - y0) * spacing_xy[1]) * context
    side_mm = max(side_mm, _LEAST_PIXELS * finest)
    half_x, half_y = side_mm / spacing_xy[0] / 2, side_mm / spacing_xy[1] / 2
    centre_x, centre_y = (x0 + x1) / 2, (y0 + y1) / 2
    return Region(centre_x - half_x, centre_y - half_y, centre_x + half_x, centre_y + half_y)


def slice_region(slice_hw: tuple[int, int], spacing_xy: tuple[float, float], square: bool) -> Region:
    """The region of a whole slice.

    Args:
        slice_hw: Height and width in pixels.
        spacing_xy: Pixel spacing in mm; only the ratio matters.
        square: True keeps the physical shape and reaches beyond the shorter side (SAM pads at the bottom and right);
            False stretches the slice to the square input (MedSAM).
    """
    height, width = slice_hw
    if not square:
        return Region(-0.5, -0.5, width - 0.5, height - 0.5)
    side_mm = max(width * spacing_xy[0], height * spacing_xy[1])
    return Region(-0.5, -0.5, side_mm / spacing_xy[0] - 0.5, side_mm / spacing_xy[1] - 0.5)


@dataclass(frozen=True)
class _Taps:
    """Linear samples along one axis: output n is the sum over t of weights[n, t] * source[indices[n, t]].

    `valid` says whether n lies inside the source.
    """

    indices: NDArray[np.intp]
    weights: NDArray[np.float32]
    valid: NDArray[np.float32]


def _taps(source_size: int, first: float, step: float, count: int) -> _Taps:
    """Triangle filter at first + n * step, widened to the step when that is coarser than the source (antialiasing)."""
    support = max(1.0, step)
    centres = first + step * np.arange(count)
    indices = np.floor(centres - support).astype(np.intp)[:, None] + np.arange(1, int(np.ceil(2 * support)) + 1)
    weights = np.clip(1.0 - np.abs(indices - centres[:, None]) / support, 0.0, None)
    weights[(indices < 0) | (indices >= source_size)] = 0.0
    total = weights.sum(1, keepdims=True)
    weights = np.divide(weights, total, out=np.zeros_like(weights), where=total > 1e-6)
    valid = (centres >= -0.5) & (centres <= source_size - 0.5)
    return _Taps(indices.clip(0, source_size - 1), weights.astype(np.float32), valid.astype(np.float32))


def _apply(image: NDArray[np.generic], rows: _Taps, columns: _Taps) -> NDArray[np.float32]:
    left = columns.indices.min()
    seen = image[:, left : columns.indices.max() + 1]
    along_rows = _weighted_sum(seen, rows.indices, rows.weights, 0)
    sampled = _weighted_sum(along_rows, columns.indices - left, columns.weights, 1)
    return sampled.astype(np.float32, copy=False)


def _weighted_sum(
    image: NDArray[np.generic], indices: NDArray[np.intp], weights: NDArray[np.float32], axis: int
) -> NDArray[np.generic]:
    # Not a product of matrices: NumPy's would start threads, which keep the network's waiting long after.
    shape = [-1 if n == axis else 1 for n in range(image.ndim)]
    taps = zip(indices.T, weights.T, strict=True)
    return sum(weight.reshape(shape) * image.take(index, axis) for index, weight in taps)


def resample_slice(
    image: NDArray[np.generic], region: Region, size: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sample a region of a slice to the network's input, linear, antialiased when shrinking.

    Args:
        image: (H, W) or (H, W, C).
        region: What to sample.
        size: Side of the output in pixels.

    Returns:
        The sampled image (size, size[, C]) and its validity (size, size): 1 inside the slice, 0 beyond it.
    """
    height, width = image.shape[:2]
    step_x, step_y = region.width / size, region.height / size
    rows = _taps(height, region.y0 + step_y / 2, step_y, size)
    columns = _taps(width, region.x0 + step_x / 2, step_x, size)
    return _apply(image, rows, columns), rows.valid[:, None] * columns.valid[None, :]


def to_source_grid(image: NDArray[np.generic], region: Region, grid: int) -> NDArray[np.uint8]:
    """Reduce a region of a slice to a grid of whole grey values, as the paper's images of 256x256 are kept.

    Args:
        image: (H, W, C), 0..255.
        region: What to sample, within the slice.
        grid: Side of the output in pixels.

    Returns:
        (grid, grid, C).
    """
    return np.rint(resample_slice(image, region, grid)[0]).clip(0, 255).astype(np.uint8)


def network_input(
    image: NDArray[np.uint8], region: Region, size: int, source_grid: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Sample a region of a slice to the network's input, by way of the grid on which it was trained.

    Args:
        image: (H, W, C), 0..255.
        region: What to sample.
        size: Side of the input in pixels.
        source_grid: Side of the grid between; 0 for none. See `DBSAMConfig.source_grid`.

    Returns:
        As `resample_slice`.
    """
    if not source_grid:
        return resample_slice(image, region, size)
    whole = slice_region((source_grid, source_grid), (1.0, 1.0), square=False)
    return resample_slice(to_source_grid(image, region, source_grid), whole, size)


def logits_to_slice(
    logits: NDArray[np.floating], region: Region, slice_hw: tuple[int, int]
) -> tuple[NDArray[np.float32], tuple[slice, slice]]:
    """Sample logits of a region at the pixels of the slice.

    Args:
        logits: (h, w) over `region`.
        region: Where the logits lie.
        slice_hw: Height and width of the slice in pixels.

    Returns:
        Logits at the slice's pixels whose centres lie in the region, and their (rows, columns) on the slice.
    """
    bounds = []
    taps = []
    for low, extent, size, cells in (
        (region.y0, region.height, slice_hw[0], logits.shape[0]),
        (region.x0, region.width, slice_hw[1], logits.shape[1]),
    ):
        start = int(np.clip(np.ceil(low), 0, size))
        stop = int(np.clip(np.floor(low + extent) + 1, start, size))
        step = cells / extent
        bounds.append(slice(start, stop))
        first = (start - low) * step - 0.5
        taps.append(_taps(cells, first, step, stop - start) if stop > start else None)
    rows, columns = taps
    if rows is None or columns is None:
        return np.zeros((0, 0), np.float32), (bounds[0], bounds[1])
    return _apply(np.asarray(logits), rows, columns), (bounds[0], bounds[1])
