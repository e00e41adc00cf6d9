"""Which slice of a volume a slice view shows, and boxes that fit a view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import slicer

from .Geometry import arrayFromMatrix, matrixBetween, matrixFromArray, nearestAxis, nodeName, volumeGeometry

if TYPE_CHECKING:
    from collections.abc import Sequence

# A view that is turned by less shows the volume's own slice as far as a user can see.
LARGEST_ANGLE_DEGREES = 1.0
AXIS_LETTERS = "IJK"


@dataclass(frozen=True)
class ViewedSlice:
    """The slice of a volume nearest to what a view shows.

    Attributes:
        axis: 0, 1, 2 for slices along I, J, K.
        index: the slice under the middle of the view; may lie outside the volume.
        angle: angle in degrees between the view and the volume's slices along that axis.
    """

    axis: int
    index: int
    angle: float

    @property
    def aligned(self) -> bool:
        """Whether the view shows the slice itself, not a cut through several."""
        return self.angle <= LARGEST_ANGLE_DEGREES


def viewedSlice(sliceNode: slicer.vtkMRMLSliceNode, volumeNode: slicer.vtkMRMLScalarVolumeNode) -> ViewedSlice:
    """Finds the volume's slice that a view shows or is nearest to.

    Raises:
        GeometryError: the volume has no voxels or is under a non-linear transform.
    """
    geometry = volumeGeometry(volumeNode)
    sliceToVolume = matrixBetween(None, volumeNode) @ arrayFromMatrix(sliceNode.GetSliceToRAS())
    axis, angle = nearestAxis(np.cross(sliceToVolume[:3, 0], sliceToVolume[:3, 1]), geometry)
    ijk = geometry.ras_to_ijk @ sliceToVolume[:, 3]
    return ViewedSlice(axis, int(np.floor(ijk[axis] + 0.5)), angle)


def showSlice(
    sliceNodes: Sequence[slicer.vtkMRMLSliceNode],
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    axis: int,
    index: int,
) -> bool:
    """Moves the views that show slices along `axis` to slice `index`.

    Returns:
        Whether there was such a view.
    """
    geometry = volumeGeometry(volumeNode)
    ijk = np.array([*((np.array(geometry.dimensions_ijk) - 1) / 2), 1.0])
    ijk[axis] = index
    world = matrixBetween(volumeNode, None) @ geometry.ijk_to_ras @ ijk
    found = False
    for sliceNode in sliceNodes:
        if viewedSlice(sliceNode, volumeNode).axis == axis:
            sliceNode.JumpSliceByOffsetting(*world[:3])
            found = True
    return found


def boxOfRectangle(
    sliceNode: slicer.vtkMRMLSliceNode,
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    firstXy: Sequence[float],
    secondXy: Sequence[float],
) -> tuple[ViewedSlice, np.ndarray]:
    """A rectangle dragged in a view, as a box on the volume's nearest slice.

    Args:
        sliceNode: the view.
        volumeNode: the volume.
        firstXy: a corner in the view's XY pixels.
        secondXy: the opposite corner.

    Returns:
        (the slice, xyxy box in continuous pixel coordinates of that slice, not clipped to the volume).
    """
    from dbsam.geometry.grid import slice_axes

    viewed = viewedSlice(sliceNode, volumeNode)
    geometry = volumeGeometry(volumeNode)
    (x0, y0), (x1, y1) = firstXy, secondXy
    corners = np.array([(x0, y0, 0, 1), (x1, y0, 0, 1), (x1, y1, 0, 1), (x0, y1, 0, 1)], float)
    xyToIjk = geometry.ras_to_ijk @ matrixBetween(None, volumeNode) @ arrayFromMatrix(sliceNode.GetXYToRAS())
    onSlice = (corners @ xyToIjk.T)[:, list(slice_axes(viewed.axis))]
    return viewed, np.concatenate([onSlice.min(axis=0), onSlice.max(axis=0)])


def worldBoxOfSlice(
    volumeNode: slicer.vtkMRMLScalarVolumeNode, axis: int, index: int, box_xyxy: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """A box on one slice as an ROI of one slice's thickness.

    Returns:
        ((4, 4) object-to-world matrix with the box's axes and centre, (3,) size in mm).
    """
    from dbsam.geometry.grid import slice_axes

    geometry = volumeGeometry(volumeNode)
    xAxis, yAxis = slice_axes(axis)
    x0, y0, x1, y1 = box_xyxy
    middle = np.zeros(4)
    middle[[xAxis, yAxis, axis, 3]] = ((x0 + x1) / 2, (y0 + y1) / 2, index, 1)
    toWorld = matrixBetween(volumeNode, None) @ geometry.ijk_to_ras
    lengths = np.linalg.norm(toWorld[:3, :3], axis=0)
    # An ROI is a right-angled, right-handed box: a sheared or mirrored grid's axes are taken as near as that allows.
    directions, _ = np.linalg.qr(toWorld[:3, :3] / lengths)
    directions *= np.sign(np.sum(directions * toWorld[:3, :3], axis=0))
    if np.linalg.det(directions) < 0:
        directions[:, 2] *= -1
    matrix = np.eye(4)
    matrix[:3, :3] = directions
    matrix[:3, 3] = (toWorld @ middle)[:3]
    voxels = np.ones(3)
    voxels[[xAxis, yAxis]] = (x1 - x0, y1 - y0)
    return matrix, voxels * lengths


def fitRoiToView(roiNode: slicer.vtkMRMLMarkupsROINode, sliceNode: slicer.vtkMRMLSliceNode) -> None:
    """Places an ROI in the middle of a view, turned as the view is, half as large as what it shows."""
    fieldOfView = np.array(sliceNode.GetFieldOfView())
    size = fieldOfView / 2
    size[2] = min(size[0], size[1])
    toWorld = arrayFromMatrix(sliceNode.GetSliceToRAS())
    toWorld[:3, :3] /= np.linalg.norm(toWorld[:3, :3], axis=0)
    setRoiInWorld(roiNode, toWorld, size)


def setRoiInWorld(roiNode: slicer.vtkMRMLMarkupsROINode, objectToWorld: np.ndarray, size_mm: np.ndarray) -> None:
    """Gives an ROI a place, orientation and size in world, whatever transform it is under.

    Raises:
        GeometryError: the ROI is under a non-linear transform.
    """
    roiNode.SetSize(*(float(length) for length in size_mm))
    objectToNode = matrixBetween(None, roiNode) @ objectToWorld
    roiNode.SetAndObserveObjectToNodeMatrix(matrixFromArray(objectToNode))


def describe(viewed: ViewedSlice, volumeNode: slicer.vtkMRMLScalarVolumeNode) -> str:
    """What to tell a user whose view is turned against the volume."""
    return (
        f"This view is turned by {viewed.angle:.0f} degrees against the slices of {nodeName(volumeNode)}; the nearest"
        f" slice, {AXIS_LETTERS[viewed.axis]} = {viewed.index}, is used. Turn the view to the volume (Rotate to volume"
        " plane, in the view's menu) to see it."
    )
