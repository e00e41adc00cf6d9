"""Writing masks to segments on real MRML: Slicer's masking rules, undo, other segments, other geometries."""

import itertools
import tracemalloc

import numpy as np
import pytest

pytest.importorskip("slicer")
import slicer_scene as scenes
import vtk
from DBSAMSegmentLib.Mrml.Geometry import GeometryError
from DBSAMSegmentLib.Mrml.Labelmaps import _leaves, modifierLabelmap
from DBSAMSegmentLib.Write.SegmentWriter import SegmentMask, SegmentWriter
from masking_rules import EDITED, HIDDEN, MASK_MODES, OVERWRITE, VISIBLE, expected_state

SHAPE = (8, 10, 12)
FULL = ((0, 11), (0, 9), (0, 7))


def block(k, j, i):
    array = np.zeros(SHAPE, bool)
    array[slice(*k), slice(*j), slice(*i)] = True
    return array


START = {
    EDITED: block((1, 4), (1, 6), (1, 5)),
    VISIBLE: block((0, 8), (4, 8), (3, 8)),
    HIDDEN: block((2, 7), (0, 5), (6, 11)),
}
PROMPT = block((2, 6), (2, 7), (2, 10))


@pytest.fixture
def scene():
    return scenes.new_scene()


def build(scene):
    rng = np.random.default_rng(0)
    voxels = rng.integers(0, 100, SHAPE).astype(np.int16)
    volume = scenes.add_volume(scene, voxels)
    segmentation = scenes.add_segmentation(scene, volume, START)
    writer = SegmentWriter(scene)
    writer.write(volume, segmentation, [SegmentMask(name, mask, FULL) for name, mask in START.items()])
    segmentation.GetDisplayNode().SetSegmentVisibility(HIDDEN, False)
    return voxels, volume, segmentation, writer


def state(segmentation):
    return {name: scenes.segment_array(segmentation, name, SHAPE) for name in START}


def raw_state(segmentation):
    """Bytes, extents and label values of everything that is stored, for bit-for-bit comparison."""
    result = []
    for n in range(segmentation.GetSegmentation().GetNumberOfSegments()):
        name = segmentation.GetSegmentation().GetNthSegmentID(n)
        labelmap = segmentation.GetBinaryLabelmapInternalRepresentation(name)
        scalars = labelmap.GetPointData().GetScalars()
        empty = labelmap.GetNumberOfPoints() == 0
        values = b"" if empty else bytes(memoryview(scalars))
        label = segmentation.GetSegmentation().GetSegment(name).GetLabelValue()
        result.append((name, None if empty else labelmap.GetExtent(), label, values))
    return result


@pytest.mark.parametrize("mode", ["set", "add"])
@pytest.mark.parametrize("intensity", [None, (30, 80)], ids=["all intensities", "intensities 30 to 80"])
@pytest.mark.parametrize("overwrite", OVERWRITE)
@pytest.mark.parametrize("maskMode", MASK_MODES)
def test_masking_overwriting_and_intensity_range_are_slicers_rules(scene, maskMode, overwrite, intensity, mode):
    voxels, volume, segmentation, writer = build(scene)
    editor = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    editor.SetMaskMode(MASK_MODES[maskMode])
    editor.SetMaskSegmentID(VISIBLE)
    editor.SetOverwriteMode(OVERWRITE[overwrite])
    if intensity is not None:
        editor.SetSourceVolumeIntensityMask(True)
        editor.SetSourceVolumeIntensityMaskRange(*intensity)
    before = state(segmentation)
    for name in START:
        np.testing.assert_array_equal(before[name], START[name])

    writer.write(volume, segmentation, [SegmentMask(EDITED, PROMPT, FULL)], mode, editor)

    after = state(segmentation)
    expected = expected_state(START, PROMPT, mode, maskMode, overwrite, intensity, voxels)
    for name in START:
        np.testing.assert_array_equal(after[name], expected[name], err_msg=name)


@pytest.mark.parametrize(("maskMode", "overwrite"), list(itertools.product(MASK_MODES, OVERWRITE)))
def test_undo_restores_the_former_state_bit_for_bit_and_redo_the_later(scene, maskMode, overwrite):
    _, volume, segmentation, writer = build(scene)
    editor = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    editor.SetMaskMode(MASK_MODES[maskMode])
    editor.SetMaskSegmentID(VISIBLE)
    editor.SetOverwriteMode(OVERWRITE[overwrite])
    before = raw_state(segmentation)
    writer.write(volume, segmentation, [SegmentMask(EDITED, PROMPT, FULL)], "set", editor)
    after = raw_state(segmentation)
    writer.undo(segmentation)
    assert raw_state(segmentation) == before
    writer.redo(segmentation)
    assert raw_state(segmentation) == after


