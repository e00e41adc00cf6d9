"""Readers against independent ones on generated files: the same frame to 1e-4 mm and the same values, or refused.

DBSAM_PROPERTY_EXAMPLES sets how many files of each format are made.
"""

from __future__ import annotations

import gzip
import os
import tempfile
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from dicom_files import Frame, write_enhanced, write_series
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dbsam.io.images import ImageFileError, read_volume

generated = settings(
    max_examples=int(os.environ.get("DBSAM_PROPERTY_EXAMPLES", "25")),
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
FLIP = np.diag([-1.0, -1, 1, 1])

numbers = st.floats(-200, 200, allow_nan=False)
spacings = st.tuples(*[st.floats(0.1, 9.0)] * 3)
sizes = st.tuples(*[st.integers(1, 7)] * 3)


@st.composite
def rotations(draw) -> np.ndarray:
    """Proper and improper ones, among them those along the axes."""
    if draw(st.booleans()):
        order = draw(st.permutations(range(3)))
        return np.eye(3)[list(order)] * draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    matrix, _ = np.linalg.qr(
        np.reshape(draw(st.lists(st.floats(-1, 1), min_size=9, max_size=9)), (3, 3)) + np.eye(3) * 2
    )
    return matrix * draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))


@st.composite
def frames(draw) -> np.ndarray:
    frame = np.eye(4)
    frame[:3, :3] = draw(rotations()) * draw(spacings)
    frame[:3, 3] = draw(st.tuples(numbers, numbers, numbers))
    return frame


def voxels_of(shape: tuple[int, ...], dtype: np.dtype, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    if np.issubdtype(dtype, np.floating):
        return random.normal(0, 1000, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return random.integers(max(limits.min, -(2**40)), min(limits.max, 2**40), shape, endpoint=True).astype(dtype)


def assert_same(path: Path, values: np.ndarray, frame: np.ndarray) -> None:
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.voxels, values)
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in volume.geometry.dimensions_ijk], [1.0])).reshape(4, -1)
    apart = np.abs(((volume.geometry.ijk_to_ras - frame) @ corners)[:3]).max()
    assert apart <= 1e-4, f"{apart} mm"


