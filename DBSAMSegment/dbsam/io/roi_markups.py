"""Reads and writes the ROI boxes, and reads the points, that 3D Slicer saves as .mrk.json files (markups schema 1.0).

A file holds the node's own coordinates. If the ROI or point list lay under a parent transform in Slicer when it was
saved, the file neither holds that transform nor shows that there was one: harden the transform before saving, or apply
its matrix with `OrientedBox.transformed` after reading.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dbsam.geometry.grid import LPS_FROM_RAS, OrientedBox
from dbsam.io.files import write_text
from dbsam.preprocess.prompts import PointPrompt

_SCHEMA = (
    "https://raw.githubusercontent.com/slicer/slicer/master/Modules/Loadable/Markups/Resources/Schema/"
    "markups-schema-v1.0.3.json#"
)
# Multiplying by it changes RAS to LPS and back.
_FLIPS = {"LPS": np.diag(LPS_FROM_RAS)[:3], "RAS": np.ones(3)}
_LARGEST_COSINE = 1e-3  # lets files pass whose numbers were rounded by hand
_MOST_SHOWN = 200
_AXIS_ALIGNED = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]


class RoiFileError(ValueError):
    """A markups file that holds no ROI that can be used; the message names it and says what to do."""


@dataclass(frozen=True)
class MarkupsRoi:
    """One ROI of a markups file.

    Attributes:
        name: the node's name; files of a single ROI usually hold none, then it is the file's name, as in Slicer.
        box: the ROI's box, in RAS mm.
        color_rgb: red, green, blue from 0 to 1 in which Slicer shows it, or None if the file has no colour.
        roi_type: "Box", or "BoundingBox" if Slicer fits it around control points.
        inside_out: the user marked the outside of the box as the region of interest.
    """

    name: str
    box: OrientedBox
    color_rgb: tuple[float, float, float] | None = None
    roi_type: str = "Box"
    inside_out: bool = False


def read_roi(path: str | Path) -> list[MarkupsRoi]:
    """Reads every ROI of a .mrk.json file, in the file's order; markups of other types are passed over.

    Raises:
        FileNotFoundError: there is no such file.
        RoiFileError: the file is no markups file, holds no ROI, or an ROI is incomplete, has no volume or is sheared.
    """
    path = Path(path)
    markups = _read_markups(path)
    if not any(markup.get("type") == "ROI" for markup in markups):
        raise RoiFileError(
            f"{path} holds no ROI (it holds: {_kinds(markups)}). Place an ROI in Slicer's Markups and save that."
        )
    file_name = re.sub(r"(\.mrk)?\.json$", "", path.name, flags=re.IGNORECASE)
    rois: list[MarkupsRoi] = []
    for markup in markups:
        if markup.get("type") == "ROI":
            default_name = f"{file_name}_{len(rois)}" if rois else file_name
            rois.append(_roi_from_markup(markup, markup.get("name") or default_name, path))
    return rois


def read_points(path: str | Path) -> list[PointPrompt]:
    """Reads the points of a point list, as clicks: where the object is, or isn't.

    A point excludes if its label, or else the list's name, begins with "exclude"; all others include. Points that were
    not placed in the end are passed over, as are markups of other types.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not a markups file, holds no point, or a point is incomplete.
    """
    path = Path(path)
    markups = _read_markups(path)
    points: list[PointPrompt] = []
    for markup in markups:
        if markup.get("type") == "Fiducial":
            points += _points_of(markup, path)
    if not points:
        raise RoiFileError(
            f"{path} holds no point (it holds: {_kinds(markups)}). Place points in Slicer's Markups and save the list."
        )
    return points


def refuse_inside_out(roi: MarkupsRoi) -> None:
    """Refuses an ROI that stands for everything but its box.

    Raises:
        ValueError: it is inside out.
    """
    if roi.inside_out:
        raise ValueError(f"ROI {roi.name!r} is set to inside out; its inside is segmented: switch that off.")


def write_roi(path: str | Path, roi: MarkupsRoi | Sequence[MarkupsRoi]) -> None:
    """Writes one or several ROIs as a .mrk.json file that Slicer opens, in LPS.

    Raises:
        ValueError: the path does not end in .json (Slicer would not know the file), there is nothing to write, or a box
            is sheared.
    """
    path = Path(path)
    rois = [roi] if isinstance(roi, MarkupsRoi) else list(roi)
    if path.suffix.lower() != ".json":
        raise ValueError(f"{path} does not end in .mrk.json, by which Slicer recognises markups. Rename it.")
    if not rois:
        raise ValueError(f"There is no ROI to write to {path}.")
    document = {"@schema": _SCHEMA, "markups": [_markup_from_roi(each) for each in rois]}
    write_text(path, json.dumps(document, indent=4) + "\n")


def _read_markups(path: Path) -> list[dict[str, Any]]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # no JSON, no UTF-8, numbers of thousands of digits
        raise RoiFileError(f"{path} is not a JSON file ({error}). Choose a .mrk.json file saved by Slicer.") from error
    content: dict[str, Any] = document if isinstance(document, dict) else {}
    schema, markups = content.get("@schema"), content.get("markups")
    is_list_of_markups = isinstance(markups, list) and all(isinstance(markup, dict) for markup in markups)
    if markups is None or not is_list_of_markups or not re.search(r"markups-schema-v1\.", str(schema)):
        raise RoiFileError(
            f"{path} is not a Slicer markups file of schema 1 (its @schema is {schema!r}). "
            "Save it in Slicer as .mrk.json."
        )
    return list(markups)


def _kinds(markups: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(sorted({str(markup.get("type")) for markup in markups})) or "nothing"


def _points_of(markup: Mapping[str, Any], path: Path) -> list[PointPrompt]:
    name = str(markup.get("name") or path.name)
    where = f"Point list {name!r} of {path}"
    controls = markup.get("controlPoints", [])
    if not isinstance(controls, list) or not all(isinstance(control, dict) for control in controls):
        raise RoiFileError(f"{where} has {controls!r} as 'controlPoints'. Save it in Slicer again.")
    flip = _flip_of(markup, where)
    points = []
    for control in controls:
        if control.get("positionStatus", "defined") != "defined":
            continue
        label = str(control.get("label") or name)
        right, anterior, superior = _numbers(control, "position", 3, f"Point {label!r} of {path}") * flip
        position = (float(right), float(anterior), float(superior))
        points.append(PointPrompt(position, not label.strip().lower().startswith("exclude")))
    return points


def _flip_of(markup: Mapping[str, Any], where: str) -> np.ndarray:
    system = markup.get("coordinateSystem", "LPS")
    if not isinstance(system, str) or system not in _FLIPS:
        raise RoiFileError(f"{where} has the coordinate system {system!r}. Save it as LPS or RAS.")
    units = markup.get("coordinateUnits", "mm")
    if units not in ("mm", ["mm", "mm", "mm"]):
        raise RoiFileError(f"{where} has the unit of length {units!r}. Save it in mm.")
    return _FLIPS[system]


def _roi_from_markup(markup: Mapping[str, Any], name: str, path: Path) -> MarkupsRoi:
    where = f"ROI {name!r} of {path}"
    if not isinstance(name, str):
        raise RoiFileError(f"{where} has the name {name!r}, which is no text. Name it in Slicer and save it again.")
    flip = _flip_of(markup, where)
    size = _numbers(markup, "size", 3, where)
    if size.min() <= 0:
        raise RoiFileError(f"{where} has the size {size.tolist()} mm. Give it a positive size along every axis.")
    orientation = _numbers({"orientation": _AXIS_ALIGNED, **markup}, "orientation", 9, where).reshape(3, 3)
    center = _numbers(markup, "center", 3, where)
    try:
        # The columns are the ROI's axes. Slicer does not normalise them: a scaled ROI stays scaled.
        box = OrientedBox(center * flip, orientation.T * flip * (size / 2)[:, None])
    except ValueError as error:
        raise RoiFileError(f"{where} encloses no volume: {error}") from error
    _require_right_angles(box, where)
    return MarkupsRoi(
        name=name,
        box=box,
        color_rgb=_color(markup, where),
        roi_type=markup.get("roiType", "Box"),
        inside_out=bool(markup.get("insideOut", False)),
    )


def _color(markup: Mapping[str, Any], where: str) -> tuple[float, float, float] | None:
    display = markup.get("display", {})
    if not isinstance(display, dict):
        raise RoiFileError(f"{where} has {display!r} as 'display', which holds its colour. Save it in Slicer again.")
    # ROI points are "selected" unless the user unticks them.
    key = "selectedColor" if "selectedColor" in display else "color"
    if display.get(key) is None:
        return None
    red, green, blue = _numbers(display, key, 3, where)
    return float(red), float(green), float(blue)


def _markup_from_roi(roi: MarkupsRoi) -> dict[str, Any]:
    _require_right_angles(roi.box, f"ROI {roi.name!r}")
    center = (roi.box.center_ras * _FLIPS["LPS"] + 0.0).tolist()  # + 0.0: no "-0.0" in the file
    half_axes = roi.box.half_axes_ras * _FLIPS["LPS"]
    lengths = np.linalg.norm(half_axes, axis=1)
    axes = half_axes / lengths[:, None]
    if np.linalg.det(axes) < 0:
        axes[2] *= -1  # the same box, with right-handed axes as Slicer's handles expect them
    markup: dict[str, Any] = {
        "type": "ROI",
        "name": roi.name,
        "coordinateSystem": "LPS",
        "coordinateUnits": "mm",
        "locked": False,
        "fixedNumberOfControlPoints": False,
        "labelFormat": "%N-%d",
        "lastUsedControlPointNumber": 1,
        # A bounding box is refitted to its control points on loading, and these are not kept here.
        "roiType": "Box",
        "center": center,
        "orientation": (axes.T.ravel() + 0.0).tolist(),
        "size": (2 * lengths).tolist(),
        "insideOut": roi.inside_out,
        # Without this point Slicer takes the ROI for one not yet placed and sets its size to zero.
        "controlPoints": [
            {
                "id": "1",
                "label": f"{roi.name}-1",
                "position": center,
                "selected": True,
                "visibility": True,
                "positionStatus": "defined",
            }
        ],
    }
    if roi.color_rgb is not None:
        markup["display"] = {"color": list(roi.color_rgb), "selectedColor": list(roi.color_rgb)}
    return markup


def _require_right_angles(box: OrientedBox, where: str) -> None:
    """Refuses a parallelepiped: Slicer would silently show and use another box, with its axes made orthogonal."""
    axes = box.half_axes_ras / np.linalg.norm(box.half_axes_ras, axis=1, keepdims=True)
    cosines = np.abs(axes @ axes.T - np.eye(3))
    if cosines.max() > _LARGEST_COSINE:
        degrees = math.degrees(math.acos(min(1.0, cosines.max())))
        raise RoiFileError(
            f"{where} is sheared: two of its axes are {degrees:.2f} degrees apart. Slicer's ROIs are right-angled; "
            "use one that encloses it."
        )


def _numbers(markup: Mapping[str, Any], key: str, count: int, where: str) -> np.ndarray:
    values = markup.get(key)
    if not (isinstance(values, list) and len(values) == count and all(map(_is_finite, values))):
        shown = repr(values)
        shown = shown if len(shown) < _MOST_SHOWN else f"{shown[:_MOST_SHOWN]} ..."
        raise RoiFileError(f"{where} needs {count} numbers as {key!r}, not {shown}. Save it in Slicer again.")
    return np.array(values, dtype=np.float64)


def _is_finite(value: object) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer of hundreds of digits
        return False
