"""Test-time augmentation: which pixels each view has, and that nothing is normalised twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from san_deploy.errors import SanError, UsageError
from san_deploy.evaluation import TTA, VIEWS
from san_deploy.preprocess import read_crop, resize_rgb

SIZE_HW = (28, 14)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 33, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "crop.png")
    return tmp_path / "crop.png"


def test_none_and_flip(path: Path) -> None:
    crop = read_crop(path, SIZE_HW)
    assert np.array_equal(TTA("none").read(path, SIZE_HW), crop[None])
    both = TTA("flip").read(path, SIZE_HW)
    assert np.array_equal(both[0], crop) and np.array_equal(both[1], np.fliplr(crop))


def test_ten_crop_cuts_the_corners_and_the_centre_of_a_larger_crop(path: Path) -> None:
    views = TTA("ten-crop").read(path, SIZE_HW)
    assert views.shape == (10, *SIZE_HW, 3) and views.dtype == np.uint8
    large = np.asarray(resize_rgb(Image.open(path), (32, 16)))[:, :, ::-1]  # 8/7 of the size
    assert np.array_equal(views[0], large[:28, :14])
    assert np.array_equal(views[1], large[:28, -14:])
    assert np.array_equal(views[2], large[-28:, :14])
    assert np.array_equal(views[3], large[-28:, -14:])
    assert np.array_equal(views[4], large[2:30, 1:15])
    for view, mirrored in zip(views[:5], views[5:], strict=True):
        assert np.array_equal(view[:, ::-1], mirrored)


def test_a_cut_has_an_area_that_the_paper_trains_on() -> None:
    for height, width in ((256, 128), (128, 64), (384, 128)):
        area = height * width / (round(height * 8 / 7) * round(width * 8 / 7))
        assert 0.64 <= area <= 1.0


@pytest.mark.parametrize("name", VIEWS)
def test_pooled_rows_are_the_direction_of_the_sum(name: str) -> None:
    views = TTA(name)
    rows = np.random.default_rng(1).normal(size=(3 * views.count, 5)) + 1
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    pooled = views.pool(rows)
    for n in range(3):
        total = rows[n * views.count : (n + 1) * views.count].astype(np.float64).sum(0)
        np.testing.assert_allclose(pooled[n], total / np.linalg.norm(total), atol=1e-6)
    assert pooled.dtype == np.float32


def test_views_that_cancel_out_and_unknown_ones_are_refused() -> None:
    with pytest.raises(SanError, match="cancel out"):
        TTA("flip").pool(np.array([[1.0, 0.0], [-1.0, 0.0]], np.float32))
    with pytest.raises(UsageError, match="none, flip, ten-crop"):
        TTA("tencrop")
