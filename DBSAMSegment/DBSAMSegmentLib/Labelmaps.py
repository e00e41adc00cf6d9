"""Masks on a volume's grid as labelmaps on a segmentation's grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

from .Geometry import arrayFromMatrix, matrixBetween, matrixFromArray, nodeName

# ((first I, last I), (first J, last J), (first K, last K)), both included
Extent = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

# A mask is interpolated as 0 to 2 * this, so that half way between inside and outside is exactly the threshold.
_HALF = 100


@dataclass(frozen=True)
class ModifierLabelmap:
    """A labelmap on the lattice of a segmentation's reference geometry.

    Attributes:
        image: voxels 0 and 1 over `extent` only.
        extent: (i0, i1, j0, j1, k0, k1) in the reference geometry's indices, both included.
        clipped: part of the mask lies outside the reference geometry and is missing here.
    """

    image: slicer.vtkOrientedImageData
    extent: list[int]
    clipped: bool


def croppedToMask(mask_KJI: np.ndarray, extent_ijk: Extent) -> tuple[np.ndarray, Extent]:
    """The smallest block with all voxels of the mask; a single empty voxel if it has none."""
    starts = [first for first, _ in extent_ijk]
    block = []
    for axis in range(3):
        along = mask_KJI.any(axis=tuple(other for other in range(3) if other != 2 - axis))
        inside = np.flatnonzero(along)
        block.append((int(inside[0]), int(inside[-1])) if inside.size else (0, 0))
    (i0, i1), (j0, j1), (k0, k1) = block
    cropped = np.ascontiguousarray(mask_KJI[k0 : k1 + 1, j0 : j1 + 1, i0 : i1 + 1] != 0).astype(np.uint8)
    moved = tuple((first + start, last + start) for start, (first, last) in zip(starts, block, strict=True))
    return cropped, moved


def referenceGeometry(
    segmentationNode: slicer.vtkMRMLSegmentationNode, volumeNode: slicer.vtkMRMLScalarVolumeNode
) -> slicer.vtkOrientedImageData:
    """The grid that the segmentation is edited on (no voxels); a segmentation without one gets the volume's."""
    logic = slicer.vtkSlicerSegmentEditorLogic
    serialized = logic.GetReferenceImageGeometryStringFromSegmentation(segmentationNode.GetSegmentation())
    if not serialized:
        segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        serialized = logic.GetReferenceImageGeometryStringFromSegmentation(segmentationNode.GetSegmentation())
    image = slicer.vtkOrientedImageData()
    if not slicer.vtkSegmentationConverter.DeserializeImageGeometry(serialized, image, False):
        raise ValueError(
            f"The segmentation {nodeName(segmentationNode)} has no usable geometry: set it in the Segment Editor"
            " (Specify geometry, the button beside the source volume)."
        )
    return image


def modifierLabelmap(
    mask_KJI: np.ndarray,
    extent_ijk: Extent,
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    segmentationNode: slicer.vtkMRMLSegmentationNode,
) -> ModifierLabelmap:
    """Brings a mask onto the lattice of the segmentation, resampling only where the lattices differ.

    Args:
        mask_KJI: mask over `extent_ijk`; non-zero is inside.
        extent_ijk: where the mask lies on the volume's grid.
        volumeNode: the volume that was segmented.
        segmentationNode: the segmentation to be written to; it may be finer or coarser than the volume, turned
            against it, or under another linear transform.

    Raises:
        GeometryError: one of the nodes is under a non-linear transform.
    """
    reference = referenceGeometry(segmentationNode, volumeNode)
    referenceToRas = vtk.vtkMatrix4x4()
    reference.GetImageToWorldMatrix(referenceToRas)
    volumeToRas = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(volumeToRas)
    volumeToSegmentation = matrixBetween(volumeNode, segmentationNode)
    volumeToReference = (
        np.linalg.inv(arrayFromMatrix(referenceToRas)) @ volumeToSegmentation @ arrayFromMatrix(volumeToRas)
    )
    mask_KJI, extent_ijk = croppedToMask(mask_KJI, extent_ijk)

    offset = np.rint(volumeToReference[:3, 3])
    sameLattice = np.allclose(volumeToReference[:3, :3], np.eye(3), atol=1e-5) and np.allclose(
        volumeToReference[:3, 3], offset, atol=1e-3
    )
    if sameLattice:
        low = [first + int(offset[axis]) for axis, (first, _) in enumerate(extent_ijk)]
        high = [last + int(offset[axis]) for axis, (_, last) in enumerate(extent_ijk)]
    else:
        # Half a voxel around the mask's voxels, as a voxel of a finer grid may belong to the outer half of ours.
        edges = np.array([(first - 0.5, last + 0.5) for first, last in extent_ijk])
        corners = np.array([(i, j, k, 1) for i in edges[0] for j in edges[1] for k in edges[2]])
        inReference = (corners @ volumeToReference.T)[:, :3]
        low = np.floor(inReference.min(axis=0)).astype(int).tolist()
        high = np.ceil(inReference.max(axis=0)).astype(int).tolist()
    bounds = reference.GetExtent()
    lowest = [max(low[axis], bounds[2 * axis]) for axis in range(3)]
    highest = [min(high[axis], bounds[2 * axis + 1]) for axis in range(3)]
    hasMask = bool(mask_KJI.any())
    if any(first > last for first, last in zip(lowest, highest, strict=True)):
        lowest = highest = [bounds[0], bounds[2], bounds[4]]
        values, clipped = np.zeros((1, 1, 1), np.uint8), hasMask
    elif sameLattice:
        i, j, k = (slice(lowest[axis] - low[axis], highest[axis] - low[axis] + 1) for axis in range(3))
        values = mask_KJI[k, j, i]
        clipped = hasMask and values.shape != mask_KJI.shape
    else:
        values = _resampled(mask_KJI, extent_ijk, volumeToRas, volumeToSegmentation, reference, (lowest, highest))
        clipped = hasMask and _leaves(bounds, mask_KJI, extent_ijk, volumeToReference)

    extent = [bound for axis in range(3) for bound in (lowest[axis], highest[axis])]
    image = orientedImage(values, extent, referenceToRas)
    return ModifierLabelmap(image, extent, clipped)


