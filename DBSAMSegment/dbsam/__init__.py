"""DB-SAM: box-prompted segmentation of medical images.

    import dbsam

    volume = dbsam.read_volume("ct.nrrd")
    result = dbsam.segment(volume, "liver.mrk.json")
    dbsam.write_labelmap("liver.nii.gz", result.labelmap_KJI(), volume.geometry)

Names are imported when they are first used, so that `import dbsam` loads neither torch nor SimpleITK.

What goes wrong has a name: `ImageFileError` and `RoiFileError` (ValueErrors) for files that can't be read as what they
should be, `CheckpointError`, with `WeightsNotFoundError`, and `DownloadError` (RuntimeErrors) for the model's weights,
`DeviceError` (a ValueError) for where to compute, and `Cancelled`. Other wrong values are ValueErrors or TypeErrors.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dbsam.api import load_predictor as load_predictor
    from dbsam.api import segment as segment
    from dbsam.geometry.grid import ImageGeometry as ImageGeometry
    from dbsam.geometry.grid import OrientedBox as OrientedBox
    from dbsam.inference.embedding_cache import EmbeddingCache as EmbeddingCache
    from dbsam.inference.predictor import DeviceError as DeviceError
    from dbsam.inference.segmenter import VolumeSegmentation as VolumeSegmentation
    from dbsam.io.dicom_seg import write_dicom_seg as write_dicom_seg
    from dbsam.io.image_file import ImageFileError as ImageFileError
    from dbsam.io.images import read_labelmap as read_labelmap
    from dbsam.io.images import read_volume as read_volume
    from dbsam.io.images import write_labelmap as write_labelmap
    from dbsam.io.roi_markups import MarkupsRoi as MarkupsRoi
    from dbsam.io.roi_markups import RoiFileError as RoiFileError
    from dbsam.io.roi_markups import read_points as read_points
    from dbsam.io.roi_markups import read_roi as read_roi
    from dbsam.io.roi_markups import write_roi as write_roi
    from dbsam.io.seg_nrrd import Segment as Segment
    from dbsam.io.seg_nrrd import write_segmentation as write_segmentation
    from dbsam.preprocess.prompts import PointPrompt as PointPrompt
    from dbsam.preprocess.prompts import SliceBoxes as SliceBoxes
    from dbsam.preprocess.volume import Volume as Volume
    from dbsam.progress import Cancelled as Cancelled
    from dbsam.progress import CancelToken as CancelToken
    from dbsam.progress import Progress as Progress
    from dbsam.weights.download import DownloadError as DownloadError
    from dbsam.weights.load import WeightsNotFoundError as WeightsNotFoundError
    from dbsam.weights.metadata import CheckpointError as CheckpointError

__version__ = "0.1.0"

_HOMES = {
    "load_predictor": "api",
    "segment": "api",
    "ImageGeometry": "geometry.grid",
    "OrientedBox": "geometry.grid",
    "EmbeddingCache": "inference.embedding_cache",
    "DeviceError": "inference.predictor",
    "VolumeSegmentation": "inference.segmenter",
    "ImageFileError": "io.image_file",
    "write_dicom_seg": "io.dicom_seg",
    "read_labelmap": "io.images",
    "read_volume": "io.images",
    "write_labelmap": "io.images",
    "MarkupsRoi": "io.roi_markups",
    "RoiFileError": "io.roi_markups",
    "read_points": "io.roi_markups",
    "read_roi": "io.roi_markups",
    "write_roi": "io.roi_markups",
    "Segment": "io.seg_nrrd",
    "write_segmentation": "io.seg_nrrd",
    "PointPrompt": "preprocess.prompts",
    "SliceBoxes": "preprocess.prompts",
    "Volume": "preprocess.volume",
    "Cancelled": "progress",
    "CancelToken": "progress",
    "Progress": "progress",
    "DownloadError": "weights.download",
    "WeightsNotFoundError": "weights.load",
    "CheckpointError": "weights.metadata",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
