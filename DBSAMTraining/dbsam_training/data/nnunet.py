"""Data sets in the raw layout of nnU-Net v2, read with their geometry.

A folder `DatasetNNN_Name` holds `imagesTr/CASE_0000.EXT`, `labelsTr/CASE.EXT`, `dataset.json` and, optionally,
`splits_final.json`. Beside nnU-Net's keys, dataset.json may say `modality`, `dimension`, `licence`, `reference`,
`mask_origin`, `spacing` ("none" when a pixel has no physical size), `instances` (ids number objects), `nested`
(structures that are unions of ids) and `ill_posed_for_one_box`; all of these have defaults, so that a folder made for
nnU-Net alone can be read.

    dataset = RawDataset("Dataset200_CardiacCineMr")
    for name in dataset.list_cases("val"):
        case = dataset.read_case(name)
        for structure in dataset.structures(case):
            ...                                  # structure.name, structure.mask_KJI
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.grid import LPS_FROM_RAS, ImageGeometry
from dbsam.io.image_file import ImageFile
from dbsam.io.images import read_labels
from dbsam_training.data.case import Case, CaseError, Structure
from dbsam_training.data.dataset_info import DatasetInfo
from dbsam_training.data.images import read_channels, same_grid
from dbsam_training.data.json_files import read_json
from dbsam_training.data.splits import made_split, patients_of, stated_split
from dbsam_training.schema import SettingError

logger = logging.getLogger(__name__)

SPLITS_WITH_FOLD = ("train", "val")
_INSTANCE_MARK = " #"


class RawDataset:
    """A data set folder in nnU-Net's raw layout.

    Args:
        folder: the `DatasetNNN_Name` folder.
        channel: which of several image channels stored as separate files is read. Three files for red, green and blue
            are read as one colour image.

    Raises:
        FileNotFoundError: the folder has no dataset.json.
        ValueError: dataset.json isn't readable as one.
    """

    def __init__(self, folder: str | Path, channel: int = 0) -> None:
        self.folder = Path(folder)
        self.channel = channel
        content = self._read_json("dataset.json")
        if not isinstance(content, dict):
            raise ValueError(
                f"{self.folder / 'dataset.json'} holds a {type(content).__name__}, not an object with `labels`."
            )
        self.info = DatasetInfo.from_json(content, self.folder.resolve().name)
        self._explicit_files: dict[str, Any] = content.get("dataset") or {}
        names = self.info.channel_names
        if len(names) > 1 and not self.info.is_rgb:
            logger.warning(
                "%s has %d channels (%s), of which channel %d alone is used.",
                self.info.name, len(names), ", ".join(names), channel,
            )  # fmt: skip

    def list_cases(self, split: str = "all", fold: int = 0) -> list[str]:
        """Names of the cases of a split.

        Args:
            split: "train", "val", "test" (the folders ending in Ts) or "all" (everything in labelsTr). Without
                splits_final.json a fifth of the patients belongs to "val".
            fold: of splits_final.json.

        Raises:
            ValueError: unknown split, splits_final.json has no such fold or a case twice, or no label file has the
                ending that dataset.json states.
        """
        if split not in (*SPLITS_WITH_FOLD, "test", "all"):
            raise ValueError(f"Unknown split {split!r}: use train, val, test or all.")
        if split == "test":
            return sorted(self._label_files("Ts"))
        path = self.folder / "splits_final.json"
        if split != "all" and path.exists():
            return stated_split(self._read_json(path.name), path, split, fold)
        cases = sorted(set(self._label_files("Tr")) | set(self._explicit_files))
        return cases if split == "all" else made_split(patients_of(cases), split)

    def unlabelled(self) -> list[str]:
        """Names of the images in imagesTr that have no label file, and so are no cases."""
        folder, cases = self.folder / "imagesTr", set(self.list_cases())
        if self._explicit_files or not folder.is_dir():
            return []
        files = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
        stems = {name.removesuffix(self._ending) for name in files if name.endswith(self._ending)}
        return sorted({re.sub(r"_\d{4}$", "", stem) for stem in stems - cases} - cases)

    def files(self, name: str) -> list[Path]:
        """The files of a case; none if one is missing."""
        try:
            images, labels = self._files_of(name)
        except CaseError:
            return []
        return [*images, labels]

    def read_case(self, name: str) -> Case:
        """Reads image and labels of one case.

        Raises:
            CaseError: a file is missing or unreadable, image and labels differ in shape, or the labels aren't whole
                numbers.
        """
        image_paths, label_path = self._files_of(name)
        try:
            image = read_channels(image_paths, self.info.is_rgb)
            labels = read_labels(label_path)
        except (RuntimeError, ValueError, OSError) as error:
            raise CaseError(name, f"unreadable: {_first_line(error)}") from error
        if image.voxels.shape[:3] != labels.voxels.shape:
            raise CaseError(
                name,
                f"image has K,J,I = {image.voxels.shape[:3]}, labels have {labels.voxels.shape}: they must agree",
            )
        shape_KJI = labels.voxels.shape
        problems, faults = self._problems(image, labels.voxels), []
        if image.non_finite:
            faults.append(f"{image.non_finite} of {image.voxels.size} voxels are NaN or infinite")
        if image.spacing_known and labels.spacing_known:
            if not same_grid(image.ijk_to_ras, labels.ijk_to_ras, shape_KJI):
                faults.append("image and labels have different positions, directions or spacings (affines)")
            elif not np.allclose(image.ijk_to_ras, labels.ijk_to_ras, atol=1e-3):
                problems.append("image and labels have slightly different affines; the image's is used")
        flat = shape_KJI[0] == 1
        if self.info.dimension is not None and (self.info.dimension == 2) != flat:
            problems.append(
                f"dataset.json says {self.info.dimension}D, but K,J,I = {shape_KJI}; treated as {2 if flat else 3}D"
            )
        spacing_known = image.spacing_known and self.info.spacing.lower() not in ("none", "unknown")
        ijk_to_ras = image.ijk_to_ras if spacing_known or not flat else LPS_FROM_RAS
        return Case(
            name=name,
            voxels_KJI=image.voxels,
            geometry=ImageGeometry(ijk_to_ras=ijk_to_ras, dimensions_ijk=(shape_KJI[2], shape_KJI[1], shape_KJI[0])),
            labels_KJI=labels.voxels,
            spacing_ijk_mm=image.spacing_mm if spacing_known or not flat else None,
            dimension=2 if flat else 3,
            problems=(*problems, *faults),
            faults=tuple(faults),
        )

    def structures(self, case: Case) -> Iterator[Structure]:
        """The objects present in a case: classes and unions of ids, or one per id where ids number instances."""
        present = set(np.unique(case.labels_KJI).tolist()) - {0} - set(self.info.ignore_ids)
        if self.info.instances:
            class_name = self.info.structures[0][0] if len(self.info.structures) == 1 else "object"
            for label_id in sorted(present):
                yield Structure(f"{class_name}{_INSTANCE_MARK}{label_id}", class_name, case.labels_KJI == label_id)
            return
        for name, ids in self.info.structures:
            wanted = present.intersection(ids)
            if wanted:
                yield Structure(name, name, np.isin(case.labels_KJI, sorted(wanted)))

    def _problems(self, image: ImageFile, labels_KJI: NDArray[np.integer[Any]]) -> list[str]:
        problems = []
        ids = set(np.unique(labels_KJI).tolist()) - {0}
        if not ids:
            problems.append("the labels are empty")
        unknown = sorted(ids - self.info.known_ids)
        if unknown and not self.info.instances:
            problems.append(f"label ids {unknown[:10]} aren't in dataset.json")
        return problems

    def _files_of(self, name: str) -> tuple[list[Path], Path]:
        if name in self._explicit_files:
            entry = self._explicit_files[name]
            image_paths = [self.folder / path for path in entry["images"]]
            label_path = self.folder / entry["label"]
        else:
            kind = next((kind for kind in ("Tr", "Ts") if name in self._label_files(kind)), None)
            if kind is None:
                raise CaseError(name, f"no label file in {self.folder / 'labelsTr'}")
            label_path = self._label_files(kind)[name]
            images = self.folder / f"images{kind}"
            image_paths = [path for path in self._channel_files(images, name) if path.exists()]
        if not image_paths or not label_path.exists():
            raise CaseError(name, f"no image file {name}_0000{self._ending} in {label_path.parent.parent}")
        if len(image_paths) == 3 and self.info.is_rgb:
            return image_paths, label_path
        if self.channel >= len(image_paths):
            raise CaseError(name, f"no image channel {self.channel}, there are {len(image_paths)}")
        return [image_paths[self.channel]], label_path

    def _channel_files(self, images: Path, name: str) -> list[Path]:
        numbered = [
            images / f"{name}_{channel:04d}{self._ending}" for channel in range(max(1, len(self.info.channel_names)))
        ]
        return numbered if any(path.exists() for path in numbered) else [images / f"{name}{self._ending}"]

    @cached_property
    def _ending(self) -> str:
        if self.info.file_ending:
            return self.info.file_ending
        folder = self.folder / "labelsTr"
        endings = Counter(
            ".nii.gz" if path.name.endswith(".nii.gz") else path.suffix
            for path in (folder.iterdir() if folder.is_dir() else ())
            if not path.name.startswith(".") and path.suffix != ".json"
        )
        if not endings:
            raise ValueError(f"{folder} holds no label file and dataset.json no `file_ending`.")
        return endings.most_common(1)[0][0]

    def _label_files(self, kind: str) -> dict[str, Path]:
        if kind not in self._label_file_cache:
            folder = self.folder / f"labels{kind}"
            paths = sorted(folder.iterdir()) if folder.is_dir() else ()
            visible = [path for path in paths if not path.name.startswith(".")]
            self._label_file_cache[kind] = {
                path.name.removesuffix(self._ending): path for path in visible if path.name.endswith(self._ending)
            }
            if visible and not self._label_file_cache[kind]:
                raise SettingError(
                    f"No file in {folder} ends in {self._ending!r}, which dataset.json states as `file_ending`; there "
                    f"is, for example, {visible[0].name}: correct dataset.json."
                )
        return self._label_file_cache[kind]

    @cached_property
    def _label_file_cache(self) -> dict[str, dict[str, Path]]:
        return {}

    def _read_json(self, name: str) -> Any:
        path = self.folder / name
        if not path.exists():
            raise FileNotFoundError(f"{path} doesn't exist: {self.folder} isn't a data set in nnU-Net's raw layout.")
        return read_json(path)


def class_of(instance_name: str) -> str:
    """The class of an instance whose `Structure.name` is given."""
    return instance_name.rpartition(_INSTANCE_MARK)[0]


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
