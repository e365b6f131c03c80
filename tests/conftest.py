"""Fixtures that all tests share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from san_deploy.cli import main
from tests.tiny_models import tiny_model

# Each of pytest's workers would otherwise bring as many threads as the machine has cores, which wait for each other:
# one thread each is several times faster on two cores. Read by PyTorch's and NumPy's libraries when they load, and
# by what tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

pytest_plugins = ("tests.networks",)


class Result(NamedTuple):
    """What one call of `san` gave."""

    code: int
    out: str
    err: str


@pytest.fixture
def san(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`san("embed", folder, "-o", file)` as from a shell: exit code, stdout, stderr (of libraries, too)."""

    def run(*arguments: object, code: int = 0) -> Result:
        monkeypatch.setattr("sys.argv", ["san", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main()
        result = Result(int(stopped.value.code or 0), *capfd.readouterr())
        assert result.code == code, result
        if code == 1:
            # An error is one line, and nothing else is said on stdout.
            assert result.out == "" and "Traceback" not in result.err
            assert sum(line.startswith("Error: ") for line in result.err.splitlines()) == 1, result.err
        return result

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model that embeds crops of 32 x 16 in 8 dimensions."""
    return tiny_model(tmp_path / "tiny.onnx")


@pytest.fixture
def crops(tmp_path: Path) -> Path:
    """Three tracklets of 5, 1 and 3 PNG crops of various sizes, and two loose crops."""
    rng = np.random.default_rng(7)
    folder = tmp_path / "crops"
    for name in [
        "t1/1",
        "t1/2",
        "t1/3",
        "t1/4",
        "t1/5",
        "t2/1",
        "t10/1",
        "t10/2",
        "t10/3",
        "loose1",
        "loose0",
    ]:
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        height, width = rng.integers(20, 90), rng.integers(10, 40)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path)
    return folder
