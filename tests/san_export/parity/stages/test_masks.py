from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from san_export.parity.result import MaskFigures, plain
from san_export.parity.stages.masks import compare_masks
from san_export.parity.stages.probes import BlockValues, onnx_probe
from san_export.precision.emulate_fp16 import emulate_fp16
from san_export.precision.fp16 import to_fp16
from san_export.verify import CheckCrops

from tests.tiny_models import tiny_artefact

Draw = Callable[[np.ndarray], np.ndarray]


def argmax(x: np.ndarray) -> np.ndarray:
    middle = (x.min((2, 3), keepdims=True) + x.max((2, 3), keepdims=True)) * np.float32(0.5)
    return (x > middle).astype(np.float32)


class Made:
    """A network whose X is given beforehand, one array for each block; crops are told by their first pixel."""

    def __init__(self, *xs: np.ndarray, draw: Draw = argmax) -> None:
        self.blocks = tuple(f"stage{number}" for number in range(1, len(xs) + 1))
        self.xs = xs
        self.draw = draw
        self.most = 0

    def __call__(self, images: np.ndarray) -> list[BlockValues]:
        self.most = max(self.most, len(images))
        place = images[:, 0, 0, 0]
        return [BlockValues(x[place], self.draw(x[place])) for x in self.xs]

    def redraw(self, block: int, x: np.ndarray) -> np.ndarray:
        return self.draw(x)


def numbered(count: int) -> np.ndarray:
    images = np.zeros((count, 4, 2, 3), np.uint8)
    images[:, 0, 0, 0] = np.arange(count)
    return images


def compare(reference: Made, target: Made, *, mask: str = "argmax", **given: int) -> MaskFigures:
    count = len(reference.xs[0]) if reference.xs else 3
    cosine = np.linspace(0.9, 1, count)[::-1]
    return compare_masks(
        reference, target, numbered(count), [f"crop {n}" for n in range(count)], cosine, mask=mask, **given
    )


