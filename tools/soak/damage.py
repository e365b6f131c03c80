"""Damage to one file, from a seeded generator."""

from __future__ import annotations

import json
import random
from typing import Any

_WORDS = (
    *("", "nan", "-inf", "1e999", "-1", "0", "0x10", "9" * 30, "1e-320", "null", "true", "None", "é" * 3),
    *("\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "\0", "=1+2", "../..", "/etc/passwd", '"'),
)
_VALUES: tuple[Any, ...] = (
    *(None, True, "", "x", -1, 0, 10**30, 1e308, float("nan"), float("inf"), -0.0, 2**63, 0.5),
    *([], {}, [[]], [None], {"a": {}}, "9" * 5000, ["x"] * 100, "\ud800"),
)


def damaged(data: bytes, form: str, rng: random.Random) -> bytes:
    """The file's bytes after one to three accidents; `form` as in `made.Kind`."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        if form == "json" and rng.random() < 0.6:
            data = _json(data, rng)
        elif form != "binary" and rng.random() < 0.7:
            data = _text(data, rng)
        else:
            data = _binary(data, rng)
    return data


def _binary(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    at, length = rng.randrange(len(out) + 1), rng.choice((1, 1, 2, 4, 16, 200))
    kind = rng.randrange(7)
    if kind == 0 and at < len(out):
        out[at] ^= 1 << rng.randrange(8)
    elif kind == 1 and at < len(out):
        out[at] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    elif kind == 2:
        del out[at:]
    elif kind == 3:
        del out[at : at + length]
    elif kind == 4:
        out[at:at] = rng.randbytes(length)
    elif kind == 5:
        out[at : at + length] = bytes(len(out[at : at + length]))
    else:
        other = rng.randrange(len(out) + 1)
        out[at:at] = out[other : other + length]
    return bytes(out)


def _text(data: bytes, rng: random.Random) -> bytes:
    lines = data.split(b"\n")
    at = rng.randrange(len(lines))
    kind = rng.randrange(5)
    if kind == 0:
        del lines[at]
    elif kind == 1:
        lines.insert(at, lines[rng.randrange(len(lines))])
    elif kind == 2:
        lines[at] = lines[at].replace(b",", rng.choice((b";", b"\t", b",,", b" ")), 1)
    elif kind == 3:
        return data.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-8-sig", "utf-32")))
    else:
        for mark in (b",", b" "):
            cells = lines[at].split(mark)
            if len(cells) > 1:
                cells[rng.randrange(len(cells))] = rng.choice(_WORDS).encode("utf-8", "replace")
                lines[at] = mark.join(cells)
                break
    return b"\n".join(lines)


def _json(data: bytes, rng: random.Random) -> bytes:
    try:
        values = json.loads(data)
    except (ValueError, RecursionError):
        return _binary(data, rng)
    places: list[tuple[Any, Any]] = []
    waiting = [values]
    while waiting:
        item = waiting.pop()
        keys: Any = (
            item.keys() if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        )
        for key in keys:
            places.append((item, key))
            waiting.append(item[key])
    if not places:
        return b"[" * rng.choice((1, 100_000)) + data
    holder, key = rng.choice(places)
    if rng.random() < 0.2:
        del holder[key]
    else:
        holder[key] = rng.choice(_VALUES)
    return json.dumps(values).encode("utf-8")
