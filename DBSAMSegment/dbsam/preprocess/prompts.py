"""What the user drew, as one rectangle for every slice and the voxels that may be set."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dbsam.geometry.grid import (
    FloatArray,
    ImageGeometry,
    OrientedBox,
    box_in_slices,
    interpolate_boxes,
    slice_axes,
    slice_boxes_xyxy,
    voxels_beyond,
)
from dbsam.geometry.plane_cut import TOLERANCE

# The object goes on round a click beside the box; how far is not known.
_CLICK_MARGIN_SHARE = 0.1  # of the rectangle's longer side
_CLICK_MARGIN_PIXELS = 3.0

_LEAST_CUT_OFF = 0.5  # voxels; less hides no voxel's centre


@dataclass(frozen=True, eq=False)
class SliceBoxes:
    """Rectangles that were drawn on some slices; those in between are interpolated linearly.

    Attributes:
        axis: 0, 1, 2 for slices along I, J, K.
        key_boxes: Slice index -> x_min, y_min, x_max, y_max in continuous pixel coordinates. Slices before the first
            and after the last get no rectangle.
        clip: A box that limits the segmentation further.
    """

    axis: int
    key_boxes: Mapping[int, ArrayLike]
    clip: OrientedBox | None = None


Prompt = OrientedBox | SliceBoxes


@dataclass(frozen=True)
class PointPrompt:
    """A click: what lies here belongs to the object, or doesn't.

    Attributes:
        position_ras: Right, anterior, superior, in mm.
        include: Whether the object is here.
    """

    position_ras: tuple[float, float, float]
    include: bool = True

    @classmethod
    def from_ijk(cls, ijk: Sequence[float], geometry: ImageGeometry, include: bool = True) -> PointPrompt:
        """Returns the point at (continuous) voxel indices I, J, K; whole numbers are voxel centres."""
        right, anterior, superior = geometry.ijk_to_ras[:3, :3] @ np.asarray(ijk, float) + geometry.ijk_to_ras[:3, 3]
        return cls((float(right), float(anterior), float(superior)), include)


@dataclass(frozen=True)
class SlicePoint:
    """A click on a slice, in continuous pixel coordinates."""

    x: float
    y: float
    include: bool


def points_by_slice(
    points: Sequence[PointPrompt], geometry: ImageGeometry, axis: int
) -> dict[int, tuple[SlicePoint, ...]]:
    """Returns the clicks of each slice, in the order in which they were made; a click belongs to the nearest slice.

    Raises:
        ValueError: a point isn't finite, or lies outside the volume.
    """
    found: dict[int, tuple[SlicePoint, ...]] = {}
    x_axis, y_axis = slice_axes(axis)
    dimensions = np.array(geometry.dimensions_ijk)
    for point in points:
        ijk = geometry.ras_to_ijk[:3, :3] @ np.asarray(point.position_ras, float) + geometry.ras_to_ijk[:3, 3]
        if not ((ijk >= -0.5 - TOLERANCE) & (ijk <= dimensions - 0.5 + TOLERANCE)).all():
            raise ValueError(
                f"The point at voxel {_rounded(ijk)} lies outside the volume of {geometry.dimensions_ijk} voxels. Was "
                "it placed on another image?"
            )
        index = min(max(math.floor(ijk[axis] + 0.5), 0), int(dimensions[axis]) - 1)
        found[index] = (*found.get(index, ()), SlicePoint(float(ijk[x_axis]), float(ijk[y_axis]), point.include))
    return found


def widened(box_xyxy: FloatArray, points: Sequence[SlicePoint], slice_hw: tuple[int, int]) -> FloatArray:
    """Returns a rectangle (4,) that holds the include points, with room round those that lay outside of it."""
    x_min, y_min, x_max, y_max = box_xyxy
    outside = [
        (point.x, point.y)
        for point in points
        if point.include and not (x_min <= point.x <= x_max and y_min <= point.y <= y_max)
    ]
    if not outside:
        return box_xyxy
    margin = max(_CLICK_MARGIN_SHARE * float(max(x_max - x_min, y_max - y_min)), _CLICK_MARGIN_PIXELS)
    height, width = slice_hw
    low = np.maximum(np.minimum(box_xyxy[:2], np.min(outside, axis=0) - margin), -0.5)
    high = np.minimum(np.maximum(box_xyxy[2:], np.max(outside, axis=0) + margin), [width - 0.5, height - 0.5])
    return np.concatenate([low, high])


@dataclass(frozen=True)
class Window:
    """A rectangle of whole pixels of a slice, ends included."""

    x_first: int
    y_first: int
    x_last: int
    y_last: int

    @classmethod
    def of_centres_in(cls, box_xyxy: FloatArray) -> Window:
        """Returns the pixels whose centres lie in a rectangle; without pixels, a last index is below its first."""
        x_min, y_min, x_max, y_max = (float(edge) for edge in box_xyxy)
        return cls(
            math.ceil(x_min - TOLERANCE),
            math.ceil(y_min - TOLERANCE),
            math.floor(x_max + TOLERANCE),
            math.floor(y_max + TOLERANCE),
        )

    @property
    def ranges_yx(self) -> tuple[range, range]:
        """Rows and columns."""
        return range(self.y_first, self.y_last + 1), range(self.x_first, self.x_last + 1)

    @property
    def shape_hw(self) -> tuple[int, int]:
        """Height and width in pixels."""
        rows, columns = self.ranges_yx
        return len(rows), len(columns)

    @property
    def slices(self) -> tuple[slice, slice]:
        """Rows and columns, to index a slice image [y, x]."""
        height, width = self.shape_hw
        return slice(self.y_first, self.y_first + height), slice(self.x_first, self.x_first + width)

    def within(self, outer: Window) -> tuple[slice, slice]:
        """Rows and columns of this window in an image of `outer`, cut to that."""
        rows = slice(max(self.y_first - outer.y_first, 0), max(min(self.y_last, outer.y_last) - outer.y_first + 1, 0))
        columns = slice(
            max(self.x_first - outer.x_first, 0), max(min(self.x_last, outer.x_last) - outer.x_first + 1, 0)
        )
        return rows, columns


class PromptPlan:
    """The slices that a prompt covers, their rectangles, and the pixels that may be set on them.

    Args:
        prompt: An oriented box, or rectangles on slices.
        geometry: The volume's grid.
        axis: 0, 1, 2 for slices along I, J, K.
        points: Clicks. An include point outside the prompt widens the rectangle of its slice; on a slice that the
            prompt doesn't reach, it carries the prompt's last rectangle on up to there. An exclude point changes
            nothing here.

    Attributes:
        boxes_xyxy: Slice index, ascending -> (4,) rectangle, within the volume. Slices of which no pixel centre lies in
            the prompt are left out.
        window: The pixels that all rectangles span together; masks are computed on these.
        points: Slice index -> its clicks.

    Raises:
        ValueError: the prompt lies outside the volume or holds no voxel centre; a point lies outside the volume.
    """

    def __init__(self, prompt: Prompt, geometry: ImageGeometry, axis: int, points: Sequence[PointPrompt] = ()) -> None:
        self.axis = axis
        self.slice_hw = geometry.slice_hw(axis)
        clip = prompt if isinstance(prompt, OrientedBox) else prompt.clip
        self._clip = None if clip is None else box_in_slices(clip, geometry, axis)
        if isinstance(prompt, OrientedBox):
            boxes = slice_boxes_xyxy(prompt, geometry, axis)
            self._drawn: dict[int, FloatArray] | None = None
        else:
            boxes = self._drawn = _drawn_boxes(prompt, geometry)
            if prompt.clip is not None:
                boxes = _intersections(boxes, slice_boxes_xyxy(prompt.clip, geometry, axis, boxes))
        if not boxes:
            raise ValueError(_outside_message(prompt, geometry))
        self._same_as: dict[int, int] = {}
        self._widened: set[int] = set()
        self.window = Window.of_centres_in(_union(boxes))
        self.boxes_xyxy = {index: boxes[index] for index in sorted(boxes) if self.inside(index).any()}
        if not self.boxes_xyxy:
            raise ValueError(
                f"The box holds the centre of no voxel: it is smaller than a voxel of {geometry.spacing_mm} mm, or "
                "touches the volume's border alone. Enlarge or move it."
            )
        self._key_slices = () if isinstance(prompt, OrientedBox) else tuple(prompt.key_boxes)
        self.points = points_by_slice(points, geometry, axis)
        self._take_in_points()
        self.window = Window.of_centres_in(_union(self.boxes_xyxy))

    def _take_in_points(self) -> None:
        boxes, covered = dict(self.boxes_xyxy), self.indices
        clicked = [index for index, points in self.points.items() if any(point.include for point in points)]
        for index in range(min([covered[0], *clicked]), max([covered[-1], *clicked]) + 1):
            if index not in boxes:
                self._same_as[index] = min(covered, key=lambda other: abs(other - index))
                boxes[index] = boxes[self._same_as[index]]
        for index in clicked:
            cut = Window.of_centres_in(boxes[index])
            inside = self._in_prompt(index, cut)
            if any(point.include and not _shows(inside, cut, point) for point in self.points[index]):
                boxes[index] = widened(boxes[index], self.points[index], self.slice_hw)
                self._widened.add(index)
        self.boxes_xyxy = {index: boxes[index] for index in sorted(boxes)}

    @property
    def indices(self) -> list[int]:
        """The slices, ascending."""
        return list(self.boxes_xyxy)

    def start_slice(self, wished: int | None = None) -> int:
        """Returns `wished`, or else the middle slice, or the drawn one nearest to the middle.

        Raises:
            ValueError: the prompt doesn't cover the slice that is wished.
        """
        indices = self.indices
        if wished is not None:
            if wished not in self.boxes_xyxy:
                raise ValueError(
                    f"Slice {wished} doesn't cut the box, which spans slices {indices[0]} to {indices[-1]}."
                )
            return wished
        middle = indices[len(indices) // 2]
        drawn = [key for key in self._key_slices if key in self.boxes_xyxy]
        return min(drawn, key=lambda key: (abs(key - middle), key)) if drawn else middle

    def nearest_first(self, start: int) -> list[int]:
        """Returns the slices by their distance from `start`."""
        return sorted(self.indices, key=lambda index: (abs(index - start), index))

    def inside(self, index: int) -> NDArray[np.bool_]:
        """Returns which pixels of the window may be set on a slice: those with their centre in the prompt.

        Where an include point widened the rectangle, those of the whole rectangle.
        """
        inside = self._in_prompt(index, self.window)
        if index in self._widened:
            inside[Window.of_centres_in(self.boxes_xyxy[index]).within(self.window)] = True
        return inside

    def _in_prompt(self, index: int, window: Window) -> NDArray[np.bool_]:
        """Which pixels of a window have their centre in the prompt, whatever was clicked."""
        index = self._same_as.get(index, index)
        if self._clip is None:
            inside = np.ones(window.shape_hw, dtype=bool)
        else:
            inside = self._clip.inside(index, *window.ranges_yx)
        if self._drawn is not None:
            drawn = np.zeros_like(inside)
            drawn[Window.of_centres_in(self._drawn[index]).within(window)] = True
            inside = inside & drawn
        return inside

    def extent_ijk(self) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
        """Returns the first and last index, included, along I, J and K of all voxels that may be set."""
        x_axis, y_axis = slice_axes(self.axis)
        extent = {
            x_axis: (self.window.x_first, self.window.x_last),
            y_axis: (self.window.y_first, self.window.y_last),
            self.axis: (self.indices[0], self.indices[-1]),
        }
        return extent[0], extent[1], extent[2]


def cut_off_note(prompt: Prompt, geometry: ImageGeometry) -> str:
    """A sentence on where a prompt reaches beyond the image by half a voxel or more; empty where it doesn't."""
    if isinstance(prompt, OrientedBox):
        beyond = voxels_beyond(prompt, geometry)
    else:
        corners = np.stack([np.asarray(box, float) for box in prompt.key_boxes.values()]).reshape(-1, 2, 2)
        beyond = np.zeros((3, 2))
        for n, axis in enumerate(slice_axes(prompt.axis)):
            last = geometry.dimensions_ijk[axis] - 0.5
            beyond[axis] = -0.5 - corners[..., n].min(), corners[..., n].max() - last
    places = [
        f"by {beyond[axis, end]:.1f} voxels at the {('start', 'end')[end]} of {'IJK'[axis]}"
        for axis, end in np.argwhere(beyond >= _LEAST_CUT_OFF)
    ]
    if not places:
        return ""
    return f"the box reaches beyond the image and is cut off there: {', '.join(places)}. Was it drawn on this image?"


