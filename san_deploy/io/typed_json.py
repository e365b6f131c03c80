"""Records out of JSON that somebody else may have written: every value is of the type that its field names."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")

_WORDS: dict[Any, str] = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
#: Characters of a wrong value in a message.
_SHOWN = 40


def read_record(record: type[T], values: object, name: str = "") -> T:
    """Build a dataclass from plain data.

    Fields may be text, numbers, booleans, lists, tuples (lists in JSON), dictionaries with text for keys, `Any` (what
    JSON has), other dataclasses, and optional. A whole number is also a number. What the class does not know is
    left out, so that files of later versions are read.

    Args:
        record: the dataclass.
        values: what `json.loads` gave.
        name: of the field that holds it, for messages.

    Raises:
        ValueError: a field is missing or not of its type, a number is not finite, or a text is no Unicode. The
            message names the field.
    """
    if not isinstance(values, Mapping):
        raise _wrong(name, values, "a record")
    hints = get_type_hints(record)
    given = {}
    for item in fields(record):  # type: ignore[arg-type]
        inner = f"{name}.{item.name}" if name else item.name
        if item.name in values:
            given[item.name] = _read(hints[item.name], values[item.name], inner)
        elif item.default is MISSING and item.default_factory is MISSING:
            raise ValueError(f"field {inner} is missing")
    return record(**given)


def _read(hint: Any, value: object, name: str) -> Any:
    if hint is Any:
        return _read_any(value, name)
    if is_dataclass(hint):
        return read_record(hint, value, name)  # type: ignore[arg-type]
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (argument for argument in arguments if argument is not type(None))
        return None if value is None else _read(inner, value, name)
    if origin is tuple:
        if not isinstance(value, list):
            raise _wrong(name, value, "a list")
        kinds = [arguments[0]] * len(value) if arguments[1:] == (...,) else list(arguments)
        if len(value) != len(kinds):
            raise _wrong(name, value, f"a list of {len(kinds)}")
        return tuple(_read(kind, item, name) for kind, item in zip(kinds, value, strict=True))
    if origin is list:
        if not isinstance(value, list):
            raise _wrong(name, value, "a list")
        return [_read(arguments[0], item, name) for item in value]
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(name, value, "a record")
        return {_read(str, key, name): _read(arguments[1], item, name) for key, item in value.items()}
    return _read_scalar(hint, value, name)


def _read_scalar(hint: type, value: object, name: str) -> object:
    # To Python true is a whole number, and to nobody else.
    fits = isinstance(value, (int, float) if hint is float else hint)
    if not fits or isinstance(value, bool) != (hint is bool):
        raise _wrong(name, value, _WORDS[hint])
    if isinstance(value, str) and not _is_unicode(value):
        raise ValueError(f"field {name} is {ascii(value)[:_SHOWN]}, which is no Unicode text")
    if hint is float and not _is_finite(value):
        raise _wrong(name, value, "a finite number")
    return value


def _read_any(value: object, name: str) -> object:
    if isinstance(value, dict):
        return {_read(str, key, name): _read_any(item, name) for key, item in value.items()}
    if isinstance(value, list):
        return [_read_any(item, name) for item in value]
    return value if value is None else _read_scalar(type(value), value, name)


def _is_unicode(text: str) -> bool:
    """Whether it can be written: JSON can hold half a surrogate pair, UTF-8 cannot."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _is_finite(value: object) -> bool:
    try:
        return math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:
        return False


def _wrong(name: str, value: object, wanted: str) -> ValueError:
    found = "null" if value is None else ascii(value)[:_SHOWN]
    return ValueError(f"field {name} is {found}, not {wanted}" if name else f"it is {found}, not {wanted}")
