"""The module opened in the application's stand-in, and the bright block that it is tried on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import host
import numpy as np
import slicer
import slicer_scene as scenes
from threshold_worker import ThresholdInWorker, ThresholdSettings

SHAPE = (12, 40, 48)


def block_mask():
    block = np.zeros(SHAPE, bool)
    block[3:9, 10:28, 12:34] = True
    return block


def block_volume(name="block"):
    return scenes.add_volume(slicer.mrmlScene, np.where(block_mask(), 150, -1000).astype(np.int16), name=name)


def block_roi(name="bright"):
    return scenes.add_roi(slicer.mrmlScene, (22.5, 18.5, 5.5), (26, 22, 10), name)


def two_parts():
    """A block, and beside it a smaller one that doesn't belong."""
    wanted, other = np.zeros(SHAPE, bool), np.zeros(SHAPE, bool)
    wanted[3:9, 10:28, 8:24] = True
    other[3:9, 14:24, 30:38] = True
    return wanted, other


def two_part_volume(name="two parts"):
    voxels = np.where(two_parts()[0] | two_parts()[1], 150, -1000).astype(np.int16)
    return scenes.add_volume(slicer.mrmlScene, voxels, name=name)


@contextmanager
def opened_module(predictor: ThresholdSettings) -> Iterator[Any]:
    """The module's widget with a rule in place of a network, in an empty scene."""
    host.start()
    host.new_scene()
    slicer.app.settings().remove("DBSAM/Pace")
    widget = host.open_module("DBSAMSegment")
    widget.logic.runner.worker.predictors = ThresholdInWorker(predictor)
    yield widget
    host.close_module("DBSAMSegment")
    host.new_scene()


@contextmanager
def active_effect(make_volume: Callable[[], Any]) -> Iterator[tuple[Any, Any, Any, Any]]:
    """The effect, active on the first of two empty segments: (volume, segmentation, effect, runner)."""
    host.start()
    scene = host.new_scene()
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)  # the application's scene always has it
    if slicer.app.moduleManager().module("SegmentEditorDBSAM") is None:
        host.load_module(host.MODULES["SegmentEditorDBSAM"])
        host.complete_startup()
    from DBSAMSegmentLib.Run.Runner import SegmentationRunner

    volume = make_volume()
    segmentation = scenes.add_segmentation(scene, volume, ["target", "other"])
    runner = SegmentationRunner(scene, ThresholdInWorker(ThresholdSettings("slice", size=48)))
    effect = host.activate_effect("DB-SAM", segmentation, volume, "target").self()
    effect.setRunner(runner)
    yield volume, segmentation, effect, runner
    effect.onCancel()
    effect.onCancel()  # a run, then the preview
    host.activate_effect("")
    runner.close()
    host.new_scene()
