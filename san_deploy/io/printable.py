"""Text that any output takes."""

from __future__ import annotations


def printable(item: object) -> str:
    """`str(item)`, with what is no Unicode, such as the bytes of an odd file name, as `\\udcff`."""
    return str(item).encode("utf-8", "backslashreplace").decode("utf-8")
