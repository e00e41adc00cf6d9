"""Values as plain data and back: JSON for structure, raw bytes for arrays. Nothing that is read can run code."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

_ARRAY_KINDS = "biuf"


class ProtocolError(RuntimeError):
    """What the other side sent is no message of this protocol."""


class ValueCodec:
    """Writes and reads values made of numbers, text, sequences, mappings, arrays, and some dataclasses.

    Args:
        classes: The dataclasses that may occur; their fields are such values themselves.
    """

    def __init__(self, classes: Sequence[type]) -> None:
        self._classes = {cls.__name__: cls for cls in classes}

    def encode(self, value: Any) -> tuple[bytes, list[memoryview]]:
        """The value's structure as JSON in UTF-8, and the bytes of its arrays in order.

        Raises:
            TypeError: A part of the value is of a kind that isn't sent.
        """
        buffers: list[memoryview] = []
        plain = self._plain(value, buffers)
        return json.dumps({"value": plain, "sizes": [len(one) for one in buffers]}).encode(), buffers

    def decode(self, structure: bytes, data: memoryview) -> Any:
        """What `encode` was given; arrays are copies of their own.

        Raises:
            ProtocolError: It is damaged, or holds what isn't sent.
        """
        try:
            plain = json.loads(structure)
            edges = [0]
            for size in plain["sizes"]:
                edges.append(edges[-1] + size)
            if edges[-1] != len(data):
                raise ProtocolError(f"A message announced {edges[-1]} bytes of arrays and has {len(data)}.")
            buffers = [data[first:last] for first, last in itertools.pairwise(edges)]
            return self._value(plain["value"], buffers)
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
            raise ProtocolError(f"A message can't be read ({type(error).__name__}: {error}).") from error

    def _plain(self, value: Any, buffers: list[memoryview]) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        if isinstance(value, np.generic):
            return value.item()
        if isinstance(value, np.ndarray):
            return self._plain_array(value, buffers)
        if isinstance(value, (bytes, bytearray, memoryview)):
            buffers.append(memoryview(value).cast("B"))
            return {"bytes": len(buffers) - 1}
        if is_dataclass(value) and self._classes.get(type(value).__name__) is type(value):
            parts = {one.name: self._plain(getattr(value, one.name), buffers) for one in fields(value)}
            return {"class": type(value).__name__, "fields": parts}
        if isinstance(value, Mapping):
            return {"map": [[self._plain(key, buffers), self._plain(one, buffers)] for key, one in value.items()]}
        if isinstance(value, tuple):
            return {"tuple": [self._plain(one, buffers) for one in value]}
        if isinstance(value, list):
            return [self._plain(one, buffers) for one in value]
        raise TypeError(f"A {type(value).__name__} can't be sent to another process: {value!r:.80}.")

    def _plain_array(self, array: np.ndarray, buffers: list[memoryview]) -> dict[str, Any]:
        if array.dtype.kind not in _ARRAY_KINDS:
            raise TypeError(f"An array of type {array.dtype} can't be sent to another process.")
        flat = np.ascontiguousarray(array)
        packed = flat.dtype.itemsize == 1 and flat.dtype.kind in "bu" and flat.size > 0 and flat.max() <= 1
        content = np.packbits(flat.view(np.uint8)) if packed else flat
        buffers.append(content.reshape(-1).view(np.uint8).data)
        return {
            "array": len(buffers) - 1,
            "type": array.dtype.str,
            "shape": list(array.shape),
            "packed": bool(packed),
        }

    def _value(self, plain: Any, buffers: list[memoryview]) -> Any:
        if isinstance(plain, list):
            return [self._value(one, buffers) for one in plain]
        if not isinstance(plain, dict):
            return plain
        if "class" in plain:
            parts = {name: self._value(one, buffers) for name, one in plain["fields"].items()}
            return self._classes[plain["class"]](**parts)
        if "array" in plain:
            return _array(plain, buffers[plain["array"]])
        if "bytes" in plain:
            return bytes(buffers[plain["bytes"]])
        if "tuple" in plain:
            return tuple(self._value(one, buffers) for one in plain["tuple"])
        return {self._value(key, buffers): self._value(one, buffers) for key, one in plain["map"]}


def _array(plain: Mapping[str, Any], content: memoryview) -> np.ndarray:
    dtype, shape = np.dtype(plain["type"]), tuple(plain["shape"])
    if dtype.kind not in _ARRAY_KINDS or any(not isinstance(size, int) or size < 0 for size in shape):
        raise ProtocolError(f"A message holds an array of type {dtype} and shape {shape}.")
    if plain["packed"]:
        bits = np.unpackbits(np.frombuffer(content, np.uint8), count=math.prod(shape))
        return bits.view(dtype).reshape(shape)
    return np.frombuffer(content, dtype).reshape(shape).copy()
