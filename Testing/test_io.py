"""Image files: whatever is written is the same physical object when it is read again."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dbsam.geometry.grid import ImageGeometry
from dbsam.io import images
from dbsam.io.seg_nrrd import Segment, combine_segments, write_segmentation

# Rotated by the 3-4-5 triangle and flipped, spacings 0.5, 2, 3 mm: each column has the length of its spacing.
OBLIQUE = ImageGeometry(
    np.array([[0.3, -1.6, 0.0, 10.0], [0.4, 1.2, 0.0, -20.0], [0.0, 0.0, -3.0, 30.0], [0.0, 0.0, 0.0, 1.0]]), (4, 3, 2)
)


def block(*ranges_kji: tuple[int, int]) -> np.ndarray:
    """A (2, 3, 4) mask, one inside the given half-open ranges along k, j, i."""
    mask = np.zeros(OBLIQUE.shape_KJI, np.uint8)
    mask[tuple(slice(*limits) for limits in ranges_kji)] = 1
    return mask


def nrrd_header(path: Path) -> dict[str, str]:
    lines = path.read_bytes().split(b"\n\n", 1)[0].decode().splitlines()[1:]
    return dict(line.replace(":=", ": ", 1).split(": ", 1) for line in lines if not line.startswith("#"))


def write_dicom(folder: Path, uid: str, slice_positions: list[float], description: str, tilt: float = 0.0) -> None:
    """A series of axial slices; with `tilt`, each mm along S also shifts a slice by so many mm along A."""
    folder.mkdir(exist_ok=True)
    for number, position in enumerate(slice_positions):
        image = sitk.GetImageFromArray(np.full((1, 5, 6), 10 * number, np.int16))
        image.SetSpacing((0.5, 0.75, 1.0))
        image.SetOrigin((-10.0, -20.0 - tilt * position, position))
        for tag, value in {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0060": "CT",
            "0008|103e": description,
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0020|0013": str(number),
            "0020|0032": f"-10\\{-20 - tilt * position}\\{position}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }.items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{uid}.{number}.dcm"))
        writer.Execute(image)


@pytest.mark.parametrize("ending", [".nrrd", ".nii.gz", ".nii", ".mha"])
def test_a_labelmap_comes_back_with_its_values_and_its_place(tmp_path, ending):
    labelmap = np.arange(24, dtype=np.uint8).reshape(OBLIQUE.shape_KJI)
    images.write_labelmap(tmp_path / f"labels{ending}", labelmap, OBLIQUE)
    labels, geometry = images.read_labelmap(tmp_path / f"labels{ending}")
    np.testing.assert_array_equal(labels, labelmap)
    np.testing.assert_allclose(geometry.ijk_to_ras, OBLIQUE.ijk_to_ras, atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == [f"labels{ending}"], "no temporary file is left"


def test_lps_on_disk_becomes_ras(tmp_path):
    image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.int16))
    image.SetOrigin((1, 2, 3))
    sitk.WriteImage(image, str(tmp_path / "image.nrrd"))
    volume = images.read_volume(tmp_path / "image.nrrd")
    assert volume.geometry.dimensions_ijk == (4, 3, 2)
    np.testing.assert_array_equal(
        volume.geometry.ijk_to_ras, [[-1, 0, 0, -1], [0, -1, 0, -2], [0, 0, 1, 3], [0, 0, 0, 1]]
    )


def test_a_colour_picture_becomes_one_slice_without_its_alpha_channel(tmp_path):
    rgba = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    sitk.WriteImage(sitk.GetImageFromArray(rgba, isVector=True), str(tmp_path / "photo.png"))
    np.testing.assert_array_equal(images.read_volume(tmp_path / "photo.png").voxels, rgba[None, ..., :3])


@pytest.mark.parametrize("ending", [".png", ".jpg", ".tif"])
def test_a_grey_picture_becomes_one_slice(tmp_path, ending):
    sitk.WriteImage(sitk.GetImageFromArray(np.full((5, 7), 90, np.uint8)), str(tmp_path / f"grey{ending}"))
    volume = images.read_volume(tmp_path / f"grey{ending}")
    assert volume.voxels.shape == (1, 5, 7)
    assert volume.geometry.default_axis() == 2
    np.testing.assert_allclose(volume.voxels, 90, atol=1)


def test_a_dicom_folder_is_read_in_order_of_position(tmp_path):
    write_dicom(tmp_path / "ct", "1.2.3.4", [12.0, 8.0, 4.0], "Abdomen")
    volume = images.read_volume(tmp_path / "ct")
    assert volume.voxels[:, 0, 0].tolist() == [20, 10, 0], "the file written last lies lowest"
    np.testing.assert_allclose(
        volume.geometry.ijk_to_ras, [[-0.5, 0, 0, 10], [0, -0.75, 0, 20], [0, 0, 4, 4], [0, 0, 0, 1]]
    )


def test_a_folder_with_two_series_asks_which_one(tmp_path):
    write_dicom(tmp_path / "ct", "1.2.3.4", [0.0, 4.0], "Arterial")
    write_dicom(tmp_path / "ct", "1.2.3.5", [0.0, 4.0, 8.0], "Venous")
    with pytest.raises(images.ImageFileError, match=r"several series(.|\n)*3\.5 +3 files +CT Venous\n(.|\n)*Arterial"):
        images.read_volume(tmp_path / "ct")
    assert images.read_volume(tmp_path / "ct", series_uid="1.2.3.5").geometry.dimensions_ijk == (6, 5, 3)
    with pytest.raises(images.ImageFileError, match=r"no series 9"):
        images.read_volume(tmp_path / "ct", series_uid="9")


def test_a_missing_dicom_slice_is_an_error_that_names_its_neighbours(tmp_path):
    write_dicom(tmp_path / "ct", "1.2.3.4", [0.0, 4.0, 8.0, 16.0], "Abdomen")
    with pytest.raises(images.ImageFileError, match=r"4\.000 mm apart, but 8\.000 mm between\n.*1\.2\.3\.4\.2\.dcm"):
        images.read_volume(tmp_path / "ct")


def test_a_tilted_gantry_is_refused_because_its_shear_would_be_lost(tmp_path):
    write_dicom(tmp_path / "ct", "1.2.3.4", [0.0, 4.0, 8.0], "Head", tilt=0.25)
    with pytest.raises(images.ImageFileError, match=r"shifted by 1\.000 mm against the one before \(a tilted gantry\)"):
        images.read_volume(tmp_path / "ct")


def test_what_is_no_image_says_so(tmp_path):
    (tmp_path / "notes.nrrd").write_text("not an image")
    (tmp_path / "empty").mkdir()
    with pytest.raises(images.ImageFileError, match=r"notes\.nrrd: not an image that can be read"):
        images.read_volume(tmp_path / "notes.nrrd")
    with pytest.raises(images.ImageFileError, match=r"empty: no DICOM images"):
        images.read_volume(tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match=r"missing\.nrrd: no such file"):
        images.read_volume(tmp_path / "missing.nrrd")


def test_a_sequence_of_volumes_is_refused_but_a_single_frame_is_read(tmp_path):
    for frames in (1, 2):
        sitk.WriteImage(sitk.Image([4, 3, 2, frames], sitk.sitkInt16), str(tmp_path / f"{frames}.nii.gz"))
    assert images.read_volume(tmp_path / "1.nii.gz").voxels.shape == (2, 3, 4)
    with pytest.raises(images.ImageFileError, match=r"sizes \(4, 3, 2, 2\)"):
        images.read_volume(tmp_path / "2.nii.gz")


@pytest.mark.parametrize("name", ["mask.jpg", "mask.mhd", "mask", "mask.txt"])
def test_an_ending_that_holds_no_labelmap_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"unknown ending; write \.seg\.nrrd or one of \.nrrd"):
        images.write_labelmap(tmp_path / name, block((0, 1), (0, 1), (0, 1)), OBLIQUE)


def test_a_volume_is_not_squeezed_into_a_picture(tmp_path):
    with pytest.raises(ValueError, match=r"\.png holds a single slice, not 2"):
        images.write_labelmap(tmp_path / "mask.png", block((0, 1), (0, 1), (0, 1)), OBLIQUE)


def test_segments_apart_share_a_layer_with_a_label_each(tmp_path):
    path = tmp_path / "two.seg.nrrd"
    liver = Segment("Liver ü", block((0, 1), (0, 2), (0, 3)), color_rgb=(1.0, 0.5, 0.0))
    kidney = Segment("Kidney", block((1, 2), (2, 3), (3, 4)))
    write_segmentation(path, [liver, kidney], OBLIQUE)
    header = nrrd_header(path)
    assert header["sizes"] == "4 3 2"
    assert header["kinds"] == "domain domain domain"
    assert header["space directions"] == "(-0.3,-0.4,0.0) (1.6,-1.2,0.0) (0.0,0.0,-3.0)"
    assert header["space origin"] == "(-10.0,20.0,30.0)"
    assert header["Segmentation_MasterRepresentation"] == "Binary labelmap"
    assert [header[f"Segment{n}_{key}"] for n in (0, 1) for key in ("Name", "LabelValue", "Layer", "Extent")] == [
        "Liver ü", "1", "0", "0 2 0 1 0 0",
        "Kidney", "2", "0", "3 3 2 2 1 1",
    ]  # fmt: skip
    assert header["Segment0_Color"] == "1 0.5 0"
    labels, geometry = images.read_labelmap(path)
    np.testing.assert_array_equal(labels, liver.mask_KJI + 2 * kidney.mask_KJI)
    np.testing.assert_allclose(geometry.ijk_to_ras, OBLIQUE.ijk_to_ras)


def test_segments_that_overlap_get_layers_of_their_own(tmp_path):
    path = tmp_path / "nested.seg.nrrd"
    organ, tumour = block((0, 2), (0, 3), (0, 3)), block((0, 1), (1, 2), (1, 2))
    apart = block((0, 1), (0, 1), (3, 4))
    write_segmentation(path, [Segment("organ", organ), Segment("tumour", tumour), Segment("cyst", apart)], OBLIQUE)
    header = nrrd_header(path)
    assert (header["sizes"], header["kinds"]) == ("2 4 3 2", "list domain domain domain")
    assert header["space directions"].startswith("none (")
    assert [(header[f"Segment{n}_Layer"], header[f"Segment{n}_LabelValue"]) for n in range(3)] == [
        ("0", "1"), ("1", "1"), ("0", "2"),
    ]  # fmt: skip
    data = np.frombuffer(gzip.decompress(path.read_bytes().split(b"\n\n", 1)[1]), np.uint8).reshape(2, 3, 4, 2)
    np.testing.assert_array_equal(data[..., 0], organ + 2 * apart)
    np.testing.assert_array_equal(data[..., 1], tumour)


def test_a_mask_over_a_part_of_the_volume_is_put_in_its_place(tmp_path):
    segment = Segment("dot", np.ones((1, 1, 1), np.uint8), offset_ijk=(3, 2, 1))
    write_segmentation(tmp_path / "dot.seg.nrrd", [segment], OBLIQUE)
    assert np.argwhere(images.read_labelmap(tmp_path / "dot.seg.nrrd")[0]).tolist() == [[1, 2, 3]]
    assert np.argwhere(combine_segments([segment], OBLIQUE)).tolist() == [[1, 2, 3]]
    with pytest.raises(ValueError, match=r"'dot': a mask of shape \(1, 1, 1\) .* at \(2, 0, 0\) does not fit"):
        write_segmentation(tmp_path / "x.seg.nrrd", [Segment("dot", np.ones((1, 1, 1)), (0, 0, 2))], OBLIQUE)


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("a\rb", "a b"),
        ("a\r\nb", "a\\nb"),
        ("a\0b", "a b"),
        ("a\tb \\", "a\tb \\\\"),
        ("a\x7f\x1bb", "a  b"),
        ("\udcff", "?"),
    ],
)
def test_a_name_with_control_characters_leaves_the_file_readable(tmp_path, name, written):
    write_segmentation(tmp_path / "a.seg.nrrd", [Segment(name, block((0, 1), (0, 1), (0, 1)))], OBLIQUE)
    assert nrrd_header(tmp_path / "a.seg.nrrd")["Segment0_Name"] == written
    assert images.read_labelmap(tmp_path / "a.seg.nrrd")[0].sum() == 1
    assert len(sitk.ReadImage(str(tmp_path / "a.seg.nrrd")).GetMetaDataKeys()) > 9, "the fields after the name, too"


def test_an_empty_segment_has_an_empty_extent(tmp_path):
    write_segmentation(tmp_path / "none.seg.nrrd", [Segment("none", np.zeros((2, 3, 4)))], OBLIQUE)
    assert nrrd_header(tmp_path / "none.seg.nrrd")["Segment0_Extent"] == "0 -1 0 -1 0 -1"


def test_in_a_labelmap_the_later_segment_wins_where_two_overlap():
    first, second = block((0, 1), (0, 1), (0, 3)), block((0, 1), (0, 1), (2, 4))
    labelmap = combine_segments([Segment("a", first), Segment("b", second)], OBLIQUE)
    assert labelmap[0, 0].tolist() == [1, 1, 2, 2]


def test_slicer_reads_names_colours_layers_and_geometry(tmp_path):
    """With Slicer's own reader, where the slicer-core package is installed."""
    slicer = pytest.importorskip("slicer")
    vtk = pytest.importorskip("vtk")
    numpy_support = pytest.importorskip("vtk.util.numpy_support")
    organ, tumour = block((0, 2), (0, 3), (0, 3)), block((0, 1), (1, 2), (1, 2))
    segments = [Segment("Organ ü", organ, color_rgb=(1.0, 0.5, 0.0)), Segment("Tumour", tumour)]
    write_segmentation(tmp_path / "nested.seg.nrrd", segments, OBLIQUE)

    scene = slicer.vtkMRMLScene()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    storage = scene.AddNewNodeByClass("vtkMRMLSegmentationStorageNode")
    storage.SetFileName(str(tmp_path / "nested.seg.nrrd"))
    assert storage.ReadData(node) == 1

    segmentation = node.GetSegmentation()
    assert segmentation.GetNumberOfSegments() == 2
    assert segmentation.GetNumberOfLayers() == 2
    for number, expected in enumerate(segments):
        segment = segmentation.GetNthSegment(number)
        assert segment.GetName() == expected.name
        assert segment.GetColor() == pytest.approx(expected.color(number), abs=1e-5)
        image = slicer.vtkOrientedImageData()
        node.GetBinaryLabelmapRepresentation(segmentation.GetNthSegmentID(number), image)
        matrix = vtk.vtkMatrix4x4()
        image.GetImageToWorldMatrix(matrix)
        to_ras = np.array([[matrix.GetElement(row, column) for column in range(4)] for row in range(4)])
        i0, i1, j0, j1, k0, k1 = image.GetExtent()
        shape = (k1 - k0 + 1, j1 - j0 + 1, i1 - i0 + 1)
        voxels = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(shape)
        inside = np.argwhere(voxels)[:, ::-1] + (i0, j0, k0)
        wanted = np.argwhere(expected.mask_KJI)[:, ::-1]
        np.testing.assert_allclose(
            inside @ to_ras[:3, :3].T + to_ras[:3, 3],
            wanted @ OBLIQUE.ijk_to_ras[:3, :3].T + OBLIQUE.ijk_to_ras[:3, 3],
            atol=1e-4,
        )
