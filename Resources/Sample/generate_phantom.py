"""Makes the sample cases: an abdomen-like CT, an MR-like volume and an ultrasound-like image, each with truth and ROI.

    python generate_phantom.py --kind ct --output .

Everything is synthetic (no patient data) and follows from the seed. The volumes are oblique and anisotropic on purpose,
and the ROI is turned with the organ, so that a mistake in axes, flips or spacing shows at once.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from dbsam.geometry.grid import FloatArray, ImageGeometry, OrientedBox
from dbsam.io.roi_markups import MarkupsRoi, write_roi

BoolArray = NDArray[np.bool_]
MARGIN_MM = 3.0  # between target and ROI
RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


@dataclass(frozen=True)
class Phantom:
    """A sample case: image (int16 HU for CT, uint16 for MR, uint8 for ultrasound), target mask and common grid."""

    target: str
    voxels_KJI: NDArray[np.generic]
    truth_KJI: BoolArray
    geometry: ImageGeometry
    roi_turn: tuple[float, float, float]

    def roi(self) -> MarkupsRoi:
        """Returns a box turned by `roi_turn` (see `rotation`) that encloses the target with a margin."""
        axes = rotation(self.roi_turn)
        along_axes = voxel_centers_ras(self.geometry)[self.truth_KJI] @ axes
        low, high = along_axes.min(axis=0) - MARGIN_MM, along_axes.max(axis=0) + MARGIN_MM
        box = OrientedBox(axes @ ((low + high) / 2), axes.T * ((high - low) / 2)[:, None])
        return MarkupsRoi(f"{self.target} ROI", box, (1.0, 0.8, 0.2))


def rotation(degrees_about_ras: ArrayLike) -> FloatArray:
    """Returns the (3, 3) rotation about R, then A, then S."""
    (cos_r, cos_a, cos_s), (sin_r, sin_a, sin_s) = (f(np.deg2rad(degrees_about_ras)) for f in (np.cos, np.sin))
    about_r = np.array([[1, 0, 0], [0, cos_r, -sin_r], [0, sin_r, cos_r]])
    about_a = np.array([[cos_a, 0, sin_a], [0, 1, 0], [-sin_a, 0, cos_a]])
    about_s = np.array([[cos_s, -sin_s, 0], [sin_s, cos_s, 0], [0, 0, 1]])
    return about_s @ about_a @ about_r


def oblique_grid(axes: FloatArray, spacing_mm: ArrayLike, dimensions_ijk: tuple[int, int, int]) -> ImageGeometry:
    """Returns a grid centred on the origin whose I, J, K run along the columns of `axes` (RAS)."""
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = axes * np.asarray(spacing_mm)
    ijk_to_ras[:3, 3] = -ijk_to_ras[:3, :3] @ ((np.array(dimensions_ijk) - 1) / 2)
    return ImageGeometry(ijk_to_ras, dimensions_ijk)


def voxel_centers_ras(geometry: ImageGeometry) -> FloatArray:
    """Returns the (K, J, I, 3) positions of all voxels, in mm."""
    k, j, i = np.indices(geometry.shape_KJI)
    return np.stack([i, j, k], axis=-1) @ geometry.ijk_to_ras[:3, :3].T + geometry.ijk_to_ras[:3, 3]


def ellipsoid(points: FloatArray, center: ArrayLike, radii_mm: ArrayLike, turn: ArrayLike = (0, 0, 0)) -> FloatArray:
    """Returns the distance from the centre in units of the ellipsoid's radius: below 1 inside."""
    return np.asarray(np.linalg.norm((points - np.asarray(center)) @ rotation(turn) / np.asarray(radii_mm), axis=-1))


def merged(*radii: FloatArray, softness: float = 0.07) -> FloatArray:
    """Joins shapes with rounded seams: below 1 inside."""
    return np.asarray(1 - softness * np.log(sum(np.exp((1 - radius) / softness) for radius in radii)))


def smooth(values: NDArray[np.generic], sigma_voxels: ArrayLike) -> FloatArray:
    """Blurs an array; `sigma_voxels` is in the order of its axes."""
    sigma = [float(s) for s in np.broadcast_to(sigma_voxels, values.ndim)][::-1]
    blurred = sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(values.astype(np.float64)), sigma)
    return sitk.GetArrayFromImage(blurred).astype(np.float64)


