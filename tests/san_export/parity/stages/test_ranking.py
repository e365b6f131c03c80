from __future__ import annotations

import numpy as np
import pytest
from san_export.parity.gates import Gates
from san_export.parity.result import RankingFigures, Stage
from san_export.parity.sample import SampleLabels
from san_export.parity.stages.ranking import compare_ranking

from san_deploy import metrics

ALL = Gates(
    {
        "rank1_drop": 0.1,
        "map_drop": 0.1,
        "minp_drop": 0.1,
        "top1_agreement": 0.995,
        "top10_overlap": 0.9,
    }
)


def rows(count: int, seed: int, *, like: np.ndarray | None = None, noise: float = 1.0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(size=(count, 16)) * noise
    values += 0 if like is None else like
    return (values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.float32)


def labels(count: int) -> SampleLabels:
    """Person i // 4, two cameras."""
    every = np.arange(count)
    return SampleLabels(every // 4 + 1, np.array([f"cam{i % 2}" for i in every]), every, every, "made")


def own(count: int) -> list[str]:
    return [str(i) for i in range(count)]


def figures(stage: Stage) -> RankingFigures:
    assert isinstance(stage.figures, RankingFigures)
    return stage.figures


def slow_neighbours(values: np.ndarray, track: list[str], count: int) -> list[list[str]]:
    result = []
    for i in range(len(values)):
        others = [j for j in range(len(values)) if track[j] != track[i]]
        score = {j: np.float32(values[i] @ values[j]) for j in others}
        result.append([track[j] for j in sorted(others, key=lambda j: (-score[j], j))[:count]])
    return result


@pytest.mark.parametrize("tracklet", [1, 3, 20])
def test_neighbours_literally(tracklet: int) -> None:
    first = rows(40, 0)
    second = rows(40, 1, like=first, noise=0.15)
    track = [f"t{i // tracklet}" for i in range(40)]
    got = figures(compare_ranking(first, second, track, None, ALL))
    if tracklet == 20:
        # Two tracklets alone: there is nobody to choose among.
        track = own(40)
    one, two = slow_neighbours(first, track, 10), slow_neighbours(second, track, 10)
    assert got.top1_agreement == pytest.approx(np.mean([a[0] == b[0] for a, b in zip(one, two, strict=True)]))
    shared = []
    for a, b in zip(one, two, strict=True):
        left = list(b)
        for name in a:
            if name in left:
                left.remove(name)
        shared.append(1 - len(left) / len(a))
    assert got.top10_overlap == pytest.approx(np.mean(shared))
    assert 0.3 < got.top1_agreement < 1


def test_with_labels() -> None:
    first = rows(40, 0, like=np.repeat(rows(10, 5), 4, axis=0) * 2)
    second = rows(40, 1, like=first, noise=0.2)
    known = labels(40)
    stage = compare_ranking(first, 3 * second, own(40), known, ALL)
    got = figures(stage)
    for side, values in ((got.reference, first), (got.target, second)):
        expected = metrics.evaluate_among(values, person=known.person, camera=known.camera)
        assert side["rank1"] == pytest.approx(100 * expected.rank1)
        assert side["mean_ap"] == pytest.approx(100 * expected.mean_ap)
        assert side["mean_inp"] == pytest.approx(100 * expected.mean_inp)
    assert got.queries == 40
    assert got.won - got.lost == round((got.target["rank1"] - got.reference["rank1"]) * 0.4)
    assert got.won + got.lost > 0
    # 0.1 points are less than one of 40 queries.
    rank1, *_ = stage.checks
    assert rank1.limit == 2.5 and "less than one query" in rank1.message
    assert {check.gate for check in stage.checks} == {"rank1_drop", "map_drop", "minp_drop"}
    asked = Gates(ALL.limits, frozenset({"top1_agreement"}))
    stage = compare_ranking(first, second, own(40), known, asked)
    assert "top1_agreement" in {check.gate for check in stage.checks}


def test_one_query_may_be_lost_and_two_may_not() -> None:
    """Each person a direction of its own; crops that are moved onto a stranger's lose their first answer."""
    first = np.repeat(np.eye(16, dtype=np.float32)[:10], 4, axis=0)
    known = labels(40)
    passed = []
    for moved in (0, 1, 2):
        second = first.copy()
        # Nobody's nearest but their own crops are touched: a query away from everybody is near to a stranger.
        for i in range(moved):
            second[4 * i] = first[4 * i + 4] * 0.9 + first[4 * i] * 0.1
        stage = compare_ranking(first, second, own(40), known, Gates({"rank1_drop": 0.1}))
        got = figures(stage)
        assert (got.won, got.lost) == (0, moved)
        passed.append(stage.passed)
    assert passed == [True, True, False]


def test_a_reference_against_itself_and_crops_that_are_the_same() -> None:
    first = np.repeat(rows(5, 3), 8, axis=0)
    stage = compare_ranking(first, first.copy(), own(40), None, ALL)
    assert figures(stage).top1_agreement == 1 == figures(stage).top10_overlap
    assert stage.passed and [check.gate for check in stage.checks] == ["top1_agreement", "top10_overlap"]


@pytest.mark.parametrize("value", [np.nan, np.inf, 0.0])
def test_rows_that_are_none_are_not_ranked(value: float) -> None:
    second = rows(40, 0)
    second[3] = value
    stage = compare_ranking(rows(40, 0), second, own(40), labels(40), ALL)
    assert stage.figures is None and "1 rows of the target" in stage.skipped
