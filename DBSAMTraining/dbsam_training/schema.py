"""Settings as YAML gives them, checked by pydantic; what is wrong with them, in words."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict, TypeAdapter, ValidationError

T = TypeVar("T")

STRICT = ConfigDict(extra="forbid")
"""Of every dataclass of settings: a key that nobody knows is refused."""


class SettingError(ValueError):
    """A setting that cannot be used; the message names it, its value and what is possible."""


def _no_truth_value(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"must be a number, not {value}")
    return value


# YAML 1.1 takes `1e-4` for text, so text that is a number is a number.
Number = Annotated[float, BeforeValidator(_no_truth_value), Field(allow_inf_nan=False)]
NotNegative = Annotated[Number, Field(ge=0)]
Positive = Annotated[Number, Field(gt=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
BelowOne = Annotated[Number, Field(ge=0, lt=1)]
WholeNumber = Annotated[int, Strict(), Field(ge=0)]
Count = Annotated[int, Strict(), Field(ge=1)]
Flag = Annotated[bool, Strict()]


def one_of(names: Sequence[str]) -> AfterValidator:
    """A check that text is one of some names, whose message says which was probably meant."""

    def check(value: str) -> str:
        if value not in names:
            raise ValueError(f"is {value!r}{closest(value, names)}")
        return value

    return AfterValidator(check)


def read_settings(kind: type[T], values: object, where: str = "") -> T:
    """Build a pydantic dataclass from a mapping, and those inside it from the mappings inside.

    Args:
        kind: The dataclass.
        values: The mapping.
        where: Dotted path of `values`, for messages.

    Raises:
        SettingError: A key is unknown or missing, or a value has the wrong type or lies out of range.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        # An unknown key explains a missing one.
        first = min(error.errors(include_url=False), key=lambda found: found["type"] != "unexpected_keyword_argument")
        raise SettingError(_in_words(kind, first, where)) from None


def closest(word: str, known: Iterable[str]) -> str:
    """The end of a message about an unknown word: what was probably meant, and what there is."""
    names = list(known)
    near = difflib.get_close_matches(word, names, 1, 0.5)
    guess = f": did you mean {near[0]!r}?" if near else ""
    return f"{guess} (known: {', '.join(names)})"


_WANTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "mapping_type": "a mapping",
    "dict_type": "a mapping",
    "dataclass_type": "a mapping of settings",
}
_BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "less than"}
_BOUND_ERRORS = ("greater_than_equal", "greater_than", "less_than_equal", "less_than")


def _in_words(kind: type, found: Any, where: str) -> str:
    """What pydantic found, named by the setting's dotted path."""
    place, value, context = found["loc"], found["input"], found.get("ctx", {})
    name = ".".join(part for part in (where, _dotted(place)) if part)
    match found["type"]:
        case "unexpected_keyword_argument":
            return f"Unknown setting {name!r}{closest(str(place[-1]), _settings_at(kind, place[:-1]))}."
        case "missing" if place and isinstance(place[-1], int):
            wanted = len(typing.get_args(_hint_at(kind, place[:-1])))
            return f"{_parent(name)} must hold {wanted} values, not {len(value)}: {_shown(value)}."
        case "too_long":
            return f"{name} must hold {context['max_length']} values, not {len(value)}: {_shown(value)}."
        case "missing":
            return f"The setting {name!r} is missing."
        case "literal_error":
            choices = ", ".join(map(str, typing.get_args(_hint_at(kind, place))))
            return f"{name} is {_shown(value)}: choose one of {choices}."
        case "value_error":
            error = context["error"]
            if isinstance(error, SettingError):  # of a dataclass as a whole: it names its settings itself
                return ": ".join(part for part in (where, str(error)) if part)
            return f"{name} {error}."
        case kind_of_error if kind_of_error in _BOUND_ERRORS:
            return f"{name} must be {_range_at(kind, place)}, not {value!r}."
        case kind_of_error if kind_of_error in _WANTED:
            return f"{name or 'the file'} must be {_WANTED[kind_of_error]}, not {_shown(value)}."
    return f"{name}: {found['msg']}, not {_shown(value)}."


def _dotted(place: Sequence[int | str]) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _parent(name: str) -> str:
    return name[: name.rindex("[")]


def _hint_at(kind: Any, place: Sequence[int | str]) -> Any:
    """The type, without its constraints, of the setting at a place."""
    return _without_constraints(_annotated_at(kind, place))


def _annotated_at(kind: Any, place: Sequence[int | str]) -> Any:
    for part in place:
        kind = _without_constraints(kind)
        if is_dataclass(kind):
            kind = typing.get_type_hints(kind, include_extras=True)[str(part)]
        elif isinstance(part, int):
            kind = typing.get_args(kind)[0 if Ellipsis in typing.get_args(kind) else part]
        else:
            kind = typing.get_args(kind)[1]
    return kind


def _without_constraints(kind: Any) -> Any:
    if typing.get_origin(kind) is Annotated:
        kind = typing.get_args(kind)[0]
    if type(None) in typing.get_args(kind):
        return _without_constraints(next(part for part in typing.get_args(kind) if part is not type(None)))
    return kind


def _settings_at(kind: type, place: Sequence[int | str]) -> Mapping[str, Any]:
    return typing.get_type_hints(_hint_at(kind, place))


def _range_at(kind: type, place: Sequence[int | str]) -> str:
    """The bounds of a setting in words."""
    hint = _annotated_at(kind, place)
    if type(None) in typing.get_args(hint):
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    constraints = typing.get_args(hint)[1:]
    bounds = [
        f"{text} {getattr(constraint, name):g}"
        for given in constraints
        for constraint in getattr(given, "metadata", (given,))
        for name, text in _BOUNDS.items()
        if getattr(constraint, name, None) is not None
    ]
    return " and ".join(bounds)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
