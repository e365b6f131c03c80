"""The resize that everything shares."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from san_deploy.images import UnreadableImage, read_image
from san_deploy.preprocess import read_crop, resize_crop

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("size", [(32, 16), (9, 40), (1, 1), (300, 70)])
def test_shape_type_and_ownership(size: tuple[int, int]) -> None:
    image = RNG.integers(0, 256, (32, 16, 3), dtype=np.uint8)
    resized = resize_crop(image, size)
    assert resized.shape == (*size, 3) and resized.dtype == np.uint8
    assert resized.flags.owndata and resized.flags.writeable and not np.shares_memory(resized, image)


def test_same_size_is_the_same_crop() -> None:
    image = RNG.integers(0, 256, (32, 16, 3), dtype=np.uint8)
    assert np.array_equal(resize_crop(image, (32, 16)), image)


def test_channels_do_not_mix_and_their_order_does_not_matter() -> None:
    image = RNG.integers(0, 256, (61, 37, 3), dtype=np.uint8)
    assert np.array_equal(resize_crop(image[:, :, ::-1], (32, 16)), resize_crop(image, (32, 16))[:, :, ::-1])


def test_a_fine_pattern_becomes_grey() -> None:
    """Antialiasing: without it, every eighth column of a checkerboard is black or white."""
    board = np.indices((256, 128)).sum(0) % 2 * 255
    resized = resize_crop(np.repeat(board[:, :, None], 3, 2).astype(np.uint8), (32, 16))
    assert np.abs(resized.astype(int) - 127).max() <= 8


def test_against_the_definition() -> None:
    """Bicubic (a = -1/2) with a support that widens with the scale, computed slowly in float64."""
    image = RNG.integers(0, 256, (50, 21, 3), dtype=np.uint8)
    expected = kernel(50, 32) @ image.transpose(2, 0, 1).astype(float) @ kernel(21, 16).T
    expected = np.clip(np.round(expected), 0, 255).transpose(1, 2, 0)
    # Pillow rounds, and clips, between the two passes.
    assert np.abs(resize_crop(image, (32, 16)) - expected).max() <= 8
    assert np.abs(resize_crop(image, (32, 16)) - expected).mean() < 0.5


def kernel(inputs: int, outputs: int) -> np.ndarray:
    scale = inputs / outputs
    centre = (np.arange(outputs)[:, None] + 0.5) * scale
    x = np.abs((np.arange(inputs)[None] + 0.5 - centre) / max(scale, 1.0))
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    weight = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    result: np.ndarray = weight / weight.sum(1, keepdims=True)
    return result


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16", "CMYK", "turned", "fits"])
def test_read_crop_equals_its_two_halves(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(RNG.integers(0, 256, (75, 33, 3), dtype=np.uint8))
    exif = Image.Exif()
    if mode == "turned":
        exif[0x0112] = 6
    elif mode == "fits":
        image = image.resize((16, 32))
    elif mode == "I;16":
        image = Image.fromarray(RNG.integers(0, 65536, (75, 33), dtype=np.uint16))
    else:
        image = image.convert(mode)
    path = tmp_path / ("a.tif" if mode in ("I;16", "CMYK") else "a.png")
    image.save(path, exif=exif)
    assert np.array_equal(read_crop(path, (32, 16)), resize_crop(read_image(path), (32, 16)))


def test_read_crop_refuses_as_read_image(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="does not exist"):
        read_crop(tmp_path / "a.png", (32, 16))


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((4, 4, 4), np.uint8),
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
    ],
)
def test_refuses_another_layout(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a crop is"):
        resize_crop(image, (32, 16))


@pytest.mark.parametrize("size", [(300, 90), (64, 200), (40, 20), (1, 1), (31, 77)])
def test_cv2_linear_is_opencvs_to_a_grey_level(size: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    wanted = cv2.resize(image, (48, 96), interpolation=cv2.INTER_LINEAR)
    assert np.abs(resize_crop(image, (96, 48), "cv2-linear").astype(int) - wanted).max() <= 1


def test_box_is_opencvs_area_where_it_shrinks() -> None:
    cv2 = pytest.importorskip("cv2")
    image = np.random.default_rng(0).integers(0, 256, (256, 128, 3), np.uint8)
    wanted = cv2.resize(image, (32, 64), interpolation=cv2.INTER_AREA)
    assert np.abs(resize_crop(image, (64, 32), "pillow-box").astype(int) - wanted).max() <= 1


def test_an_unknown_resize_is_refused() -> None:
    with pytest.raises(ValueError, match="resize 'nearest' is unknown; known are pillow-bicubic-antialias"):
        resize_crop(np.zeros((4, 4, 3), np.uint8), (8, 8), "nearest")
