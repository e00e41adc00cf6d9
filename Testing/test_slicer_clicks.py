"""Correcting by clicks in the module's panel, run in the stand-in of Slicer's application."""

import os
import random
import time

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("host", reason="needs slicer-core and PySide6")
import host
import slicer
import slicer_scene as scenes
import vtk
from DBSAMSegmentLib.Mrml.PointLists import clicksIn
from DBSAMSegmentLib.Mrml.Views import placedTo, sliceWidgets
from slicer_stage import SHAPE, opened_module, two_part_volume, two_parts
from threshold_worker import ThresholdSettings

LONGEST = 120  # seconds; what waits for a worker on a busy computer
OTHER = (34, 19, 5)  # in the part that doesn't belong
WANTED = (15, 19, 5)


@pytest.fixture
def panel():
    """The opened module with a rule in place of a network, in an empty scene."""
    with opened_module(ThresholdSettings("slice", size=48)) as widget:
        yield widget


def add_box(name="bright", size=(36, 22, 10)):
    return scenes.add_roi(slicer.mrmlScene, (22.5, 18.5, 5.5), size, name)


def staged(panel):
    """A volume with two bright parts, a box round both, checked."""
    node = panel.logic.getParameterNode()
    node.volume, node.axis = two_part_volume(), "K"
    node.rois = [add_box()]
    host.process_events()
    return node


def click(panel, position, include):
    """Presses the button and places a point, as the mouse does."""
    button = panel.ui.includeButton if include else panel.ui.excludeButton
    if not button.checked:
        button.click()
    points = placedTo(slicer.mrmlScene)
    points.AddControlPointWorld(vtk.vtkVector3d(*map(float, position)))
    return points


def outlined(panel):
    """Waits until the click's outline is there; returns the mask on its slice."""
    preview, shown = panel.panel.clicks.preview, panel.panel.clicks.preview.outlines
    assert host.process_events(LONGEST, lambda: not preview.busy)
    return shown


def apply(panel):
    panel.ui.applyButton.click()
    assert host.process_events(LONGEST, lambda: panel.panel.run.job is None)


def found(panel):
    segmentation = panel.logic.getParameterNode().segmentation
    if segmentation is None or segmentation.GetSegmentation().GetNumberOfSegments() == 0:
        return np.zeros(SHAPE, bool)
    return scenes.segment_array(segmentation, segmentation.GetSegmentation().GetNthSegmentID(0), SHAPE)


def numbers(panel):
    node = panel.logic.getParameterNode()
    return [(one.number, one.include) for one in clicksIn(node.includePoints, node.excludePoints)]


def marked(panel):
    """The slices that the plot marks with the colour of clicks."""
    plot = panel.panel.result.plot
    plot.draw()
    image = plot.grab().toImage()
    blue = [
        (x, y)
        for x in range(image.width())
        for y in range(image.height())
        if image.pixelColor(x, y).name() == "#2a5fd0"
    ]
    return sorted({plot.sliceAt(x) for x, _ in blue})


@pytest.fixture
def shown(monkeypatch):
    """What was outlined: (slice, mask on it)."""
    from DBSAMSegmentLib.Panel.SlicePreview import SlicePreview

    seen, show = [], SlicePreview.show

    def noted(self, result, index, *rest):
        seen.append((index, result.labelmap_KJI()[index] > 0) if hasattr(result, "labelmap_KJI") else None)
        return show(self, result, index, *rest)

    monkeypatch.setattr(SlicePreview, "show", noted)
    return seen


def test_a_click_outlines_its_slice_at_once_and_apply_takes_it_through_the_volume(panel, shown):
    staged(panel)
    wanted, other = two_parts()
    apply(panel)
    boxed = found(panel)
    assert boxed[5][other[5]].all()
    shown.clear()
    click(panel, OTHER, include=False)
    assert outlined(panel).wasSeen
    [(index, preview)] = shown
    assert index == 5
    assert not (preview & other[5]).any()
    assert "belongs to slice K = 5" in panel.ui.statusLabel.text
    assert "0 included, 1 excluded" in panel.ui.clicksLabel.text
    assert panel.ui.nextStepLabel.text.startswith("Go on clicking until the outline is right")
    np.testing.assert_array_equal(found(panel), boxed, err_msg="a preview writes nothing")
    apply(panel)
    corrected = found(panel)
    assert not corrected[other].any()
    assert (corrected != wanted).sum() <= 0.12 * wanted.sum()
    np.testing.assert_array_equal(corrected[5], preview, err_msg="what was outlined is what is written")
    assert [report.index for report in panel.panel.result.segment.slices if report.clicks] == [5]
    assert panel.ui.nextStepLabel.text.startswith("Look at the weakest slices")
    assert marked(panel) == [5]
    panel.ui.undoButton.click()
    np.testing.assert_array_equal(found(panel), boxed)
    panel.ui.redoButton.click()
    np.testing.assert_array_equal(found(panel), corrected)


