"""A new data set is one file and one row: everything else reads the table."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from san_deploy import datasets
from san_deploy.datasets import Crop, Dataset, Options, read_dataset
from san_deploy.errors import UsageError
from tests.conftest import Result

San = Callable[..., Result]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of the new layout: `toy.txt` beside `person-camera.png`."""
    reader = types.ModuleType("toy")
    reader.LAYOUT = "Toy: toy.txt beside 1-2.png"  # type: ignore[attr-defined]
    reader.OPTIONS = frozenset({"boxes"})  # type: ignore[attr-defined]
    reader.INSIDE = ("Toy",)  # type: ignore[attr-defined]

    def matches(root: Path) -> bool:
        return (root / "toy.txt").is_file()

    def read(root: Path, options: Options) -> Dataset:
        crops = [
            Crop(path, int(path.stem.split("-")[0]), path.stem.split("-")[1], path.stem)
            for path in sorted(root.glob("*.png"))
        ]
        return Dataset("Toy", root, {"test": crops})

    reader.matches, reader.read = matches, read  # type: ignore[attr-defined]
    monkeypatch.setitem(datasets.READERS, "toy", reader)  # type: ignore[arg-type]
    folder = tmp_path / "Toy"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for person in (1, 2, 3):
        for camera in (1, 2):
            pixels = rng.integers(0, 256, (32, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{person}-{camera}.png")
    (folder / "toy.txt").touch()
    return folder


def test_it_is_recognised_and_read(toy: Path) -> None:
    for root in (toy, toy.parent):
        assert len(read_dataset(root).splits["test"]) == 6
    assert read_dataset(toy, Options(layout="toy", boxes="labelled")).name == "Toy"
    with pytest.raises(UsageError, match="--testset does not go with this data set"):
        read_dataset(toy, Options(testset=1))
    with pytest.raises(UsageError, match=r"One of .*, toy"):
        read_dataset(toy, Options(layout="nonsense"))


def test_it_is_evaluated(san: San, toy: Path, model: Path) -> None:
    result = san("eval", toy, "-m", model)
    assert "Toy in" in result.err and "6 queries" in result.out
