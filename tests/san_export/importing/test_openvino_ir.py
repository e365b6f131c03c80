"""OpenVINO's IR, in a process of its own, for the reason that tests/san_deploy/backends/test_openvino.py gives."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from san_export.importing.foreign import read_foreign

from san_deploy.errors import SanError
from tests.own_process import run_cases


def test_all_cases() -> None:
    pytest.importorskip("openvino")
    run_cases(Path(__file__).with_name("openvino_ir_cases.py"), 28)


def test_without_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    (tmp_path / "net.xml").write_text("<net/>")
    with pytest.raises(SanError, match=r"is an IR, and OpenVINO is not installed\. pip install"):
        read_foreign(tmp_path / "net.xml")