def test_clicks_are_taken_back_brought_back_moved_and_deleted(panel, shown):
    node = staged(panel)
    _, other = two_parts()
    apply(panel)
    boxed = found(panel)
    shown.clear()
    node.spread = "slice"
    excluded = click(panel, OTHER, include=False)
    outlined(panel)
    click(panel, (*WANTED[:2], 4), include=True)
    outlined(panel)
    click(panel, (34, 20, 6), include=False)
    outlined(panel)
    assert numbers(panel) == [(1, False), (2, True), (3, False)]
    assert [index for index, _ in shown] == [5, 4, 6]
    panel.ui.takeBackButton.click()
    outlined(panel)
    assert numbers(panel) == [(1, False), (2, True)]
    assert shown[-1][0] == 6
    assert (shown[-1][1] & other[6]).any(), "without its click the slice is as it was"
    panel.ui.bringBackButton.click()
    outlined(panel)
    assert numbers(panel) == [(1, False), (2, True), (3, False)]
    assert not (shown[-1][1] & other[6]).any()
    assert not panel.ui.bringBackButton.enabled

    apply(panel)
    assert [bool((found(panel)[k] & other[k]).any()) for k in range(3, 9)] == [True, True, False, False, True, True]
    # Moved to another slice, a click that was applied leaves its former slice as the box had it.
    excluded.SetNthControlPointPositionWorld(0, 34.0, 19.0, 7.0)
    outlined(panel)
    assert shown[-1][0] == 7
    apply(panel)
    assert [bool((found(panel)[k] & other[k]).any()) for k in range(3, 9)] == [True, True, True, False, False, True]
    excluded.RemoveAllControlPoints()
    outlined(panel)
    node.includePoints.RemoveNthControlPoint(0)
    outlined(panel)
    assert numbers(panel) == []
    apply(panel)
    np.testing.assert_array_equal(found(panel), boxed)
    assert not panel.ui.takeBackButton.enabled


def test_the_applications_own_undo_takes_a_click_back(panel, shown):
    scene = slicer.mrmlScene
    staged(panel)
    scene.SetUndoOn()
    try:
        button = panel.ui.excludeButton
        button.click()
        points = placedTo(scene)
        scene.SaveStateForUndo()  # as Slicer does before it places a point
        points.AddControlPointWorld(vtk.vtkVector3d(*map(float, OTHER)))
        outlined(panel)
        assert numbers(panel) == [(1, False)]
        scene.Undo()
        outlined(panel)
        assert numbers(panel) == []
        assert "Click on a part" in panel.ui.clicksLabel.text
        scene.Redo()
        outlined(panel)
        assert len(numbers(panel)) == 1
        assert len({index for index, _ in shown}) == 1
        panel.ui.takeBackButton.click()
        assert numbers(panel) == []
        scene.Undo()
        assert len(numbers(panel)) == 1
    finally:
        scene.SetUndoOff()
        scene.ClearUndoStack()
        scene.ClearRedoStack()


def test_a_click_during_a_run_is_outlined_after_it(panel, shown):
    staged(panel)
    panel.logic.runner.worker.predictors.predictor.seconds_per_slice = 0.1
    panel.ui.applyButton.click()
    host.process_events(0.2)
    click(panel, OTHER, include=False)
    assert panel.panel.run.job is not None
    assert host.process_events(LONGEST, lambda: panel.panel.run.job is None)
    outlined(panel)
    assert panel.panel.clicks.preview.outlines.wasSeen
    assert shown[-1][0] == 5
    assert not (shown[-1][1] & two_parts()[1][5]).any()


def test_clicks_without_a_result_are_outlined_and_count_in_the_first_run(panel, shown):
    staged(panel)
    _, other = two_parts()
    click(panel, OTHER, include=False)
    outlined(panel)
    [(index, preview)] = shown
    assert index == 5
    assert preview.any()
    assert not (preview & other[5]).any()
    apply(panel)
    assert not found(panel)[other].any()
    np.testing.assert_array_equal(found(panel)[5], preview)


