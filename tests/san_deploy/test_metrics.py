"""Ranking metrics against a literal, slow reading of Market-1501's protocol."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_deploy import metrics
from san_deploy.errors import SanError
from san_deploy.metrics import evaluate, evaluate_tracklets, pool_tracklets, rank_positives


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def oracle(
    query: np.ndarray,
    gallery: np.ndarray,
    *,
    query_person: np.ndarray,
    gallery_person: np.ndarray,
    query_camera: np.ndarray,
    gallery_camera: np.ndarray,
) -> dict[str, float]:
    """For every query: sort the gallery, drop what does not count, walk down the list.

    Zheng et al., ICCV 2015: gallery crops of the query's person from the query's camera are junk. Of equal
    similarities the wrong answer stands first. Person 0 is nobody's right answer.
    """
    cmc, aps, inps, unanswerable = np.zeros(20), [], [], 0
    for q in range(len(query)):
        entries = []
        for g in range(len(gallery)):
            same = query_person[q] == gallery_person[g] and gallery_person[g] != 0
            if same and query_camera[q] == gallery_camera[g]:
                continue
            entries.append((-float(np.float32(query[q] @ gallery[g])), same))
        entries.sort(key=lambda entry: (entry[0], entry[1]))  # False, the wrong answer, before True
        answers = [same for _, same in entries]
        if not any(answers):
            unanswerable += 1
            continue
        found, precisions, first, last = 0, [], 0, 0
        for place, same in enumerate(answers, 1):
            if same:
                found += 1
                precisions.append(found / place)
                first = first or place
                last = place
        aps.append(sum(precisions) / len(precisions))
        inps.append(found / last)
        cmc[first - 1 :] += 1
    count = len(aps)
    if not count:
        raise ZeroDivisionError
    return {
        "rank1": cmc[0] / count,
        "rank5": cmc[4] / count,
        "rank10": cmc[9] / count,
        "rank20": cmc[19] / count,
        "mean_ap": sum(aps) / count,
        "mean_inp": sum(inps) / count,
        "queries": count,
        "unanswerable": unanswerable,
    }


# Small whole numbers as embeddings: products are exact, so that ties are ties in any order of summation.
@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    queries=st.integers(1, 8),
    entries=st.integers(1, 40),
    people=st.integers(1, 5),
)
def test_evaluate_against_the_oracle(seed: int, queries: int, entries: int, people: int) -> None:
    rng = np.random.default_rng(seed)
    arguments = {
        "query_person": rng.integers(0, people + 1, queries),
        "gallery_person": rng.integers(0, people + 1, entries),
        "query_camera": rng.integers(1, 4, queries),
        "gallery_camera": rng.integers(1, 4, entries),
    }
    query = rng.integers(-2, 3, (queries, 3)).astype(np.float32)
    gallery = rng.integers(-2, 3, (entries, 3)).astype(np.float32)
    try:
        result = evaluate(query, gallery, **arguments).as_dict()
    except SanError:
        with pytest.raises(ZeroDivisionError):
            oracle(query, gallery, **arguments)
        return
    assert result == pytest.approx(oracle(query, gallery, **arguments))


@pytest.mark.parametrize(
    ("similarity", "positive", "expected"),
    [
        ([0.9, 0.8, 0.7], [True, False, True], [1, 3]),
        ([0.9, 0.9], [True, False], [2]),  # a tie: the wrong one first
        ([0.9, 0.9, 0.9], [True, True, False], [2, 3]),
        ([0.1, 0.2], [False, False], []),
        ([], [], []),
    ],
)
def test_rank_positives(similarity: list[float], positive: list[bool], expected: list[int]) -> None:
    values, right = np.array(similarity, np.float32), np.array(positive, bool)
    assert rank_positives(values, right, np.zeros(len(right), bool)).tolist() == expected


def test_known_average_precision() -> None:
    # Right answers at ranks 1 and 3: (1/1 + 2/3) / 2, and 2 of 3 for the inverse negative penalty.
    gallery = np.array([[0.9], [0.8], [0.7]], np.float32)
    result = evaluate(
        np.array([[1.0]], np.float32),
        gallery,
        query_person=np.array([1]),
        gallery_person=np.array([1, 2, 1]),
        query_camera=np.array(["a"]),
        gallery_camera=np.array(["b", "b", "b"]),
    )
    assert result.mean_ap == pytest.approx(5 / 6)
    assert result.mean_inp == pytest.approx(2 / 3)
    assert (result.rank1, result.queries, result.unanswerable) == (1.0, 1, 0)


def test_tiles_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    arguments = {
        "query_person": rng.integers(1, 8, 50),
        "gallery_person": rng.integers(1, 8, 70),
        "query_camera": rng.integers(1, 4, 50),
        "gallery_camera": rng.integers(1, 4, 70),
    }
    query, gallery = rng.integers(-3, 4, (50, 4)).astype(float), rng.integers(-3, 4, (70, 4)).astype(float)
    whole = evaluate(query, gallery, **arguments)
    monkeypatch.setattr(metrics, "_TILE_CELLS", 100)
    assert evaluate(query, gallery, **arguments) == whole


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_evaluate_refuses_nan(bad: float) -> None:
    rows = np.array([[1.0, 0.0], [bad, 1.0]], np.float32)
    label = np.array([1, 1])
    with pytest.raises(SanError, match="NaN"):
        evaluate(
            rows, rows, query_person=label, gallery_person=label, query_camera=label, gallery_camera=label + 1
        )


def test_nobody_to_find_is_an_error() -> None:
    rows, label = np.eye(2, dtype=np.float32), np.array([1, 2])
    with pytest.raises(SanError, match="no query has a right answer"):
        evaluate(
            rows, rows, query_person=label, gallery_person=label, query_camera=label, gallery_camera=label
        )


def test_pooling() -> None:
    embedding = np.array([[1, 0], [0, 1], [0, 1]], np.float32)
    rows, names = pool_tracklets(embedding, np.array(["b", "b", "a"]))
    assert names.tolist() == ["a", "b"]
    assert rows.dtype == np.float32
    assert np.allclose(rows, [[0, 1], [0.5**0.5, 0.5**0.5]])


@pytest.mark.parametrize("rows", [[[1, 0], [-1, 0]], [[np.nan, 0], [1, 0]]])
def test_pooling_without_a_direction_is_an_error(rows: list[list[float]]) -> None:
    with pytest.raises(SanError, match="tracklet t has no usable embedding"):
        pool_tracklets(np.array(rows, np.float32), np.array(["t", "t"]))


def test_tracklets_of_each_ordered_pair() -> None:
    rng = np.random.default_rng(2)
    people = np.tile(np.arange(1, 5), 3)
    camera = np.repeat(["a", "b", "c"], 4)
    embedding = unit(np.eye(4)[people - 1] + 0.05 * rng.normal(size=(12, 4)))
    track = np.array([f"t{p}" for p in people])
    result = evaluate_tracklets(embedding, person=people, camera=camera, track=track)
    assert set(result) == {(x, y) for x in "abc" for y in "abc" if x != y}
    assert all(ranking.rank1 == 1.0 for ranking in result.values())


def test_distractors_are_nobody() -> None:
    # Both cameras hold a person 0; they are not each other's answer, and not asked for.
    embedding = np.eye(3, dtype=np.float32)[[0, 1, 1, 0]]
    person, camera = np.array([1, 0, 0, 1]), np.array(["a", "a", "b", "b"])
    track = np.array(["t1", "t2", "t1", "t2"])
    result = evaluate_tracklets(embedding, person=person, camera=camera, track=track)
    assert {pair: (r.queries, r.unanswerable) for pair, r in result.items()} == {
        ("a", "b"): (1, 1),
        ("b", "a"): (1, 1),
    }
    with pytest.raises(SanError, match="no two cameras saw the same person"):
        evaluate_tracklets(embedding, person=np.array([1, 0, 0, 2]), camera=camera, track=track)
