"""Corrected boxes as the text that is saved with the scene."""

import pytest

pytest.importorskip("slicer")
import slicer_scene
from DBSAMSegmentLib.Panel.KeyBoxes import RoiKeyBoxes, decodeKeyBoxes, encodeKeyBoxes

assert slicer_scene.MODULE_FOLDER


def test_key_boxes_come_back_from_their_text_and_unknown_text_is_dropped(caplog):
    entries = [RoiKeyBoxes(2, {7: [1.0, 2.0, 3.5, 4.0]}), RoiKeyBoxes()]
    again = decodeKeyBoxes(encodeKeyBoxes(entries), 2)
    assert again == entries
    assert again[0].along(2) == {7: [1.0, 2.0, 3.5, 4.0]}
    assert again[0].along(1) == {}
    assert encodeKeyBoxes([RoiKeyBoxes()]) == ""
    assert decodeKeyBoxes("", 2) == [RoiKeyBoxes(), RoiKeyBoxes()]
    assert decodeKeyBoxes('[{"axis": 0, "boxes": {"1": [1, 2]}}]', 1) == [RoiKeyBoxes()]
    assert "could not be read" in caplog.text
