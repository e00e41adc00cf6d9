"""Segments and Slicer's segmentation file (`.seg.nrrd`), written without SimpleITK, whose NRRD writer has no layers.

The file is an ordinary NRRD: readers that know nothing of segments see a labelmap, or one labelmap per layer.
Keys and the axis order (layer, i, j, k) are those of Slicer's vtkMRMLSegmentationStorageNode.
"""

from __future__ import annotations

import gzip
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from dbsam.geometry.bounds import index_bounds
from dbsam.geometry.grid import LPS_FROM_RAS, ImageGeometry
from dbsam.io.files import atomic_path

if TYPE_CHECKING:
    from dbsam.inference.segmenter import VolumeSegmentation

PALETTE_RGB = (
    (0.90, 0.38, 0.20),
    (0.20, 0.63, 0.88),
    (0.36, 0.74, 0.30),
    (0.93, 0.76, 0.19),
    (0.64, 0.40, 0.82),
    (0.15, 0.72, 0.65),
    (0.89, 0.42, 0.66),
    (0.62, 0.50, 0.36),
)
"""Colours of segments whose ROI has none, told apart on grey images."""

# What Slicer itself writes for a segment of no particular kind; DICOM SEG export needs an entry.
_DEFAULT_TAGS = (
    "TerminologyEntry:Segmentation category and type - 3D Slicer General Anatomy list"
    "~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~Anatomic codes - DICOM master list~^^~^^|"
)


@dataclass(frozen=True)
class Segment:
    """One structure in a volume.

    Attributes:
        name: What the user calls it.
        mask_KJI: Non-zero inside, over the part of the volume that starts at `offset_ijk`; zero everywhere else.
        offset_ijk: First voxel (i, j, k) of that part.
        color_rgb: Red, green, blue, each 0 to 1; None takes the next colour of `PALETTE_RGB`.
    """

    name: str
    mask_KJI: NDArray[np.generic]
    offset_ijk: tuple[int, int, int] = (0, 0, 0)
    color_rgb: tuple[float, float, float] | None = None

    @classmethod
    def from_result(
        cls, name: str, result: VolumeSegmentation, color_rgb: tuple[float, float, float] | None = None
    ) -> Segment:
        """The segment of what `dbsam.segment` returned."""
        (first_i, _), (first_j, _), (first_k, _) = result.extent_ijk
        return cls(name, result.mask_KJI, (first_i, first_j, first_k), color_rgb)

    def color(self, position: int) -> tuple[float, float, float]:
        """The colour of this segment as number `position` (from 0) of a segmentation."""
        return self.color_rgb or PALETTE_RGB[position % len(PALETTE_RGB)]

    def slices_KJI(self, geometry: ImageGeometry) -> tuple[slice, slice, slice]:
        """The part of a volume array that `mask_KJI` covers.

        Raises:
            ValueError: The mask sticks out of the volume.
        """
        starts, sizes = self.offset_ijk[::-1], self.mask_KJI.shape
        whole = geometry.shape_KJI
        if len(sizes) != 3 or any(a < 0 or a + n > limit for a, n, limit in zip(starts, sizes, whole, strict=True)):
            raise ValueError(
                f"Segment {self.name!r}: a mask of shape {sizes} (K, J, I) at {starts} does not fit in {whole}."
            )
        k, j, i = (slice(a, a + n) for a, n in zip(starts, sizes, strict=True))
        return k, j, i


def combine_segments(segments: Sequence[Segment], geometry: ImageGeometry) -> NDArray[np.generic]:
    """One labelmap of several segments: label n is the n-th segment; where two overlap, the later one wins.

    Returns:
        (K, J, I) array, uint8 for up to 255 segments, else uint16.
    """
    labelmap = np.zeros(geometry.shape_KJI, _label_dtype(len(segments)))
    for label, segment in enumerate(segments, start=1):
        labelmap[segment.slices_KJI(geometry)][segment.mask_KJI != 0] = label
    return labelmap


def write_segmentation(path: str | os.PathLike[str], segments: Sequence[Segment], geometry: ImageGeometry) -> None:
    """Write a Slicer segmentation in the volume's full grid, atomically.

    Segments that don't overlap share a layer, as in Slicer; overlapping ones get layers of their own.

    Args:
        path: A file that ends in `.seg.nrrd`.
        segments: At least one; their order is the order in Slicer.
        geometry: The volume's grid; shear is kept.

    Raises:
        ValueError: No segments, another ending, or a mask that doesn't fit in the volume.
        OSError: The file cannot be written, or not whole; a former one stays.
    """
    if not segments:
        raise ValueError("A segmentation needs at least one segment.")
    if not str(path).lower().endswith(".seg.nrrd"):
        raise ValueError(f"{path}: a Slicer segmentation file ends in .seg.nrrd.")
    placed = _place_in_layers(segments, geometry)
    layer_count = 1 + max(layer for layer, _ in placed)
    voxels = np.zeros((*geometry.shape_KJI, layer_count), _label_dtype(max(label for _, label in placed)))
    fields: list[str] = []
    for number, (segment, (layer, label)) in enumerate(zip(segments, placed, strict=True)):
        inside = segment.mask_KJI != 0
        voxels[..., layer][segment.slices_KJI(geometry)][inside] = label
        values = {
            "Color": " ".join(f"{value:.6g}" for value in segment.color(number)),
            "ColorAutoGenerated": "0",
            "Extent": _extent(inside, segment.offset_ijk),
            "ID": f"Segment_{number + 1}",
            "LabelValue": str(label),
            "Layer": str(layer),
            "Name": segment.name,
            "NameAutoGenerated": "0",
            "Tags": _DEFAULT_TAGS,
        }
        fields += [f"Segment{number}_{key}:={_escape(value)}" for key, value in values.items()]
    fields += [
        "Segmentation_ContainedRepresentationNames:=Binary labelmap|",
        "Segmentation_ConversionParameters:=",
        "Segmentation_MasterRepresentation:=Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset:=0 0 0",
    ]
    _write(path, _nrrd_header(voxels, geometry, layer_count) + "".join(f"{field}\n" for field in fields) + "\n", voxels)


