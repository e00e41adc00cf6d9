"""Geometry out of real MRML nodes: volumes, ROIs and their transforms."""

import numpy as np
import pytest

pytest.importorskip("slicer")
import slicer
import slicer_scene as scenes
from DBSAMSegmentLib.Mrml import Geometry

OBLIQUE = scenes.rotation("x", 20) @ scenes.rotation("z", 35) @ np.diag([-0.5, 0.75, 3.0, 1.0])
OBLIQUE[:3, 3] = (10, -20, 30)


@pytest.fixture
def scene():
    return scenes.new_scene()


def test_a_volume_gives_its_own_grid_and_not_the_parent_transform(scene):
    volume = scenes.add_volume(scene, np.zeros((3, 4, 5), np.int16), OBLIQUE)
    volume.SetAndObserveTransformNodeID(scenes.add_transform(scene, scenes.rotation("y", 40)).GetID())
    geometry = Geometry.volumeGeometry(volume)
    np.testing.assert_allclose(geometry.ijk_to_ras, OBLIQUE, atol=1e-12)
    assert geometry.dimensions_ijk == (5, 4, 3)


def test_an_axis_aligned_roi_keeps_its_center_and_half_sizes(scene):
    volume = scenes.add_volume(scene, np.zeros((3, 4, 5), np.int16))
    box = Geometry.roiBox(scenes.add_roi(scene, (5, 6, 7), (4, 6, 8)), volume)
    np.testing.assert_allclose(box.center_ras, (5, 6, 7))
    np.testing.assert_allclose(box.half_axes_ras, np.diag((2, 3, 4)))


def test_roi_and_volume_under_different_transforms_meet_in_the_volumes_own_frame(scene):
    volume = scenes.add_volume(scene, np.zeros((30, 40, 50), np.int16), OBLIQUE)
    volumeToWorld = scenes.rotation("z", 90)
    roiToWorld = scenes.rotation("x", 90)
    roiToWorld[:3, 3] = (1, 2, 3)
    volume.SetAndObserveTransformNodeID(scenes.add_transform(scene, volumeToWorld).GetID())
    roi = scenes.add_roi(scene, (0, 0, 0), (2, 4, 6), object_to_node=scenes.rotation("y", 30))
    roi.SetAndObserveTransformNodeID(scenes.add_transform(scene, roiToWorld).GetID())

    box = Geometry.roiBox(roi, volume)

    cornersObject = np.array([[x, y, z, 1] for x in (-1, 1) for y in (-2, 2) for z in (-3, 3)])
    expected = cornersObject @ (np.linalg.inv(volumeToWorld) @ roiToWorld @ scenes.rotation("y", 30)).T
    np.testing.assert_allclose(box.corners_ras(), expected[:, :3], atol=1e-9)


def test_nested_transforms_are_concatenated(scene):
    volume = scenes.add_volume(scene, np.zeros((3, 4, 5), np.int16))
    outer = scenes.add_transform(scene, scenes.rotation("z", 90))
    shift = np.eye(4)
    shift[:3, 3] = (10, 0, 0)
    inner = scenes.add_transform(scene, shift)
    inner.SetAndObserveTransformNodeID(outer.GetID())
    roi = scenes.add_roi(scene, (0, 0, 0), (2, 2, 2))
    roi.SetAndObserveTransformNodeID(inner.GetID())
    np.testing.assert_allclose(Geometry.roiBox(roi, volume).center_ras, (0, 10, 0), atol=1e-12)


@pytest.mark.parametrize("which", ["volume", "roi"])
def test_a_non_linear_transform_is_refused_and_the_message_names_it(scene, which):
    volume = scenes.add_volume(scene, np.zeros((3, 4, 5), np.int16))
    roi = scenes.add_roi(scene, (0, 0, 0), (2, 2, 2))
    {"volume": volume, "roi": roi}[which].SetAndObserveTransformNodeID(scenes.add_grid_transform(scene).GetID())
    with pytest.raises(Geometry.GeometryError, match=r"non-linear transform 'warp'.*harden"):
        Geometry.roiBox(roi, volume)


def test_an_roi_that_was_not_placed_is_refused(scene):
    volume = scenes.add_volume(scene, np.zeros((3, 4, 5), np.int16))
    roi = scene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "empty roi")
    with pytest.raises(Geometry.GeometryError, match="'empty roi' has no extent"):
        Geometry.roiBox(roi, volume)