def test_ten_runs_make_ten_undo_states_and_no_more(scene):
    volume = scenes.add_volume(scene, np.zeros(SHAPE, np.int16))
    segmentation = scenes.add_segmentation(scene, volume, [EDITED])
    writer = SegmentWriter(scene)
    states = [raw_state(segmentation)]
    for run in range(10):
        masks = [SegmentMask(EDITED, block((0, 3), (0, 3), (run, run + 2)), FULL), SegmentMask("", PROMPT, FULL, "new")]
        writer.write(volume, segmentation, masks)
        states.append(raw_state(segmentation))
    for former in reversed(states[:-1]):
        assert writer.canUndo(segmentation)
        writer.undo(segmentation)
        assert raw_state(segmentation) == former
    assert not writer.canUndo(segmentation)
    for later in states[1:]:
        assert writer.canRedo(segmentation)
        writer.redo(segmentation)
        assert raw_state(segmentation) == later
    assert not writer.canRedo(segmentation)


def test_without_an_editor_node_other_segments_stay_as_they_are_even_where_they_overlap(scene):
    _, volume, segmentation, writer = build(scene)
    writer.write(volume, segmentation, [SegmentMask(EDITED, PROMPT, FULL)])
    after = state(segmentation)
    np.testing.assert_array_equal(after[EDITED], PROMPT)
    np.testing.assert_array_equal(after[VISIBLE], START[VISIBLE])
    np.testing.assert_array_equal(after[HIDDEN], START[HIDDEN])


def test_remove_takes_the_mask_out_of_the_segment_only(scene):
    _, volume, segmentation, writer = build(scene)
    writer.write(volume, segmentation, [SegmentMask(EDITED, PROMPT, FULL)], "remove")
    after = state(segmentation)
    np.testing.assert_array_equal(after[EDITED], START[EDITED] & ~PROMPT)
    np.testing.assert_array_equal(after[VISIBLE], START[VISIBLE])


def test_an_empty_mask_empties_the_segment_in_set_mode(scene):
    _, volume, segmentation, writer = build(scene)
    writer.write(volume, segmentation, [SegmentMask(EDITED, np.zeros(SHAPE, bool), FULL)])
    assert not state(segmentation)[EDITED].any()
    np.testing.assert_array_equal(state(segmentation)[VISIBLE], START[VISIBLE])


def test_only_the_masks_own_extent_is_touched_and_stored(scene):
    volume = scenes.add_volume(scene, np.zeros((300, 64, 64), np.uint8))
    segmentation = scenes.add_segmentation(scene, volume, [EDITED])
    mask = np.ones((60, 20, 10), bool)
    (written,) = SegmentWriter(scene).write(
        volume, segmentation, [SegmentMask(EDITED, mask, ((5, 14), (7, 26), (100, 159)))]
    )
    assert written.extent == [5, 14, 7, 26, 100, 159]
    assert segmentation.GetBinaryLabelmapInternalRepresentation(EDITED).GetExtent() == (5, 14, 7, 26, 100, 159)


def test_names_colours_terminology_and_tags_are_kept(scene):
    _, volume, segmentation, writer = build(scene)
    segment = segmentation.GetSegmentation().GetSegment(EDITED)
    segment.SetName("Left kidney")
    segment.SetColor(0.1, 0.2, 0.3)
    terminology = (
        "Segmentation category and type - DICOM master list~SCT^123037004^Anatomical Structure~SCT^64033007^Kidney~^^"
        "~Anatomic codes - DICOM master list~^^~^^"
    )
    segment.SetTerminology(terminology)
    segment.SetTag("mine", "kept")
    writer.write(volume, segmentation, [SegmentMask(EDITED, PROMPT, FULL)])
    segment = segmentation.GetSegmentation().GetSegment(EDITED)
    assert (segment.GetName(), segment.GetColor(), segment.GetTerminology()) == (
        "Left kidney",
        (0.1, 0.2, 0.3),
        terminology,
    )
    value = vtk.reference("")
    assert segment.GetTag("mine", value)
    assert value.get() == "kept"


