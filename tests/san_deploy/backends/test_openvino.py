"""OpenVINO's tests, in a process of their own: `openvino_cases.py`.

After several of its networks were opened, refused and closed, a Ctrl-C that another test raised later in the same
process ended it (segmentation fault); the cause was not found. With a network that stays open it does not happen.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def test_all_cases() -> None:
    pytest.importorskip("openvino")
    cases = Path(__file__).with_name("openvino_cases.py")
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
    assert done.returncode == 0 and "11 passed" in done.stdout, done.stdout[-3000:]
