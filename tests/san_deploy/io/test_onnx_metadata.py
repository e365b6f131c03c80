"""Metadata of an ONNX file, changed without the onnx package, read back by it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from san_deploy.errors import SanError
from san_deploy.io.onnx_metadata import copy_with_metadata


def read(path: Path) -> tuple[onnx.ModelProto, dict[str, str]]:
    model = onnx.load(path)
    return model, {entry.key: entry.value for entry in model.metadata_props}


def test_one_entry_changes_and_nothing_else(tmp_path: Path, model: Path) -> None:
    target = tmp_path / "copy.onnx"
    before, old = read(model)
    long = "ü" * 3000
    copy_with_metadata(model, target, {"san.threshold": long, "new": ""})
    after, new = read(target)
    assert new == old | {"san.threshold": long, "new": ""}
    assert len(after.metadata_props) == len(new)  # the old entry is gone, not overruled
    del before.metadata_props[:], after.metadata_props[:]
    assert before.SerializeToString() == after.SerializeToString()
    again = tmp_path / "again.onnx"
    copy_with_metadata(target, again, {"san.threshold": long, "new": ""})
    assert sorted(again.read_bytes()) == sorted(target.read_bytes())


@pytest.mark.parametrize("cut", [1, 100, 5000])
def test_a_cut_file_is_refused_or_copied_whole(tmp_path: Path, model: Path, cut: int) -> None:
    whole = model.read_bytes()
    model.write_bytes(whole[:-cut])
    with pytest.raises(SanError, match="not a whole ONNX file"):
        copy_with_metadata(model, tmp_path / "copy.onnx", {"a": "b"})


@pytest.mark.parametrize("data", [b"\xff" * 20, b"\x07", b"\x00\x00", b"\x72\x02\xff\xff"])
def test_what_is_no_model_is_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    with pytest.raises(SanError, match="not a whole ONNX file"):
        copy_with_metadata(path, tmp_path / "copy.onnx", {"a": "b"})