def test_new_segments_get_the_name_and_colour_that_were_asked_for(scene):
    volume = scenes.add_volume(scene, np.zeros(SHAPE, np.int16))
    segmentation = scenes.add_segmentation(scene, volume)
    written = SegmentWriter(scene).write(
        volume,
        segmentation,
        [SegmentMask("", PROMPT, FULL, "liver", (1.0, 0.0, 0.0)), SegmentMask("", START[EDITED], FULL, "spleen")],
    )
    first, second = (segmentation.GetSegmentation().GetSegment(one.segmentId) for one in written)
    assert (first.GetName(), first.GetColor(), second.GetName()) == ("liver", (1.0, 0.0, 0.0), "spleen")
    assert second.GetColor() != first.GetColor()
    assert "Tissue" in first.GetTerminology()
    np.testing.assert_array_equal(scenes.segment_array(segmentation, written[0].segmentId, SHAPE), PROMPT)
    np.testing.assert_array_equal(scenes.segment_array(segmentation, written[1].segmentId, SHAPE), START[EDITED])


def test_a_deleted_segment_is_refused_and_nothing_changes(scene):
    _, volume, segmentation, writer = build(scene)
    before = raw_state(segmentation)
    masks = [SegmentMask(EDITED, PROMPT, FULL), SegmentMask("gone", PROMPT, FULL)]
    with pytest.raises(ValueError, match="no segment with the ID 'gone'"):
        writer.write(volume, segmentation, masks)
    assert raw_state(segmentation) == before


def test_a_segmentation_under_a_non_linear_transform_is_refused_and_nothing_changes(scene):
    _, volume, segmentation, writer = build(scene)
    segmentation.SetAndObserveTransformNodeID(scenes.add_grid_transform(scene).GetID())
    before = raw_state(segmentation)
    with pytest.raises(GeometryError, match="non-linear"):
        writer.write(volume, segmentation, [SegmentMask(EDITED, PROMPT, FULL)])
    assert raw_state(segmentation) == before


def test_the_users_segment_editor_node_and_the_scene_are_left_alone(scene):
    _, volume, segmentation, writer = build(scene)
    editor = scene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    editor.SetAndObserveSegmentationNode(segmentation)
    editor.SetSelectedSegmentID(HIDDEN)
    before = scenes.node_count(scene)
    writer.write(volume, segmentation, [SegmentMask(EDITED, PROMPT, FULL)], "set", editor)
    assert editor.GetSelectedSegmentID() == HIDDEN
    assert scenes.node_count(scene) == before


def sphere(geometry, radius_mm):
    """A ball around the middle of a grid given by (ijk_to_ras, shape): mask (K, J, I) and its centre in RAS."""
    matrix, shape = geometry
    k, j, i = np.indices(shape)
    points = np.stack([i, j, k], -1) @ matrix[:3, :3].T + matrix[:3, 3]
    center = np.array([shape[2] - 1, shape[1] - 1, shape[0] - 1]) / 2 @ matrix[:3, :3].T + matrix[:3, 3]
    return np.linalg.norm(points - center, axis=-1) <= radius_mm, center


OBLIQUE = scenes.rotation("x", 25) @ scenes.rotation("z", 40) @ np.diag([1.0, 1.0, 2.0, 1.0])
FINER = OBLIQUE @ np.diag([0.5, 0.5, 0.5, 1.0])
TURNED = scenes.rotation("y", 10) @ np.diag([0.8, 0.8, 0.8, 1.0])


@pytest.mark.parametrize("own", [FINER, TURNED], ids=["twice as fine", "axis-aligned and turned against the volume"])
@pytest.mark.parametrize("segmentationMoved", [False, True])
@pytest.mark.parametrize("volumeMoved", [False, True])
def test_a_ball_lands_at_its_place_in_world_within_one_voxel(scene, own, volumeMoved, segmentationMoved):
    shape = (24, 40, 40)
    volume = scenes.add_volume(scene, np.zeros(shape, np.int16), OBLIQUE)
    mask, center = sphere((OBLIQUE, shape), 12.0)
    toWorld = np.eye(4)
    if volumeMoved:
        toWorld = scenes.rotation("z", 33)
        toWorld[:3, 3] = (5, 0, -7)
        volume.SetAndObserveTransformNodeID(scenes.add_transform(scene, toWorld).GetID())
    # A grid of the segmentation's own, around the ball's centre in world.
    centerWorld = (toWorld @ [*center, 1])[:3]
    fromWorld = np.eye(4)
    if segmentationMoved:
        segmentationToWorld = scenes.rotation("x", 50)
        fromWorld = np.linalg.inv(segmentationToWorld)
    grid = own.copy()
    half = np.array([40, 40, 40])
    grid[:3, 3] = (fromWorld @ [*centerWorld, 1])[:3] - own[:3, :3] @ half
    helper = scenes.add_volume(scene, np.zeros((81, 81, 81), np.uint8), grid, "grid")
    segmentation = scenes.add_segmentation(scene, helper, [EDITED])
    if segmentationMoved:
        segmentation.SetAndObserveTransformNodeID(scenes.add_transform(scene, segmentationToWorld).GetID())

    (written,) = SegmentWriter(scene).write(
        volume, segmentation, [SegmentMask(EDITED, mask, ((0, 39), (0, 39), (0, 23)))]
    )

    assert not written.clipped
    points = scenes.segment_world_points(segmentation, EDITED)
    distance = np.linalg.norm(points - centerWorld, axis=1)
    largest = 2.0  # the volume's largest voxel edge in mm
    assert distance.max() <= 12.0 + largest
    np.testing.assert_allclose(points.mean(axis=0), centerWorld, atol=largest / 4)
    volumeOfBall = np.abs(np.linalg.det(OBLIQUE[:3, :3])) * mask.sum()
    assert points.shape[0] * np.abs(np.linalg.det(own[:3, :3])) == pytest.approx(volumeOfBall, rel=0.1)


