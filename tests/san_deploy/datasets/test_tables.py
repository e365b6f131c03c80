"""Tables as spreadsheets write them."""

from __future__ import annotations

from pathlib import Path

import pytest

from san_deploy.datasets.tables import cell, read_table
from san_deploy.errors import SanError

ROWS = [("a", "1", "x y"), ("b", "2", "ä")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_every_form_is_read_alike(tmp_path: Path, encoding: str, delimiter: str, end: str) -> None:
    lines = [delimiter.join(cells) for cells in (("name", " number", "text"), *ROWS)]
    lines += [delimiter * 2, "", delimiter.join(("c", "3"))]
    (tmp_path / "a.csv").write_bytes((end.join(lines) + end).encode(encoding))
    columns, rows = read_table(tmp_path / "a.csv")
    assert columns == ["name", "number", "text"]
    found = list(rows)
    assert [tuple(row.values()) for _, row in found] == [*ROWS, ("c", "3", "")]
    assert [line for line, _ in found] == [2, 3, 6]


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"a,b\n\xff\xfe\xfa")
    with pytest.raises(SanError, match="not a CSV file in UTF-8"):
        read_table(tmp_path / "a.csv")
    with pytest.raises(SanError, match="cannot read"):
        read_table(tmp_path / "none.csv")
    (tmp_path / "empty.csv").touch()
    columns, rows = read_table(tmp_path / "empty.csv")
    assert columns == [] and list(rows) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("t001", "t001"),
        ("=1+2", "'=1+2"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("-1+2", "'-1+2"),
        ("-12.5", "-12.5"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("", ""),
    ],
)
def test_no_cell_is_run(tmp_path: Path, text: str, shown: str) -> None:
    assert cell(text) == shown
    if shown.startswith("'"):
        # Our own tables come back as labels.
        (tmp_path / "a.csv").write_text(f'track,person\n"{shown}",1\n')
        assert [row["track"] for _, row in read_table(tmp_path / "a.csv")[1]] == [text]
