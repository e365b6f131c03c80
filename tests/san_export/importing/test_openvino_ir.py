"""OpenVINO's IR, in a process of its own, for the reason that tests/san_deploy/backends/test_openvino.py gives."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from san_export.importing.foreign import read_foreign

from san_deploy.errors import SanError

ROOT = Path(__file__).parents[3]


def test_all_cases() -> None:
    pytest.importorskip("openvino")
    cases = Path(__file__).with_name("openvino_ir_cases.py")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore",
        cases,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "28 passed" in done.stdout, done.stdout[-3000:]


def test_without_openvino(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    (tmp_path / "net.xml").write_text("<net/>")
    with pytest.raises(SanError, match=r"is an IR, and OpenVINO is not installed\. pip install"):
        read_foreign(tmp_path / "net.xml")