def test_a_volume_without_voxels_is_refused(scene):
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "nothing")
    with pytest.raises(Geometry.GeometryError, match="'nothing' holds no voxels"):
        Geometry.volumeGeometry(volume)


def test_the_snapshot_is_a_view_and_knows_when_the_voxels_were_changed(scene):
    array = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    volume = scenes.add_volume(scene, array)
    snapshot = Geometry.snapshotVolume(volume)
    np.testing.assert_array_equal(snapshot.voxels, array)
    assert not snapshot.changed()
    scalars = volume.GetImageData().GetPointData().GetScalars()
    scalars.SetValue(0, 99)
    scalars.Modified()
    assert snapshot.voxels[0, 0, 0] == 99
    assert snapshot.changed()


def test_the_snapshot_knows_when_the_voxels_were_taken_away_or_replaced(scene):
    volume = scenes.add_volume(scene, np.zeros((3, 4, 5), np.int16))
    for replace in (
        lambda points: points.SetScalars(None),
        lambda points: points.SetScalars(scenes.image_data(np.ones((3, 4, 5), np.int16)).GetPointData().GetScalars()),
    ):
        snapshot = Geometry.snapshotVolume(volume)
        replace(volume.GetImageData().GetPointData())
        assert snapshot.changed()
        volume.SetAndObserveImageData(scenes.image_data(np.zeros((3, 4, 5), np.int16)))


def test_the_identity_changes_with_the_voxels_and_only_then(scene):
    volume = scenes.add_volume(scene, np.zeros((3, 4, 5), np.int16))
    first = Geometry.volumeIdentity(volume)
    volume.SetName("renamed")
    assert Geometry.volumeIdentity(volume) == first
    volume.GetImageData().GetPointData().GetScalars().Modified()
    assert Geometry.volumeIdentity(volume) != first


def test_colour_volumes_keep_three_components_and_drop_opacity(scene):
    array = np.arange(3 * 4 * 5 * 4, dtype=np.uint8).reshape(3, 4, 5, 4)
    volume = scenes.add_volume(scene, array, class_name="vtkMRMLVectorVolumeNode")
    np.testing.assert_array_equal(Geometry.snapshotVolume(volume).voxels, array[..., :3])


def test_two_components_are_refused(scene):
    volume = scenes.add_volume(scene, np.zeros((3, 4, 5, 2), np.uint8), class_name="vtkMRMLVectorVolumeNode")
    with pytest.raises(Geometry.GeometryError, match="2 values per voxel"):
        Geometry.snapshotVolume(volume)


def test_the_displayed_window_is_the_display_nodes(scene):
    volume = scenes.add_volume(scene, np.zeros((3, 4, 5), np.int16))
    with pytest.raises(Geometry.GeometryError, match="isn't displayed"):
        Geometry.displayedWindow(volume)
    display = scene.AddNewNodeByClass("vtkMRMLScalarVolumeDisplayNode")
    display.SetAutoWindowLevel(False)
    display.SetWindowLevel(400, 40)
    volume.SetAndObserveDisplayNodeID(display.GetID())
    assert Geometry.displayedWindow(volume) == (40, 400)


def test_the_nearest_axis_of_a_reformatted_view_and_its_angle(scene):
    volume = scenes.add_volume(scene, np.zeros((3, 4, 5), np.int16), OBLIQUE)
    geometry = Geometry.volumeGeometry(volume)
    for axis in range(3):
        normal = OBLIQUE[:3, axis]
        assert Geometry.nearestAxis(normal, geometry) == (axis, pytest.approx(0, abs=1e-5))
    tilted = (scenes.rotation("x", 20) @ scenes.rotation("z", 35) @ scenes.rotation("x", 10))[:3, 2]
    axis, angle = Geometry.nearestAxis(tilted, geometry)
    assert (axis, angle) == (2, pytest.approx(10))


def test_nothing_is_left_in_the_scene(scene):
    volume = scenes.add_volume(scene, np.zeros((3, 4, 5), np.int16))
    roi = scenes.add_roi(scene, (0, 0, 0), (2, 2, 2))
    before = scenes.node_count(scene)
    Geometry.roiBox(roi, volume)
    Geometry.snapshotVolume(volume)
    assert scenes.node_count(scene) == before
    assert slicer.vtkMRMLMarkupsROINode.SafeDownCast(roi) is roi