def test_a_shifted_crop_of_the_volumes_grid_needs_no_resampling(scene):
    volume = scenes.add_volume(scene, np.zeros(SHAPE, np.int16), OBLIQUE)
    shift = np.eye(4)
    shift[:3, 3] = (2, 1, 3)
    crop = scenes.add_volume(scene, np.zeros((5, 9, 10), np.int16), OBLIQUE @ shift, "crop")
    segmentation = scenes.add_segmentation(scene, crop, [EDITED])
    labelmap = modifierLabelmap(block((4, 6), (3, 5), (4, 8)), FULL, volume, segmentation)
    assert labelmap.extent == [2, 5, 2, 3, 1, 2]
    assert not labelmap.clipped


def test_what_falls_outside_the_segmentations_geometry_is_reported(scene):
    volume = scenes.add_volume(scene, np.zeros(SHAPE, np.int16))
    crop = scenes.add_volume(scene, np.zeros((4, 10, 12), np.int16), name="crop")
    segmentation = scenes.add_segmentation(scene, crop, [EDITED])
    (written,) = SegmentWriter(scene).write(volume, segmentation, [SegmentMask(EDITED, PROMPT, FULL)])
    assert written.clipped
    np.testing.assert_array_equal(scenes.segment_array(segmentation, EDITED, SHAPE)[:4], PROMPT[:4])


@pytest.mark.parametrize("filled", [0.02, 0.3, 1.0])
def test_part_of_a_mask_is_outside_if_and_only_if_the_centre_of_one_of_its_voxels_is(filled):
    rng = np.random.default_rng(0)
    bounds, extent = (-6, 6) * 3, ((2, 8), (1, 6), (-3, 1))
    outside = 0
    for _ in range(200):
        mask = (rng.random((5, 6, 7)) <= filled).astype(np.uint8)
        mask[2, 3, 3] = 1
        affine = np.eye(4)
        affine[:3] = rng.normal(0, 0.5, (3, 4))
        points = (np.argwhere(mask)[:, ::-1] + [2, 1, -3]) @ affine[:3, :3].T + affine[:3, 3]
        expected = bool((np.abs(points) > 6.5).any())
        assert _leaves(bounds, mask, extent, affine) == expected
        outside += expected
    assert 20 < outside < 180


def test_a_mask_on_a_turned_geometry_costs_a_few_bytes_for_each_of_its_voxels(scene):
    shape = (60, 100, 100)
    volume = scenes.add_volume(scene, np.zeros(shape, np.int16))
    turned = scenes.rotation("z", 10)
    turned[:3, 3] = [50, 50, 30] - turned[:3, :3] @ [30, 30, 30]  # the same point is the middle of 61 x 61 x 61 voxels
    helper = scenes.add_volume(scene, np.zeros((61, 61, 61), np.uint8), turned, "turned")
    segmentation = scenes.add_segmentation(scene, helper, [EDITED])
    k, j, i = np.ogrid[:60, :100, :100]
    # Inside, though the corners of the block around it aren't.
    ball = (k - 30) ** 2 + (j - 50) ** 2 + (i - 50) ** 2 <= 28**2
    everywhere = np.ones(shape, np.uint8)
    tracemalloc.start()
    try:
        clipped = [
            modifierLabelmap(one, ((0, 99), (0, 99), (0, 59)), volume, segmentation).clipped
            for one in (ball, everywhere)
        ]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert clipped == [False, True]
    assert peak < 3 * everywhere.nbytes
