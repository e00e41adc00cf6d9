"""Writes cases as a data set in nnU-Net's raw layout, such as the volumes and segmentations of a Slicer scene."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.grid import LPS_FROM_RAS, ImageGeometry
from dbsam.io.images import write_volume
from dbsam_training.data.label_ids import LabelIds

LEAST_CASES_TO_SPLIT = 3
"""Of fewer, all are needed for training, and none is for validation."""


@dataclass(frozen=True, eq=False)
class RawCase:
    """One case: voxels (K,J,I[,3]), label ids (K,J,I), and the grid of both."""

    name: str
    voxels_KJI: NDArray[Any]
    labels_KJI: NDArray[np.integer]
    geometry: ImageGeometry


def write_raw_dataset(
    folder: Path, cases: Iterable[RawCase], structures: Sequence[str] | LabelIds, **facts: Any
) -> list[str]:
    """Write a data set; the last case is for validation, or none where there are fewer than three.

    What fails, or is cancelled by an exception of `cases`, leaves the folder as it was. A data set that lies there is
    replaced.

    Args:
        folder: The data set's folder, made if needed.
        cases: The cases; only one at a time is in memory.
        structures: Names of the structures; label id n is the n-th, from 1. Or the ids that the labels were drawn with.
        facts: More for dataset.json, such as modality and licence.

    Returns:
        Names of the cases.

    Raises:
        ValueError: There is no case, or voxels and labels of one differ in shape.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    part = folder / ".part"
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
    try:
        names = _write(part, cases, structures, facts)
        for path in sorted(part.iterdir()):
            _replace(path, folder / path.name)
        part.rmdir()
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        with suppress(OSError):  # no longer empty: somebody else's
            for path in made:
                path.rmdir()
        raise
    return names


def _write(
    folder: Path, cases: Iterable[RawCase], structures: Sequence[str] | LabelIds, facts: dict[str, Any]
) -> list[str]:
    names = []
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind).mkdir(parents=True)
    for case in cases:
        if case.voxels_KJI.shape[:3] != case.labels_KJI.shape:
            raise ValueError(f"{case.name}: voxels are {case.voxels_KJI.shape}, labels {case.labels_KJI.shape}.")
        # Compressing the noise of a CT would take seven times as long as writing it, and save a third.
        _write_image(folder / f"imagesTr/{case.name}_0000.nrrd", case.voxels_KJI, case.geometry, compressed=False)
        labels_KJI = case.labels_KJI.astype(np.uint16, copy=False)
        _write_image(folder / f"labelsTr/{case.name}.nrrd", labels_KJI, case.geometry, compressed=True)
        names.append(case.name)
    if not names:
        raise ValueError("There is no case to write.")
    labels = (structures if isinstance(structures, LabelIds) else LabelIds(structures)).as_labels()
    described = {"labels": labels, "channel_names": {"0": "image"}, "file_ending": ".nrrd", "numTraining": len(names)}
    count = len(names) - (len(names) >= LEAST_CASES_TO_SPLIT)
    split = {"train": names[:count], "val": names[count:]}
    (folder / "dataset.json").write_text(json.dumps(described | facts, indent=1), encoding="utf-8")
    (folder / "splits_final.json").write_text(json.dumps([split], indent=1), encoding="utf-8")
    return names


def _write_image(path: Path, array_KJI: NDArray[Any], geometry: ImageGeometry, compressed: bool) -> None:
    if array_KJI.ndim == 4:
        write_volume(path, array_KJI, geometry)  # says that it is a colour, as ITK does not
        return
    import SimpleITK as sitk  # slow to import

    affine = LPS_FROM_RAS @ geometry.ijk_to_ras
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    image = sitk.GetImageFromArray(array_KJI)
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    image.SetDirection((affine[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=compressed)


def _replace(source: Path, target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    source.replace(target)