def texture(generator: np.random.Generator, shape: tuple[int, ...], sigma_voxels: ArrayLike) -> FloatArray:
    """Returns smooth noise of mean 0 and standard deviation 1."""
    values = smooth(generator.standard_normal(shape), sigma_voxels)
    return np.asarray((values - values.mean()) / values.std())


# Mean of each tissue: HU in CT (portal venous phase), arbitrary units in MR (like T2 with bright fat).
TISSUES = {
    "air": (-1000, 8), "fat": (-98, 620), "muscle": (58, 190), "viscera": (-62, 480), "lung": (-840, 30),
    "bone": (420, 60), "marrow": (190, 420), "canal": (18, 900), "vessel": (165, 70), "liver": (108, 270),
    "lesion": (48, 610), "spleen": (122, 520), "kidney": (178, 560), "pelvis": (22, 860), "fluid": (14, 760),
    "bowel": (42, 340), "gas": (-930, 10),
}  # fmt: skip
BOWEL_LOOPS = [  # centre, semi-axes
    ((-28, 48, -62), (34, 17, 15)), ((38, 44, -74), (30, 19, 14)), ((-70, 25, -62), (17, 22, 36)),
    ((80, 30, -84), (18, 24, 20)), ((5, 20, -82), (40, 16, 12)), ((-30, 10, -45), (24, 13, 11)),
]  # fmt: skip
LIVER_VESSELS = [  # from, to, radius
    ((22, 6, 4), (62, -8, 18), 6.5), ((62, -8, 18), (92, -22, 38), 4.2), ((62, -8, 18), (86, 26, 2), 4.0),
    ((22, 6, 4), (12, 46, 24), 4.8), ((36, -24, 52), (72, 30, 34), 4.4),
]  # fmt: skip


def abdomen(points: FloatArray) -> tuple[NDArray[np.str_], BoolArray, BoolArray]:
    """Returns for `points` (..., 3) in RAS mm the tissue's name and whether they are in the liver, right kidney."""
    r, a, s = np.moveaxis(points, -1, 0)
    tissue = np.full(points.shape[:-1], "air", dtype="<U8")
    body = ((np.abs(r) / 148) ** 2.3 + (np.abs(a) / 104) ** 2.3) ** (1 / 2.3)
    cavity = np.hypot(r / 122, (a - 8) / 78)
    for inside, name in ((body < 1, "fat"), (body < 0.9, "muscle"), (cavity < 1, "viscera")):
        tissue[inside] = name
    in_rib = (cavity > 1.02) & (cavity < 1.1) & (np.cos(2 * np.pi * (s + 0.45 * a) / 27) > 0.5)
    tissue[in_rib & (s > -30) & (a < 70)] = "bone"

    vertebra, disc = ellipsoid(points, (0, -50, 0), (23, 18, 1e6)), np.cos(2 * np.pi * s / 34) < -0.8
    process = merged(ellipsoid(points, (0, -83, 0), (5, 18, 1e6)), ellipsoid(points, (0, -72, 0), (34, 6, 1e6)))
    tissue[(vertebra < 1) | ((process < 1) & ~disc)] = "bone"
    tissue[vertebra < 0.88] = "marrow"
    tissue[(vertebra < 1) & disc] = "muscle"
    tissue[ellipsoid(points, (0, -73, 0), (9, 7, 1e6)) < 1] = "canal"

    for center, semi_axes in BOWEL_LOOPS:
        loop = ellipsoid(points, center, semi_axes, (12, 20, 8)) + 0.06 * np.sin(r / 4) * np.sin(s / 5)
        tissue[loop < 1] = "bowel"
        tissue[(loop < 0.7) & (a > center[1] + 3)] = "gas"

    kidneys = {}
    for side in (1, -1):
        middle, turn = np.array([side * 62, -44, -36 - 6 * side]), (14, side * 12, side * 18)
        kidneys[side] = ellipsoid(points, middle, (25, 22, 50), turn) + 0.03 * np.sin(s / 6) * np.sin(a / 7)
        sinus = ellipsoid(points, middle - [side * 14, -6, 0], (15, 10, 24), turn)
        tissue[kidneys[side] < 1] = "kidney"
        tissue[(kidneys[side] < 1) & (sinus < 1)] = "viscera"
        tissue[(kidneys[side] < 1) & (sinus < 0.55)] = "pelvis"
    right_kidney = (tissue == "kidney") & (r > 0)
    cava = np.hypot((r - 20) / 12, (a + 20) / 9)
    tissue[(np.hypot(r + 12, a + 22) < 10.5) | (cava < 1)] = "vessel"  # aorta and inferior vena cava
    liver = 0.035 * (np.sin(r / 9 + 1) * np.sin(s / 8) + np.sin(a / 10 + s / 13)) + merged(
        ellipsoid(points, (62, 6, 14), (52, 66, 54), (10, 18, 20)),
        ellipsoid(points, (78, -8, -18), (36, 48, 52), (0, 10, 10)),
        ellipsoid(points, (6, 44, 24), (64, 27, 28), (0, -16, -12)),
    )
    heart = ellipsoid(points, (-22, 34, 100), (48, 40, 36), (0, 25, 0))
    in_liver = (liver < 1) & (cavity < 0.98) & (vertebra > 1.25) & (cava > 1.15) & (kidneys[1] > 1.07) & (heart > 1.04)
    tissue[in_liver] = "liver"
    for start, end, radius in LIVER_VESSELS:
        first, along = np.array(start, float), np.subtract(end, start).astype(float)
        nearest = first + np.clip((points - first) @ along / (along @ along), 0, 1)[..., None] * along
        tissue[np.linalg.norm(points - nearest, axis=-1) < radius] = "vessel"
    lesions = [ellipsoid(points, (88, 18, 26), (11, 13, 10)), ellipsoid(points, (54, -34, 8), (8, 7, 9))]
    tissue[(np.minimum(*lesions) < 1) & in_liver] = "lesion"

    spleen = ellipsoid(points, (-90, -26, 26), (25, 42, 44), (20, -14, 18))
    tissue[(spleen < 1) & (cavity < 0.98) & (tissue == "viscera")] = "spleen"
    fundus, antrum = ellipsoid(points, (-58, 22, 32), (34, 38, 36)), ellipsoid(points, (-26, 42, -8), (40, 20, 22))
    stomach, free = merged(fundus, antrum), tissue == "viscera"
    tissue[free & (stomach < 1)] = "bowel"
    tissue[free & (stomach < 0.9)] = "fluid"
    tissue[free & (stomach < 0.9) & (a > 36)] = "gas"
    tissue[(heart < 1) & (cavity < 0.97)] = "vessel"
    dome = np.where(r > 0, 70, 64) - ((np.abs(r) - 60) / 60) ** 2 * 22 - ((a - 30) / 100) ** 2 * 34
    chest = (s > dome) & (cavity < 0.97) & (np.abs(r) > 16) & (vertebra > 1.3) & (heart > 1.1)
    tissue[chest & ~in_liver] = "lung"
    return tissue, in_liver, right_kidney


