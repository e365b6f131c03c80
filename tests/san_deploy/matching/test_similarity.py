"""Tiles, the nearest of either side and the edges, against the whole matrix sorted."""

from __future__ import annotations

import numpy as np
import pytest

from san_deploy.matching.similarity import edges_above, full_matrix, largest, search


@pytest.mark.parametrize("height", [1, 4, 1000])
@pytest.mark.parametrize(("shape", "count"), [((30, 50), 6), ((50, 30), 40), ((3, 200), 5), ((200, 3), 5)])
def test_search_is_the_sorted_matrix(
    monkeypatch: pytest.MonkeyPatch, height: int, shape: tuple[int, int], count: int
) -> None:
    monkeypatch.setattr("san_deploy.matching.similarity.TILE_CELLS", height * shape[1])
    rng = np.random.default_rng(1)
    # Few different rows: ties everywhere, which the order of the names breaks.
    pool = np.eye(6, dtype=np.float32)
    a, b = pool[rng.integers(6, size=shape[0])], pool[rng.integers(6, size=shape[1])]
    of_a, of_b, edges, in_all = search(a, b, threshold=0.5, count=count)
    matrix = full_matrix(a, b)
    for near, values in ((of_a, matrix), (of_b, matrix.T)):
        order = np.argsort(-values, axis=1, kind="stable")[:, :count]
        assert np.array_equal(near.index, order)
        assert np.array_equal(near.similarity, np.take_along_axis(values, order, axis=1))
    assert in_all == (matrix >= 0.5).sum()
    # Every edge is above the threshold and near from one side; all that are so are there.
    expected = np.zeros(shape, bool)
    np.put_along_axis(expected, of_a.index.astype(np.int64), True, axis=1)
    np.put_along_axis(expected.T, of_b.index.astype(np.int64), True, axis=1)
    assert np.array_equal(np.stack(np.nonzero(expected & (matrix >= 0.5))), [edges.row, edges.column])


def test_edges_seen_from_the_other_side() -> None:
    matrix = np.random.default_rng(0).uniform(size=(7, 5)).astype(np.float32)
    edges, other = edges_above(matrix, 0.4).transposed(), edges_above(matrix.T, 0.4)
    assert np.array_equal(edges.row, other.row) and np.array_equal(edges.column, other.column)
    assert np.array_equal(edges.similarity, other.similarity)
    assert len(edges.joined(other)) == len(edges)


def test_largest_is_best_first_and_stable() -> None:
    assert largest(np.array([[0.1, 0.9, 0.9, 0.3]], np.float32), 3)[0].tolist() == [[1, 2, 3]]
    assert largest(np.array([[0.1, 0.2]], np.float32), 9)[0].tolist() == [[1, 0]]
    assert largest(np.array([[0.1, 0.2]], np.float32), 0)[0].shape == (1, 0)
