"""What a user could do with the same box and no network: the inscribed ellipse, Otsu's threshold, GrabCut.

They are called like models. `segment_slices` gets one 2D box per slice and works slice by slice; `segment_rois` gets
one 3D box per object. Like the models they see the volume through the intensity rule "auto", and they set nothing
outside the box.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from dbsam.geometry.grid import ImageGeometry, OrientedBox, slice_boxes_xyxy
from dbsam.preprocess.intensity import resolve_intensity
from dbsam.preprocess.volume import Volume
from dbsam_training.evaluate.found import Found
from dbsam_training.evaluate.prompts import BoolArray, FloatArray, pixels_in_box, slice_stack

GRABCUT_ITERATIONS = 5
GRABCUT_CORE = 0.25
GRABCUT_COMPONENTS = 5  # Gaussians per colour model, fixed in OpenCV; each needs a pixel


class Baseline(ABC):
    """A method that segments single slices; volumes are put together from them."""

    name: str
    takes_clicks = False

    @abstractmethod
    def segment_slice(self, image: NDArray[np.uint8], box_xyxy: FloatArray) -> BoolArray:
        """Segments the object in a box of a slice image (H,W) or (H,W,3); returns the box's part of the mask."""

    def segment_slices(self, volume: Volume, axis: int, prompts: Sequence[Mapping[int, FloatArray]]) -> list[Found]:
        """Segments objects with one box per slice.

        Args:
            volume: the image.
            axis: slice axis, 0, 1, 2 for I, J, K.
            prompts: per object, slice index -> (4,) box in continuous pixel coordinates.

        Returns:
            One mask per object.
        """
        images = slice_stack(windowed(volume), axis)
        found = []
        for boxes in prompts:
            mask_KJI = np.zeros(volume.geometry.shape_KJI, bool)
            slices = slice_stack(mask_KJI, axis)
            for index, box_xyxy in boxes.items():
                region = pixels_in_box(box_xyxy, images.shape[1:3])
                slices[index][region] = self.segment_slice(images[index], box_xyxy)
            found.append(Found(mask_KJI))
        return found

    def segment_rois(self, volume: Volume, axis: int, boxes: Sequence[OrientedBox]) -> list[Found]:
        """Segments the object in each oriented box; returns one (K,J,I) mask per box."""
        prompts = [slice_boxes_xyxy(box, volume.geometry, axis) for box in boxes]
        found = self.segment_slices(volume, axis, prompts)
        return [Found(one.mask_KJI & inside_box(box, volume.geometry)) for one, box in zip(found, boxes, strict=True)]


class BoxEllipse(Baseline):
    """The ellipse inscribed in each slice's box, the ellipsoid inscribed in a 3D box; the image plays no part."""

    name = "box-ellipse"

    def segment_slice(self, image: NDArray[np.uint8], box_xyxy: FloatArray) -> BoolArray:
        """Returns the pixels whose centres lie in the inscribed ellipse."""
        rows, columns = pixels_in_box(box_xyxy, image.shape[:2])
        x0, y0, x1, y1 = box_xyxy
        x = (np.arange(columns.start, columns.stop) - (x0 + x1) / 2) / ((x1 - x0) / 2)
        y = (np.arange(rows.start, rows.stop) - (y0 + y1) / 2) / ((y1 - y0) / 2)
        return np.asarray(x[None, :] ** 2 + y[:, None] ** 2 <= 1)

    def segment_rois(self, volume: Volume, axis: int, boxes: Sequence[OrientedBox]) -> list[Found]:
        """Returns the voxels whose centres lie in the inscribed ellipsoid; in a 2D image that is the ellipse."""
        return [Found((in_box_coordinates(box, volume.geometry) ** 2).sum(-1) <= 1) for box in boxes]


