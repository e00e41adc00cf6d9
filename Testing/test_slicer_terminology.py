"""A new segment's code and colour, by Slicer's own terminology."""

import json

import numpy as np
import pytest

pytest.importorskip("slicer")
pytest.importorskip("host", reason="needs slicer-core and PySide6")
import host
import slicer
import slicer_scene as scenes

host.start()

from DBSAMSegmentLib.Write.SegmentWriter import SegmentMask, SegmentWriter  # noqa: E402
from DBSAMSegmentLib.Write.Terminology import termOf  # noqa: E402

SIDES = (("Right", "24028007", "right kidney"), ("Left", "7771000", "left kidney"))


@pytest.fixture(autouse=True, scope="module")
def terminology(tmp_path_factory):
    """A few entries in the form of Slicer's own list, read by Slicer's own logic."""
    kidney = [
        {
            "CodeMeaning": meaning, "CodingSchemeDesignator": "SCT", "CodeValue": value,
            "recommendedDisplayRGBValue": [185, 102, 83], "3dSlicerLabel": label,
        }
        for meaning, value, label in SIDES
    ]  # fmt: skip
    liver = {
        "CodeMeaning": "Liver", "CodingSchemeDesignator": "SCT", "CodeValue": "10200004",
        "recommendedDisplayRGBValue": [221, 130, 101], "3dSlicerLabel": "liver",
    }  # fmt: skip
    types = [
        liver,
        {"CodeMeaning": "Kidney", "CodingSchemeDesignator": "SCT", "CodeValue": "64033007", "Modifier": kidney},
    ]
    category = {"CodeMeaning": "Anatomical Structure", "CodingSchemeDesignator": "SCT", "CodeValue": "123037004"}
    document = {
        "SegmentationCategoryTypeContextName": "Segmentation category and type - 3D Slicer General Anatomy list",
        "@schema": "https://raw.githubusercontent.com/qiicr/dcmqi/master/doc/schemas/segment-context-schema.json#",
        "SegmentationCodes": {"Category": [{**category, "showAnatomy": True, "Type": types}]},
    }
    path = tmp_path_factory.mktemp("terminology") / "list.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    assert slicer.modules.terminologies.logic().LoadTerminologyFromFile(str(path))


@pytest.mark.parametrize(
    ("name", "meaning", "rgb"),
    [
        ("liver", "Liver", (221, 130, 101)),
        ("Liver ROI", "Liver", (221, 130, 101)),
        ("LIVER_2", "Liver", (221, 130, 101)),
        ("left kidney", "SCT^7771000^Left", (185, 102, 83)),
        ("kidney_right", "SCT^24028007^Right", (185, 102, 83)),
        ("Kidney", "SCT^64033007^Kidney~^^~", (185, 102, 83)),
    ],
)
def test_a_name_that_slicer_knows_has_its_code_and_colour(name, meaning, rgb):
    term = termOf(name)
    assert meaning in term.entry
    assert term.color_rgb == pytest.approx([value / 255 for value in rgb])


@pytest.mark.parametrize("name", ["Box", "lesion", "liver lobe", "", "3", "left"])
def test_a_name_that_slicer_does_not_know_has_none(name):
    assert termOf(name) is None


@pytest.mark.parametrize(("name", "known"), [("Liver", True), ("my lesion", False)])
def test_a_new_segment_is_called_as_its_box_and_coded_where_that_is_known(name, known):
    scene = host.new_scene()
    volume = scenes.add_volume(scene, np.zeros((4, 5, 6), np.uint8))
    segmentation = scenes.add_segmentation(scene, volume)
    mask = SegmentMask("", np.ones((2, 2, 2), np.uint8), ((0, 1), (0, 1), (0, 1)), name)
    [written] = SegmentWriter(scene).write(volume, segmentation, [mask])
    segment = segmentation.GetSegmentation().GetSegment(written.segmentId)
    assert segment.GetName() == name
    assert ("10200004" in segment.GetTerminology()) == known
    assert (segment.GetColor() == pytest.approx((221 / 255, 130 / 255, 101 / 255))) == known
    host.new_scene()
