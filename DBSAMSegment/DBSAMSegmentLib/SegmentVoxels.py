"""What a segment holds now, on the lattice of its segmentation."""

from __future__ import annotations

import zlib

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from .Labelmaps import ModifierLabelmap, croppedToMask, orientedImage


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
    i0, i1, j0, j1, k0, k1 = extent
    cropped, place = croppedToMask(voxels, ((i0, i1), (j0, j1), (k0, k1)))
    return zlib.crc32(np.packbits(cropped).tobytes(), zlib.crc32(repr(place).encode()))


def missingOf(labelmap: ModifierLabelmap, segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str) -> int:
    """How many voxels of a labelmap that was written to a segment the segment doesn't have."""
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
    pairs = zip(labelmap.extent, extent, strict=True)
    union = [max(pair) if number % 2 else min(pair) for number, pair in enumerate(pairs)]
    inside = _placed(_valuesOf(region) != 0, region.extent, union)
    merged = np.where(inside, _placed(_valuesOf(labelmap) != 0, labelmap.extent, union), _placed(voxels, extent, union))
    imageToWorld = vtk.vtkMatrix4x4()
    labelmap.image.GetImageToWorldMatrix(imageToWorld)
    return ModifierLabelmap(orientedImage(merged, union, imageToWorld), union, labelmap.clipped)


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
