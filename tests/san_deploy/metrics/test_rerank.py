"""k-reciprocal re-ranking against the paper written out with plain loops."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from san_deploy import metrics
from san_deploy.errors import SanError, UsageError
from san_deploy.metrics import RankingLabels, nearest, rank_queries, rerank
from san_deploy.metrics.rerank import Reranked


def literal(
    query: np.ndarray, gallery: np.ndarray, k1: int = 20, k2: int = 6, weight: float = 0.3
) -> np.ndarray:
    """Zhong et al., CVPR 2017, Sec. 3, with what their program adds: a crop is its own nearest neighbour (so
    there are k + 1), distances are over the largest of their row, and k1 / 2 is rounded half to even.
    """
    rows = np.concatenate([query, gallery]).astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    count = len(rows)
    distance = np.array([[sum((a - b) ** 2) for b in rows] for a in rows])
    scaled = [distance[i] / max(distance[i].max(), 1e-12) for i in range(count)]
    # Of equally near crops the lower number comes first.
    order = [sorted(range(count), key=lambda j, i=i: (round(distance[i][j], 12), j)) for i in range(count)]

    def reciprocal(i: int, k: int) -> set[int]:
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    features = []
    for i in range(count):
        near = reciprocal(i, k1)
        expanded = set(near)
        for j in near:
            others = reciprocal(j, round(k1 / 2))
            if len(others & near) > 2 / 3 * len(others):
                expanded |= others
        raw = {j: np.exp(-scaled[i][j]) for j in expanded}
        features.append({j: value / sum(raw.values()) for j, value in raw.items()})
    if k2 > 1:
        features = [
            {
                j: sum(features[n].get(j, 0.0) for n in order[i][:k2]) / len(order[i][:k2])
                for j in set().union(*(features[n] for n in order[i][:k2]))
            }
            for i in range(count)
        ]
    result = np.empty((len(query), len(gallery)))
    for i, g in itertools.product(range(len(query)), range(len(gallery))):
        a, b = features[i], features[len(query) + g]
        smaller = sum(min(a[j], b[j]) for j in a.keys() & b.keys())
        jaccard = 1 - smaller / (2 - smaller)
        result[i, g] = (1 - weight) * jaccard + weight * scaled[i][len(query) + g]
    return result


def clusters(seed: int, queries: int, gallery: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(8, 12))
    both = centre[rng.integers(0, 8, queries + gallery)] + 0.6 * rng.normal(size=(queries + gallery, 12))
    return both[:queries].astype(np.float32), both[queries:].astype(np.float32)


@pytest.mark.parametrize(
    ("k1", "k2", "weight"),
    [(20, 6, 0.3), (7, 3, 0.3), (5, 1, 0.5), (1, 2, 0.0), (6, 7, 0.9), (20, 6, 1.0)],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_equals_the_literal_algorithm(seed: int, k1: int, k2: int, weight: float) -> None:
    query, gallery = clusters(seed, 20, 60)
    result = Reranked(query, gallery, k1=k1, k2=k2, weight=weight).distance()
    assert result.dtype == np.float32
    assert np.abs(result - literal(query, gallery, k1, k2, weight)).max() < 1e-5


@pytest.mark.parametrize("count", [1, 3, 12])
def test_fewer_crops_than_neighbours(count: int) -> None:
    query, gallery = clusters(2, 2, count)
    assert np.abs(Reranked(query, gallery).distance() - literal(query, gallery)).max() < 1e-5


@pytest.mark.parametrize("k1", [2, 5, 20])
def test_equally_near_crops(k1: int) -> None:
    # Sixteen directions, whose products are exact: most crops have several equals.
    rng = np.random.default_rng(4)
    query, gallery = (rng.choice([-0.5, 0.5], (n, 4)).astype(np.float32) for n in (15, 60))
    result = Reranked(query, gallery, k1=k1, k2=2).distance()
    assert np.abs(result - literal(query, gallery, k1, 2)).max() < 1e-5


def test_all_crops_the_same() -> None:
    # More equals than neighbours: the later ones are nobody's neighbours, not even their own.
    query, gallery = np.ones((3, 4), np.float32), np.ones((30, 4), np.float32)
    alone, averaged = (Reranked(query, gallery, k1=5, k2=k2, weight=0.0).distance() for k2 in (1, 2))
    assert np.abs(alone - literal(query, gallery, 5, 1, 0.0)).max() < 1e-5
    assert set(np.unique(alone.round(4)).tolist()) == {0.0, 1.0}
    assert np.abs(averaged - literal(query, gallery, 5, 2, 0.0)).max() < 1e-5


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    query, gallery = clusters(3, 30, 90)
    whole = Reranked(query, gallery, k1=8, k2=4).distance()
    monkeypatch.setattr(rerank, "_BLOCK_CELLS", 400)
    monkeypatch.setattr(nearest, "_BLOCK_ROWS", 3)
    monkeypatch.setattr(metrics.scores, "_TILE_ROWS", 7)
    done: list[int] = []
    again = Reranked(query, gallery, k1=8, k2=4, progress=done.append)
    assert np.abs(again.distance() - whole).max() < 1e-6
    assert sum(done) == 120
    some = np.empty((5, 90), np.float32)
    again.fill(11, 16, some)
    assert np.abs(-some - whole[11:16]).max() < 1e-6


@pytest.mark.parametrize("steps", [0, 1 << 40])
@pytest.mark.parametrize("cells", [50, 400, 1 << 21])
@pytest.mark.parametrize(("k1", "k2"), [(8, 4), (30, 6), (60, 40)])
def test_full_matrices_change_nothing(
    k1: int, k2: int, cells: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, gallery = clusters(8, 20, 60)
    monkeypatch.setattr(rerank, "_BLOCK_CELLS", cells)
    monkeypatch.setattr(rerank, "_CACHE_CELLS", cells)
    monkeypatch.setattr(rerank, "_PRODUCT_STEPS", steps)
    monkeypatch.setattr(rerank, "_MINIMUM_STEPS", steps)
    result = Reranked(query, gallery, k1=k1, k2=k2).distance()
    assert np.abs(result - literal(query, gallery, k1, k2)).max() < 1e-5


def test_crops_that_have_nobody_in_common() -> None:
    """Queries that are near to nobody but themselves: no feature of theirs holds a gallery crop, or the other way."""
    directions = np.eye(8, dtype=np.float32)
    query, gallery = directions[:2].repeat(2, 0), directions[4:].repeat(2, 0)
    result = Reranked(query, gallery, k1=1, k2=1).distance()
    assert np.abs(result - literal(query, gallery, 1, 1)).max() < 1e-6
    assert (result > 0.99).all()


@pytest.mark.parametrize("k1", [79, 80, 200, 99999999999, 10**400], ids=lambda k1: str(k1)[:12])
def test_k1_of_all_crops_and_more(k1: int) -> None:
    query, gallery = clusters(9, 20, 60)
    expected = literal(query, gallery, min(k1, 1000), 6)
    assert np.abs(Reranked(query, gallery, k1=k1).distance() - expected).max() < 1e-5


def test_memory_does_not_grow_with_the_square_of_k1() -> None:
    count = 600
    query, gallery = clusters(10, 100, count - 100)
    tracemalloc.start()
    try:
        Reranked(query, gallery, k1=10**11).distance()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Some dozens of bytes for each pair of crops and for each cell of a block; the published program keeps as much.
    assert peak < 60 * (count**2 + rerank._BLOCK_CELLS)


def test_length_of_embeddings_does_not_matter() -> None:
    query, gallery = clusters(5, 10, 40)
    scaled = Reranked(query * 7, gallery * np.linspace(0.1, 9, 40, dtype=np.float32)[:, None])
    assert np.abs(scaled.distance() - Reranked(query, gallery).distance()).max() < 1e-5


def test_it_ranks_like_any_scores() -> None:
    rng = np.random.default_rng(0)
    query, gallery = clusters(6, 30, 120)
    answers = RankingLabels(
        query_person=rng.integers(1, 9, 30),
        gallery_person=rng.integers(1, 9, 120),
        query_camera=np.zeros(30),
        gallery_camera=np.ones(120),
    )
    scores = Reranked(query, gallery)
    expected = literal(query, gallery)
    ranks = rank_queries(scores, answers)
    for q in range(30):
        right = np.isin(np.arange(120), answers.positives_of(q))
        nearest_right = expected[q][right].min()
        assert ranks.first[q] == 1 + int((expected[q][~right] < nearest_right - 1e-6).sum())


@pytest.mark.parametrize(
    "bad", [{"k1": 0}, {"k2": 0}, {"k1": 3, "k2": 5}, {"weight": 1.5}, {"weight": np.nan}]
)
def test_values_out_of_range(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="re-ranking with"):
        Reranked(np.eye(2), np.eye(2), **bad)  # type: ignore[arg-type]


def test_an_embedding_of_zeros_is_an_error() -> None:
    with pytest.raises(SanError, match="row of zeros"):
        Reranked(np.eye(2), np.zeros((1, 2)))


@pytest.mark.parametrize(("k1", "k2", "weight"), [(5, 3, 0.3), (8, 1, 0.0), (20, 6, 0.3)])
def test_queries_that_stand_in_the_gallery_are_one_crop_each(k1: int, k2: int, weight: float) -> None:
    rows, _ = clusters(3, 24, 0)
    queries = np.array([1, 2, 5, 17, 23])
    scores = Reranked(None, rows, query_rows=queries, k1=k1, k2=k2, weight=weight)
    distance = scores.distance()
    assert scores.shape == distance.shape == (5, 24)
    for n, query in enumerate(queries.tolist()):
        others = np.delete(np.arange(24), query)
        expected = literal(rows[[query]], rows[others], k1, k2, weight)[0]
        np.testing.assert_allclose(distance[n, others], expected, atol=1e-5)
        assert distance[n, query] == pytest.approx(0.0, abs=1e-5)


def test_queries_have_to_come_from_somewhere() -> None:
    with pytest.raises(UsageError, match="needs queries"):
        Reranked(None, clusters(3, 10, 0)[0])


@pytest.mark.parametrize("seed", range(20))
def test_crops_that_are_all_alike_have_distances(seed: int) -> None:
    """A cosine of a little over 1, which rounding gives, is no distance below 0."""
    row = np.random.default_rng(seed).normal(size=(1, 37)).astype(np.float32)
    rows = np.repeat(row, 12, axis=0)
    assert np.isfinite(Reranked(rows[:3], rows[3:], k1=4, k2=2).distance()).all()
