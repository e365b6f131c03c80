from __future__ import annotations

import numpy as np
import pytest
from san_export.parity.gates import Gates
from san_export.parity.result import RankingFigures, Stage
from san_export.parity.sample import SampleLabels
from san_export.parity.stages.ranking import bootstrap_over_people, compare_ranking, similarity_noise

from san_deploy import metrics

#: Rows are held to be equal to the bit, so that there is no noise but what a test asks for.
ALL = Gates(
    {
        "min_cosine": 1.0,
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
    assert rank1.limit >= 2.5 and "less than one query" in rank1.message
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


def test_a_swap_of_crops_that_are_as_near_is_no_difference() -> None:
    """Rounding of FP16: of crops that are as near, another one is the nearest. A row that is off is a difference."""
    first = rows(200, 0, like=np.repeat(rows(2, 5), 100, axis=0) * 40)
    second = rows(200, 1, like=first, noise=3e-4)
    exact = figures(compare_ranking(first, second, own(200), None, ALL))
    gates = Gates(ALL.limits | {"min_cosine": 0.999})
    stage = compare_ranking(first, second, own(200), None, gates)
    known = figures(stage)
    assert exact.top1_agreement < 0.98 and known.top1_agreement >= 0.995 and stage.passed
    assert known.ties > 0 == exact.ties and known.top10_overlap > exact.top10_overlap
    # The noise of a similarity is what a loop over neighbours gives.
    moved = []
    for i in range(200):
        nearest = sorted((j for j in range(200) if j != i), key=lambda j: -float(first[i] @ first[j]))[:10]
        moved += [float(second[i] @ second[j]) - float(first[i] @ first[j]) for j in nearest]
    assert known.noise == pytest.approx(np.std(moved), rel=0.15)
    # A tenth of the rows is elsewhere: that is not noise, and counts.
    second[::10] = rows(20, 7)
    broken = compare_ranking(first, second, own(200), None, gates)
    assert not broken.passed and figures(broken).noise == pytest.approx(known.noise, rel=0.5)
    assert figures(broken).top1_agreement < 0.95


def test_the_noise_is_no_more_than_the_rows_gate_allows() -> None:
    before, after = np.zeros(100), np.linspace(-1, 1, 100)
    assert similarity_noise(before, after, 16, Gates({})) == pytest.approx(0.5 / 0.6745, rel=0.02)
    # Vectors of 16 numbers whose rows just hold 0.999.
    assert similarity_noise(before, after, 16, Gates({"min_cosine": 0.999})) == pytest.approx(
        np.sqrt(2 / 16) * np.sqrt(2 * 0.001)
    )


def test_a_bootstrap_over_people_is_wider_than_one_over_queries() -> None:
    """All queries of a person are lost together: ten people of forty queries are ten, not four hundred."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(10), 40)
    loss = (rng.normal(size=10)[person] + 0.1 * rng.normal(size=400)) * 2
    low, high = bootstrap_over_people(loss, person)
    alone = bootstrap_over_people(loss, np.arange(400))
    assert low < loss.mean() < high and high - low > 3 * (alone[1] - alone[0])
    # Against a loop that draws people one by one.
    means = [
        np.concatenate([loss[person == one] for one in rng.integers(0, 10, 10)]).mean() for _ in range(2000)
    ]
    np.testing.assert_allclose((low, high), np.percentile(means, (2.5, 97.5)), atol=0.15)


def test_a_loss_that_other_people_may_gain_does_not_decide_unless_it_was_asked() -> None:
    first = rows(40, 0, like=np.repeat(rows(10, 5), 4, axis=0) * 2)
    second = rows(40, 1, like=first, noise=0.2)
    limits = {"rank1_drop": 0.1}
    (check,) = compare_ranking(first, second, own(40), labels(40), Gates(limits)).checks
    (strict,) = compare_ranking(first, second, own(40), labels(40), Gates(limits, frozenset(limits))).checks
    assert check.passed and "other people may as well gain" in check.message
    assert not strict.passed and strict.limit == 2.5 and strict.value == check.value
    few = compare_ranking(first[:20], second[:20], own(20), labels(20), Gates(limits))
    assert any("the ranking proves little" in note for note in few.notes)


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
