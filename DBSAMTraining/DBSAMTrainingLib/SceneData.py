"""Volumes and segmentations of the scene as a data set on disk, for a training in a process of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import slicer

if TYPE_CHECKING:
    from dbsam_training.raw_writer import RawCase


@dataclass(frozen=True)
class ScenePair:
    """A volume and the segmentation drawn on it.

    Attributes:
        volumeNode: grey or colour volume.
        segmentationNode: its truth.
        segmentIds: which segments are trained on; all if empty.
    """

    volumeNode: slicer.vtkMRMLScalarVolumeNode
    segmentationNode: slicer.vtkMRMLSegmentationNode
    segmentIds: tuple[str, ...] = ()


def exportPairs(pairs: Sequence[ScenePair], folder: Path) -> list[str]:
    """Writes the pairs as a data set in nnU-Net's raw layout; segments of one name are one structure.

    Where segments overlap, the later one in the list wins.

    Returns:
        Names of the cases.

    Raises:
        ValueError: there is no pair, a segmentation has no segment, or a segment is empty.
    """
    from dbsam_training.raw_writer import write_raw_dataset

    if not pairs:
        raise ValueError("Add at least one volume with its segmentation.")
    structures = sorted({name for pair in pairs for _, name in _segments(pair)})
    return write_raw_dataset(folder, _cases(pairs, structures), structures, modality="scene")


def _segments(pair: ScenePair) -> list[tuple[str, str]]:
    segmentation = pair.segmentationNode.GetSegmentation()
    ids = pair.segmentIds or tuple(segmentation.GetSegmentIDs())
    if not ids:
        raise ValueError(f"{pair.segmentationNode.GetName()} has no segment.")
    return [(segmentId, segmentation.GetSegment(segmentId).GetName()) for segmentId in ids]


def _cases(pairs: Sequence[ScenePair], structures: Sequence[str]) -> Iterator[RawCase]:
    from DBSAMSegmentLib.Geometry import snapshotVolume

    from dbsam_training.raw_writer import RawCase

    for number, pair in enumerate(pairs):
        snapshot = snapshotVolume(pair.volumeNode)
        labels = np.zeros(snapshot.geometry.shape_KJI, np.uint16)
        for segmentId, name in _segments(pair):
            mask = slicer.util.arrayFromSegmentBinaryLabelmap(pair.segmentationNode, segmentId, pair.volumeNode)
            if mask is None or not mask.any():
                raise ValueError(f"The segment {name} of {pair.segmentationNode.GetName()} is empty on its volume.")
            labels[mask > 0] = structures.index(name) + 1
        title = re.sub(r"\W+", "_", pair.volumeNode.GetName()).strip("_") or "volume"
        yield RawCase(f"{title}_{number + 1}", snapshot.view_KJI, labels, snapshot.geometry)
