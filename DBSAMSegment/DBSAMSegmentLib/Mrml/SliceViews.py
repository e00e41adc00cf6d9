"""Which slice of a volume a slice view shows, and boxes that fit a view."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import slicer

from .Geometry import arrayFromMatrix, matrixBetween, matrixFromArray, nearestAxis, nodeName, volumeGeometry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dbsam.preprocess.prompts import PointPrompt

# A view that is turned by less shows the volume's own slice as far as a user can see.
LARGEST_ANGLE_DEGREES = 1.0
AXIS_LETTERS = "IJK"
# A corner that was clicked in a view lies in its plane, as nearly as single precision has it.
_IN_PLANE_MM = 0.01


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


def pointOfClick(
    sliceNode: slicer.vtkMRMLSliceNode, volumeNode: slicer.vtkMRMLScalarVolumeNode, xy: Sequence[float], include: bool
) -> tuple[ViewedSlice, PointPrompt]:
    """A click in a view, as a point on the volume's slice that the view shows or is nearest to.

    Args:
        sliceNode: the view.
        volumeNode: the volume.
        xy: where in the view's XY pixels.
        include: whether what was clicked on belongs to the structure.

    Returns:
        (that slice, the point in the volume's own RAS).
    """
    from dbsam.preprocess.prompts import PointPrompt

    viewed, geometry = viewedSlice(sliceNode, volumeNode), volumeGeometry(volumeNode)
    xyToIjk = geometry.ras_to_ijk @ matrixBetween(None, volumeNode) @ arrayFromMatrix(sliceNode.GetXYToRAS())
    ijk = (xyToIjk @ np.array([*xy, 0.0, 1.0]))[:3]
    ijk[viewed.axis] = viewed.index
    return viewed, PointPrompt.from_ijk(ijk, geometry, include)


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
    matrix = _viewAxes(sliceNode)
    width, height = np.array(sliceNode.GetFieldOfView())[:2] / 2
    matrix[:, 3] = arrayFromMatrix(sliceNode.GetSliceToRAS())[:, 3]
    setRoiInWorld(roiNode, matrix, np.array([width, height, min(width, height)]))


def turnWithView(roiNode: slicer.vtkMRMLMarkupsROINode, sliceNodes: Sequence[slicer.vtkMRMLSliceNode]) -> None:
    """Turns an ROI that is being drawn, corner by corner, as the view that it is drawn in.

    Slicer spans a box along R, A and S between the two corners, which in an oblique view is not what was drawn.

    Args:
        roiNode: an ROI without a place yet.
        sliceNodes: the views that it may be drawn in.
    """
    corners: list[np.ndarray] = []

    def onCorner(*_: object) -> None:
        if not corners:
            corners.append(np.array(roiNode.GetNthControlPointPositionWorld(0)))
            return
        roiNode.RemoveObserver(tag)
        corners.append(2 * np.array(roiNode.GetCenterWorld()) - corners[0])
        for sliceNode in sliceNodes:
            axes, plane = _viewAxes(sliceNode), arrayFromMatrix(sliceNode.GetSliceToRAS())
            inView = (np.array(corners) - plane[:3, 3]) @ axes[:3, :3]
            if np.abs(inView[:, 2]).max() > _IN_PLANE_MM or _isAlongRas(axes):
                continue
            width, height = np.abs(inView[1] - inView[0])[:2]
            axes[:3, 3] = np.mean(corners, axis=0)
            if width > 0 and height > 0:
                setRoiInWorld(roiNode, axes, np.array([width, height, min(width, height)]))
            return

    tag = roiNode.AddObserver(slicer.vtkMRMLMarkupsNode.PointPositionDefinedEvent, onCorner)


def _viewAxes(sliceNode: slicer.vtkMRMLSliceNode) -> np.ndarray:
    """(4, 4) rotation with a view's axes in world, right-handed as boxes are; Slicer's axial view is left-handed."""
    axes = np.eye(4)
    columns = arrayFromMatrix(sliceNode.GetSliceToRAS())[:3, :3]
    axes[:3, :3] = columns / np.linalg.norm(columns, axis=0)
    if np.linalg.det(axes) < 0:
        axes[:3, 2] *= -1
    return axes


def _isAlongRas(axes: np.ndarray) -> bool:
    return bool((np.abs(axes[:3, :3]).max(axis=0) > 1 - 1e-6).all())


def sliceOffset_mm(volumeNode: slicer.vtkMRMLScalarVolumeNode, axis: int, index: int) -> float:
    """Where a slice of a volume lies along its own normal in world, as Slicer's slice slider shows it.

    The normal points to R, A or S, whichever it is nearest to.
    """
    geometry = volumeGeometry(volumeNode)
    toWorld = matrixBetween(volumeNode, None) @ geometry.ijk_to_ras
    normal = np.cross(toWorld[:3, (axis + 1) % 3], toWorld[:3, (axis + 2) % 3])
    normal /= np.linalg.norm(normal)
    normal *= np.sign(normal[np.abs(normal).argmax()])
    ijk = np.array([0.0, 0.0, 0.0, 1.0])
    ijk[axis] = index
    return float(normal @ (toWorld @ ijk)[:3])


def setRoiInWorld(roiNode: slicer.vtkMRMLMarkupsROINode, objectToWorld: np.ndarray, size_mm: np.ndarray) -> None:
    """Gives an ROI a place, orientation and size in world, whatever transform it is under.

    Raises:
        GeometryError: the ROI is under a non-linear transform.
    """
    roiNode.SetSize(*(float(length) for length in size_mm))
    objectToNode = matrixBetween(None, roiNode) @ objectToWorld
    roiNode.SetAndObserveObjectToNodeMatrix(matrixFromArray(objectToNode))


def alignedViews(
    sliceNodes: Sequence[slicer.vtkMRMLSliceNode], volumeNode: slicer.vtkMRMLScalarVolumeNode, axis: int
) -> list[slicer.vtkMRMLSliceNode]:
    """The views that show a volume's own slices along an axis, not cuts through several."""
    found = ((node, viewedSlice(node, volumeNode)) for node in sliceNodes)
    return [node for node, viewed in found if viewed.axis == axis and viewed.aligned]


def turnedViewAt(
    sliceNodes: Sequence[slicer.vtkMRMLSliceNode],
    volumeNode: slicer.vtkMRMLScalarVolumeNode,
    position: Sequence[float],
) -> ViewedSlice | None:
    """What a view shows that is turned against the volume and in whose plane a point in world lies; None without one.

    Nor is there one where another view with this point isn't turned: it may have been placed there.
    """
    turned = None
    for sliceNode in sliceNodes:
        inView = np.linalg.inv(arrayFromMatrix(sliceNode.GetSliceToRAS())) @ np.array([*position, 1.0])
        if abs(inView[2]) <= _IN_PLANE_MM:
            viewed = viewedSlice(sliceNode, volumeNode)
            if viewed.aligned:
                return None
            turned = turned or viewed
    return turned


def directionInWords(volumeNode: slicer.vtkMRMLScalarVolumeNode, axis: str) -> tuple[str, str]:
    """Where slices along an axis, such as "auto", lead with rising and with falling index, in the patient's words."""
    geometry = volumeGeometry(volumeNode)
    along = (matrixBetween(volumeNode, None) @ geometry.ijk_to_ras)[:3, geometry.axis_index(axis)]
    nearest = int(np.abs(along).argmax())
    ends = (("left", "right"), ("back", "front"), ("feet", "head"))[nearest]
    return (ends[1], ends[0]) if along[nearest] > 0 else ends


def describe(viewed: ViewedSlice, volumeNode: slicer.vtkMRMLScalarVolumeNode) -> str:
    """What to tell a user whose view is turned against the volume."""
    return (
        f"This view is turned by {viewed.angle:.0f} degrees against the slices of {nodeName(volumeNode)}; the nearest"
        f" slice, {AXIS_LETTERS[viewed.axis]} = {viewed.index}, is used. Turn the view to the volume (Rotate to volume"
        " plane, in the view's menu) to see it."
    )
