"""Tiles of inner products."""

from __future__ import annotations

import numpy as np
import pytest

from san_deploy.errors import SanError
from san_deploy.metrics import RankingLabels, Similarity, rank_queries
from san_deploy.metrics.scores import checked_embeddings, tiles, unit_embeddings


def rows(seed: int, count: int, dimension: int = 32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimension), np.float32)


def test_tiles_are_the_matrix() -> None:
    query, gallery = rows(0, 1100), rows(1, 30)
    found = [(start, tile.copy()) for start, tile in tiles(Similarity(query, gallery))]
    assert [start for start, _ in found] == [0, 512, 1024]
    assert np.allclose(np.concatenate([tile for _, tile in found]), query @ gallery.T, atol=1e-5)


def test_float32_is_not_copied() -> None:
    given = rows(0, 3)
    assert checked_embeddings(given, "query") is given
    assert checked_embeddings(given.astype(np.float16), "query").dtype == np.float32


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.array([[np.nan, 1.0]]), "NaN or infinity"),
        (np.array([[1e300, 1.0]]), "NaN or infinity"),  # finite, but not in FP32
        (np.array([[1e30, 1.0]]), "NaN or infinity"),  # an inner product overflows
        (np.ones(3), "shape"),
        (np.ones((2, 5)), "5 values, gallery embeddings 2"),
    ],
)
def test_bad_embeddings(bad: np.ndarray, message: str) -> None:
    with pytest.raises(SanError, match=message):
        Similarity(bad, np.eye(2))


def test_a_row_of_zeros_has_no_direction() -> None:
    with pytest.raises(SanError, match="row of zeros"):
        unit_embeddings(np.zeros((1, 3)), "query")


def test_equal_crops_tie_wherever_they_stand() -> None:
    # Some BLAS kernels compute the last columns in another order of summation.
    query, gallery = rows(0, 40, 501), rows(1, 1003, 501)
    twins = np.array([0, 1, 500, 998, 999, 1000, 1001, 1002])
    gallery[twins] = gallery[700]
    for _, tile in tiles(Similarity(query, gallery)):
        assert (tile[:, twins] == tile[:, 700:701]).all()
    # One of the nine is right and eight are wrong: it comes ninth of them, for every query.
    person = np.arange(2, 1005)
    person[500] = 1
    scores = Similarity(gallery[700:701], gallery)
    answers = RankingLabels(
        query_person=np.array([1]),
        gallery_person=person,
        query_camera=np.array([0]),
        gallery_camera=np.ones(1003, int),
    )
    assert rank_queries(scores, answers).first.tolist() == [9]


def test_rows_alike_in_sum_only_are_not_equal() -> None:
    gallery = np.array([[1, 2, 3], [3, 2, 1], [1, 2, 3], [2, 2, 2], [0, 0, 0]], np.float32)
    query = np.array([[1, 10, 100]], np.float32)
    (_, tile), *_ = tiles(Similarity(query, gallery))
    assert tile.tolist() == [[321, 123, 321, 222, 0]]
