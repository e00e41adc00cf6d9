"""The training module opened in the application's stand-in, and volumes with their segments for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import host
import numpy as np
import slicer
import slicer_scene as scenes

SHAPE = (6, 20, 24)
IJK_TO_RAS = np.array([[0.0, -0.7, 0, 5], [0.9, 0, 0, -3], [0, 0, 3.0, 11], [0, 0, 0, 1]])


@contextmanager
def training_module() -> Iterator[Any]:
    """The module's widget in an empty scene."""
    host.start()
    host.new_scene()
    yield host.open_module("DBSAMTraining")
    host.close_module("DBSAMTraining")
    host.new_scene()


def pair(name="head", segment="liver"):
    mask = block(5, 12)
    volume = scenes.add_volume(slicer.mrmlScene, np.where(mask, 400, -100).astype(np.int16), IJK_TO_RAS, name)
    return volume, segmented(volume, {segment: mask}), mask


def block(first, end):
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:4, first:end, 6:15] = 1
    return mask


def segmented(volume, masks, name="segmentation"):
    segmentation = scenes.add_segmentation(slicer.mrmlScene, volume, masks, name)
    for segment, mask in masks.items():
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, segment, volume)
    return segmentation