def grownToSegment(
    labelmap: ModifierLabelmap, segmentationNode: slicer.vtkMRMLSegmentationNode, segmentId: str
) -> ModifierLabelmap:
    """The labelmap padded with zeros so that it covers the whole segment as it is now.

    Slicer keeps the protected part of a segment that is being set only within the labelmap that it is set to.
    """
    segment = segmentationNode.GetSegmentation().GetSegment(segmentId)
    layer = segmentationNode.GetBinaryLabelmapInternalRepresentation(segmentId)
    i0, i1, j0, j1, k0, k1 = layer.GetExtent()
    if i0 > i1 or j0 > j1 or k0 > k1:
        return labelmap
    shape = (k1 - k0 + 1, j1 - j0 + 1, i1 - i0 + 1)
    values = vtk_to_numpy(layer.GetPointData().GetScalars()).reshape(shape) == segment.GetLabelValue()
    if not values.any():
        return labelmap
    _, existing = croppedToMask(values, ((i0, i1), (j0, j1), (k0, k1)))
    old = [labelmap.extent[2 * axis : 2 * axis + 2] for axis in range(3)]
    new = [(min(a, c), max(b, d)) for (a, b), (c, d) in zip(old, existing, strict=True)]
    padding = [(a - c, d - b) for (a, b), (c, d) in zip(old, new, strict=True)]
    oldShape = tuple(last - first + 1 for first, last in reversed(old))
    scalars = vtk_to_numpy(labelmap.image.GetPointData().GetScalars()).reshape(oldShape)
    imageToWorld = vtk.vtkMatrix4x4()
    labelmap.image.GetImageToWorldMatrix(imageToWorld)
    extent = [bound for pair in new for bound in pair]
    return ModifierLabelmap(
        orientedImage(np.pad(scalars, padding[::-1]), extent, imageToWorld), extent, labelmap.clipped
    )


def orientedImage(
    values_KJI: np.ndarray, extent: list[int], imageToWorld: vtk.vtkMatrix4x4
) -> slicer.vtkOrientedImageData:
    """A vtkOrientedImageData with a copy of the values, its first voxel at the start of the extent."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(extent)
    scalars = numpy_to_vtk(np.ascontiguousarray(values_KJI, np.uint8).ravel(), deep=True)
    scalars.SetName("ImageScalars")
    image.GetPointData().SetScalars(scalars)
    image.SetGeometryFromImageToWorldMatrix(imageToWorld)
    return image


def _leaves(bounds: tuple[int, ...], mask_KJI: np.ndarray, extent_ijk: Extent, volumeToReference: np.ndarray) -> bool:
    """Whether the centre of a mask voxel lies beyond the reference geometry's voxels."""
    points = np.argwhere(mask_KJI)[:, ::-1] + np.array([first for first, _ in extent_ijk])
    inReference = points @ volumeToReference[:3, :3].T + volumeToReference[:3, 3]
    low, high = np.array(bounds[::2]) - 0.5, np.array(bounds[1::2]) + 0.5
    return bool(((inReference < low) | (inReference > high)).any())


def _resampled(
    mask_KJI: np.ndarray,
    extent_ijk: Extent,
    volumeToRas: vtk.vtkMatrix4x4,
    volumeToSegmentation: np.ndarray,
    reference: slicer.vtkOrientedImageData,
    block: tuple[list[int], list[int]],
) -> np.ndarray:
    padded = np.pad(mask_KJI * np.uint8(2 * _HALF), 1)
    extent = [bound for first, last in extent_ijk for bound in (first - 1, last + 1)]
    source = orientedImage(padded, extent, volumeToRas)
    target = slicer.vtkOrientedImageData()
    target.ShallowCopy(reference)
    target.SetExtent([bound for axis in range(3) for bound in (block[0][axis], block[1][axis])])
    transform = vtk.vtkTransform()
    transform.SetMatrix(matrixFromArray(volumeToSegmentation))
    output = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        source, target, output, True, False, transform
    )
    shape = tuple(block[1][axis] - block[0][axis] + 1 for axis in (2, 1, 0))
    return (vtk_to_numpy(output.GetPointData().GetScalars()).reshape(shape) >= _HALF).astype(np.uint8)
