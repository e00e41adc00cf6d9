"""How a typed parameter is kept in a `vtkMRMLScriptedModuleNode`: the storage side of `slicer.parameterNodeWrapper`.

Names in the node are Slicer's own (`list_len`, `list_0`, `pack.member`, a node reference of the parameter's name), so
that a scene written here reads back there.
"""

from __future__ import annotations

import enum
import pathlib
import types
import typing
from collections.abc import Iterator, MutableMapping, MutableSequence
from dataclasses import dataclass
from typing import Any

import slicer

from host.parameter_annotations import Validator


def split_annotations(annotated: Any) -> tuple[Any, list[Any]]:
    """The bare type and what `Annotated` adds to it."""
    if typing.get_origin(annotated) is typing.Annotated:
        return typing.get_args(annotated)[0], list(typing.get_args(annotated)[1:])
    return annotated, []


@dataclass
class Codec:
    """Writes values of one type to the node and reads them back."""

    kind: Any
    validators: list[Validator]

    def default(self) -> Any:
        return self.kind() if not issubclass(self.kind, enum.Enum) else next(iter(self.kind))

    def is_in(self, node: Any, name: str) -> bool:
        return bool(node.HasParameter(name))

    def check(self, value: Any) -> None:
        kinds = (int, float) if self.kind is float else self.kind
        if not isinstance(value, kinds) or (isinstance(value, bool) and self.kind in (int, float)):
            raise TypeError(f"Value must be of type {self.kind}, is {value!r}")
        for validator in self.validators:
            validator.validate(value)

    def write(self, node: Any, name: str, value: Any) -> None:
        self.check(value)
        node.SetParameter(name, value.name if isinstance(value, enum.Enum) else str(value))

    def read(self, node: Any, name: str) -> Any:
        text = node.GetParameter(name)
        if self.kind is bool:
            return text == "True"
        return self.kind[text] if issubclass(self.kind, enum.Enum) else self.kind(text)

    def remove(self, node: Any, name: str) -> None:
        node.UnsetParameter(name)


class NodeCodec(Codec):
    """A MRML node, or None."""

    def default(self) -> None:
        return None

    def check(self, value: Any) -> None:
        if value is not None:
            super().check(value)

    def write(self, node: Any, name: str, value: Any) -> None:
        self.check(value)
        node.SetParameter(name, "")
        node.SetNodeReferenceID(name, value.GetID() if value is not None else None)

    def read(self, node: Any, name: str) -> Any:
        return node.GetNodeReference(name)

    def remove(self, node: Any, name: str) -> None:
        super().remove(node, name)
        node.RemoveNodeReferenceIDs(name)


class NoneCodec(Codec):
    def default(self) -> None:
        return None

    def check(self, value: Any) -> None:
        if value is not None:
            raise TypeError(f"Value must be None, is {value!r}")

    def write(self, node: Any, name: str, value: Any) -> None:
        self.check(value)
        node.SetParameter(name, "True")

    def read(self, node: Any, name: str) -> None:
        return None


class UnionCodec(Codec):
    """One of several types, under `name_<index of the type>`."""

    def __init__(self, codecs: list[Codec]) -> None:
        super().__init__(object, [])
        self.codecs = codecs

    def default(self) -> Any:
        optional = len(self.codecs) == 2 and isinstance(self.codecs[1], NoneCodec)
        return None if optional else self.codecs[0].default()

    def is_in(self, node: Any, name: str) -> bool:
        return any(codec.is_in(node, f"{name}_{i}") for i, codec in enumerate(self.codecs))

    def _fitting(self, value: Any) -> int:
        errors = []
        for index, codec in enumerate(self.codecs):
            try:
                codec.check(value)
                return index
            except (TypeError, ValueError) as error:
                errors.append(str(error))
        raise TypeError("; ".join(errors))

    def check(self, value: Any) -> None:
        self._fitting(value)

    def write(self, node: Any, name: str, value: Any) -> None:
        chosen = self._fitting(value)
        for index, codec in enumerate(self.codecs):
            if index != chosen:
                codec.remove(node, f"{name}_{index}")
        self.codecs[chosen].write(node, f"{name}_{chosen}", value)

    def read(self, node: Any, name: str) -> Any:
        index = next(i for i, codec in enumerate(self.codecs) if codec.is_in(node, f"{name}_{i}"))
        return self.codecs[index].read(node, f"{name}_{index}")

    def remove(self, node: Any, name: str) -> None:
        for index, codec in enumerate(self.codecs):
            codec.remove(node, f"{name}_{index}")


