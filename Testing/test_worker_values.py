"""What is sent between application and worker comes out as it went in, and nothing else comes out at all."""

import dataclasses
import json
import typing

import numpy as np
import pytest

from dbsam.geometry.grid import ImageGeometry, OrientedBox
from dbsam.preprocess.prompts import SliceBoxes
from dbsam.worker import protocol
from dbsam.worker.channel import FrameReader, framed
from dbsam.worker.protocol import Cancel, Done, Goodbye, PrefetchTask, Submit, decode, encode
from dbsam.worker.values import ProtocolError

GEOMETRY = ImageGeometry(np.array([[0.5, 0.1, 0, 1], [0, 0.7, 0, 2], [0.2, 0, 3, 1 / 3], [0, 0, 0, 1]]), (4, 5, 6))


def there_and_back(message):
    structure, buffers = encode(message)
    reader = FrameReader()
    reader.trust()
    sent = b"".join(framed(structure, buffers))
    frames = [frame for piece in (sent[:7], sent[7:20], sent[20:]) for frame in reader.feed(piece)]
    assert len(frames) == 1
    return decode(frames[0])


@pytest.mark.parametrize(
    "value",
    [
        None, True, -3, 0.1 + 0.2, 1e-310, float("inf"), "ß\n\0", (), [], (1, [2.5, ("x",)]),
        {3: (1.0, 2.0), "k": None}, np.float32(0.1).item(),
    ],
    ids=str,
)  # fmt: skip
def test_plain_values_come_back_the_same_to_the_last_bit(value):
    again = there_and_back(Done(1, value)).result
    assert again == value
    assert type(again) is type(value)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((0, 3), np.uint8), np.ones((3, 5, 7), np.uint8),
        np.arange(24, dtype=np.int16).reshape(2, 3, 4)[:, ::2],
        np.array([[True, False, True]]), np.array([np.nan, -0.0, np.inf], np.float32), np.array(7, np.uint16),
        np.array([255, 0, 1], np.uint8), np.array([1, 2], ">i4"), np.array([0, 1, 0], np.int8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)  # fmt: skip
def test_arrays_come_back_with_type_shape_and_every_bit(array):
    again = there_and_back(Done(1, array)).result
    assert (again.dtype, again.shape) == (array.dtype, array.shape)
    assert again.tobytes() == array.tobytes()


def test_prompts_and_grids_come_back_the_same():
    box = OrientedBox(np.array([0.1, 1 / 3, 2.0]), np.diag([1.0, 2.0, 3.0]))
    drawn = SliceBoxes(1, {3: np.array([0.1, 0.2, 3.0, 4.0]), 5: [1, 2, 3, 4]}, box)
    again = there_and_back(Submit(7, 1, PrefetchTask("v", drawn, "m", "cpu", {"axis": 1}))).task.prompt
    assert again.axis == 1
    assert list(again.key_boxes) == [3, 5]
    np.testing.assert_array_equal(again.key_boxes[3], drawn.key_boxes[3])
    assert again.key_boxes[5] == [1, 2, 3, 4]
    np.testing.assert_array_equal(again.clip.half_axes_ras, box.half_axes_ras)
    geometry = there_and_back(Done(1, GEOMETRY)).result
    assert geometry.ijk_to_ras.tobytes() == GEOMETRY.ijk_to_ras.tobytes()
    assert geometry.dimensions_ijk == GEOMETRY.dimensions_ijk


def test_every_dataclass_of_every_field_can_be_sent():
    """A field that somebody adds to a result or a prompt is sent, too."""

    def mentioned(hint):
        if dataclasses.is_dataclass(hint):
            yield hint
        for part in typing.get_args(hint):
            yield from mentioned(part)

    known = {*protocol._MESSAGES, *protocol._VALUES}
    for cls in known:
        for name, hint in typing.get_type_hints(cls).items():
            assert set(mentioned(hint)) <= known, f"{cls.__name__}.{name}"


class Unknown:
    pass


@dataclasses.dataclass
class Foreign:
    x: int = 1


@pytest.mark.parametrize(
    "value",
    [Unknown(), Foreign(), {1, 2}, np.array(["text"]), np.array([None]), 1j],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_plain_value_is_refused_before_it_is_sent(value):
    with pytest.raises(TypeError, match="can't be sent"):
        encode(Done(1, value))


def frame(value, sizes=(), data=b""):
    return json.dumps({"value": value, "sizes": list(sizes)}).encode(), memoryview(data)


@pytest.mark.parametrize(
    "damaged",
    [
        (b"\xff not JSON", memoryview(b"")),
        (b"[]", memoryview(b"")),
        frame({"class": "Popen", "fields": {"args": "rm"}}),
        frame({"class": "Cancel", "fields": {"job": 1, "more": 2}}),
        frame({"class": "Cancel", "fields": {}}),
        frame({"class": "Progress", "fields": {"done": 1, "total": 1, "stage": "", "seconds_left": None}}),
        frame(5),
        frame({"array": 0, "type": "|O", "shape": [1], "packed": False}, [8], b"12345678"),
        frame({"array": 0, "type": "<i4", "shape": [3], "packed": False}, [8], b"12345678"),
        frame({"array": 0, "type": "<i4", "shape": [-1], "packed": False}, [8], b"12345678"),
        frame({"array": 5, "type": "<i4", "shape": [2], "packed": False}, [8], b"12345678"),
        frame({"bytes": 0}, [9], b"12345678"),
        frame({}),
    ],
    ids=range(13),
)
def test_damaged_and_foreign_messages_are_refused(damaged):
    with pytest.raises(ProtocolError):
        decode(damaged)


def test_a_stranger_cannot_make_the_application_keep_much():
    reader = FrameReader()
    for sent in (framed(b"x" * 5000, []), framed(b"x", [memoryview(b"12345678")])):
        with pytest.raises(ProtocolError, match="refused"):
            list(FrameReader().feed(b"".join(sent)))
    assert list(reader.feed(b"".join(framed(*encode(Goodbye("idle"))))))
    assert there_and_back(Cancel(3)) == Cancel(3)
