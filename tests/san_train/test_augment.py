"""Augmentation of one crop."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from san_train.augment import OTHER_KERNELS, Augmentation, _cut, _recolour, augment, resize_otherwise

from san_deploy.preprocess import resize_crop

STRONG = Augmentation(tone=1.0, saturation=0.5, erase=1.0, blur=1.0)


def image(height: int = 220, width: int = 80) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_view_is_the_generators_alone() -> None:
    views = [augment(image(), (64, 32), STRONG, np.random.default_rng(4)) for _ in range(2)]
    np.testing.assert_array_equal(*views)
    assert views[0].shape == (64, 32, 3) and views[0].dtype == np.uint8 and views[0].flags.c_contiguous
    assert (views[0] != augment(image(), (64, 32), STRONG, np.random.default_rng(5))).any()


@pytest.mark.parametrize("flip", [1, -1])
@pytest.mark.parametrize("haze", [0.0, 0.6])
@pytest.mark.parametrize("saturation", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(4))
def test_colours_are_changed_channel_by_channel(seed: int, saturation: float, haze: float, flip: int) -> None:
    """The same bits as one channel after the other, in the order of the draws."""
    settings = Augmentation(tone=0.8, saturation=saturation, haze=haze)
    view = image(64, 32)[:, ::flip]
    rng = np.random.default_rng(seed)
    mixed = view
    if saturation:
        factor = np.float32(1.0 + rng.uniform(-saturation, saturation))
        grey = (view.astype(np.float32) @ np.array([0.114, 0.587, 0.299], np.float32))[..., None]
        mixed = np.clip(grey + (view - grey) * factor + np.float32(0.5), 0, 255).astype(np.uint8)
    gamma, contrast, brightness = (np.exp(rng.uniform(-end, end) * 0.8) for end in (0.6, 0.5, 0.5))
    cast = np.exp(rng.uniform(-0.25, 0.25, 3) * 0.8)
    share = rng.uniform(0, haze) if haze and rng.random() < 0.5 else 0.0
    expected = np.empty(view.shape, np.uint8)
    for channel in range(3):
        curve = (np.linspace(0.0, 1.0, 256) ** gamma - 0.5) * contrast + 0.5
        curve = curve * brightness * cast[channel] * (1.0 - share) + 0.7 * share
        table = np.clip(curve * 255.0 + 0.5, 0, 255).astype(np.uint8)
        expected[..., channel] = table[mixed[..., channel]]
    found = _recolour(view, settings, np.random.default_rng(seed))
    np.testing.assert_array_equal(found, expected)
    assert found.flags.c_contiguous


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


@pytest.mark.parametrize("kernel", OTHER_KERNELS)
def test_other_kernels_keep_what_all_keep(kernel: str) -> None:
    flat = np.full((33, 21, 3), (10, 120, 250), np.uint8)
    np.testing.assert_array_equal(resize_otherwise(flat, (64, 32), kernel)[0, 0], flat[0, 0])
    shape = np.linspace(0, 255, 200).astype(np.uint8)[:, None, None].repeat(80, 1).repeat(3, 2)
    small = resize_otherwise(shape, (50, 20), kernel).astype(int)
    assert small.shape == (50, 20, 3) and np.abs(np.diff(small[2:-2, 5, 0]) - 5.1).max() < 1.5


@pytest.mark.parametrize("kernel", ["linear", "cubic", "area"])
def test_opencvs_kernels_are_opencvs(kernel: str) -> None:
    cv2 = pytest.importorskip("cv2")
    flag = {"linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC, "area": cv2.INTER_AREA}[kernel]
    wanted = cv2.resize(image(), (64, 128), interpolation=flag).astype(int)
    assert np.abs(resize_otherwise(image(), (128, 64), kernel) - wanted).max() <= 1


def test_another_cameras_colours_stay_pictures() -> None:
    strange = Augmentation(tone=1.0, saturation=0.5, crosstalk=0.1, haze=0.3, grain=8.0, kernels=1.0)
    views = [augment(image(), (64, 32), strange, np.random.default_rng(seed)) for seed in range(8)]
    assert all(view.dtype == np.uint8 and view.std() > 3 for view in views)
    assert len({view.tobytes() for view in views}) == 8
