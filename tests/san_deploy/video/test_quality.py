from __future__ import annotations

import numpy as np
import pytest

from san_deploy.video.quality import overlaps, quality, sharpness, touches_border


def test_overlap_is_the_covered_part_of_the_one_behind() -> None:
    # The second stands nearer (its feet are lower) and covers the right half of the first; the third is apart.
    boxes = np.array([[0, 0, 20, 40], [10, 0, 30, 50], [100, 0, 120, 45]], float)
    assert overlaps(boxes).tolist() == [0.5, 0.0, 0.0]
    assert overlaps(boxes[:1]).tolist() == [0.0] and overlaps(boxes[:0]).shape == (0,)


def test_border() -> None:
    boxes = np.array(
        [[0, 10, 20, 60], [10, 10, 40, 60], [70, 10, 100, 60], [10, 40, 40, 80], [10, 0, 40, 60]], float
    )
    assert touches_border(boxes, (100, 80)).tolist() == [True, False, True, True, True]


def test_sharpness_falls_with_blur_and_not_with_size() -> None:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (32, 16, 3), np.uint8)
    small, large = coarse.repeat(4, 0).repeat(4, 1), coarse.repeat(8, 0).repeat(8, 1)
    blurred = (small[:-3, :-3].astype(int) + small[3:, 3:] + small[3:, :-3] + small[:-3, 3:]) // 4
    assert sharpness(np.full((50, 20, 3), 90, np.uint8)) == 0
    assert sharpness(small) > 1.5 * sharpness(blurred.astype(np.uint8))
    assert sharpness(large) == pytest.approx(sharpness(small), rel=0.5)


def test_quality_prefers_what_shows_the_person() -> None:
    good = quality(100, 50, 0, False, 0.9)
    assert good > quality(80, 50, 0, False, 0.9)
    assert good > quality(100, 20, 0, False, 0.9)
    assert good > quality(100, 50, 0.3, False, 0.9)
    assert good > quality(100, 50, 0, True, 0.9)
    assert good > quality(100, 50, 0, False, 0.6)
