"""A MRML scene with volumes, ROIs and segmentations for the tests of the Slicer side; real MRML of slicer-core."""

from __future__ import annotations

import sys
from pathlib import Path

import host
import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import numpy_to_vtk, vtk_to_numpy

MODULE_FOLDER = Path(__file__).resolve().parents[1] / "DBSAMSegment"
if str(MODULE_FOLDER) not in sys.path:
    sys.path.insert(0, str(MODULE_FOLDER))

host.start()  # the worker process is watched by a timer, and its settings are the application's

_keepAlive: list = []


def new_scene():
    """A scene with the segmentation converters registered, as in the application."""
    scene = slicer.vtkMRMLScene()
    logics = [slicer.vtkSlicerSegmentationsModuleLogic(), slicer.vtkSlicerSequencesLogic()]
    for logic in logics:
        logic.SetMRMLScene(scene)  # registers the node classes
    _keepAlive[:] = logics
    return scene


def matrix(array):
    result = vtk.vtkMatrix4x4()
    for row in range(4):
        for column in range(4):
            result.SetElement(row, column, float(array[row][column]))
    return result


def image_data(array):
    """vtkImageData of a (K, J, I) or (K, J, I, C) array."""
    array = np.ascontiguousarray(array)
    image = vtk.vtkImageData()
    image.SetDimensions(*array.shape[2::-1])
    components = array.shape[3] if array.ndim == 4 else 1
    scalars = numpy_to_vtk(array.reshape(-1, components) if components > 1 else array.ravel(), deep=True)
    image.GetPointData().SetScalars(scalars)
    return image


def add_volume(scene, array, ijk_to_ras=None, name="volume", class_name="vtkMRMLScalarVolumeNode"):
    node = scene.AddNewNodeByClass(class_name, name)
    node.SetAndObserveImageData(image_data(array))
    node.SetIJKToRASMatrix(matrix(np.eye(4) if ijk_to_ras is None else ijk_to_ras))
    return node


def add_roi(scene, center, size, name="roi", object_to_node=None):
    node = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", name)
    node.SetCenter(*map(float, center))
    node.SetSize(*map(float, size))
    if object_to_node is not None:
        node.SetAndObserveObjectToNodeMatrix(matrix(object_to_node))
    return node


def add_transform(scene, array, name="transform"):
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    node.SetMatrixTransformToParent(matrix(array))
    return node


def add_grid_transform(scene):
    displacement = vtk.vtkImageData()
    displacement.SetDimensions(3, 3, 3)
    displacement.AllocateScalars(vtk.VTK_DOUBLE, 3)
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(displacement)
    node = scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "warp")
    node.SetAndObserveTransformToParent(transform)
    return node


def add_segmentation(scene, volume_node, segment_ids=(), name="segmentation"):
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    if volume_node is not None:
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume_node)
    for segment_id in segment_ids:
        node.GetSegmentation().AddEmptySegment(segment_id, segment_id)
    return node


def segment_array(segmentation_node, segment_id, shape_KJI):
    """(K, J, I) bool: the segment on the grid from 0 to the shape, read from the stored labelmap itself."""
    result = np.zeros(shape_KJI, dtype=bool)
    segment = segmentation_node.GetSegmentation().GetSegment(segment_id)
    labelmap = segmentation_node.GetBinaryLabelmapInternalRepresentation(segment_id)
    i0, i1, j0, j1, k0, k1 = labelmap.GetExtent()
    if i0 > i1 or j0 > j1 or k0 > k1:
        return result
    values = vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(k1 - k0 + 1, j1 - j0 + 1, i1 - i0 + 1)
    result[k0 : k1 + 1, j0 : j1 + 1, i0 : i1 + 1] = values == segment.GetLabelValue()
    return result


def segment_world_points(segmentation_node, segment_id):
    """(N, 3) world positions in mm of the segment's voxel centres."""
    segment = segmentation_node.GetSegmentation().GetSegment(segment_id)
    labelmap = segmentation_node.GetBinaryLabelmapInternalRepresentation(segment_id)
    i0, i1, j0, j1, k0, k1 = labelmap.GetExtent()
    values = vtk_to_numpy(labelmap.GetPointData().GetScalars()).reshape(k1 - k0 + 1, j1 - j0 + 1, i1 - i0 + 1)
    kji = np.argwhere(values == segment.GetLabelValue()) + np.array([k0, j0, i0])
    to_world = vtk.vtkMatrix4x4()
    labelmap.GetImageToWorldMatrix(to_world)
    if segmentation_node.GetParentTransformNode():
        parent = vtk.vtkMatrix4x4()
        segmentation_node.GetParentTransformNode().GetMatrixTransformToWorld(parent)
        vtk.vtkMatrix4x4.Multiply4x4(parent, to_world, to_world)
    affine = np.array([[to_world.GetElement(r, c) for c in range(4)] for r in range(4)])
    return kji[:, ::-1] @ affine[:3, :3].T + affine[:3, 3]


def rotation(axis, degrees):
    """(4, 4) rotation about x, y or z."""
    transform = vtk.vtkTransform()
    getattr(transform, f"Rotate{axis.upper()}")(degrees)
    return np.array([[transform.GetMatrix().GetElement(r, c) for c in range(4)] for r in range(4)])


def node_count(scene):
    return scene.GetNumberOfNodes()


def node_names(scene):
    """(class, name) of every node, for a comparison that says what was left behind."""
    nodes = [scene.GetNthNode(n) for n in range(scene.GetNumberOfNodes())]
    return [(node.GetClassName(), node.GetName()) for node in nodes]