def write_colour_nrrd(path: str | os.PathLike[str], voxels: NDArray[np.generic], geometry: ImageGeometry) -> None:
    """Write (K, J, I, 3) colours of 8 or 16 bits as an NRRD that says so, which SimpleITK's do not, atomically.

    Raises:
        ValueError: Values of another type.
        OSError: The file cannot be written; a former one stays.
    """
    if voxels.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"{path}: colours of type {voxels.dtype}; write them as uint8.")
    stored = voxels.astype(voxels.dtype.newbyteorder("<"))
    _write(path, _nrrd_header(stored, geometry, 3, "RGB-color") + "\n", stored)


def _write(path: str | os.PathLike[str], header: str, voxels: NDArray[np.generic]) -> None:
    content = header.encode("utf-8", "replace") + gzip.compress(voxels.tobytes(), compresslevel=4, mtime=0)
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def _place_in_layers(segments: Sequence[Segment], geometry: ImageGeometry) -> list[tuple[int, int]]:
    """For each segment the first layer where it overlaps nothing, and its label value there (from 1)."""
    occupied: list[NDArray[np.bool_]] = []
    used: list[int] = []
    placed = []
    for segment in segments:
        part, inside = segment.slices_KJI(geometry), segment.mask_KJI != 0
        layer = next((n for n, taken in enumerate(occupied) if not (taken[part] & inside).any()), len(occupied))
        if layer == len(occupied):
            occupied.append(np.zeros(geometry.shape_KJI, bool))
            used.append(0)
        occupied[layer][part] |= inside
        used[layer] += 1
        placed.append((layer, used[layer]))
    return placed


def _extent(inside: NDArray[np.bool_], offset_ijk: tuple[int, int, int]) -> str:
    """First and last index of the segment along I, J, K, both included; 0 -1 for none, as in VTK."""
    if not inside.any():
        return "0 -1 0 -1 0 -1"
    limits = np.stack(index_bounds(inside)).T[::-1] + np.reshape(offset_ijk, (3, 1))
    return " ".join(map(str, limits.ravel().tolist()))


def _nrrd_header(
    voxels: NDArray[np.generic], geometry: ImageGeometry, values_per_voxel: int, kind_of_values: str = "list"
) -> str:
    ijk_to_lps = LPS_FROM_RAS @ geometry.ijk_to_ras
    directions = [_vector(ijk_to_lps[:3, axis]) for axis in range(3)]
    sizes, kinds = [str(n) for n in geometry.dimensions_ijk], ["domain"] * 3
    if values_per_voxel > 1:
        sizes, directions = [str(values_per_voxel), *sizes], ["none", *directions]
        kinds = [kind_of_values, *kinds]
    lines = [
        "NRRD0004",
        f"type: {'unsigned char' if voxels.dtype == np.uint8 else 'unsigned short'}",
        f"dimension: {len(sizes)}",
        "space: left-posterior-superior",
        f"sizes: {' '.join(sizes)}",
        f"space directions: {' '.join(directions)}",
        f"kinds: {' '.join(kinds)}",
        *(["endian: little"] if voxels.dtype.itemsize > 1 else []),
        "encoding: gzip",
        f"space origin: {_vector(ijk_to_lps[:3, 3])}",
    ]
    return "".join(f"{line}\n" for line in lines)


def _vector(values: NDArray[np.float64]) -> str:
    # Adding zero turns -0.0 into 0.0.
    return "(" + ",".join(repr(float(value) + 0.0) for value in values) + ")"


def _escape(value: str) -> str:
    """A value of an NRRD key; control characters but tabs, which readers stop at or drop, become blanks."""
    kept = re.sub(r"[\x00-\x08\x0b-\x1f\x7f]", " ", value.replace("\r\n", "\n"))
    return kept.replace("\\", "\\\\").replace("\n", "\\n")


def _label_dtype(largest_label: int) -> np.dtype[np.generic]:
    return np.dtype(np.uint8 if largest_label <= 255 else "<u2")
