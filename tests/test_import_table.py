"""The table of what `san import` makes of networks of others, on a small one."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.san_export.importing.made import crops, network, save


def test_a_row_for_each_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = importlib.util.spec_from_file_location(
        "import_table", Path(__file__).parent.parent / "tools/import_table.py"
    )
    assert spec and spec.loader
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    folder = tmp_path / "cam1"
    folder.mkdir()
    for index, crop in enumerate(crops(20)):
        Image.fromarray(np.ascontiguousarray(crop[:, :, ::-1])).save(folder / f"{index:02d}.png")
    source = save(network(batch=1), tmp_path / "small.onnx")
    monkeypatch.setattr("sys.argv", ["import_table.py", str(folder), f"{source}=torchreid"])
    tool.main()
    head, rule, row = capsys.readouterr().out.splitlines()
    assert head.count("|") == rule.count("|") == row.count("|")
    name, size, original, half, *int8, sizes, parser, times = (
        cell.strip() for cell in row.strip("|").split("|")
    )
    assert (name, size) == ("small", "32 x 16, 6") and float(original) > 0.99999
    for cell, least in ((half, 0.999), (int8[0], 0.9), (int8[1], 0.9)):
        assert least < float(cell.split(" / ")[0]) <= 1.0000001
    assert len(sizes.split(", ")) == 3 and parser in ("all three", "not installed")
    assert all(float(item) > 0 for item in times.split(", "))