@pytest.fixture
def features() -> np.ndarray:
    """Channels of different spans, one constant, one with a ReLU, one that is at both ends only."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(7, 6, 5, 4)).astype(np.float32) * np.float32([1, 100, 1e-3, 1, 1, 1])[:, None, None]
    x[:, 3] = 2
    x[:, 4] = np.maximum(x[:, 4], 0)
    x[:, 5] = x[:, 5] > 0
    return x


def disturbed(x: np.ndarray, size: float, seed: int = 1) -> np.ndarray:
    span = x.max((2, 3), keepdims=True) - x.min((2, 3), keepdims=True)
    noise = np.random.default_rng(seed).normal(size=x.shape) * span * size
    return (x + noise).astype(np.float32)


def test_figures_against_loops(features: np.ndarray) -> None:
    other = disturbed(features, 0.1)
    (block,) = compare(Made(features), Made(other), batch=3).blocks
    flips = np.zeros(features.shape, bool)
    margins, roundings = [], []
    for n, c in np.ndindex(features.shape[:2]):
        one, two = features[n, c].astype(float), other[n, c].astype(float)
        for place in np.ndindex(one.shape):
            bit = one[place] > (one.min() + one.max()) / 2
            flips[(n, c, *place)] = bit != (two[place] > (two.min() + two.max()) / 2)
            if one.max() > one.min():
                pi = (one[place] - one.min()) / (one.max() - one.min())
                margins.append(abs(pi - 0.5))
                if two.max() > two.min():
                    roundings.append((two[place] - two.min()) / (two.max() - two.min()) - pi)
    assert (block.name, block.channels, block.height, block.width) == ("stage1", 6, 5, 4)
    assert block.bits == features.size and block.flipped == flips.sum() > 20
    assert block.mean_abs == pytest.approx(flips.mean())
    assert block.rounding == pytest.approx(np.sqrt(np.mean(np.square(roundings))))
    assert len(margins) == features.size * 5 / 6
    histogram = np.histogram(margins, 20, (0, 0.5))[0] / len(margins)
    np.testing.assert_allclose(block.margins, histogram, atol=1e-12)
    assert block.margins.sum() == pytest.approx(1)
    assert block.near == (np.mean(np.less(margins, 0.001)), np.mean(np.less(margins, 0.01)))
    assert np.array_equal(block.by_channel, flips.sum((0, 2, 3)))
    assert np.array_equal(block.by_place, flips.sum((0, 1)))
    assert block.worst_channels[0] == (block.by_channel.argmax(), block.by_channel.max())
    assert [flipped for _, flipped in block.worst_channels] == sorted(block.by_channel[block.by_channel > 0])[
        ::-1
    ][:5]
    for row, column, flipped in block.worst_places:
        assert flipped == block.by_place[row, column] > 0
    assert block.own == 0


def test_nothing_differs(features: np.ndarray) -> None:
    (block,) = compare(Made(features), Made(features)).blocks
    assert (block.flipped, block.predicted, block.own, block.mean_abs, block.rounding) == (0, 0, 0, 0, 0)
    assert block.worst_channels == block.worst_places == ()


def test_batches_do_not_matter_and_are_kept(features: np.ndarray) -> None:
    other = disturbed(features, 0.1)
    found = []
    for batch in (1, 2, 7, 16):
        reference, target = Made(features, features[:, :2]), Made(other, other[:, :2])
        found.append(plain(compare(reference, target, batch=batch)))
        assert reference.most == target.most == min(batch, 7)
    for figures in found[1:]:
        for one, two in zip(figures["blocks"], found[0]["blocks"], strict=True):
            for key in one:
                exact = isinstance(one[key], str) or key.startswith("worst")
                assert one[key] == (two[key] if exact else pytest.approx(two[key])), key


def test_soft_masks_count_above_a_half(features: np.ndarray) -> None:
    def expected(x: np.ndarray) -> np.ndarray:
        low, high = x.min((2, 3), keepdims=True), x.max((2, 3), keepdims=True)
        return (x - low) / np.where(high > low, high - low, 1)

    other = disturbed(features, 0.05)
    figures = compare(Made(features, draw=expected), Made(other, draw=expected), mask="expected")
    one, two = expected(features), expected(other)
    assert figures.mask == "expected"
    assert figures.blocks[0].flipped == ((one > 0.5) != (two > 0.5)).sum() < (one != two).sum()
    assert figures.blocks[0].mean_abs == pytest.approx(np.abs(one - two).mean(), rel=1e-5)
    assert figures.blocks[0].own == 0


def test_prediction_where_roundings_ignore_the_margins() -> None:
    rng = np.random.default_rng(3)
    # Channels of different roundings, tails as a cascade has them.
    x = rng.normal(size=(100, 12, 16, 8)).astype(np.float32)
    size = np.float32(10) ** rng.uniform(-3, -1, (100, 12, 1, 1))
    other = (x + size * rng.standard_t(3, x.shape)).astype(np.float32)
    (block,) = compare(Made(x), Made(other)).blocks
    assert block.flipped > 1000
    assert block.predicted == pytest.approx(block.flipped, rel=0.1)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: 1 - argmax(x),
        lambda x: argmax(-x),
        # A threshold at 0.45 and at 0.52.
        lambda x: x > 0.55 * x.min((2, 3), keepdims=True) + 0.45 * x.max((2, 3), keepdims=True),
        lambda x: x > 0.48 * x.min((2, 3), keepdims=True) + 0.52 * x.max((2, 3), keepdims=True),
        # Constant channels are the ties.
        lambda x: x * 2 >= x.min((2, 3), keepdims=True) + x.max((2, 3), keepdims=True),
        # The minimum of the batch, not of the crop.
        lambda x: x * 2 > x.min((0, 2, 3), keepdims=True) + x.max((2, 3), keepdims=True),
    ],
)
def test_a_wrong_comparison_flips_more_than_was_predicted(wrong: Draw) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(size=(100, 10, 8, 4)).astype(np.float32)
    x[:, 0] = 1
    other = disturbed(x, 1e-3)
    other[:, 0] = 1
    (right,) = compare(Made(x), Made(other)).blocks
    assert 0.5 * right.flipped <= right.predicted <= 2 * right.flipped and right.own == 0
    (block,) = compare(Made(x), Made(other, draw=lambda values: wrong(values).astype(np.float32))).blocks
    assert block.predicted == right.predicted
    assert block.flipped > 10 * block.predicted and block.own > 10 * block.predicted


def test_bits_at_the_ends_of_their_channel() -> None:
    # Two places: the one is the minimum, the other the maximum, and their margin is 1/2.
    x = np.zeros((4, 2, 1, 2), np.float32)
    x[..., 1] = 1
    other = x.copy()
    other[2] = 1 - x[2]
    (block,) = compare(Made(x), Made(other)).blocks
    assert block.flipped == 4 and block.predicted == 4
    # A target that is constant has no pi, and says nothing of roundings.
    other[2] = 0
    (block,) = compare(Made(x), Made(other)).blocks
    assert block.flipped == 2 and block.predicted == 0 and block.rounding == 0


def test_a_tie_needs_half_of_the_signs() -> None:
    rng = np.random.default_rng(5)
    x = np.zeros((200, 1, 3, 4), np.float32)
    x[:, :, 0, 0], x[:, :, 0, 1] = -1, 1
    other = x + np.where(np.abs(x) == 1, 0, rng.normal(size=x.shape)).astype(np.float32) * np.float32(1e-3)
    (block,) = compare(Made(x), Made(other)).blocks
    assert block.flipped == pytest.approx(1000, rel=0.1) and block.predicted == pytest.approx(1000)


def test_pictures_of_the_worst_crops(features: np.ndarray) -> None:
    other = disturbed(features, 0.1)
    cosine = np.array([0.99, 0.5, 1, np.nan, 0.7, 0.6, 0.99])
    images = numbered(7)
    names = [f"crop {n}" for n in range(7)]
    figures = compare_masks(
        Made(features, features[:, :2]),
        Made(other, other[:, :2]),
        images,
        names,
        cosine,
        mask="argmax",
        batch=2,
        worst=3,
    )
    assert [crop.name for crop in figures.crops] == ["crop 3", "crop 1", "crop 5"]
    for crop, place in zip(figures.crops, (3, 1, 5), strict=True):
        assert crop.cosine == pytest.approx(cosine[place], nan_ok=True)
        assert np.array_equal(crop.image, images[place])
        for number, x, y in ((0, features, other), (1, features[:, :2], other[:, :2])):
            one, two = argmax(x[place : place + 1])[0], argmax(y[place : place + 1])[0]
            np.testing.assert_allclose(crop.reference[number], one.mean(0))
            np.testing.assert_allclose(crop.target[number], two.mean(0))
            assert np.array_equal(crop.flips[number], (one != two).sum(0))
            assert crop.flips[number].dtype == np.int64
    images[:] = 0
    assert figures.crops[0].image[0, 0, 0] == 3
    assert len(compare(Made(features), Made(other), worst=100).crops) == 7


def test_without_blocks() -> None:
    figures = compare(Made(), Made(), mask="soft")
    assert figures.blocks == figures.crops == figures.missing == () and figures.mask == "soft"


def test_blocks_that_one_of_the_two_lacks_are_named(features: np.ndarray) -> None:
    narrow = features[:, :2]
    figures = compare(Made(features, narrow), Made(narrow))
    assert [block.name for block in figures.blocks] == ["stage2"]
    assert figures.missing == ("stage1",) and figures.added == () and figures.blocks[0].flipped == 0
    figures = compare(Made(features), Made(features, narrow))
    assert [block.name for block in figures.blocks] == ["stage1"] and figures.added == ("stage2",)
    # A mask of another size is another mask.
    figures = compare(Made(features), Made(features[:, :, :4]))
    assert figures.blocks == figures.crops == () and figures.missing == figures.added == ("stage1",)


def test_masks_that_are_no_bits_are_seen(features: np.ndarray) -> None:
    assert compare(Made(features), Made(features)).binary
    assert not compare(Made(features), Made(features, draw=lambda x: argmax(x) * np.float32(0.5))).binary


def test_a_real_fp16_graph(argmax_model: onnx.ModelProto, crops: CheckCrops) -> None:
    told = tiny_artefact(size_hw=(64, 32), embedding_dim=16, settings={"attention": [1, 2, 3, 4]})
    images = crops.images
    reference = onnx_probe(argmax_model, told, threads=1)
    target = onnx_probe(emulate_fp16(to_fp16(argmax_model)), told, threads=1)
    figures = compare_masks(reference, target, images, crops.names, np.ones(len(images)), mask="argmax")
    assert [block.name for block in figures.blocks] == ["stage1", "stage2", "stage3", "stage4"]
    # FP16's rounding in units of pi; what it flips, it explains, and the comparison itself loses nothing. Stage 4 has
    # two places, a minimum and a maximum, whose pi is 0 and 1 whatever rounds.
    assert all(2**-14 < block.rounding < 2**-6 for block in figures.blocks[:3])
    for block in figures.blocks:
        assert block.own == 0
        chance = 4 * block.predicted**0.5 + 10
        assert block.flipped < 2 * block.predicted + chance, block.name
