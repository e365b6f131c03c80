"""Tracklets: pooled, and camera against camera."""

from __future__ import annotations

import numpy as np
import pytest

from san_deploy.errors import SanError
from san_deploy.metrics import (
    centre_cameras,
    evaluate,
    evaluate_tracklets,
    join_cameras,
    pool_cameras,
    pool_tracklets,
)


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


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


def test_pooling_adds_up_in_float64() -> None:
    rng = np.random.default_rng(0)
    embedding, track = unit(rng.normal(size=(200, 6))), rng.integers(0, 9, 200).astype(str)
    rows, names = pool_tracklets(embedding, track)
    for row, name in zip(rows, names, strict=True):
        total = sum(e.astype(float) for e, t in zip(embedding, track, strict=True) if t == name)
        assert np.allclose(row, total / np.linalg.norm(total), atol=1e-7)


def test_tracklets_of_all_cameras_as_one_set() -> None:
    embedding = np.eye(3, dtype=np.float32)[[0, 0, 1, 0, 2, 2]]
    person, camera = np.array([1, 1, 2, 1, 2, 2]), np.array(["a", "a", "a", "b", "b", "b"])
    track = np.array(["t1", "t1", "t2", "t1", "t2", "t2"])
    rows, people, cameras = join_cameras(pool_cameras(embedding, person=person, camera=camera, track=track))
    assert (people.tolist(), cameras.tolist()) == ([1, 2, 1, 2], ["a", "a", "b", "b"])
    ranking = evaluate(
        rows,
        rows,
        query_person=people,
        gallery_person=people,
        query_camera=cameras,
        gallery_camera=cameras,
    )
    assert (ranking.queries, ranking.rank1) == (4, 0.5)


def test_centring_takes_the_cameras_mean_off() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(12, 5)) + np.repeat([[3.0, 0, 0, 0, 0], [0, 3.0, 0, 0, 0]], 6, axis=0)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    camera = np.repeat(["a", "b"], 6)
    result = centre_cameras(rows, camera)
    for name in ("a", "b"):
        away = rows[camera == name] - rows[camera == name].mean(axis=0)
        expected = away / np.linalg.norm(away, axis=1, keepdims=True)
        assert result[camera == name] == pytest.approx(expected, abs=1e-5)
    assert result.dtype == np.float32
    with pytest.raises(SanError, match="camera c has an embedding that is its mean"):
        centre_cameras(rows[:1], np.array(["c"]))