class OtsuLargestComponent(Baseline):
    """Otsu's threshold of the grey values in the box.

    The object is the side, dark or bright, that prevails in the box's central half; its largest component is kept.
    """

    name = "otsu"

    def segment_slice(self, image: NDArray[np.uint8], box_xyxy: FloatArray) -> BoolArray:
        """Thresholds the pixels of one box."""
        grey = luma(image) if image.ndim == 3 else image
        return self._threshold(grey[pixels_in_box(box_xyxy, image.shape[:2])])

    def segment_rois(self, volume: Volume, axis: int, boxes: Sequence[OrientedBox]) -> list[Found]:
        """Thresholds the voxels of each 3D box together."""
        voxels = windowed(volume)
        voxels = luma(voxels) if voxels.ndim == 4 else voxels
        masks = []
        for box in boxes:
            mask_KJI = np.zeros(voxels.shape, bool)
            inside = inside_box(box, volume.geometry)
            if inside.any():
                crop = ndimage.find_objects(inside.astype(np.uint8))[0]
                mask_KJI[crop] = self._threshold(voxels[crop]) & inside[crop]
            masks.append(Found(mask_KJI))
        return masks

    @staticmethod
    def _threshold(values: NDArray[np.uint8]) -> BoolArray:
        if not values.size:
            return np.zeros(values.shape, bool)
        from skimage.filters import threshold_otsu  # only this baseline needs scikit-image

        bright = values > threshold_otsu(values)
        central = tuple(slice(size // 4, max(size - size // 4, size // 4 + 1)) for size in values.shape)
        side = bright if bright[central].mean() >= 0.5 else ~bright
        return largest_component(side)


class GrabCut(Baseline):
    """GrabCut of Rother et al. (2004), per slice.

    The box's surroundings, half its size on every side, are certain background; its central quarter (of each side) is
    certain object, the rest of it probable object. Without certain object, GrabCut gives nothing at all for every
    second structure of the development data.
    """

    name = "grabcut"

    def segment_slice(self, image: NDArray[np.uint8], box_xyxy: FloatArray) -> BoolArray:
        """Segments one box with OpenCV's GrabCut."""
        import cv2  # only this baseline needs OpenCV

        rows, columns = pixels_in_box(box_xyxy, image.shape[:2])
        height, width = rows.stop - rows.start, columns.stop - columns.start
        y0, x0 = max(rows.start - height // 2 - 1, 0), max(columns.start - width // 2 - 1, 0)
        crop = np.ascontiguousarray(image[y0 : rows.stop + height // 2 + 1, x0 : columns.stop + width // 2 + 1])
        labels = np.full(crop.shape[:2], cv2.GC_BGD, np.uint8)
        in_crop = (slice(rows.start - y0, rows.stop - y0), slice(columns.start - x0, columns.stop - x0))
        labels[in_crop] = cv2.GC_PR_FGD
        center, half_core = (box_xyxy[:2] + box_xyxy[2:]) / 2, (box_xyxy[2:] - box_xyxy[:2]) / 2 * GRABCUT_CORE
        core = pixels_in_box(np.concatenate([center - half_core, center + half_core]), image.shape[:2])
        labels[core[0].start - y0 : core[0].stop - y0, core[1].start - x0 : core[1].stop - x0] = cv2.GC_FGD
        if np.count_nonzero(labels == cv2.GC_BGD) < GRABCUT_COMPONENTS:  # the box fills the image: its rim must do
            labels[[0, -1], :] = cv2.GC_BGD
            labels[:, [0, -1]] = cv2.GC_BGD
        background_pixels = np.count_nonzero(labels == cv2.GC_BGD)
        if min(background_pixels, labels.size - background_pixels) < GRABCUT_COMPONENTS:
            return np.ones((height, width), bool)
        colour = crop if crop.ndim == 3 else np.repeat(crop[..., None], 3, axis=2)
        cv2.setRNGSeed(0)  # its k-means starts at random
        background, foreground = np.zeros((1, 65)), np.zeros((1, 65))
        no_rectangle = (0, 0, 0, 0)
        cv2.grabCut(colour, labels, no_rectangle, background, foreground, GRABCUT_ITERATIONS, cv2.GC_INIT_WITH_MASK)
        return np.asarray((labels[in_crop] == cv2.GC_FGD) | (labels[in_crop] == cv2.GC_PR_FGD))


BASELINES: dict[str, type[Baseline]] = {kind.name: kind for kind in (BoxEllipse, OtsuLargestComponent, GrabCut)}


def windowed(volume: Volume) -> NDArray[np.uint8]:
    """The volume's values as the models see them: 0..255 by the intensity rule "auto"."""
    return resolve_intensity("auto", volume.voxels).apply(volume.voxels)


def luma(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Grey values (ITU-R BT.601) of an image whose last axis holds red, green, blue."""
    return np.asarray(np.rint(image @ np.array([0.299, 0.587, 0.114])), dtype=np.uint8)


def largest_component(mask: BoolArray) -> BoolArray:
    """Largest part of a mask that is connected through faces (edges in 2D)."""
    labels, count = ndimage.label(mask)
    if count <= 1:
        return mask
    return np.asarray(labels == np.bincount(labels.ravel())[1:].argmax() + 1)


def in_box_coordinates(box: OrientedBox, geometry: ImageGeometry) -> FloatArray:
    """Voxel centres (K,J,I,3) in the frame of a box, whose half axes have length 1 in it."""
    to_unit = np.linalg.inv(box.half_axes_ras)
    per_ijk = geometry.ijk_to_ras[:3, :3].T @ to_unit
    offset = (geometry.ijk_to_ras[:3, 3] - box.center_ras) @ to_unit
    i, j, k = (
        np.arange(size, dtype=float)[:, None] * per_ijk[axis] for axis, size in enumerate(geometry.dimensions_ijk)
    )
    return np.asarray(k[:, None, None] + j[None, :, None] + i[None, None, :] + offset)


def inside_box(box: OrientedBox, geometry: ImageGeometry) -> BoolArray:
    """Voxels (K,J,I) whose centres lie in a box."""
    return np.asarray((np.abs(in_box_coordinates(box, geometry)) <= 1 + 1e-9).all(axis=-1))
