"""CMC, mAP and mINP against a literal, slow reading of Market-1501's protocol."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_deploy import metrics
from san_deploy.errors import SanError
from san_deploy.metrics import RankingLabels, Similarity, evaluate, rank_positives, rank_queries
from san_deploy.metrics.ranking import count_not_below
from tests.san_deploy.metrics import oracle


# Small whole numbers as embeddings: products are exact, so that ties are ties in any order of summation.
@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(1, 8),
    entries=st.integers(1, 40),
    people=st.integers(1, 5),
)
def test_evaluate_against_the_oracle(seed: int, queries: int, entries: int, people: int) -> None:
    rng = np.random.default_rng(seed)
    labels = oracle.labels(rng, queries, entries, people)
    query = rng.integers(-2, 3, (queries, 3)).astype(np.float32)
    gallery = rng.integers(-2, 3, (entries, 3)).astype(np.float32)
    try:
        expected = oracle.market(oracle.similarity(query, gallery), **labels)
    except ZeroDivisionError:
        with pytest.raises(SanError, match="no query has a right answer"):
            evaluate(query, gallery, **labels)
        return
    assert evaluate(query, gallery, **labels).as_dict() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("values", [3, 50, 10**6])
def test_long_lists_are_counted_before_they_are_sorted(values: int) -> None:
    # More entries than are sorted at once; people with few and with very many positives; many ties and few.
    rng = np.random.default_rng(values)
    labels = oracle.labels(rng, 12, 6_000, 3)
    labels["gallery_person"][rng.random(6_000) < 0.5] = 0
    labels["gallery_person"][:40] = 4
    labels["query_person"][:4] = 4
    scores = rng.integers(-values, values, (12, 6_000)).astype(np.float32)

    class Matrix:
        shape = scores.shape

        def fill(self, start: int, stop: int, out: np.ndarray) -> None:
            out[:] = scores[start:stop]

    result = rank_queries(Matrix(), RankingLabels(**labels)).summary().as_dict()
    assert result == pytest.approx(oracle.market(scores.tolist(), **labels), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), many=st.integers(0, 3_000), thresholds=st.integers(0, 90))
def test_count_not_below(seed: int, many: int, thresholds: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(-9, 9, many).astype(np.float32)
    values[rng.random(many) < 0.1] = -np.inf
    wanted = np.sort(rng.integers(-9, 12, thresholds)).astype(np.float32)
    before = values.copy()
    assert count_not_below(values, wanted).tolist() == [int((values >= t).sum()) for t in wanted]
    assert (values == before).all()


@pytest.mark.parametrize(
    ("similarity", "positive", "expected"),
    [
        ([0.9, 0.8, 0.7], [True, False, True], [1, 3]),
        ([0.9, 0.9], [True, False], [2]),  # a tie: the wrong one first
        ([0.9, 0.9, 0.9], [True, True, False], [2, 3]),
        ([0.9, 0.9, 0.9, 0.1], [True, True, True, True], [1, 2, 3, 4]),  # right ones tied among themselves
        ([0.1, 0.2], [False, False], []),
        ([], [], []),
    ],
)
def test_rank_positives(similarity: list[float], positive: list[bool], expected: list[int]) -> None:
    values, right = np.array(similarity, np.float32), np.array(positive, bool)
    assert rank_positives(values, right, np.zeros(len(right), bool)).tolist() == expected


def test_known_figures() -> None:
    # Right answers at ranks 1 and 3: (1/1 + 2/3) / 2, and 2 of 3 for the inverse negative penalty.
    result = rank_queries(
        Similarity(np.array([[1.0]], np.float32), np.array([[0.9], [0.8], [0.7]], np.float32)),
        RankingLabels(
            query_person=np.array([1]),
            gallery_person=np.array([1, 2, 1]),
            query_camera=np.array(["a"]),
            gallery_camera=np.array(["b", "b", "b"]),
        ),
    )
    assert (result.first.tolist(), result.last.tolist(), result.positives.tolist()) == ([1], [3], [2])
    ranking = result.summary(ranks=3)
    assert ranking.mean_ap == pytest.approx(5 / 6)
    assert ranking.mean_inp == pytest.approx(2 / 3)
    assert (ranking.cmc, ranking.queries, ranking.unanswerable) == ((1.0, 1.0, 1.0), 1, 0)
    assert ranking.explain() == ""


def test_cmc_at_any_rank() -> None:
    # The positive of query k stands at rank k + 1; the last one beyond the curve.
    gallery = np.arange(5, 0, -1, dtype=np.float32)[:, None]
    labels: dict[str, Any] = {
        "query_person": np.arange(1, 6),
        "gallery_person": np.arange(1, 6),
        "query_camera": np.zeros(5),
        "gallery_camera": np.ones(5),
    }
    ranks = rank_queries(Similarity(np.ones((5, 1), np.float32), gallery), RankingLabels(**labels))
    assert ranks.summary(ranks=4).cmc == pytest.approx((0.2, 0.4, 0.6, 0.8))
    curve = ranks.summary()
    assert (curve.rank(1), curve.rank(3), curve.rank(1000)) == pytest.approx((0.2, 0.6, 1.0))


def test_what_is_left_out_is_explained() -> None:
    ranks = rank_queries(
        Similarity(np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)),
        RankingLabels(
            query_person=np.array([1, 0, 7, 2]),
            gallery_person=np.array([1, 0, 2, 2]),
            query_camera=np.array(["a", "a", "a", "b"]),
            gallery_camera=np.array(["b", "b", "b", "b"]),
        ),
    )
    assert np.isnan(ranks.average_precision).tolist() == [False, True, True, True]
    assert ranks.summary().explain() == (
        "3 of 4 queries are left out: 1 of nobody in particular (distractors or junk), "
        "1 of people whom the gallery does not hold, 1 of people whom no other camera saw"
    )


@pytest.mark.parametrize("height", [1, 7, 1000])
def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch, height: int) -> None:
    rng = np.random.default_rng(0)
    labels = oracle.labels(rng, 50, 70, 8)
    query, gallery = rng.integers(-3, 4, (50, 4)).astype(float), rng.integers(-3, 4, (70, 4)).astype(float)
    whole = evaluate(query, gallery, **labels)
    monkeypatch.setattr(metrics.scores, "_TILE_ROWS", height)
    assert evaluate(query, gallery, **labels) == whole
    monkeypatch.setattr(metrics.scores, "_TILE_CELLS", 100)
    assert evaluate(query, gallery, **labels) == whole


@pytest.mark.parametrize("kind", [np.float16, np.float64, np.int8])
def test_ranks_are_those_of_fp32(kind: type) -> None:
    rng = np.random.default_rng(5)
    labels = oracle.labels(rng, 30, 400, 20)
    query, gallery = (rng.normal(scale=30, size=(n, 16)).astype(kind) for n in (30, 400))
    result = evaluate(query, gallery, **labels)
    assert result == evaluate(query.astype(np.float32), gallery.astype(np.float32), **labels)
    assert result.as_dict() == pytest.approx(
        oracle.market(oracle.similarity(query, gallery), **labels), abs=1e-6
    )


def test_no_matrix_of_all_queries_stands_in_memory() -> None:
    rng = np.random.default_rng(1)
    labels = oracle.labels(rng, 4_000, 3_000, 100)
    query, gallery = (rng.normal(size=(n, 8)).astype(np.float32) for n in (4_000, 3_000))
    tracemalloc.start()
    evaluate(query, gallery, **labels)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # A tile of 512 rows is 6 MB, the matrix would be 48 MB.
    assert 6e6 < peak < 9e6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_evaluate_refuses_nan(bad: float) -> None:
    rows = np.array([[1.0, 0.0], [bad, 1.0]], np.float32)
    label = np.array([1, 1])
    with pytest.raises(SanError, match="NaN"):
        evaluate(
            rows, rows, query_person=label, gallery_person=label, query_camera=label, gallery_camera=label + 1
        )


@pytest.mark.parametrize(
    ("query_person", "query_camera", "why"),
    [([1, 2], [1, 2], "two cameras"), ([3, 4], [5, 5], "no person in common"), ([0, -1], [5, 5], "numbered")],
)
def test_nobody_to_find_is_an_error(query_person: list[int], query_camera: list[int], why: str) -> None:
    rows = np.eye(2, dtype=np.float32)
    with pytest.raises(SanError, match=f"no query has a right answer.*{why}"):
        evaluate(
            rows,
            rows,
            query_person=np.array(query_person),
            gallery_person=np.array([1, 2]),
            query_camera=np.array(query_camera),
            gallery_camera=np.array([1, 2]),
        )


def test_a_crop_does_not_find_itself_where_cameras_are_unknown() -> None:
    rows = np.array([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], np.float32)
    person, camera = np.array([1, 1, 2]), np.arange(3)
    ranking = evaluate(
        rows, rows, query_person=person, gallery_person=person, query_camera=camera, gallery_camera=camera
    )
    assert (ranking.queries, ranking.same_camera) == (2, 1)
    assert ranking.rank1 == 1.0
