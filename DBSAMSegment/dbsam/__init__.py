"""DB-SAM: box-prompted segmentation of medical images.

    import dbsam

    volume = dbsam.read_volume("ct.nrrd")
    result = dbsam.segment(volume, "liver.mrk.json")
    dbsam.write_labelmap("liver.nii.gz", result.labelmap_KJI(), volume.geometry)

Names are imported when they are first used, so that `import dbsam` loads neither torch nor SimpleITK.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dbsam.api import load_predictor as load_predictor
    from dbsam.api import segment as segment
    from dbsam.geometry import ImageGeometry as ImageGeometry
    from dbsam.geometry import OrientedBox as OrientedBox
    from dbsam.io import read_labelmap as read_labelmap
    from dbsam.io import read_volume as read_volume
    from dbsam.io import write_labelmap as write_labelmap
    from dbsam.markups import read_roi as read_roi
    from dbsam.markups import write_roi as write_roi
    from dbsam.segmentation import Segment as Segment
    from dbsam.segmentation import write_segmentation as write_segmentation
    from dbsam.volume import SliceBoxes as SliceBoxes
    from dbsam.volume import Volume as Volume
    from dbsam.volume import VolumeSegmentation as VolumeSegmentation

__version__ = "0.1.0"

_HOMES = {
    "load_predictor": "api",
    "segment": "api",
    "ImageGeometry": "geometry",
    "OrientedBox": "geometry",
    "read_labelmap": "io",
    "read_volume": "io",
    "write_labelmap": "io",
    "read_roi": "markups",
    "write_roi": "markups",
    "Segment": "segmentation",
    "write_segmentation": "segmentation",
    "SliceBoxes": "volume",
    "Volume": "volume",
    "VolumeSegmentation": "volume",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