def test_an_include_click_beyond_the_box_carries_it_on_up_to_there(panel, shown):
    node = staged(panel)
    wanted, _ = two_parts()
    node.rois = [add_box("small", (36, 22, 4))]  # slices 4 to 7
    apply(panel)
    assert np.flatnonzero(found(panel).any(axis=(1, 2))).tolist() == [4, 5, 6, 7]
    shown.clear()
    click(panel, (15, 19, 8), include=True)
    outlined(panel)
    assert shown[-1][0] == 8
    assert (shown[-1][1] & wanted[8]).any()
    apply(panel)
    assert found(panel)[8].any()


def test_clicks_survive_saving_and_loading_the_scene(panel, shown, tmp_path):
    staged(panel)
    apply(panel)
    click(panel, OTHER, include=False)
    click(panel, WANTED, include=True)
    outlined(panel)
    apply(panel)
    corrected, before = found(panel), numbers(panel)
    for node in slicer.util.getNodesByClass("vtkMRMLMarkupsNode"):
        node.AddDefaultStorageNode()
        node.GetStorageNode().SetFileName(str(tmp_path / f"{node.GetName()}.mrk.json"))
        assert node.GetStorageNode().WriteData(node)
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.SetRootDirectory(str(tmp_path))
    slicer.mrmlScene.Commit(str(tmp_path / "scene.mrml"))
    host.new_scene()
    assert numbers(panel) == []
    assert panel.logic.getParameterNode().includePoints is None
    slicer.mrmlScene.SetURL(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Import()
    host.process_events()
    again = panel.logic.getParameterNode()
    assert numbers(panel) == before
    assert (again.includePoints.GetName(), again.excludePoints.GetName()) == ("Include", "Exclude")
    # Voxels are saved with a volume's own file, which this scene doesn't have.
    again.volume.SetAndObserveImageData(
        scenes.image_data(np.where(two_parts()[0] | two_parts()[1], 150, -1000).astype(np.int16))
    )
    again.segmentation = None
    apply(panel)
    np.testing.assert_array_equal(found(panel), corrected)


def test_clicks_belong_to_their_box_on_their_volume(panel, shown):
    node = staged(panel)
    first, roi = node.volume, node.rois[0]
    click(panel, OTHER, include=False)
    outlined(panel)
    mine = node.excludePoints

    node.volume = two_part_volume("another")
    assert node.excludePoints is None
    assert numbers(panel) == []
    assert not panel.panel.clicks.preview.outlines._outlines
    click(panel, WANTED, include=True)
    outlined(panel)
    assert (node.includePoints is not None, node.excludePoints) == (True, None)

    node.volume = first
    assert (node.includePoints, node.excludePoints) == (None, mine)
    other_box = add_box("second")
    node.rois = [roi, other_box]
    assert not panel.ui.excludeButton.enabled
    assert "check one box only" in panel.ui.clicksLabel.text
    node.rois = [other_box]
    assert node.excludePoints is None
    node.rois = [roi]
    assert node.excludePoints is mine
    # A list that is chosen for this box becomes its own; one can't be both.
    panel.ui.includeSelector.setCurrentNode(mine)
    assert (node.includePoints, node.excludePoints) == (mine, None)
    slicer.mrmlScene.RemoveNode(mine)
    host.process_events()
    assert numbers(panel) == []
    assert "Click on a part" in panel.ui.clicksLabel.text
    assert not panel.ui.takeBackButton.enabled
    slicer.mrmlScene.RemoveNode(roi)
    host.process_events()
    assert not panel.ui.includeButton.enabled


def test_in_a_rotated_view_the_nearest_slice_is_named(panel, shown):
    staged(panel)
    view = sliceWidgets()[0].mrmlSliceNode()
    turned = vtk.vtkTransform()
    turned.Translate(20, 18, 5)
    turned.RotateX(20)
    try:
        view.GetSliceToRAS().DeepCopy(turned.GetMatrix())
        view.UpdateMatrices()
        x, y, z = turned.TransformPoint(14, 2, 0)
        click(panel, (x, y, z), include=False)
        outlined(panel)
        index = int(np.floor(z + 0.5))
        assert "turned by 20 degrees against the slices of 'two parts'" in panel.ui.statusLabel.text
        assert f"nearest slice, K = {index}." in panel.ui.statusLabel.text
        assert "No view shows it as it is" in panel.ui.statusLabel.text
        assert shown[-1][0] == index
        assert not panel.panel.clicks.preview.outlines.wasSeen
    finally:
        view.SetOrientation("Axial")


def test_clicks_go_on_from_a_run_of_several_boxes(panel, shown):
    node = staged(panel)
    roi = node.rois[0]
    node.rois = [roi, add_box("second", (30, 22, 10))]
    apply(panel)
    encoded = panel.logic.runner.worker.predictors.predictor.encoded_slices
    node.rois = [roi]
    node.segmentId = node.segmentation.GetSegmentation().GetSegmentIdBySegmentName("bright")
    click(panel, OTHER, include=False)
    outlined(panel)
    known = panel.logic.runner.correctedOnSlice(panel.panel._request([roi]), 4, node.segmentation)
    assert known is not None
    assert shown[-1][0] == 5
    apply(panel)
    assert panel.logic.runner.worker.predictors.predictor.encoded_slices == encoded
    assert not found(panel)[two_parts()[1]].any()


def test_a_volume_under_a_transform_gets_its_clicks_where_they_are_seen(panel, shown):
    node = staged(panel)
    _, other = two_parts()
    moved = scenes.add_transform(slicer.mrmlScene, scenes.rotation("z", 30) + np.outer([20, -10, 30, 0], [0, 0, 0, 1]))
    for one in (node.volume, node.rois[0]):
        one.SetAndObserveTransformNodeID(moved.GetID())
    toWorld = vtk.vtkMatrix4x4()
    moved.GetMatrixTransformToWorld(toWorld)
    click(panel, toWorld.MultiplyPoint((*OTHER, 1))[:3], include=False)
    outlined(panel)
    [(index, preview)] = shown
    assert index == 5
    assert not (preview & other[5]).any()


def test_a_model_without_clicks_says_what_to_do_and_leaves_them_out(panel, shown):
    node = staged(panel)
    click(panel, OTHER, include=False)
    outlined(panel)
    panel.logic.runner.worker.predictors.predictor.takes_points = False
    node.spread = "slice"  # the panel looks at its model again
    assert not panel.ui.includeButton.enabled
    assert not panel.ui.excludeButton.enabled
    assert panel.ui.clicksLabel.text == (
        "The model compact wasn't trained with clicks, so these tools are off. Correct the box on the slice instead, or"
        " choose a model that takes clicks. Apply leaves them out."
    )
    apply(panel)
    assert found(panel)[two_parts()[1]].any()
    panel.logic.runner.worker.predictors.predictor.takes_points = True
    node.spread = "both"
    assert panel.ui.includeButton.enabled


def test_which_models_take_clicks_is_read_off_their_files(tmp_path):
    from cases import write_tiny_weights
    from DBSAMSegmentLib.Run.Predictors import Predictors

    from dbsam.weights.metadata import read_info

    write_tiny_weights(tmp_path / "without.safetensors")
    write_tiny_weights(tmp_path / "with.safetensors", trained_clicks=True)
    assert read_info(tmp_path / "with.safetensors").config.trained_clicks
    takes = Predictors().takesClicks
    assert [takes(str(tmp_path / name)) for name in ("without.safetensors", "with.safetensors")] == [False, True]
    assert [takes(name) for name in ("compact", "sam", "medsam", "dbsam")] == [False] * 4
    assert takes("dbsam-lite")
    assert takes(str(tmp_path / "missing.safetensors")), "a run says that it is missing"


def test_a_network_with_trained_clicks_is_corrected_like_the_rule(panel, tmp_path):
    from cases import write_tiny_weights
    from DBSAMSegmentLib.Run.Predictors import Predictors

    write_tiny_weights(tmp_path / "clicks.safetensors", trained_clicks=True)
    panel.logic.runner.worker.predictors = Predictors()
    node = staged(panel)
    node.model, node.device, node.strategy = str(tmp_path / "clicks.safetensors"), "cpu", "box"
    apply(panel)
    assert panel.panel.result.segment is not None, panel.ui.statusLabel.text
    click(panel, WANTED, include=True)
    outlined(panel)
    click(panel, OTHER, include=False)
    outlined(panel)
    assert "belongs to slice K = 5" in panel.ui.statusLabel.text
    apply(panel)
    assert {report.index: report.clicks for report in panel.panel.result.segment.slices}[5] == 2


def test_clicks_that_cannot_be_used_are_refused_in_words(panel):
    node = staged(panel)
    apply(panel)
    click(panel, (34, 19, 50), include=False)
    outlined(panel)
    assert "lies outside the volume" in panel.ui.statusLabel.text
    panel.ui.takeBackButton.click()
    click(panel, (34, 19, 11), include=False)
    outlined(panel)
    assert "lies outside the box, so that the click changes nothing" in panel.ui.statusLabel.text
    panel.ui.takeBackButton.click()
    click(panel, OTHER, include=False)
    outlined(panel)
    node.mode = "add"
    before = found(panel)
    panel.ui.applyButton.click()
    assert panel.panel.run.job is None
    np.testing.assert_array_equal(found(panel), before)


def test_the_tools_place_points_until_they_are_pressed_again(panel):
    node = staged(panel)
    interaction = slicer.mrmlScene.GetNodeByID("vtkMRMLInteractionNodeSingleton")
    panel.ui.includeButton.click()
    assert (panel.ui.includeButton.checked, panel.ui.excludeButton.checked) == (True, False)
    assert interaction.GetPlaceModePersistence()
    panel.ui.excludeButton.click()
    assert (panel.ui.includeButton.checked, panel.ui.excludeButton.checked) == (False, True)
    assert placedTo(slicer.mrmlScene) is node.excludePoints
    panel.ui.excludeButton.click()
    assert placedTo(slicer.mrmlScene) is None
    assert not panel.ui.excludeButton.checked
    panel.ui.includeButton.click()
    interaction.SetCurrentInteractionMode(interaction.ViewTransform)  # a right-click
    assert not panel.ui.includeButton.checked


def test_the_console_takes_point_lists(panel):
    from DBSAMSegmentLib.Mrml.PointLists import newPointList

    node = staged(panel)
    _, other = two_parts()
    exclude = newPointList(slicer.mrmlScene, include=False)
    exclude.AddControlPointWorld(vtk.vtkVector3d(*map(float, OTHER)))
    segmentation = scenes.add_segmentation(slicer.mrmlScene, node.volume)
    options = {"axis": "K", "exclude": exclude}
    report = panel.logic.segment(node.volume, node.rois[0], segmentation, spread="slice", **options)
    assert [one.index for one in report.segments[0].slices if one.clicks] == [5]
    array = scenes.segment_array(segmentation, report.segments[0].segmentId, SHAPE)
    assert [bool(array[k][other[k]].any()) for k in (4, 5, 6)] == [True, False, True]
    with pytest.raises(ValueError, match="check one box"):
        panel.logic.segment(node.volume, [node.rois[0], add_box("b")], segmentation, **options)
    with pytest.raises(ValueError, match="include must be a point list"):
        panel.logic.segment(node.volume, node.rois[0], segmentation, include=node.rois[0])


def cancel_run(panel, rng):
    panel.ui.applyButton.click()
    host.process_events(rng.uniform(0, 0.1))
    panel.ui.cancelButton.click()


def run(panel, rng):
    panel.ui.applyButton.click()


def take_back(panel, rng):
    panel.ui.takeBackButton.click()


def move(panel, rng):
    points = panel.logic.getParameterNode().excludePoints
    points.SetNthControlPointPositionWorld(0, 34.0, 19.0, float(rng.randrange(3, 9)))


def another_click(panel, rng):
    click(panel, (rng.uniform(9, 23), rng.uniform(11, 27), rng.randrange(3, 9)), include=rng.random() < 0.5)


def remove(name):
    def do(panel, rng):
        node = panel.logic.getParameterNode()
        slicer.mrmlScene.RemoveNode(node.rois[0] if name == "rois" else getattr(node, name))

    do.__name__ = f"remove {name}"
    return do


def other_volume(panel, rng):
    panel.logic.getParameterNode().volume = two_part_volume("other")


def other_box(panel, rng):
    panel.logic.getParameterNode().rois = [add_box("other")]


def move_box(panel, rng):
    panel.logic.getParameterNode().rois[0].SetCenter(23.0, 18.5, 5.5)


def change_voxels(panel, rng):
    panel.logic.getParameterNode().volume.GetImageData().GetPointData().GetScalars().Modified()


def fail(panel, rng):
    panel.logic.runner.worker.predictors.predictor.fail_at = 0


def other_model(panel, rng):
    panel.logic.getParameterNode().model = f"model {rng.random()}"


def close_scene(panel, rng):
    host.new_scene()


ACTIONS = (
    cancel_run, run, take_back, move, another_click, remove("excludePoints"), remove("rois"), remove("volume"),
    remove("segmentation"), other_volume, other_box, move_box, change_voxels, fail, other_model, close_scene,
)  # fmt: skip


def test_random_interruptions_of_clicks_leave_nothing_half_done(panel, monkeypatch):
    monkeypatch.setattr(slicer.util, "errorDisplay", lambda text, **options: None)
    rng, count = random.Random(5), int(os.environ.get("DBSAM_TEST_INTERRUPTIONS", "16"))
    wanted, other = two_parts()
    happened = {"corrected": 0, "as it was": 0, "gone": 0}
    for number in range(count):
        action = ACTIONS[number % len(ACTIONS)]
        host.new_scene()
        rule = ThresholdSettings("slice", size=48, seconds_per_slice=0.01, name=f"rule {number}")
        panel.logic.runner.worker.predictors.predictor = rule
        node = staged(panel)
        segmentation = scenes.add_segmentation(slicer.mrmlScene, node.volume, ["kept"])
        node.segmentation = segmentation
        apply(panel)
        segmentId = panel.panel.result.segment.segmentId
        boxed = scenes.segment_array(segmentation, segmentId, SHAPE)
        assert boxed[other].all()
        click(panel, OTHER, include=False)
        host.process_events(rng.uniform(0, 0.15))
        action(panel, rng)
        host.process_events(rng.uniform(0, 0.15))
        if panel.ui.applyButton.enabled and rng.random() < 0.5:
            panel.ui.applyButton.click()
        runner, preview = panel.logic.runner, panel.panel.clicks.preview
        idle = time.monotonic() + LONGEST
        while not host.process_events(0.05, lambda: panel.panel.run.job is None and not preview.busy):  # noqa: B023
            assert time.monotonic() < idle, f"{action.__name__}: work never ended"
        assert host.process_events(LONGEST, lambda: not runner.worker.busy)  # noqa: B023
        assert runner._jobNodes == {}
        if segmentation.GetScene() is None:
            happened["gone"] += 1
            continue
        assert not scenes.segment_array(segmentation, "kept", SHAPE).any()
        if segmentation.GetSegmentation().GetSegment(segmentId) is None:
            continue
        array = scenes.segment_array(segmentation, segmentId, SHAPE)
        isBoxed = np.array_equal(array, boxed)
        happened["as it was" if isBoxed else "corrected"] += 1
        assert isBoxed or array[wanted].mean() > 0.85 or not array[other].all(), action.__name__
    assert happened["corrected"] > 0
    assert happened["as it was"] > 0


def test_the_tutorials_picture_of_a_click_is_rendered_where_a_click_makes_a_mask_better(panel, tmp_path, monkeypatch):
    import render_screenshots

    from dbsam.geometry.grid import ImageGeometry, OrientedBox
    from dbsam.io.images import read_volume, write_volume
    from dbsam.io.roi_markups import MarkupsRoi, write_roi

    wanted, other = two_parts()
    geometry = ImageGeometry(np.eye(4), SHAPE[::-1])
    write_volume(tmp_path / "ct.nrrd", np.where(wanted | other, 150, -1000).astype(np.int16), geometry)
    write_volume(tmp_path / "truth.nrrd", wanted.astype(np.int16), geometry)
    box = OrientedBox(np.array([22.5, 18.5, 5.5]), np.diag([18.0, 11.0, 5.0]))
    write_roi(tmp_path / "box.mrk.json", MarkupsRoi("liver", box))
    monkeypatch.setattr(render_screenshots, "SAMPLE", tmp_path)
    picture = tmp_path / "clicks.png"
    case = ("ct.nrrd", "box.mrk.json", "truth.nrrd")
    assert render_screenshots.renderClick(panel, picture, "compact", case) == picture
    shown = read_volume(picture).voxels[0]
    side = shown.shape[0]
    assert shown.shape == (side, 3 * side, 3)
    left, middle, right = np.split(shown.astype(int), 3, axis=1)
    assert np.abs(left - middle).max() > 50, "the click"
    assert np.abs(left - right).max() > 50, "the mask"
    write_volume(tmp_path / "truth.nrrd", (wanted | other).astype(np.int16), geometry)
    with pytest.raises(RuntimeError, match="no click makes one of the worst slices right"):
        render_screenshots.renderClick(panel, picture, "compact", case)
