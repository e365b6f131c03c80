"""What views are drawn from."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from san_train.loader import images as module
from san_train.loader.images import CropCache, PixelFile

from san_deploy.images import read_image


@pytest.mark.parametrize("kept", [0, 2, 100])
def test_crops_are_kept_up_to_the_limit(
    crop_folder: Path, monkeypatch: pytest.MonkeyPatch, kept: int
) -> None:
    paths = sorted(crop_folder.rglob("*.png"))[:4]
    asked: list[Path] = []
    monkeypatch.setattr(module, "read_image", lambda path: asked.append(path) or read_image(path))
    cache = CropCache(paths, limit_bytes=kept * 70 * 30 * 3)
    for _ in range(2):
        for number, path in enumerate(paths):
            np.testing.assert_array_equal(cache[number], read_image(path))
    assert asked == [*paths, *paths[kept:]]


def test_a_copy_in_another_process_starts_empty(crop_folder: Path) -> None:
    paths = sorted(crop_folder.rglob("*.png"))
    cache = CropCache(paths, limit_bytes=10**6)
    before = len(pickle.dumps(cache))
    assert cache[0].size
    other = pickle.loads(pickle.dumps(cache))
    assert len(pickle.dumps(cache)) == before and other.limit_bytes == 10**6
    np.testing.assert_array_equal(other[0], cache[0])


def test_pixels_are_mapped_and_travel_as_a_path(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = [rng.integers(0, 256, (size, 5, 3), dtype=np.uint8) for size in (4, 7, 300_000)]
    (tmp_path / "pixels").write_bytes(b"".join(image.tobytes() for image in made))
    offset = np.cumsum([0] + [image.size for image in made])[:3]
    # In another order than in the file.
    order = np.array([2, 0, 1])
    images = PixelFile(
        tmp_path / "pixels", offset[order], np.array([image.shape[:2] for image in made])[order]
    )
    for number, place in enumerate(order):
        np.testing.assert_array_equal(images[number], made[place])
    travelled = pickle.dumps(images)
    assert len(travelled) < 2000
    np.testing.assert_array_equal(pickle.loads(travelled)[0], made[2])
    with pytest.raises(ValueError, match="read-only"):
        images[0][0] = 0
