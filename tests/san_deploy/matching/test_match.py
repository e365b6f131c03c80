"""The assignment against two other ways of finding it, and what stands around it."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.optimize import linear_sum_assignment

from san_deploy.artefact import Threshold
from san_deploy.errors import SanError, UsageError
from san_deploy.matching.assignment import assign, rank
from san_deploy.matching.match import (
    Camera,
    camera_from_embeddings,
    check_folders,
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
    columns = assign(similarity, threshold)
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
    columns = assign(similarity, threshold)
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
    columns = assign(np.array(similarity, np.float32), threshold)
    if similarity == [[0.7, 0.7], [0.7, 0.7]]:
        assert sorted(columns.tolist()) == expected
    else:
        assert columns.tolist() == expected


def test_assignment_repeats_itself_on_ties() -> None:
    similarity = np.full((6, 5), 0.8, np.float32)
    assert len({tuple(assign(similarity, 0.5).tolist()) for _ in range(5)}) == 1
    assert (assign(similarity, 0.5) >= 0).sum() == 5


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_assignment_of_nothing(shape: tuple[int, int]) -> None:
    assert assign(np.empty(shape, np.float32), 0.5).tolist() == [-1] * shape[0]


@pytest.mark.parametrize(("value", "threshold"), [(np.nan, 0.5), (np.inf, 0.5), (0.5, np.nan)])
def test_assignment_refuses_nan(value: float, threshold: float) -> None:
    with pytest.raises(SanError, match="not finite"):
        assign(np.array([[value, 0.1]], np.float32), threshold)


def test_order_of_cameras_does_not_matter() -> None:
    rng = np.random.default_rng(3)
    # Two pairs of twins, so that there are ties to break.
    a = camera("a", [*rng.normal(size=(7, 5)).tolist(), [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]])
    b = camera("b", [*rng.normal(size=(5, 5)).tolist(), [1, 0, 0, 0, 0], [1, 0, 0, 0, 0]])
    ab, ba = match_pair(a, b, 0.3), match_pair(b, a, 0.3)
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
    pair = match_pair(a, b, 0.8)
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


def test_rank_is_best_first_and_stable() -> None:
    assert rank(np.array([[0.1, 0.9, 0.9, 0.3]], np.float32), 3).tolist() == [[1, 2, 3]]
    assert rank(np.array([[0.1, 0.2]], np.float32), 9).tolist() == [[1, 0]]


def test_pooling_keeps_crops_and_unreadable() -> None:
    rows = np.array([[1, 0], [0, 1], [1, 0]], np.float32)
    embeddings = SimpleNamespace(
        embedding=rows,
        path=np.array(["t2/b.jpg", "t1/a.jpg", "t2/a.jpg"]),
        track=np.array(["t2", "t1", "t2"]),
        unreadable=[SimpleNamespace(path="t1/x.jpg", reason="cut short")],
        seconds=1.5,
        model={},
    )
    result = camera_from_embeddings("cam", Path("cam"), embeddings)  # type: ignore[arg-type]
    assert result.tracks.tolist() == ["t1", "t2"]
    assert result.crops == (("t1/a.jpg",), ("t2/a.jpg", "t2/b.jpg"))
    assert (result.crop_count, len(result.unreadable), result.seconds) == (3, 1, 1.5)


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


def site(tmp_path: Path, *names: str) -> list[Path]:
    folders = []
    for name in names:
        folder = tmp_path / name
        (folder / "t1").mkdir(parents=True)
        Image.new("RGB", (8, 16)).save(folder / "t1" / "1.png")
        folders.append(folder)
    return folders


def test_folders_name_the_cameras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = site(tmp_path, "north", "south")
    assert check_folders(folders) == ["north", "south"]
    monkeypatch.chdir(folders[0])
    assert check_folders([Path("."), Path("../south/")]) == ["north", "south"]


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        (["a/cam"], UsageError, "two cameras"),
        (["a/cam", "a/cam"], UsageError, "given 2 times"),
        (["a/cam", "a/../a/cam/"], UsageError, "given 2 times"),
        (["a/cam", "b/cam"], UsageError, "2 folders are called cam"),
        (["a/cam", "a|b"], UsageError, "separates cameras"),
        (["a/cam", "missing"], SanError, "does not exist"),
        (["a/cam", "empty"], SanError, "holds no image"),
        (["a/cam", "file"], SanError, "is not a folder"),
    ],
)
def test_folders_that_cannot_be(tmp_path: Path, given: list[str], error: type[SanError], told: str) -> None:
    site(tmp_path, "a/cam", "b/cam", "a|b")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(error, match=told) as caught:
        check_folders([tmp_path / name for name in given])
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