def make_ct(seed: int) -> Phantom:
    """Returns axial slices of 2.4 mm pixels, 4 mm apart, in a gantry that is turned against the patient."""
    generator = np.random.default_rng(seed)
    geometry = oblique_grid(rotation((9, -6, 11)) @ np.diag([-1.0, -1.0, 1.0]), (2.4, 2.4, 4.0), (128, 128, 48))
    tissue, liver, _ = abdomen(voxel_centers_ras(geometry))
    means = np.select([tissue == name for name in TISSUES], [float(ct) for ct, _ in TISSUES.values()])
    unevenness = np.select([tissue == "viscera", (means > -150) & (means < 300)], [11, 7])
    means += unevenness * texture(generator, means.shape, (1.0, 1.8, 1.8))
    image = smooth(means, (0.45, 0.65, 0.65)) + 13 * texture(generator, means.shape, (0.3, 0.55, 0.55))
    return Phantom("liver", np.clip(np.round(image), -1024, 3071).astype(np.int16), liver, geometry, (13, 4, -3))


def make_mr(seed: int) -> Phantom:
    """Returns coronal slices of 2.8 mm pixels, 6 mm apart, with a receive-coil bias and Rician noise."""
    generator = np.random.default_rng(seed)
    coronal = np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # I to the left, J down, K to the front
    geometry = oblique_grid(rotation((6, 4, -9)) @ coronal, (2.8, 2.8, 6.0), (104, 80, 28))
    tissue, _, right_kidney = abdomen(points := voxel_centers_ras(geometry))
    means = np.select([tissue == name for name in TISSUES], [float(mr) for _, mr in TISSUES.values()])
    means *= 1 + 0.09 * texture(generator, means.shape, (0.6, 1.5, 1.5))
    bias = 1.15 - 0.35 * np.linalg.norm(points / (150, 105, 110), axis=-1) ** 2 / 2 + 0.12 * points[..., 0] / 150
    real, imaginary = (28 * generator.standard_normal(means.shape) for _ in range(2))
    image = np.hypot(smooth(means, (0.4, 0.6, 0.6)) * bias + real, imaginary)
    return Phantom("right kidney", np.round(image).astype(np.uint16), right_kidney, geometry, (4, 16, -24))