def _drawn_boxes(prompt: SliceBoxes, geometry: ImageGeometry) -> dict[int, FloatArray]:
    if not prompt.key_boxes:
        raise ValueError("No rectangle was drawn: give one on at least one slice.")
    count = geometry.dimensions_ijk[prompt.axis]
    for key in prompt.key_boxes:
        if not 0 <= key < count:
            raise ValueError(f"A rectangle was drawn on slice {key}; the volume has slices 0 to {count - 1}.")
    height, width = geometry.slice_hw(prompt.axis)
    whole = np.array([-0.5, -0.5, width - 0.5, height - 0.5])
    boxes = interpolate_boxes(prompt.key_boxes)
    return _intersections(boxes, dict.fromkeys(boxes, whole))


def _intersections(boxes: Mapping[int, FloatArray], others: Mapping[int, FloatArray]) -> dict[int, FloatArray]:
    common = {}
    for index in boxes.keys() & others.keys():
        low = np.maximum(boxes[index][:2], others[index][:2])
        high = np.minimum(boxes[index][2:], others[index][2:])
        if (high > low).all():
            common[index] = np.concatenate([low, high])
    return common


def _union(boxes: Mapping[int, FloatArray]) -> FloatArray:
    corners = np.stack(list(boxes.values()))
    return np.concatenate([corners[:, :2].min(axis=0), corners[:, 2:].max(axis=0)])


def _shows(inside: NDArray[np.bool_], window: Window, point: SlicePoint) -> bool:
    """Whether the pixel that holds a point may be set."""
    row, column = math.floor(point.y + 0.5) - window.y_first, math.floor(point.x + 0.5) - window.x_first
    height, width = inside.shape
    return 0 <= row < height and 0 <= column < width and bool(inside[row, column])


def _rounded(values: ArrayLike) -> list[float]:
    return np.round(np.asarray(values, float), 1).tolist()


def _outside_message(prompt: Prompt, geometry: ImageGeometry) -> str:
    advice = "Move it onto the structure, and check that it was drawn on this volume."
    if isinstance(prompt, SliceBoxes):
        drawn = {key: np.asarray(box).tolist() for key, box in prompt.key_boxes.items()}
        return f"The rectangles {drawn} lie outside the volume or its clipping box. {advice}"
    centre = geometry.ras_to_ijk[:3, :3] @ prompt.center_ras + geometry.ras_to_ijk[:3, 3]
    return (
        f"The box lies outside the volume: its centre would be voxel {_rounded(centre)} of {geometry.dimensions_ijk}. "
        f"{advice}"
    )
