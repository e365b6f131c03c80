"""The assignment against two other ways of finding it, and what stands around it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from san_deploy.artefact import Threshold
from san_deploy.errors import SanError, UsageError
from san_deploy.matching.cameras import Camera, camera_from_embeddings
from san_deploy.matching.match import (
    iter_rows,
    match_cameras,
    match_pair,
    resolve_threshold,
)

CALIBRATION = Threshold(0.6, 0.01, 0.9, 1000, 100, "drawn people")


def camera(name: str, rows: list[list[float]], tracks: list[str] | None = None) -> Camera:
    embedding = np.array(rows, np.float32)
    embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
    names = tracks or [f"t{k}" for k in range(len(rows))]
    return Camera(name, Path(name), np.array(names), embedding, tuple((f"{t}/1.jpg",) for t in names))


def test_order_of_cameras_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    # Two pairs of twins, so that there are ties to break.
    a = camera("a", [*rng.normal(size=(7, 5)).tolist(), [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]])
    b = camera("b", [*rng.normal(size=(5, 5)).tolist(), [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]])
    ab, ba = match_pair(a, b, 0.3, full=True), match_pair(b, a, 0.3, full=True)
    assert np.array_equal(ab.similarity, ba.similarity.T)
    assert np.array_equal(ab.match_of_a, ba.match_of_b)
    assert (ba.camera_a, ba.key) == ("b", "b|a")


def test_every_pair_is_matched_on_its_own() -> None:
    cameras = [camera(name, np.eye(3).tolist()) for name in ("x", "y", "z")]
    matching = match_cameras(cameras, threshold=0.5)
    assert [pair.key for pair in matching.pairs] == ["x|y", "x|z", "y|z"]
    assert [pair.matched for pair in matching.pairs] == [3, 3, 3]


def test_rows_name_every_tracklet_once_and_best_candidates() -> None:
    a = camera("a", [[1, 0, 0], [0, 1, 0]], ["a0", "a1"])
    b = camera("b", [[0.9, 0.1, 0], [0.5, 0.5, 0.7], [0, 0, 1]], ["b0", "b1", "b2"])
    pair = match_pair(a, b, 0.8, full=True)
    rows = list(iter_rows(pair, 1))
    assert [(row.camera_a, row.track_a, row.track_b, row.matched) for row in rows] == [
        ("a", "a0", "b0", True),
        ("a", "a1", "b1", False),
        ("b", "b1", "a0", False),  # equally like a0 and a1: the first name
        ("b", "b2", "a0", False),
    ]
    assert [item.track for item in rows[0].runners_up_a] == ["b1"]  # without its match
    assert [item.track for item in rows[0].runners_up_b] == ["a1"]
    assert rows[1].similarity == pytest.approx(float(pair.similarity[1, 1]))
    assert rows[1].runners_up_b == ()
    assert all(row.runners_up_a == () for row in iter_rows(pair, 0))


def test_pooling_keeps_crops_and_unreadable() -> None:
    rows = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    embeddings = SimpleNamespace(
        embedding=rows,
        path=np.array(["t2/b.jpg", "t1/a.jpg", "t2/a.jpg"]),
        track=np.array(["t2", "t1", "t2"]),
        unreadable=[SimpleNamespace(path="t1/x.jpg", reason="cut short")],
        seconds=1.5,
        model={},
        blank=["t2/b.jpg"],
    )
    result = camera_from_embeddings("cam", Path("cam"), embeddings)  # type: ignore[arg-type]
    assert result.tracks.tolist() == ["t1", "t2"]
    assert result.crops == (("t1/a.jpg",), ("t2/a.jpg", "t2/b.jpg"))
    assert (result.crop_count, len(result.unreadable), result.seconds) == (3, 1, 1.5)
    assert list(result.blank) == ["t2/b.jpg"]


def test_camera_of_nothing_readable_is_refused() -> None:
    nothing = SimpleNamespace(embedding=np.empty((0, 2), np.float32), path=np.array([]), track=np.array([]))
    with pytest.raises(SanError, match="no readable crop"):
        camera_from_embeddings("cam", Path("cam"), nothing)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "calibration", "expected"),
    [(None, CALIBRATION, 0.6), (0.3, CALIBRATION, 0.3), (-1.0, None, -1.0), (1.0, None, 1.0)],
)
def test_threshold(given: float | None, calibration: Threshold | None, expected: float) -> None:
    value, source = resolve_threshold(given, calibration)
    assert value == expected
    assert source is (CALIBRATION if given is None else None)


@pytest.mark.parametrize(
    ("given", "told"), [(None, "--threshold"), (1.5, "no cosine"), (float("nan"), "no cosine")]
)
def test_threshold_that_cannot_be(given: float | None, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        resolve_threshold(given, None)
