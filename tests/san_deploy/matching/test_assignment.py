"""The assignment against other ways of finding it, and with most of the pairs never stored."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from san_deploy.errors import SanError
from san_deploy.matching.assignment import assign, assign_all
from san_deploy.matching.similarity import Edges, edges_above, full_matrix, search


def solve(similarity: np.ndarray, threshold: float) -> np.ndarray:
    edges = edges_above(similarity, threshold if np.isfinite(threshold) else -1.0)
    if not np.isfinite(similarity).all():
        edges = Edges(*np.nonzero(np.ones(similarity.shape)), similarity.ravel())
    return assign(edges, similarity.shape, threshold)


def gain(similarity: np.ndarray, columns: np.ndarray, threshold: float) -> float:
    rows = np.flatnonzero(columns >= 0)
    return float((similarity[rows, columns[rows]].astype(np.float64) - np.float32(threshold)).sum())


def best_by_trying_all(similarity: np.ndarray, threshold: float) -> float:
    """Every partial one-to-one assignment of pairs at or above the threshold."""
    height, width = similarity.shape
    best = 0.0
    for choice in itertools.product(range(-1, width), repeat=height):
        taken = [column for column in choice if column >= 0]
        allowed = all(
            similarity[row, column] >= np.float32(threshold)
            for row, column in enumerate(choice)
            if column >= 0
        )
        if allowed and len(set(taken)) == len(taken):
            best = max(best, gain(similarity, np.array(choice), threshold))
    return best


def is_one_to_one(columns: np.ndarray) -> bool:
    used = columns[columns >= 0].tolist()
    return len(set(used)) == len(used)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    # Few values: ties, and similarities exactly at the threshold, come often.
    values=st.lists(st.sampled_from([-0.5, 0.1, 0.5, 0.6, 0.7, 0.75, 0.9, 1.0]), min_size=16, max_size=16),
    threshold=st.sampled_from([-1.0, 0.0, 0.5, 0.6, 0.7, 0.95]),
)
def test_assignment_is_the_best_of_all(shape: tuple[int, int], values: list[float], threshold: float) -> None:
    similarity = np.array(values, np.float32)[: shape[0] * shape[1]].reshape(shape)
    columns = solve(similarity, threshold)
    assert is_one_to_one(columns)
    rows = np.flatnonzero(columns >= 0)
    assert (similarity[rows, columns[rows]] >= np.float32(threshold)).all()
    assert gain(similarity, columns, threshold) == pytest.approx(
        best_by_trying_all(similarity, threshold), abs=1e-6
    )


@pytest.mark.parametrize("shape", [(1, 1), (40, 40), (25, 60), (60, 25), (150, 140)])
@pytest.mark.parametrize("threshold", [-1.0, 0.2, 0.7])
def test_assignment_agrees_with_scipy(shape: tuple[int, int], threshold: float) -> None:
    similarity = np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)
    columns = solve(similarity, threshold)
    # scipy on the matrix with one "nobody" column for every row, which costs nothing.
    extended = np.hstack(
        [similarity.astype(np.float64) - np.float32(threshold), np.zeros((shape[0], shape[0]))]
    )
    extended[:, : shape[1]][similarity < np.float32(threshold)] = -10.0
    rows, chosen = linear_sum_assignment(extended, maximize=True)
    assert is_one_to_one(columns)
    assert gain(similarity, columns, threshold) == pytest.approx(
        float(extended[rows, chosen].sum()), abs=1e-5
    )


@pytest.mark.parametrize(
    ("similarity", "threshold", "expected"),
    [
        ([[0.9, 0.1], [0.2, 0.8]], 0.5, [0, 1]),
        ([[0.4, 0.1], [0.2, 0.3]], 0.5, [-1, -1]),  # nobody is alike
        ([[0.9, 0.8], [0.8, 0.1]], 0.5, [1, 0]),  # 0.8 + 0.8 beats the single best pair
        ([[0.9, 0.55], [0.55, 0.1]], 0.5, [0, -1]),  # 0.4 beats 0.05 + 0.05: one is left alone
        ([[0.9], [0.8], [0.7]], 0.5, [0, -1, -1]),  # two strangers
        ([[0.7, 0.2]], 0.7, [0]),  # exactly at the threshold, though float32(0.7) < 0.7
        ([[0.7, 0.7], [0.7, 0.7]], 0.7, [0, 1]),  # no gain at all, still matched
        ([[-0.2]], -0.5, [0]),
    ],
)
def test_assignment_of_known_answers(
    similarity: list[list[float]], threshold: float, expected: list[int]
) -> None:
    columns = solve(np.array(similarity, np.float32), threshold)
    if similarity == [[0.7, 0.7], [0.7, 0.7]]:
        assert sorted(columns.tolist()) == expected
    else:
        assert columns.tolist() == expected


def test_assignment_repeats_itself_on_ties() -> None:
    similarity = np.full((6, 5), 0.8, np.float32)
    assert len({tuple(solve(similarity, 0.5).tolist()) for _ in range(5)}) == 1
    assert (solve(similarity, 0.5) >= 0).sum() == 5


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_assignment_of_nothing(shape: tuple[int, int]) -> None:
    assert solve(np.empty(shape, np.float32), 0.5).tolist() == [-1] * shape[0]


@pytest.mark.parametrize(("value", "threshold"), [(np.nan, 0.5), (np.inf, 0.5), (0.5, np.nan)])
def test_assignment_refuses_nan(value: float, threshold: float) -> None:
    with pytest.raises(SanError, match="not finite"):
        solve(np.array([[value, 0.1]], np.float32), threshold)


def best_by_scipy(similarity: np.ndarray, threshold: float) -> float:
    worth = np.where(
        similarity >= np.float32(threshold), similarity.astype(np.float64) - np.float32(threshold), 0.0
    )
    rows, columns = linear_sum_assignment(worth, maximize=True)
    return float(worth[rows, columns].sum())


def unit(rng: np.random.Generator, count: int, dim: int = 8) -> np.ndarray:
    rows = rng.normal(size=(count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold", [-0.5, 0.2, 0.8])
def test_most_pairs_are_never_stored(monkeypatch: pytest.MonkeyPatch, seed: int, threshold: float) -> None:
    # A low threshold and two nearest: nearly all pairs may match, few are stored, and every tile holds 7 rows.
    monkeypatch.setattr("san_deploy.matching.similarity.TILE_CELLS", 7 * 70)
    rng = np.random.default_rng(seed)
    a, b = unit(rng, 60 + 5 * seed), unit(rng, 70)
    _, _, edges, in_all = search(a, b, threshold=threshold, count=2)
    similarity = full_matrix(a, b)
    assert in_all == (similarity >= np.float32(threshold)).sum() and len(edges) <= in_all
    match, stored = assign_all(a, b, edges, threshold=threshold, complete=False)
    assert is_one_to_one(match)
    assert gain(similarity, match, threshold) == pytest.approx(best_by_scipy(similarity, threshold), abs=1e-9)
    assert len(edges) <= len(stored) <= in_all


class Rule:
    """Odd and even never meet, and the pair (3, 5) must match."""

    must = np.array([3]), np.array([5])

    def allowed(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        return ((row + column) % 2 == 0) & ((row == 3) == (column == 5))


def test_pairs_that_must_and_must_not_match() -> None:
    rng = np.random.default_rng(0)
    a, b = unit(rng, 40), unit(rng, 50)
    _, _, edges, in_all = search(a, b, threshold=0.1, count=3, rule=Rule())
    match, _ = assign_all(a, b, edges, threshold=0.1, complete=len(edges) == in_all, rule=Rule())
    assert match[3] == 5
    rows = np.flatnonzero(match >= 0)
    assert ((rows + match[rows]) % 2 == 0).all()
    similarity = full_matrix(a, b)
    worth = np.where(Rule().allowed(np.arange(40)[:, None], np.arange(50)), similarity, -1.0)
    worth[3, 5] = -1.0  # matched whatever it is worth
    match[3] = -1
    assert gain(similarity, match, 0.1) == pytest.approx(best_by_scipy(worth, 0.1), abs=1e-6)
