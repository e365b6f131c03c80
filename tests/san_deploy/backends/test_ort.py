"""ONNX Runtime keeps nothing of its user's, and is silent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


def run(home: Path, code: str) -> str:
    environment = {key: value for key, value in os.environ.items() if key != "ORT_DISABLE_TELEMETRY"}
    command = [sys.executable, "-c", code]
    result = subprocess.run(
        command, env=environment | {"HOME": str(home)}, capture_output=True, text=True, check=True
    )
    return result.stderr


OPEN = """if True:
    from san_deploy.backends import open_backend
    open_backend(device="cpu")
"""
RANGES = """if True:
    import numpy as np, onnx
    from san_deploy.backends import STARTER, open_backend
    from san_export.precision.ranges import collect_ranges
    crops = np.zeros((8, *open_backend(device='cpu').artefact.size_hw, 3), np.uint8)
    collect_ranges(onnx.load(STARTER), crops, ["embedding"], method="minmax", bytes_per_crop=1000)
"""


@pytest.mark.parametrize(
    "code", [OPEN, RANGES, "import san_deploy.backends.info", "import san_export.precision.int8"]
)
def test_nothing_is_stored_in_the_home_folder(tmp_path: Path, code: str) -> None:
    assert run(tmp_path, code) == ""
    assert not list(tmp_path.iterdir())


def test_a_home_that_cannot_be_written_is_no_matter() -> None:
    assert run(Path(os.devnull), OPEN) == ""
