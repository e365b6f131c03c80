"""Augmentation of one crop."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from san_train.augment import Augmentation, _cut, augment

from san_deploy.preprocess import resize_crop

STRONG = Augmentation(tone=1.0, saturation=0.5, erase=1.0, blur=1.0)


def image(height: int = 220, width: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_view_is_the_generators_alone() -> None:
    views = [augment(image(), (64, 32), STRONG, np.random.default_rng(4)) for _ in range(2)]
    np.testing.assert_array_equal(*views)
    assert views[0].shape == (64, 32, 3) and views[0].dtype == np.uint8 and views[0].flags.c_contiguous
    assert (views[0] != augment(image(), (64, 32), STRONG, np.random.default_rng(5))).any()


def test_all_off_is_the_preprocessing_of_the_edge() -> None:
    off = Augmentation(area=(1.0, 1.0), aspect=(2.0, 2.0), flip=0.0)
    view = augment(image(160, 80), (64, 32), off, np.random.default_rng(0))
    np.testing.assert_array_equal(view, resize_crop(image(160, 80), (64, 32)))


def test_cut_outs_have_the_papers_area_and_aspect() -> None:
    rng = np.random.default_rng(0)
    for _ in range(500):
        top, left, height, width = _cut(256, 100, Augmentation(), rng)
        assert top >= 0 and left >= 0 and top + height <= 256 and left + width <= 100
        assert 0.62 <= height * width / 25_600 <= 1.0
        assert 1.95 <= height / width <= 3.05


@pytest.mark.parametrize("size", [(1, 1), (300, 10), (10, 300), (2, 1)])
def test_odd_crops(size: tuple[int, int]) -> None:
    for seed in range(20):
        assert augment(image(*size), (64, 32), STRONG, np.random.default_rng(seed)).shape == (64, 32, 3)


def test_input_is_not_written_to() -> None:
    before = image(64, 32)
    copy = before.copy()
    for seed in range(10):
        augment(before, (64, 32), STRONG, np.random.default_rng(seed))
    np.testing.assert_array_equal(before, copy)