@generated
@given(
    frame=frames(), shape=sizes, seed=st.integers(0, 99), other=st.sampled_from(["same", "none", "moved"]),
    dtype=st.sampled_from(["u1", "i2", "u2", "i4", "u4", "f4", "f8", "i1", "i8"]),
    ending=st.sampled_from(["nii", "nii.gz"]),
    kind=st.sampled_from([nibabel.Nifti1Image, nibabel.Nifti2Image]), order=st.sampled_from("<>"),
    slope=st.sampled_from([None, (1, -1024), (0.5, 3), (2, 0), (0.1, 0)]), first=st.booleans(),
)  # fmt: skip
def test_a_nifti_is_what_nibabel_reads(frame, shape, seed, other, dtype, ending, kind, order, slope, first):
    values = voxels_of(shape, np.dtype(dtype), seed)
    image = kind(values, None, kind.header_class(endianness=order), dtype=values.dtype)
    image.set_sform(frame, 1 if first or other != "none" else 0)
    image.set_qform(
        FLIP @ frame if other == "moved" else frame, 1 if other != "none" or not first else 0, strip_shears=True
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{ending}"
        nibabel.save(image, path)
        if slope and dtype not in ("f8", "f4"):
            content = bytearray(path.read_bytes() if ending == "nii" else gzip.decompress(path.read_bytes()))
            place, form = (112, "f4") if kind is nibabel.Nifti1Image else (176, "f8")
            content[place : place + 2 * int(form[1])] = np.array(slope, order + form).tobytes()
            path.write_bytes(bytes(content) if ending == "nii" else gzip.compress(content))
        loaded = nibabel.load(path)
        assert_same(path, np.asanyarray(loaded.dataobj).T, loaded.affine)


@generated
@given(
    frame=frames(), shape=sizes, seed=st.integers(0, 99), order=st.sampled_from("<>"),
    dtype=st.sampled_from(["u1", "i2", "u2", "i4", "u4", "f4", "f8", "i1", "i8"]),
    encoding=st.sampled_from(["raw", "gzip"]), space=st.sampled_from(["LPS", "RAS", "LAS"]),
    unit=st.sampled_from([("mm", 1.0), ("um", 1000.0), ("cm", 0.1)]), detached=st.booleans(),
)  # fmt: skip
def test_an_nrrd_lies_where_its_header_says(frame, shape, seed, order, dtype, encoding, space, unit, detached):
    values = voxels_of(shape, np.dtype(order + dtype), seed)
    signs = {"LPS": (-1, -1, 1), "RAS": (1, 1, 1), "LAS": (-1, 1, 1)}[space]
    stored = (np.diag([*signs, 1]) @ frame)[:3] * unit[1]
    names = {"u1": "uchar", "i1": "int8", "i2": "short", "u2": "ushort", "i4": "int", "u4": "uint", "f4": "float"}
    names |= {"f8": "double", "i8": "int64"}
    units = " ".join([f'"{unit[0]}"'] * 3)
    data = values.tobytes()
    data = gzip.compress(data) if encoding == "gzip" else data
    vectors = [",".join(map(repr, map(float, stored[:, axis]))) for axis in range(4)]
    lines = [
        "NRRD0004", f"type: {names[dtype]}", "dimension: 3", f"space: {space}",
        f"sizes: {' '.join(map(str, shape[::-1]))}",
        f"space directions: ({vectors[0]}) ({vectors[1]}) ({vectors[2]})", f"space units: {units}",
        f"endian: {'little' if order == '<' else 'big'}", f"encoding: {encoding}", f"space origin: ({vectors[3]})",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("a.nhdr" if detached else "a.nrrd")
        if detached:
            (Path(folder) / "a.bin").write_bytes(data)
            path.write_bytes("\n".join([*lines, "data file: a.bin", "", ""]).encode())
        else:
            path.write_bytes("\n".join([*lines, "", ""]).encode() + data)
        assert_same(path, values, frame)


@generated
@given(
    frame=frames(), shape=sizes, seed=st.integers(0, 99), order=st.sampled_from("<>"), packed=st.booleans(),
    dtype=st.sampled_from(["u1", "i2", "u2", "i4", "u4", "f4", "f8", "i1"]),
)  # fmt: skip
def test_a_metaimage_lies_where_its_header_says(frame, shape, seed, order, packed, dtype):
    values = voxels_of(shape, np.dtype(order + dtype), seed)
    lps = FLIP @ frame
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    names = {"u1": "UCHAR", "i1": "CHAR", "i2": "SHORT", "u2": "USHORT", "i4": "INT", "u4": "UINT", "f4": "FLOAT"}
    data = zlib.compress(values.tobytes()) if packed else values.tobytes()
    lines = [
        "ObjectType = Image", "NDims = 3", "BinaryData = True", f"BinaryDataByteOrderMSB = {order == '>'}",
        f"CompressedData = {packed}", *([f"CompressedDataSize = {len(data)}"] if packed else []),
        "TransformMatrix = " + " ".join(map(repr, map(float, (lps[:3, :3] / spacing).T.ravel()))),
        "Offset = " + " ".join(map(repr, map(float, lps[:3, 3]))),
        "ElementSpacing = " + " ".join(map(repr, map(float, spacing))),
        f"DimSize = {' '.join(map(str, shape[::-1]))}", f"ElementType = MET_{names.get(dtype, 'DOUBLE')}",
        "ElementDataFile = LOCAL", "",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mha"
        path.write_bytes("\n".join(lines).encode() + data)
        assert_same(path, values, frame)


def formula(contents: list[tuple[np.ndarray, list[float], list[float], list[float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Voxels in order of position and their frame: DICOM PS3.3 C.7.6.2.1.1, with K along the normal."""
    row, column = np.array(contents[0][2][:3]), np.array(contents[0][2][3:])
    normal = np.cross(row, column)
    ordered = sorted(contents, key=lambda content: float(np.dot(content[1], normal)))
    step = np.subtract(ordered[-1][1], ordered[0][1]) / max(len(ordered) - 1, 1) if len(ordered) > 1 else normal
    between_rows, between_columns = contents[0][3]
    frame = np.eye(4)
    frame[:3] = np.column_stack([row * between_columns, column * between_rows, step, ordered[0][1]])
    return np.stack([values for values, *_ in ordered]), FLIP @ frame


@generated
@given(
    rotation=rotations(), spacing=spacings, origin=st.tuples(numbers, numbers, numbers), shape=sizes,
    seed=st.integers(0, 99), dtype=st.sampled_from(["u1", "i2", "u2", "i4", "u4"]),
    form=st.sampled_from(["series", "file"]),
    scales=st.sampled_from(["none", "one", "each", "whole"]), shuffled=st.booleans(),
    fault=st.sampled_from(["", "", "", "", "missing", "tilt", "twice", "turned"]),
)  # fmt: skip
def test_dicom_is_what_pydicom_and_the_standards_formula_give(
    rotation, spacing, origin, shape, seed, dtype, form, scales, shuffled, fault
):
    count = shape[0] + (3 if fault else 0)
    stored = voxels_of((count, *shape[1:]), np.dtype(dtype), seed)
    random = np.random.default_rng(seed)
    # As a file holds them: decimal strings of at most 16 characters.
    orientation = [float(f"{value:.10f}") for value in [*rotation[:, 0], *rotation[:, 1]]]
    normal = np.cross(orientation[:3], orientation[3:])
    positions = [np.array(origin) + n * spacing[2] * normal for n in range(count)]
    if fault == "missing":
        del positions[1]
        positions.append(positions[-1] + spacing[2] * normal)
    if fault == "tilt":
        positions = [place + n * 0.2 * spacing[2] * np.array(orientation[:3]) for n, place in enumerate(positions)]
    if fault == "twice":
        positions[-1] = positions[0]
    made = []
    for n, pixels in enumerate(stored):
        slope, intercept = {
            "none": (None, None), "one": (0.25, -3.0), "whole": (3.0, -1024.0), "each": (0.5 + n, 10.0 * n)
        }[scales]  # fmt: skip
        turned = fault == "turned" and n == 2
        axes = [*orientation[3:], *[-value for value in orientation[:3]]] if turned else orientation
        place = [float(f"{value:.8f}"[:16]) for value in positions[n]]
        between = [float(f"{value:.6f}") for value in (spacing[1], spacing[0])]
        made.append(Frame(pixels, place, axes, slope, intercept, between))
    if shuffled:
        random.shuffle(made)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "in"
        if form == "series":
            write_series(path, made)
            read = [(pydicom.dcmread(file), 0) for file in path.iterdir()]
        else:
            file = write_enhanced(path / "all.dcm", made)
            content = pydicom.dcmread(file)
            read = [(content, n) for n in range(count)]
        contents = []
        for content, n in read:
            pixels = pydicom.pixels.pixel_array(content, index=n)
            group = content if form == "series" else content.PerFrameFunctionalGroupsSequence[n]
            plane = group if form == "series" else group.PlanePositionSequence[0]
            axes = group if form == "series" else group.PlaneOrientationSequence[0]
            sizes_mm = group if form == "series" else group.PixelMeasuresSequence[0]
            scale = group if form == "series" else (group.get("PixelValueTransformationSequence") or [{}])[0]
            values = pixels * float(scale.get("RescaleSlope", 1)) + float(scale.get("RescaleIntercept", 0))
            contents.append((
                values, list(map(float, plane.ImagePositionPatient)), list(map(float, axes.ImageOrientationPatient)),
                list(map(float, sizes_mm.PixelSpacing)),
            ))  # fmt: skip
        if fault:
            try:
                read_volume(path)
            except ImageFileError:
                return
            raise AssertionError(f"{fault}: not refused")
        assert_same(path, *formula(contents))
