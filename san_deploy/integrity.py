"""Whether a file's bytes are those that were written: the hashes that our files carry of themselves.

An ONNX file is read from its bytes alone, without the onnx package or a runtime. It is one protobuf message,
`ModelProto` (onnx/onnx.proto3): a sequence of fields, each a tag, for most of them a length, and a payload
(protobuf.dev/programming-guides/encoding). Only this level is read, where the graph, field 7, is one payload; and
for `unbounded` the attributes of its nodes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from .artefact import PREFIX, read_sidecar_sha256, sidecar_path
from .errors import SanError

#: The metadata entry of an ONNX file that holds the hash of all the rest.
CONTENT = PREFIX + "content_sha256"
#: An entry that came with the hash: who has it and no hash has lost that.
_SINCE = PREFIX + "space"
#: ModelProto.metadata_props, of StringStringEntryProto: key = 1, value = 2.
_METADATA = 14
_KEY, _VALUE = 1, 2
#: The wire types that proto3 has: varint, 8 bytes, length and payload, 4 bytes.
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5


@dataclass(frozen=True)
class Integrity:
    """What vouches for a file's bytes.

    Attributes:
        state: `whole`; `damaged`, the bytes are not those that were hashed; `unknown`, from before files of ours
            carried a hash.
        why: what was found, in words; empty for `whole`.
    """

    state: str
    why: str = ""

    @property
    def note(self) -> str:
        """One line on a file that is not known to be whole; empty where it is."""
        if self.state == "unknown":
            return "nothing vouches for the bytes of this file: san info --adopt FILE, if you trust them"
        return f"the file is damaged: {self.why}" if self.state == "damaged" else ""

    def require(self, path: Path) -> None:
        """Refuse a damaged file; SanError."""
        if self.state == "damaged":
            raise SanError(
                f"{path} is damaged, or was changed after it was written",
                why=self.why,
                do="fetch it again or write it again; if it was changed on purpose: san import",
            )


WHOLE = Integrity("whole")
UNKNOWN = Integrity("unknown")


def of_onnx(data: bytes, path: Path) -> Integrity:
    """What vouches for the bytes of an ONNX file of ours: the hash inside, or that in its sidecar.

    Raises:
        SanError: the sidecar cannot be read.
    """
    beside = read_sidecar_sha256(path)
    try:
        metadata = read_metadata(data)
        inside = metadata.get(CONTENT)
        found = content_sha256(data, CONTENT) if inside is not None else ""
    except ValueError as error:
        return Integrity("damaged", str(error))
    if inside is not None and inside != json.dumps(found):
        return Integrity("damaged", f"content SHA-256 {found[:12]} here, {inside[1:13]!a} written in it")
    if inside is None and _SINCE in metadata:
        return Integrity("damaged", "it has lost the hash that it was written with")
    if beside is not None:
        whole = hashlib.sha256(data).hexdigest()
        if beside != whole:
            name = sidecar_path(path).name
            return Integrity(
                "damaged",
                f"it is not the file that {name} describes: SHA-256 {whole[:12]} here, {beside[:12]!a} there",
            )
    return UNKNOWN if inside is None and beside is None else WHOLE


def stamp_onnx(data: bytes) -> bytes:
    """The ONNX file with the hash of its content in its metadata.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    return with_metadata(data, {CONTENT: json.dumps(content_sha256(data, CONTENT))})


#: Fields of ModelProto, GraphProto, NodeProto and AttributeProto.
_GRAPH, _FUNCTIONS = 7, 25
_NODE, _SPARSE = 1, 15
_OP_TYPE, _ATTRIBUTE = 4, 5
_GRAPHS = (6, 11)


def unbounded(data: bytes | memoryview) -> str:
    """What in an ONNX file keeps anybody from saying beforehand what it computes, and for how long.

    A Loop runs as often as the file likes, and no runtime can be interrupted in it. Graphs of `san export` have none of
    these, and `san import` refuses them.

    Returns:
        In words; empty where there is nothing.

    Raises:
        ValueError: the bytes are no protobuf message.
    """
    for field in _payloads(memoryview(data), _GRAPH, _FUNCTIONS):
        if field.number == _FUNCTIONS:
            return "functions"
        for item in _payloads(field.message, _NODE, _SPARSE):
            if item.number == _SPARSE:
                return "sparse weights"
            attributes = [part.message for part in _payloads(item.message, _ATTRIBUTE)]
            if any(True for attribute in attributes for _ in _payloads(attribute, *_GRAPHS)):
                names = [bytes(part.message) for part in _payloads(item.message, _OP_TYPE)]
                return f"control flow ({b''.join(names[-1:]).decode('utf-8', 'replace')})"
    return ""


class _Payload(NamedTuple):
    """A field that is a message or a text."""

    number: int
    message: memoryview


def _payloads(view: memoryview, *numbers: int) -> Iterator[_Payload]:
    """The fields of these numbers, in order."""
    for field in _fields(view):
        if field.number in numbers and field.wire == _LENGTH:
            yield _Payload(field.number, view[field.payload : field.end])


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
