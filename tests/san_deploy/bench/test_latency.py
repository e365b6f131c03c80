from __future__ import annotations

import numpy as np
import pytest

from san_deploy.bench.latency import Ratio, least_samples, ratio, settled, spread, summarise


def test_percentiles_in_literal_form() -> None:
    # 1..101 ms in any order: of a sorted list the q-th percentile is the element at q % of the way.
    samples_s = np.random.default_rng(0).permutation(np.arange(1, 102)) / 1e3
    told = summarise(samples_s.tolist())
    assert told.calls == 101
    assert told.percentiles_ms == pytest.approx({"p50": 51.0, "p90": 91.0, "p95": 96.0, "p99": 100.0})
    assert (told.mean_ms, told.min_ms, told.max_ms) == pytest.approx((51.0, 1.0, 101.0))


@pytest.mark.parametrize(
    ("calls", "names"),
    [
        (1, []),
        (2, ["p50"]),
        (9, ["p50"]),
        (10, ["p50", "p90"]),
        (20, ["p50", "p90", "p95"]),
        (99, ["p50", "p90", "p95"]),
        (100, ["p50", "p90", "p95", "p99"]),
    ],
)
def test_a_percentile_that_the_calls_are_too_few_for_is_left_out(calls: int, names: list[str]) -> None:
    assert list(summarise([0.001] * calls).percentiles_ms) == names


def test_so_many_samples_that_one_is_expected_beyond() -> None:
    assert [least_samples(q) for q in (50, 90, 95, 99)] == [2, 10, 20, 100]


def test_spread_looks_at_the_last_three_windows_alone() -> None:
    assert spread([100.0, 2.0, 2.5, 2.0]) == pytest.approx(0.25)
    assert spread([2.0, 2.0]) == spread([]) == float("inf")
    # A clock that stands still says nothing.
    assert spread([0.0, 0.0, 0.0]) == float("inf")


def test_settled_means_that_the_last_windows_agree() -> None:
    assert settled([9.0, 1.0, 1.04, 1.02])
    assert not settled([1.0, 1.06, 1.02])
    assert not settled([1.0, 1.0])
    assert settled([1.0, 1.5, 1.2], tolerance=0.5)


def test_ratios_are_taken_within_a_round() -> None:
    # In the second round the machine was ten times slower for both: the ratio is what it was.
    assert ratio([2.0, 20.0, 2.2], [1.0, 10.0, 1.0]) == Ratio(2.0, 2.0, pytest.approx(2.1), 2.0, 2.2, 3)
    with pytest.raises(ValueError, match="shorter"):
        ratio([1.0, 2.0], [1.0])


def test_quartiles_of_ratios_in_literal_form() -> None:
    # 1..5 in any order: the second and the fourth of five.
    assert ratio([3.0, 1.0, 5.0, 2.0, 4.0], [1.0] * 5) == Ratio(3.0, 2.0, 4.0, 1.0, 5.0, 5)
    assert ratio([7.0], [2.0]) == Ratio(3.5, 3.5, 3.5, 3.5, 3.5, 1)
