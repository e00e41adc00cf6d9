"""What a segment holds now, on the lattice of its segmentation."""

from __future__ import annotations

import zlib

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from .Labelmaps import Extent, ModifierLabelmap, croppedToMask, orientedImage


def voxelsOf(segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str) -> tuple[np.ndarray, list[int]]:
    """(bool voxels (K, J, I), their extent in the reference geometry's indices); no voxels for an empty segment."""
    layer = segmentationNode.GetBinaryLabelmapInternalRepresentation(segmentId)
    extent = list(layer.GetExtent()) if layer is not None else [0, -1, 0, -1, 0, -1]
    shape = [extent[2 * axis + 1] - extent[2 * axis] + 1 for axis in (2, 1, 0)]
    if min(shape) < 1:
        return np.zeros((0, 0, 0), bool), extent
    label = segmentationNode.GetSegmentation().GetSegment(segmentId).GetLabelValue()
    return vtk_to_numpy(layer.GetPointData().GetScalars()).reshape(shape) == label, extent


def digestOf(segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str) -> int:
    """Changes with the segment's voxels and with nothing else, such as those of segments in the same labelmap."""
    voxels, extent = voxelsOf(segmentationNode, segmentId)
    if not voxels.any():
        return 0
    cropped, place = croppedToMask(voxels, _pairs(extent))
    return zlib.crc32(np.packbits(cropped).tobytes(), zlib.crc32(repr(place).encode()))


def heldBackOf(
    labelmap: ModifierLabelmap, segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str, mode: str
) -> int:
    """How many voxels of a labelmap that was set or added to a segment the segment doesn't have; 0 for "remove"."""
    if mode == "remove":
        return 0
    found = _placed(*voxelsOf(segmentationNode, segmentId), labelmap.extent)
    return int(np.count_nonzero(_valuesOf(labelmap) > found))


def keptOutside(
    labelmap: ModifierLabelmap,
    region: ModifierLabelmap,
    segmentationNode: slicer.vtkMRMLSegmentationNode,
    segmentId: str,
) -> ModifierLabelmap:
    """The segment as it is now outside a region, and the labelmap inside it."""
    voxels, extent = voxelsOf(segmentationNode, segmentId)
    if not voxels.any():
        return labelmap
    union = _union(labelmap.extent, extent)
    inside = _placed(_valuesOf(region) != 0, region.extent, union)
    merged = np.where(inside, _placed(_valuesOf(labelmap) != 0, labelmap.extent, union), _placed(voxels, extent, union))
    return _withValues(labelmap, merged, union)


def grownToSegment(
    labelmap: ModifierLabelmap, segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str
) -> ModifierLabelmap:
    """The labelmap padded with zeros so that it covers the whole segment as it is now.

    Slicer keeps the protected part of a segment that is being set only within the labelmap that it is set to.
    """
    voxels, extent = voxelsOf(segmentationNode, segmentId)
    if not voxels.any():
        return labelmap
    _, existing = croppedToMask(voxels, _pairs(extent))
    union = _union(labelmap.extent, [bound for pair in existing for bound in pair])
    return _withValues(labelmap, _placed(_valuesOf(labelmap) != 0, labelmap.extent, union), union)


def _withValues(labelmap: ModifierLabelmap, values_KJI: np.ndarray, extent: list[int]) -> ModifierLabelmap:
    imageToWorld = vtk.vtkMatrix4x4()
    labelmap.image.GetImageToWorldMatrix(imageToWorld)
    return ModifierLabelmap(orientedImage(values_KJI, extent, imageToWorld), extent, labelmap.clipped)


def _pairs(extent: list[int]) -> Extent:
    i0, i1, j0, j1, k0, k1 = extent
    return (i0, i1), (j0, j1), (k0, k1)


def _union(one: list[int], other: list[int]) -> list[int]:
    pairs = zip(one, other, strict=True)
    return [max(pair) if number % 2 else min(pair) for number, pair in enumerate(pairs)]


def _valuesOf(labelmap: ModifierLabelmap) -> np.ndarray:
    shape = [labelmap.extent[2 * axis + 1] - labelmap.extent[2 * axis] + 1 for axis in (2, 1, 0)]
    return vtk_to_numpy(labelmap.image.GetPointData().GetScalars()).reshape(shape)


def _placed(values_KJI: np.ndarray, extent: list[int], onto: list[int]) -> np.ndarray:
    """Values over one extent as they lie on another one, False where they have none."""
    target = np.zeros([onto[2 * axis + 1] - onto[2 * axis] + 1 for axis in (2, 1, 0)], bool)
    here, there = [], []
    for axis in (2, 1, 0):
        first = max(extent[2 * axis], onto[2 * axis])
        end = min(extent[2 * axis + 1], onto[2 * axis + 1]) + 1
        if first >= end:
            return target
        here.append(slice(first - extent[2 * axis], end - extent[2 * axis]))
        there.append(slice(first - onto[2 * axis], end - onto[2 * axis]))
    target[tuple(there)] = values_KJI[tuple(here)]
    return target