class TupleCodec(Codec):
    def __init__(self, codecs: list[Codec]) -> None:
        super().__init__(tuple, [])
        self.codecs = codecs

    def default(self) -> Any:
        return tuple(codec.default() for codec in self.codecs)

    def is_in(self, node: Any, name: str) -> bool:
        return self.codecs[0].is_in(node, f"{name}_0")

    def write(self, node: Any, name: str, value: Any) -> None:
        if len(value) != len(self.codecs):
            raise ValueError(f"Expected {len(self.codecs)} values, got {value!r}")
        for index, (codec, item) in enumerate(zip(self.codecs, value, strict=True)):
            codec.write(node, f"{name}_{index}", item)

    def read(self, node: Any, name: str) -> Any:
        return tuple(codec.read(node, f"{name}_{index}") for index, codec in enumerate(self.codecs))

    def remove(self, node: Any, name: str) -> None:
        for index, codec in enumerate(self.codecs):
            codec.remove(node, f"{name}_{index}")


class ListCodec(Codec):
    def __init__(self, element: Codec) -> None:
        super().__init__(list, [])
        self.element = element

    def default(self) -> Any:
        return []

    def is_in(self, node: Any, name: str) -> bool:
        return bool(node.HasParameter(f"{name}_len"))

    def check(self, value: Any) -> None:
        for item in value:
            self.element.check(item)

    def write(self, node: Any, name: str, value: Any) -> None:
        values = list(value)
        self.check(values)
        with slicer.util.NodeModify(node):
            self.remove(node, name)
            for index, item in enumerate(values):
                self.element.write(node, f"{name}_{index}", item)
            node.SetParameter(f"{name}_len", str(len(values)))

    def plain(self, node: Any, name: str) -> list[Any]:
        return [self.element.read(node, f"{name}_{i}") for i in range(int(node.GetParameter(f"{name}_len") or 0))]

    def read(self, node: Any, name: str) -> Any:
        return ObservedList(self, node, name)

    def remove(self, node: Any, name: str) -> None:
        for index in range(int(node.GetParameter(f"{name}_len") or 0)):
            self.element.remove(node, f"{name}_{index}")
        node.UnsetParameter(f"{name}_len")


class DictCodec(ListCodec):
    """A dictionary, kept as a list of (key, value)."""

    def default(self) -> Any:
        return {}

    def write(self, node: Any, name: str, value: Any) -> None:
        super().write(node, name, list(value.items()))

    def check(self, value: Any) -> None:
        super().check(value.items() if hasattr(value, "items") else value)

    def read(self, node: Any, name: str) -> Any:
        return ObservedDict(self, node, name)


class ObservedList(MutableSequence):
    """A list that writes itself back to the node when it is changed."""

    def __init__(self, codec: ListCodec, node: Any, name: str) -> None:
        self._codec, self._node, self._name = codec, node, name
        self._values = codec.plain(node, name)

    def _save(self) -> None:
        self._codec.write(self._node, self._name, self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __len__(self) -> int:
        return len(self._values)

    def __setitem__(self, index: Any, value: Any) -> None:
        self._values[index] = value
        self._save()

    def __delitem__(self, index: Any) -> None:
        del self._values[index]
        self._save()

    def insert(self, index: int, value: Any) -> None:
        self._values.insert(index, value)
        self._save()

    def __eq__(self, other: object) -> bool:
        return self._values == (other._values if isinstance(other, ObservedList) else other)

    def __add__(self, other: Any) -> Any:
        raise NotImplementedError("Adding an ObservedList is not supported. However, += is supported.")


class ObservedDict(MutableMapping):
    """A dictionary that writes itself back to the node when it is changed."""

    def __init__(self, codec: DictCodec, node: Any, name: str) -> None:
        self._codec, self._node, self._name = codec, node, name
        self._values = dict(codec.plain(node, name))

    def __getitem__(self, key: Any) -> Any:
        return self._values[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._values[key] = value
        self._codec.write(self._node, self._name, self._values)

    def __delitem__(self, key: Any) -> None:
        del self._values[key]
        self._codec.write(self._node, self._name, self._values)


def codec_for(annotated: Any) -> Codec:
    """The codec of an annotated type.

    Raises:
        TypeError: Slicer's wrapper has no serializer for the type either.
    """
    kind, annotations = split_annotations(annotated)
    validators = [a for a in annotations if isinstance(a, Validator)]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is type(None):
        return NoneCodec(kind, validators)
    if origin is typing.Union:
        return UnionCodec([codec_for(argument) for argument in arguments])
    if origin is list:
        return ListCodec(codec_for(arguments[0]))
    if origin is tuple:
        return TupleCodec([codec_for(argument) for argument in arguments])
    if origin is dict:
        return DictCodec(TupleCodec([codec_for(argument) for argument in arguments]))
    if getattr(kind, "_is_parameterPack", False):
        from host.parameter_node import PackCodec

        return PackCodec(kind, validators)
    if isinstance(kind, type) and issubclass(kind, slicer.vtkMRMLNode):
        return NodeCodec(kind, validators)
    if isinstance(kind, type) and (kind in (int, float, str, bool) or issubclass(kind, (enum.Enum, pathlib.PurePath))):
        return Codec(kind, validators)
    hint = "; Slicer 5.10 has none for X | None, write Optional[X]" if isinstance(kind, types.UnionType) else ""
    raise TypeError(f"Unable to create serializer for type: {kind}{hint}")
