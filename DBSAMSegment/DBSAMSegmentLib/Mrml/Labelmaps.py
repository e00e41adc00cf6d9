"""Masks on a volume's grid as labelmaps on a segmentation's grid."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

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
    """The smallest block with all voxels of the mask, as a view; a single empty voxel if it has none."""
    filled_JI = mask_KJI.any(axis=0)  # one pass over the mask for I and J, one for K
    filled_K = np.array([slice_JI.any() for slice_JI in mask_KJI])
    block = []
    for filled in (filled_JI.any(axis=0), filled_JI.any(axis=1), filled_K):
        inside = np.flatnonzero(filled)
        block.append((int(inside[0]), int(inside[-1])) if inside.size else (0, 0))
    (i0, i1), (j0, j1), (k0, k1) = block
    moved = tuple((first + start, last + start) for (start, _), (first, last) in zip(extent_ijk, block, strict=True))
    return mask_KJI[k0 : k1 + 1, j0 : j1 + 1, i0 : i1 + 1], moved


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


def orientedImage(
    values_KJI: np.ndarray, extent: list[int], imageToWorld: vtk.vtkMatrix4x4
) -> slicer.vtkOrientedImageData:
    """A vtkOrientedImageData, 1 where the values aren't 0, with the first of them at the start of the extent."""
    image, voxels_KJI = _newImage(extent, imageToWorld)
    np.not_equal(values_KJI, 0, out=voxels_KJI.view(bool))
    return image


def _newImage(extent: list[int], imageToWorld: vtk.vtkMatrix4x4) -> tuple[slicer.vtkOrientedImageData, np.ndarray]:
    """An image of bytes and its voxels, to be filled in place: a large mask is copied once, not at every step."""
    image = slicer.vtkOrientedImageData()
    image.SetExtent(extent)
    image.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 1)
    image.SetGeometryFromImageToWorldMatrix(imageToWorld)
    return image, vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])


def _leaves(bounds: tuple[int, ...], mask_KJI: np.ndarray, extent_ijk: Extent, volumeToReference: np.ndarray) -> bool:
    """Whether the centre of a mask voxel lies beyond the reference geometry's voxels."""
    low, high = np.array(bounds[::2]) - 0.5, np.array(bounds[1::2]) + 0.5

    def beyond(points_ijk: np.ndarray) -> bool:
        inReference = points_ijk @ volumeToReference[:3, :3].T + volumeToReference[:3, 3]
        return bool(((inReference < low) | (inReference > high)).any())

    # The reference geometry is convex: a block lies in it if its corners do, and a row of voxels if its two ends do.
    if not beyond(np.array(list(itertools.product(*extent_ijk)))):
        return False
    starts = np.array([first for first, _ in extent_ijk])
    return any(beyond(_rowEnds(slice_JI, k) + starts) for k, slice_JI in enumerate(mask_KJI))


def _rowEnds(slice_JI: np.ndarray, k: int) -> np.ndarray:
    """First and last inside voxel of every row of a slice that has any: (N, 3) indices I, J, K into the mask."""
    inside = slice_JI.astype(bool)
    j = np.flatnonzero(inside.any(axis=1))
    first, last = inside[j].argmax(axis=1), inside.shape[1] - 1 - inside[j, ::-1].argmax(axis=1)
    return np.stack([np.append(first, last), np.append(j, j), np.full(2 * len(j), k)], axis=1)


def _resampled(
    mask_KJI: np.ndarray,
    extent_ijk: Extent,
    volumeToRas: vtk.vtkMatrix4x4,
    volumeToSegmentation: np.ndarray,
    reference: slicer.vtkOrientedImageData,
    block: tuple[list[int], list[int]],
) -> np.ndarray:
    extent = [bound for first, last in extent_ijk for bound in (first - 1, last + 1)]
    source, padded = _newImage(extent, volumeToRas)
    padded[...] = 0
    np.not_equal(mask_KJI, 0, out=padded[1:-1, 1:-1, 1:-1].view(bool))
    padded *= 2 * _HALF
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
    return (vtk_to_numpy(output.GetPointData().GetScalars()).reshape(shape) >= _HALF).view(np.uint8)
