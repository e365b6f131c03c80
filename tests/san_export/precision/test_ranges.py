from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper
from san_export.precision.ranges import MOST_CUT, TAIL, _entropy, collect_ranges


def model(*, planar: bool = True) -> onnx.ModelProto:
    """`low` is pixels minus 100, `high` their square root; both are seen as they are."""
    shape = ["N", 3, 8, 8] if planar else ["N", 8, 8, 3]
    nodes = [
        helper.make_node("Cast", ["crops"], ["pixels"], to=1),
        helper.make_node("Sub", ["pixels", "hundred"], ["low"]),
        helper.make_node("Sqrt", ["pixels"], ["high"]),
        helper.make_node("Add", ["low", "high"], ["embedding"]),
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("crops", 1 if planar else 2, shape)],
            [helper.make_tensor_value_info("embedding", 1, shape)],
            [onnx.numpy_helper.from_array(np.float32(100), "hundred")],
        ),
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )


def crops(most: int = 256) -> np.ndarray:
    return np.random.default_rng(0).integers(0, most, (40, 8, 8, 3), np.uint8)


@pytest.mark.parametrize("planar", [True, False])
@pytest.mark.parametrize("held", [1, 1 << 30])
def test_minmax_whatever_the_batch(planar: bool, held: int) -> None:
    found = collect_ranges(
        model(planar=planar), crops(), ["high", "low"], method="minmax", bytes_per_crop=held
    )
    values = crops().astype(np.float32)
    assert found == {
        "low": (values.min() - 100, values.max() - 100),
        "high": (0.0, pytest.approx(np.sqrt(values.max()))),
    }


def test_ranges_hold_zero() -> None:
    found = collect_ranges(model(), crops(50), ["low"], method="minmax", bytes_per_crop=1)
    assert found["low"] == (-100.0, 0.0)


def test_percentile_leaves_out_the_tail() -> None:
    images = np.full((40, 8, 8, 3), 100, np.uint8)
    images[::2] = 110
    images[0, 0, 0, 0] = 255
    found = collect_ranges(model(), images, ["low"], method="percentile", bytes_per_crop=1)
    # One value in 7680 is 155; more than the tail would be kept.
    assert 1 / images.size > TAIL
    assert found["low"] == (0.0, 155.0)
    more = np.concatenate([images, np.full((40, 8, 8, 3), 105, np.uint8)])
    found = collect_ranges(model(), more, ["low"], method="percentile", bytes_per_crop=1)
    assert 1 / more.size < TAIL
    assert 10 <= found["low"][1] < 10.1


def test_entropy_keeps_the_few_large_values_that_carry_the_sum() -> None:
    """Means of masked features: nearly all close to zero. Cut by divergence alone, INT8 ranked at random."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.exponential(0.02, 100_000), rng.exponential(0.5, 6_000)])
    counts = np.histogram(values, 2048, (0, values.max()))[0]
    most = _entropy(counts) / 2048 * values.max()
    assert (values > most).mean() <= MOST_CUT


def test_entropy_keeps_even_values_and_cuts_off_outliers() -> None:
    even = collect_ranges(model(), crops(), ["low"], method="entropy", bytes_per_crop=1)
    assert even["low"] == (-100.0, 155.0)
    # Sizes of 100000 normal values: nearly all of them within 4 deviations, in 2048 bins up to 45; and then ten more.
    sizes = np.abs(np.random.default_rng(0).normal(size=100_000))
    counts, _ = np.histogram(sizes, 2048, (0, 45))
    counts[1200:1210] += 1
    assert 3 < _entropy(counts) / 2048 * 45 < 8
