"""The metadata of an ONNX file, changed without the onnx package: the edge has none, and the graph stays byte for byte.

A protobuf message is a list of fields, each with its number and length (protobuf.dev, "Encoding"); in ModelProto,
field 14 is `metadata_props`, of which each entry has a key (field 1) and a value (field 2).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from ..errors import SanError

_METADATA = 14
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_BLOCK = 1 << 20
#: Metadata of ours is a few kilobytes; more than this is no description.
_LARGEST_ENTRY = 1 << 24


def copy_with_metadata(source: Path, target: Path, values: Mapping[str, str]) -> None:
    """Copy an ONNX file with some of its metadata replaced or added; everything else keeps its bytes.

    Args:
        source: the file.
        target: where to write, another file.
        values: `{key: text}`.

    Raises:
        SanError: `source` is not whole.
        OSError: it cannot be read, or `target` not be written.
    """
    with source.open("rb") as file, target.open("wb") as out:
        size = source.stat().st_size
        for number, kind, start, end in _fields(file, size, source):
            if number == _METADATA and kind == _LENGTH and _key(file, start, end, source) in values:
                continue
            file.seek(start)
            left = end - start
            while left:
                block = file.read(min(_BLOCK, left))
                if not block:
                    raise _damaged(source)
                out.write(block)
                left -= len(block)
        for key, text in values.items():
            entry = b"".join(
                _varint(number << 3 | _LENGTH) + _varint(len(data)) + data
                for number, data in ((_KEY, key.encode()), (_VALUE, text.encode()))
            )
            out.write(_varint(_METADATA << 3 | _LENGTH) + _varint(len(entry)) + entry)


def _fields(file: BinaryIO, size: int, path: Path) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, first byte and end of each field of the outermost message."""
    place = 0
    while place < size:
        file.seek(place)
        tag = _read_varint(file, path)
        number, kind = tag >> 3, tag & 7
        if kind == _LENGTH:
            length = _read_varint(file, path)
            end = file.tell() + length
        elif kind == _VARINT:
            _read_varint(file, path)
            end = file.tell()
        elif kind in (_FIXED64, _FIXED32):
            end = file.tell() + (8 if kind == _FIXED64 else 4)
        else:
            raise _damaged(path)
        if end > size or number == 0:
            raise _damaged(path)
        yield number, kind, place, end
        place = end


def _key(file: BinaryIO, start: int, end: int, path: Path) -> str:
    """The key of a metadata entry."""
    file.seek(start)
    _read_varint(file, path), _read_varint(file, path)
    while file.tell() < end:
        tag, length = _read_varint(file, path), _read_varint(file, path)
        if tag & 7 != _LENGTH or length > min(_LARGEST_ENTRY, end - file.tell()):
            raise _damaged(path)
        data = file.read(length)
        if tag >> 3 == _KEY:
            return data.decode(errors="replace")
    return ""


def _read_varint(file: BinaryIO, path: Path) -> int:
    value = 0
    for shift in range(0, 64, 7):
        byte = file.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise _damaged(path)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _damaged(path: Path) -> SanError:
    return SanError(f"{path} is not a whole ONNX file", do="export it again")
