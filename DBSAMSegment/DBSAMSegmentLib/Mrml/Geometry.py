"""Geometry and voxels out of MRML nodes, in the form that the dbsam library takes.

Everything here is in the volume's own RAS (mm), before its parent transform: the voxel grid stays as acquired and
prompts are brought into it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

if TYPE_CHECKING:
    from dbsam.geometry.grid import ImageGeometry, OrientedBox


class GeometryError(ValueError):
    """A node's geometry that a box prompt can't be used with; the message says what to do."""


def nodeName(node: slicer.vtkMRMLNode) -> str:
    """Name of a node for messages."""
    return f"'{node.GetName()}'"


def requireLinearTransform(node: slicer.vtkMRMLTransformableNode) -> None:
    """Refuses a node under a transform that bends space.

    Raises:
        GeometryError: one of the parent transforms is non-linear.
    """
    transformNode = node.GetParentTransformNode()
    if transformNode is not None and not transformNode.IsTransformToWorldLinear():
        raise GeometryError(
            f"{nodeName(node)} is under the non-linear transform {nodeName(transformNode)}. DB-SAM works on the grid"
            " that the volume was acquired on: harden the transform on the node (Transforms module) or take the node"
            " out of it, then run again."
        )


def matrixBetween(
    fromNode: slicer.vtkMRMLTransformableNode | None, toNode: slicer.vtkMRMLTransformableNode | None
) -> np.ndarray:
    """(4, 4) affine from one node's own RAS to another's; None stands for world.

    Raises:
        GeometryError: one of the nodes is under a non-linear transform.
    """
    for node in (fromNode, toNode):
        if node is not None:
            requireLinearTransform(node)
    matrix = vtk.vtkMatrix4x4()
    slicer.vtkMRMLTransformNode.GetMatrixTransformBetweenNodes(
        fromNode.GetParentTransformNode() if fromNode is not None else None,
        toNode.GetParentTransformNode() if toNode is not None else None,
        matrix,
    )
    return arrayFromMatrix(matrix)


def arrayFromMatrix(matrix: vtk.vtkMatrix4x4) -> np.ndarray:
    """(4, 4) array with a copy of the matrix."""
    return np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])


def matrixFromArray(array: np.ndarray) -> vtk.vtkMatrix4x4:
    """The vtkMatrix4x4 of a (4, 4) array (slicer.util has it in newer versions only)."""
    matrix = vtk.vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            matrix.SetElement(row, column, float(array[row][column]))
    return matrix


def volumeGeometry(volumeNode: slicer.vtkMRMLVolumeNode) -> ImageGeometry:
    """The volume's grid: IJK to its own RAS, without the parent transform.

    Raises:
        GeometryError: the volume has no voxels or is under a non-linear transform.
    """
    from dbsam.geometry.grid import ImageGeometry

    imageData = _imageData(volumeNode)
    requireLinearTransform(volumeNode)
    ijkToRas = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(ijkToRas)
    return ImageGeometry(arrayFromMatrix(ijkToRas), imageData.GetDimensions())


@dataclass(frozen=True)
class VolumeSnapshot:
    """What a run needs of a volume node, taken in no time; a `dbsam.worker.client.VoxelSource`. Main thread only.

    The voxels are a view, which must not be read any more once they have `changed`; `imageData` keeps them alive.
    `identity` changes with every modification.
    """

    voxels: np.ndarray
    geometry: ImageGeometry
    identity: str
    imageData: vtk.vtkImageData
    modified: int

    def changed(self) -> bool:
        """Whether the voxels were changed, or their memory given back, since the snapshot was taken."""
        return _modified(self.imageData) != self.modified


def volumeIdentity(volumeNode: slicer.vtkMRMLVolumeNode) -> str:
    """Key of the volume's present voxels and grid: unlike a hash of the voxels it costs nothing on the main thread.

    VTK's modification times never repeat within a process, so that two volumes never share a key.
    """
    imageData = _imageData(volumeNode)
    ijkToRas = vtk.vtkMatrix4x4()
    volumeNode.GetIJKToRASMatrix(ijkToRas)
    grid = hashlib.blake2b(arrayFromMatrix(ijkToRas).tobytes(), digest_size=8).hexdigest()
    return f"{volumeNode.GetID()}:{_modified(imageData)}:{grid}"


def snapshotVolume(volumeNode: slicer.vtkMRMLVolumeNode) -> VolumeSnapshot:
    """Takes a volume node's voxels and geometry; main thread only.

    Raises:
        GeometryError: no voxels, a non-linear parent transform, or neither one (grey) nor three or four (colour)
            components.
    """
    geometry = volumeGeometry(volumeNode)
    imageData = _imageData(volumeNode)
    scalars = imageData.GetPointData().GetScalars()
    view = vtk_to_numpy(scalars)
    components = scalars.GetNumberOfComponents()
    if components == 1:
        view = view.reshape(geometry.shape_KJI)
    elif components in (3, 4):  # the fourth is opacity
        view = view.reshape(*geometry.shape_KJI, components)[..., :3]
    else:
        raise GeometryError(
            f"{nodeName(volumeNode)} has {components} values per voxel: DB-SAM takes grey (1) or colour (3 or 4)"
            " volumes. Extract one component as a scalar volume first."
        )
    return VolumeSnapshot(view, geometry, volumeIdentity(volumeNode), imageData, _modified(imageData))


def roiBox(roiNode: slicer.vtkMRMLMarkupsROINode, volumeNode: slicer.vtkMRMLVolumeNode) -> OrientedBox:
    """The ROI as a box in the volume's own RAS, whatever rotation and transforms lie between them.

    Raises:
        GeometryError: the ROI is not placed yet, has no size, or is under a non-linear transform.
    """
    from dbsam.geometry.grid import OrientedBox

    requireLinearTransform(roiNode)
    size = np.array(roiNode.GetSize())
    if roiNode.GetNumberOfDefinedControlPoints() == 0 or not (size > 0).all():
        raise GeometryError(
            f"The ROI {nodeName(roiNode)} has no extent ({size[0]:g} x {size[1]:g} x {size[2]:g} mm): place it around"
            " the structure in a slice view."
        )
    objectToWorld = arrayFromMatrix(roiNode.GetObjectToWorldMatrix())
    objectToVolume = matrixBetween(None, volumeNode) @ objectToWorld
    return OrientedBox(np.zeros(3), np.diag(size / 2)).transformed(objectToVolume)


def displayedWindow(volumeNode: slicer.vtkMRMLVolumeNode) -> tuple[float, float]:
    """(level, width) with which the volume is shown now.

    Raises:
        GeometryError: the volume is colour or has no display node yet.
    """
    displayNode = volumeNode.GetDisplayNode()
    if displayNode is None or not displayNode.IsA("vtkMRMLScalarVolumeDisplayNode"):
        raise GeometryError(
            f"{nodeName(volumeNode)} isn't displayed, so it has no window: show it or choose another intensity rule."
        )
    if displayNode.GetWindow() <= 0:
        raise GeometryError(
            f"{nodeName(volumeNode)} is displayed with a window of width {displayNode.GetWindow():g}: set its window"
            " and level or choose another intensity rule."
        )
    return displayNode.GetLevel(), displayNode.GetWindow()


def nearestAxis(normal_ras: np.ndarray, geometry: ImageGeometry) -> tuple[int, float]:
    """The volume's slice axis nearest to a view's plane, and the angle between them.

    Args:
        normal_ras: (3,) normal of the slice view in the volume's own RAS.
        geometry: the volume's grid.

    Returns:
        (axis, angle in degrees between the view's plane and the volume's slices along that axis).
    """
    x, y = np.array([1, 2, 0]), np.array([2, 0, 1])
    columns = geometry.ijk_to_ras[:3, :3]
    planes = np.cross(columns[:, x].T, columns[:, y].T)  # normals of the I, J and K slices; shear included
    cosines = np.abs(planes @ normal_ras) / (np.linalg.norm(planes, axis=1) * np.linalg.norm(normal_ras))
    axis = int(np.argmax(cosines))
    return axis, float(np.degrees(np.arccos(min(1.0, cosines[axis]))))


def _modified(imageData: vtk.vtkImageData) -> int:
    """Time of the last change of voxels or dimensions; 0 where there are none any more."""
    scalars = imageData.GetPointData().GetScalars()
    return 0 if scalars is None else max(imageData.GetMTime(), scalars.GetMTime())


def _imageData(volumeNode: slicer.vtkMRMLVolumeNode) -> vtk.vtkImageData:
    imageData = volumeNode.GetImageData()
    if imageData is None or imageData.GetNumberOfPoints() == 0 or imageData.GetPointData().GetScalars() is None:
        raise GeometryError(f"The volume {nodeName(volumeNode)} holds no voxels: load it again or choose another one.")
    return imageData
