"""The metadata and the hash of an ONNX file, from its bytes alone: neither the onnx package nor a runtime is needed.

An ONNX file is one protobuf message, `ModelProto` (onnx/onnx.proto3). Its top level is a sequence of fields, each a
tag, for most of them a length, and a payload (protobuf.dev/programming-guides/encoding). Only this level is read; the
graph, field 7, is one payload.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import NamedTuple

#: ModelProto.metadata_props, of StringStringEntryProto: key = 1, value = 2.
_METADATA = 14
_KEY, _VALUE = 1, 2
#: The wire types that proto3 has: varint, 8 bytes, length and payload, 4 bytes.
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5


class _Field(NamedTuple):
    """One field of a message: its number, where it starts and ends, and where its payload starts."""

    number: int
    wire: int
    start: int
    payload: int
    end: int


def read_metadata(data: bytes | memoryview) -> dict[str, str]:
    """`metadata_props` of an ONNX file; the last of two equal keys counts, as in protobuf's maps.

    Raises:
        ValueError: the bytes are no protobuf message, or an entry is no text.
    """
    view = memoryview(data)
    entries = (_entry(view[field.payload : field.end]) for field in _fields(view) if _is_metadata(field))
    return dict(entries)


def content_sha256(data: bytes | memoryview, key: str) -> str:
    """SHA-256 of all fields, in their order, but the metadata entries called `key`; hexadecimal.

    Raises:
        ValueError: as `read_metadata`.
    """
    view = memoryview(data)
    digest = hashlib.sha256()
    for field in _fields(view):
        if not _is_called(view, field, {key}):
            digest.update(view[field.start : field.end])
    return digest.hexdigest()


def with_metadata(data: bytes | memoryview, changes: Mapping[str, str | None]) -> bytes:
    """The file with other metadata: entries called as one of `changes` are removed, new ones stand at the end.

    Args:
        data: the file.
        changes: new values; None for an entry that goes.

    Raises:
        ValueError: as `read_metadata`.
    """
    view = memoryview(data)
    kept = [view[field.start : field.end] for field in _fields(view) if not _is_called(view, field, changes)]
    added = [_encode(key, value) for key, value in changes.items() if value is not None]
    return b"".join([*kept, *added])


def _fields(view: memoryview) -> Iterator[_Field]:
    at = 0
    while at < len(view):
        start = at
        tag, at = _varint(view, at)
        number, wire = tag >> 3, tag & 7
        payload = at
        if wire == _VARINT:
            _, at = _varint(view, at)
        elif wire in (_EIGHT, _FOUR):
            at += 8 if wire == _EIGHT else 4
        elif wire == _LENGTH:
            length, payload = _varint(view, at)
            at = payload + length
        else:
            raise ValueError(f"byte {start} starts no protobuf field")
        if number == 0 or at > len(view):
            raise ValueError(f"the field at byte {start} is cut short")
        yield _Field(number, wire, start, payload, at)


def _varint(view: memoryview, at: int) -> tuple[int, int]:
    """A number in groups of 7 bits, the least first, and where it ends."""
    value = 0
    for shift in range(0, 64, 7):
        if at >= len(view):
            break
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
    raise ValueError(f"the number at byte {at} is cut short")


def _is_metadata(field: _Field) -> bool:
    return field.number == _METADATA and field.wire == _LENGTH


def _is_called(view: memoryview, field: _Field, keys: Mapping[str, object] | set[str]) -> bool:
    return _is_metadata(field) and _entry(view[field.payload : field.end])[0] in keys


def _entry(message: memoryview) -> tuple[str, str]:
    found = {_KEY: b"", _VALUE: b""}
    for field in _fields(message):
        if field.number in found and field.wire == _LENGTH:
            found[field.number] = bytes(message[field.payload : field.end])
    return found[_KEY].decode("utf-8"), found[_VALUE].decode("utf-8")


def _encode(key: str, value: str) -> bytes:
    pairs = ((_KEY, key.encode("utf-8")), (_VALUE, value.encode("utf-8")))
    return _message(_METADATA, b"".join(_message(number, text) for number, text in pairs))


def _message(number: int, payload: bytes) -> bytes:
    return _to_varint(number << 3 | _LENGTH) + _to_varint(len(payload)) + payload


def _to_varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