def make_ultrasound(seed: int) -> Phantom:
    """Returns one 2D image of a curved probe: a hypoechoic lobulated lesion, speckle, and enhancement behind it."""
    generator = np.random.default_rng(seed)
    geometry = ImageGeometry.from_spacing((0.4, 0.4, 1.0), (288, 224, 1))
    x, y = np.meshgrid(np.arange(288) * 0.4 - 57.4, np.arange(224) * 0.4)
    depth, angle = np.hypot(x, y + 45) - 48, np.arctan2(x, y + 45)  # apex 45 mm above the image, probe radius 48 mm
    points = np.stack([x, y, np.zeros_like(x)], axis=-1)
    body, nodule = ellipsoid(points, (4, 40, 0), (17, 10, 9), (0, 0, 28)), ellipsoid(points, (17, 45, 0), (9, 8, 9))
    lesion = merged(body, nodule) + 0.06 * np.sin(5 * np.arctan2(y - 40, x - 6))
    echo = np.where(np.abs(depth - 9 - 1.2 * np.sin(6 * angle)) < 0.9, 4.5, 1.0) * np.where(depth < 9, 1.5, 1.0)
    echo *= np.where(np.abs(depth - 74 - 3 * np.sin(4 * angle + 1)) < 1.1, 6.0, 1.0)
    echo *= np.exp(0.5 * texture(generator, x.shape, 9)) * np.where(lesion < 1, 0.16, np.where(lesion < 1.08, 1.5, 1.0))
    echo *= 1 + 0.7 * smooth((np.abs(angle - 0.09) < 0.17) & (lesion > 1) & (depth > 40), 4)  # behind the lesion
    beams = [smooth(generator.standard_normal((420, 260)), (1.0, 1.6)) for _ in range(2)]  # [depth, angle]
    row, column = np.clip(depth * 4.5, 0, 419).astype(int), np.clip((angle + 0.75) * 173, 0, 259).astype(int)
    envelope = smooth(np.hypot(*(beam[row, column] for beam in beams)) * np.sqrt(smooth(echo, 0.8)), 0.7)
    decibels = 20 * np.log10(envelope / np.quantile(envelope, 0.995) + 1e-3) - 0.06 * depth
    image = np.clip(0.9 + decibels / 40, 0, 1) * 255
    image[(np.abs(angle) > 0.66) | (depth < 0) | (depth > 85)] = 0
    return Phantom("lesion", np.round(image).astype(np.uint8)[None], (lesion < 1)[None], geometry, (0, 0, 28))


MAKERS = {"ct": make_ct, "mr": make_mr, "ultrasound": make_ultrasound}


def write_image(path: Path, array_KJI: NDArray[np.generic], geometry: ImageGeometry) -> None:
    """Writes a gzip-compressed NRRD file; SimpleITK's physical space is LPS."""
    image = sitk.GetImageFromArray(array_KJI)
    image.SetSpacing(geometry.spacing_mm)
    image.SetOrigin((RAS_TO_LPS @ geometry.ijk_to_ras[:3, 3]).tolist())
    image.SetDirection((RAS_TO_LPS @ geometry.ijk_to_ras[:3, :3] / geometry.spacing_mm).ravel().tolist())
    sitk.WriteImage(image, str(path), useCompression=True)


def main() -> None:
    """Writes the image, the truth and the ROI of the chosen kinds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=[*MAKERS, "all"], default="ct", help="what to make (default: ct)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder (default: the script's)")
    parser.add_argument("--seed", type=int, default=7, help="of noise and texture; the shapes stay (default: 7)")
    arguments = parser.parse_args()
    (folder := arguments.output).mkdir(parents=True, exist_ok=True)
    for kind in MAKERS if arguments.kind == "all" else [arguments.kind]:
        phantom = MAKERS[kind](arguments.seed)
        prefix = "phantom" if kind == "ct" else f"phantom_{kind}"
        write_image(folder / f"phantom_{kind}.nrrd", phantom.voxels_KJI, phantom.geometry)
        write_image(folder / f"{prefix}_truth.nrrd", phantom.truth_KJI.astype(np.uint8), phantom.geometry)
        write_roi(folder / f"{prefix}_roi.mrk.json", phantom.roi())


if __name__ == "__main__":
    main()
