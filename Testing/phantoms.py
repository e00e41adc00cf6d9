"""Volumes whose segmentation is known without segmenting, for the engine's tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from threshold_predictor import ThresholdPredictor

from dbsam.geometry.grid import ImageGeometry, OrientedBox
from dbsam.inference.embedding_cache import EmbeddingCache
from dbsam.inference.segmenter import Volume, VolumeSegmentation, VolumeSegmenter

BRIGHT, DARK = 200, 20


def distance_to_pear_mm(points_ras: NDArray[np.float64]) -> NDArray[np.float64]:
    """Signed distance to two overlapping balls, which look different from every side; negative inside."""
    large, small = np.array([3.0, -2.0, 1.0]), np.array([13.0, 4.0, 7.0])
    return np.minimum(
        np.linalg.norm(points_ras - large, axis=-1) - 13.0, np.linalg.norm(points_ras - small, axis=-1) - 8.0
    )


def centres_ras(geometry: ImageGeometry) -> NDArray[np.float64]:
    """(K, J, I, 3) positions of all voxel centres."""
    ijk = np.stack(np.indices(geometry.shape_KJI)[::-1], axis=-1)
    return ijk @ geometry.ijk_to_ras[:3, :3].T + geometry.ijk_to_ras[:3, 3]


def pear_volume(geometry: ImageGeometry) -> Volume:
    inside = distance_to_pear_mm(centres_ras(geometry)) <= 0
    return Volume(np.where(inside, BRIGHT, DARK).astype(np.uint8), geometry)


def centred_grid(
    rotation: NDArray[np.float64], spacing: tuple[float, float, float], dimensions: tuple[int, int, int]
) -> ImageGeometry:
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.array(spacing)
    matrix[:3, 3] = np.array([6.0, 0.0, 3.0]) - matrix[:3, :3] @ ((np.array(dimensions) - 1) / 2)
    return ImageGeometry(matrix, dimensions)


def random_rotation(rng: np.random.Generator) -> NDArray[np.float64]:
    rotation, triangle = np.linalg.qr(rng.normal(size=(3, 3)))
    return rotation * np.sign(np.diag(triangle))


def rotated_box(rotation: NDArray[np.float64], half_mm: tuple[float, float, float]) -> OrientedBox:
    return OrientedBox(np.array([6.0, 0.0, 3.0]), rotation.T * np.array(half_mm)[:, None])


def assert_is_the_pear_in_the_box(result: VolumeSegmentation, box: OrientedBox) -> None:
    """Within one pixel: no voxel is missing or too much that lies further than that from the surface."""
    in_plane = [spacing for axis, spacing in enumerate(result.geometry.spacing_mm) if axis != result.axis]
    points = centres_ras(result.geometry)
    distance, in_box = distance_to_pear_mm(points), box.contains_ras(points)
    mask = result.labelmap_KJI() > 0
    assert mask[(distance < -max(in_plane)) & in_box].all()
    assert not mask[distance > max(in_plane)].any()
    assert not mask[~in_box].any()


def segmenter(predictor: ThresholdPredictor | None = None, cache: EmbeddingCache | None = None) -> VolumeSegmenter:
    return VolumeSegmenter(predictor or ThresholdPredictor(), cache)


def whole_box(volume: Volume) -> OrientedBox:
    dimensions = volume.geometry.dimensions_ijk
    return OrientedBox.from_ijk((0, 0, 0), tuple(size - 1 for size in dimensions), volume.geometry)


def stack_of_squares(squares: dict[int, tuple[int, int, int, int]], slices: int = 12, size: int = 40) -> Volume:
    """Bright rectangles x0, y0, x1, y1 (pixels, included) on some K-slices of a dark volume of 1 x 1 x 1 mm."""
    voxels = np.full((slices, size, size), DARK, np.uint8)
    for index, (x0, y0, x1, y1) in squares.items():
        voxels[index, y0 : y1 + 1, x0 : x1 + 1] = BRIGHT
    return Volume(voxels, ImageGeometry.from_spacing((1, 1, 1), (size, size, slices)))
