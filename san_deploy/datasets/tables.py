"""Tables that people keep in spreadsheets, as CSV in any of the forms that programs write."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from pathlib import Path

from ..errors import SanError

_DELIMITERS = ",;\t"
#: What a formula starts with.
_FORMULA = ("=", "+", "-", "@")


def read_table(path: Path) -> tuple[list[str], Iterator[tuple[int, dict[str, str]]]]:
    """Read a table with a header line: UTF-8, or UTF-16 with its mark; commas, semicolons or tabs.

    Lines whose cells are all empty, which spreadsheets leave at the end, are passed over.

    Args:
        path: the file.

    Returns:
        Names of the columns, and `(line number, cells by column)` of each row, stripped; cells that are missing are
        empty. Rows are made while they are asked for, and `csv.Error` comes then.

    Raises:
        SanError: it cannot be read, or is no text in these encodings.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SanError(f"cannot read {path}: {error.strerror or error}") from error
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    try:
        text = data.decode("utf-16" if data.startswith(marks) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise SanError(f"{path} is not a CSV file in UTF-8", why=str(error)) from error
    first = text.split("\n", 1)[0]
    delimiter = max(_DELIMITERS, key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise SanError(f"{path} is not a CSV file in UTF-8", why=str(error)) from error

    def rows() -> Iterator[tuple[int, dict[str, str]]]:
        for cells in reader:
            values = [_typed(cell.strip()) for cell in cells]
            if any(values):
                values += [""] * (len(columns) - len(values))
                yield reader.line_num, dict(zip(columns, values, strict=False))

    return columns, rows()


def _typed(text: str) -> str:
    """What `cell` made a cell of."""
    return text[1:] if text[:1] == "'" and text[1:2] in _FORMULA else text


def cell(text: str) -> str:
    """Text as a cell that a spreadsheet shows and does not run.

    A formula starts with `=`, `+`, `-` or `@`; before one that is no number stands an apostrophe, as people type it.
    Line breaks and tabs are written as `\\n` and the like.
    """
    text = text.replace("\r", "\\r").replace("\n", "\\n").replace("\t", "\\t")
    if text[:1] not in _FORMULA:
        return text
    try:
        float(text)
    except ValueError:
        return "'" + text
    return text
