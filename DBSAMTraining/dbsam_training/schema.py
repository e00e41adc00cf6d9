"""Reads mappings, as YAML gives them, into dataclasses, and refuses what it does not know."""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, TypeVar, Union

T = TypeVar("T")


class SettingError(ValueError):
    """A setting that cannot be used; the message names it, its value and what is possible."""


def read_settings(kind: type[T], values: object, where: str = "") -> T:
    """Build a dataclass from a mapping; nested dataclasses from nested mappings.

    Numbers are accepted for floats, lists for tuples, and None only where the type allows it. YAML 1.1 takes `1e-4` for
    text, so text that is a number is accepted for a float.

    Args:
        kind: The dataclass.
        values: The mapping.
        where: Dotted path of `values`, for messages.

    Raises:
        SettingError: A key is unknown or missing, or a value has the wrong type.
    """
    if not isinstance(values, Mapping):
        raise SettingError(f"{where or 'the file'} must be a mapping of settings, not {_shown(values)}.")
    assert is_dataclass(kind)
    known = {field.name: field for field in fields(kind)}
    for key in values:
        if key not in known:
            raise SettingError(f"Unknown setting {_join(where, str(key))!r}{closest(str(key), known)}.")
    hints = typing.get_type_hints(kind)
    read: dict[str, Any] = {}
    for name, field in known.items():
        if name in values:
            read[name] = _value(hints[name], values[name], _join(where, name))
        elif field.default is MISSING and field.default_factory is MISSING:
            raise SettingError(f"The setting {_join(where, name)!r} is missing.")
    try:
        return kind(**read)
    except SettingError:
        raise
    except ValueError as error:
        raise SettingError(f"{where or 'settings'}: {error}") from error


def require_range(name: str, value: float, below: float = math.inf) -> None:
    """Refuse a number outside 0 <= value < below.

    Raises:
        SettingError: It is outside, infinite or no number.
    """
    if not 0 <= value < below:
        wanted = "a finite number of 0 or more" if below == math.inf else f"at least 0 and less than {below:g}"
        raise SettingError(f"{name} must be {wanted}, not {value!r}.")


def closest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: what was probably meant, and what there is."""
    names = list(known)
    near = difflib.get_close_matches(word, names, 1, 0.5)
    guess = f": did you mean {near[0]!r}?" if near else ""
    return f"{guess} (known: {', '.join(names)})"


def _value(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        return _value(next(option for option in options if option is not type(None)), value, where)
    if origin is Literal:
        if value not in typing.get_args(hint):
            choices = ", ".join(map(str, typing.get_args(hint)))
            raise SettingError(f"{where} is {_shown(value)}: choose one of {choices}.")
        return value
    if is_dataclass(hint) and isinstance(hint, type):
        return read_settings(hint, value, where)
    if origin is tuple:
        return _tuple(typing.get_args(hint), value, where)
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise SettingError(f"{where} must be a mapping, not {_shown(value)}.")
        kind = typing.get_args(hint)[1]
        plain = {str(key): list(v) if isinstance(v, tuple) else v for key, v in value.items()}
        return {key: v if kind is Any else _value(kind, v, _join(where, key)) for key, v in plain.items()}
    return _scalar(hint, value, where)


def _tuple(items: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise SettingError(f"{where} must be a list, not {_shown(value)}.")
    if items[-1] is Ellipsis:
        items = (items[0],) * len(value)
    if len(items) != len(value):
        raise SettingError(f"{where} must hold {len(items)} values, not {len(value)}: {_shown(value)}.")
    return tuple(_value(item, v, f"{where}[{n}]") for n, (item, v) in enumerate(zip(items, value, strict=True)))


def _scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is float and isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            raise SettingError(f"{where} must be a number, not {_shown(value)}.") from None
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Any or (isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool)):
        return value
    what = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(hint, str(hint))
    raise SettingError(f"{where} must be {what}, not {_shown(value)}.")


def _join(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
