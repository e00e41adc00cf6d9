"""Volumes and segmentations of the scene as a data set on disk, for a training in a process of its own."""

from __future__ import annotations

import filecmp
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import slicer

from .TrainingProcess import canGoOn

if TYPE_CHECKING:
    from dbsam_training.data.label_ids import LabelIds
    from dbsam_training.data.nnunet_writer import RawCase


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


class ExportCancelled(RuntimeError):
    """The user cancelled an export; nothing of it is left."""


Progress = Callable[[int, int, str], bool]
"""Told how many volumes are done, of how many, and the next one's name, "" after the last; whether to go on."""


def exportPairs(pairs: Sequence[ScenePair], folder: Path, progress: Progress | None = None) -> list[str]:
    """Writes the pairs as a data set in nnU-Net's raw layout; segments of one name are one structure.

    All segmentations of a volume are one case, so that no image is both trained on and validated on. Structures may
    overlap. A failed or cancelled export leaves the folder as it was.

    Returns:
        Names of the cases.

    Raises:
        ExportCancelled: `progress` said so.
        ValueError: there is no pair, a segmentation has no segment, a segment is empty or listed twice, or two
            segmentations of a volume have a structure of the same name.
    """
    from DBSAMSegmentLib.Mrml.NodeRequests import requireNode

    from dbsam_training.data.label_ids import LabelIds
    from dbsam_training.data.nnunet_writer import write_raw_dataset

    if not pairs:
        raise ValueError("Add at least one volume with its segmentation.")
    for pair in pairs:
        requireNode(pair.volumeNode, "vtkMRMLScalarVolumeNode", "The pair's volume")
        requireNode(pair.segmentationNode, "vtkMRMLSegmentationNode", "The pair's segmentation")
    drawn = _segmentsByVolume(pairs)
    ids = LabelIds(sorted({segment.name for segments in drawn.values() for segment in segments}))
    return write_raw_dataset(folder, _cases(drawn, ids, progress), ids, modality="scene")


def exportForRun(pairs: Sequence[ScenePair], runFolder: Path, progress: Progress | None = None) -> None:
    """Writes the pairs as `data` of a run; a run that can go on keeps its data, and is refused with others.

    Raises:
        ExportCancelled: `progress` said so; the folder is as it was.
        ValueError: the pairs can't be exported, or they aren't those of the run that lies there. Nothing was changed.
    """
    data = runFolder / "data"
    if not canGoOn(runFolder):
        exportPairs(pairs, data, progress)
        return
    with tempfile.TemporaryDirectory(dir=runFolder, prefix=".data-") as beside:
        exportPairs(pairs, Path(beside), progress)
        changed = _differing(data, Path(beside))
    if changed:
        names = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
        raise ValueError(
            f"{runFolder} holds a run on other data, which was left as it is ({names} would differ). Name another run"
            " folder, or take all pairs out of the list to go on with that run and its own data."
        )


def _differing(one: Path, other: Path) -> list[str]:
    """Names of the files that two folders don't hold alike."""
    files = {path.relative_to(folder) for folder in (one, other) for path in folder.rglob("*") if path.is_file()}

    def alike(name: Path) -> bool:
        return (one / name).is_file() and (other / name).is_file() and filecmp.cmp(one / name, other / name, False)

    return sorted(name.as_posix() for name in files if not alike(name))


@dataclass(frozen=True)
class _Segment:
    """A segment and the name of the structure that it is."""

    segmentationNode: slicer.vtkMRMLSegmentationNode
    segmentId: str
    name: str


def _segmentsByVolume(pairs: Sequence[ScenePair]) -> dict[slicer.vtkMRMLScalarVolumeNode, list[_Segment]]:
    drawn: dict[slicer.vtkMRMLScalarVolumeNode, list[_Segment]] = {}
    for pair in pairs:
        earlier = drawn.setdefault(pair.volumeNode, [])
        segments = _segments(pair)
        for segment in segments:
            _refuseAmong(earlier, segment, pair.volumeNode.GetName())
        earlier += segments
    return drawn


def _segments(pair: ScenePair) -> list[_Segment]:
    segmentation = pair.segmentationNode.GetSegmentation()
    ids = pair.segmentIds or tuple(segmentation.GetSegmentIDs())
    if not ids:
        raise ValueError(f"{pair.segmentationNode.GetName()} has no segment.")
    return [_Segment(pair.segmentationNode, one, segmentation.GetSegment(one).GetName()) for one in ids]


def _refuseAmong(earlier: Sequence[_Segment], segment: _Segment, volume: str) -> None:
    """Refuses what two pairs of one volume can't both say."""
    for other in earlier:
        one, two = other.segmentationNode, segment.segmentationNode
        if other == segment:
            raise ValueError(f"The segment {segment.name} of {two.GetName()} on {volume} is listed twice.")
        if other.name == segment.name and one is not two:
            raise ValueError(
                f"{volume} has the structure {segment.name} in two segmentations, {one.GetName()} and {two.GetName()}:"
                " take one of them out of the list, or rename a segment."
            )


def _cases(
    drawn: Mapping[slicer.vtkMRMLScalarVolumeNode, Sequence[_Segment]], ids: LabelIds, progress: Progress | None
) -> Iterator[RawCase]:
    from DBSAMSegmentLib.Mrml.Geometry import snapshotVolume

    from dbsam_training.data.nnunet_writer import RawCase

    for number, (volumeNode, segments) in enumerate(drawn.items()):
        _goOn(progress, number, len(drawn), volumeNode.GetName())
        snapshot = snapshotVolume(volumeNode)
        labels = np.zeros(snapshot.geometry.shape_KJI, np.uint16)
        for segment in segments:
            ids.draw(labels, _mask(segment, volumeNode), segment.name)
        title = re.sub(r"\W+", "_", volumeNode.GetName()).strip("_") or "volume"
        yield RawCase(f"{title}_{number + 1}", snapshot.voxels, labels, snapshot.geometry)
    _goOn(progress, len(drawn), len(drawn), "")


def _goOn(progress: Progress | None, done: int, total: int, name: str) -> None:
    if progress is not None and not progress(done, total, name):
        raise ExportCancelled("The export was cancelled: nothing was written.")


def _mask(segment: _Segment, volumeNode: slicer.vtkMRMLScalarVolumeNode) -> np.ndarray:
    """(K,J,I) bool on the volume's grid."""
    node = segment.segmentationNode
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, segment.segmentId, volumeNode)
    if mask is None or not mask.any():
        raise ValueError(f"The segment {segment.name} of {node.GetName()} is empty on its volume.")
    return mask > 0
