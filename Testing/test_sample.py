"""The sample cases: committed files are what the script makes, and each ROI encloses its target."""

import runpy
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dbsam.geometry.grid import ImageGeometry, slice_boxes_xyxy
from dbsam.io.roi_markups import read_roi

SAMPLE = Path(__file__).parents[1] / "Resources" / "Sample"
SCRIPT = runpy.run_path(str(SAMPLE / "generate_phantom.py"))
PREFIXES = {"ct": "phantom", "mr": "phantom_mr", "ultrasound": "phantom_ultrasound"}


def read(path: Path) -> tuple[np.ndarray, ImageGeometry]:
    image = sitk.ReadImage(str(path))
    ijk_to_lps = np.eye(4)
    ijk_to_lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    ijk_to_lps[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image), ImageGeometry(np.diag([-1, -1, 1, 1]) @ ijk_to_lps, image.GetSize())


@pytest.mark.parametrize("kind", PREFIXES)
def test_the_script_makes_the_committed_files(kind):
    phantom, again = SCRIPT["MAKERS"][kind](7), SCRIPT["MAKERS"][kind](7)
    np.testing.assert_array_equal(phantom.voxels_KJI, again.voxels_KJI)
    voxels, geometry = read(SAMPLE / f"phantom_{kind}.nrrd")
    assert voxels.dtype == phantom.voxels_KJI.dtype
    # Another processor's exp and log may round a value at .5 the other way; here they are equal.
    assert np.abs(voxels.astype(int) - phantom.voxels_KJI).max() <= 1
    truth, truth_geometry = read(SAMPLE / f"{PREFIXES[kind]}_truth.nrrd")
    np.testing.assert_array_equal(truth, phantom.truth_KJI)
    for stored in (geometry, truth_geometry):
        np.testing.assert_allclose(stored.ijk_to_ras, phantom.geometry.ijk_to_ras, atol=1e-9)
    (roi,) = read_roi(SAMPLE / f"{PREFIXES[kind]}_roi.mrk.json")
    np.testing.assert_allclose(roi.box.half_axes_ras, phantom.roi().box.half_axes_ras, atol=1e-9)
    np.testing.assert_allclose(roi.box.center_ras, phantom.roi().box.center_ras, atol=1e-9)


@pytest.mark.parametrize("kind", PREFIXES)
def test_the_roi_encloses_the_target_and_is_turned_against_the_grid(kind):
    truth, geometry = read(SAMPLE / f"{PREFIXES[kind]}_truth.nrrd")
    (roi,) = read_roi(SAMPLE / f"{PREFIXES[kind]}_roi.mrk.json")
    k, j, i = np.nonzero(truth)
    points = np.stack([i, j, k], axis=-1) @ geometry.ijk_to_ras[:3, :3].T + geometry.ijk_to_ras[:3, 3]
    assert roi.box.contains_ras(points).all()
    boxes = slice_boxes_xyxy(roi.box, geometry, geometry.default_axis())
    assert geometry.default_axis() == 2
    for index in np.unique(k):
        rows, columns = np.nonzero(truth[index])
        x_min, y_min, x_max, y_max = boxes[int(index)]
        assert x_min < columns.min() <= columns.max() < x_max
        assert y_min < rows.min() <= rows.max() < y_max
    axes = roi.box.half_axes_ras / np.linalg.norm(roi.box.half_axes_ras, axis=1, keepdims=True)
    cosines = np.abs(axes @ (geometry.ijk_to_ras[:3, :3] / geometry.spacing_mm))
    assert np.sort(cosines.max(axis=1))[0] < np.cos(np.deg2rad(10))


def test_the_targets_have_the_contrast_of_their_modality():
    liver, liver_truth = (read(SAMPLE / name)[0] for name in ("phantom_ct.nrrd", "phantom_truth.nrrd"))
    assert np.median(liver[liver_truth > 0]) == pytest.approx(108, abs=5)  # HU, portal venous phase
    assert liver.min() >= -1024
    image, lesion = (read(SAMPLE / f"phantom_ultrasound{part}.nrrd")[0] for part in ("", "_truth"))
    assert np.median(image[lesion > 0]) < 0.6 * np.median(image[(lesion == 0) & (image > 0)])


def test_the_samples_stay_small():
    sizes = [path.stat().st_size for path in SAMPLE.glob("phantom*")]
    assert len(sizes) == 9
    assert sum(sizes) < 3_000_000
