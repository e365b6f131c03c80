"""Judging a matching by labels, on cases counted by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from san_deploy.errors import SanError
from san_deploy.matching.accuracy import Accuracy, pids_from_labels, same_person, score
from san_deploy.matching.cameras import Camera
from san_deploy.matching.match import Matching, match_cameras


def matching(similarity: list[list[float]], threshold: float = 0.5) -> Matching:
    """Cameras a and b whose similarities are exactly those given: rows of b are unit vectors."""
    values = np.array(similarity, np.float32)
    height, width = values.shape
    a = Camera(
        "a",
        Path("a"),
        np.array([f"a{k}" for k in range(height)]),
        values,
        tuple(("x",) for _ in range(height)),
    )
    b = Camera(
        "b",
        Path("b"),
        np.array([f"b{k}" for k in range(width)]),
        np.eye(width, dtype=np.float32),
        tuple(("x",) for _ in range(width)),
    )
    return match_cameras([a, b], threshold=threshold)


def track_to_pid(a: list[int], b: list[int]) -> dict[tuple[str, str], int]:
    return {("a", f"a{k}"): p for k, p in enumerate(a)} | {("b", f"b{k}"): p for k, p in enumerate(b)}


@pytest.mark.parametrize(
    ("similarity", "people", "expected"),
    [
        # All right.
        ([[0.9, 0.1], [0.1, 0.9]], ([1, 2], [1, 2]), Accuracy(1.0, 2, 2, 2, 0, 0, 0)),
        # All wrong.
        ([[0.9, 0.1], [0.1, 0.9]], ([1, 2], [2, 1]), Accuracy(0.0, 0, 2, 2, 0, 0, 0)),
        # Two strangers, left alone: no match is right, and neither counts for rank-1.
        ([[0.9, 0.1], [0.1, 0.2]], ([1, 2], [1, 3]), Accuracy(1.0, 1, 1, 1, 2, 2, 0)),
        # Two strangers, matched.
        ([[0.9, 0.1], [0.1, 0.8]], ([1, 2], [1, 3]), Accuracy(1.0, 1, 2, 1, 2, 0, 0)),
        # Person 0 is nobody, also to another 0.
        ([[0.9, 0.1], [0.1, 0.8]], ([1, 0], [1, 0]), Accuracy(1.0, 1, 2, 1, 2, 0, 0)),
        # One person in two tracklets of a: one right pair is all that one-to-one can give.
        ([[0.9], [0.8]], ([1, 1], [1]), Accuracy(1.0, 1, 1, 1, 0, 0, 0)),
        # A tie between right and wrong counts as wrong.
        ([[0.9, 0.9]], ([1], [1, 2]), Accuracy(0.5, 1, 1, 1, 1, 1, 0)),
    ],
)
def test_score(
    similarity: list[list[float]], people: tuple[list[int], list[int]], expected: Accuracy
) -> None:
    result = score(matching(similarity), track_to_pid(*people))
    if similarity == [[0.9, 0.9]]:  # which of two equals is matched is not said
        assert result.rank1 == expected.rank1
    else:
        assert result == expected


def test_without_a_label_nothing_is_judged() -> None:
    labels = track_to_pid([1, 2], [1, 2])
    del labels["b", "b1"]
    result = score(matching([[0.9, 0.1], [0.1, 0.9]]), labels)
    assert (result.right, result.matched, result.possible, result.unlabelled) == (1, 1, 1, 1)


def test_rates_of_nothing_are_none_not_nan() -> None:
    result = score(matching([[0.1]]), track_to_pid([1], [2]))
    assert (result.rank1, result.precision, result.recall) == (None, None, None)
    assert result.as_dict()["precision"] is None


def test_same_person() -> None:
    labels = track_to_pid([1, 0], [1, 0])
    assert same_person(labels, ("a", "a0"), ("b", "b0")) is True
    assert same_person(labels, ("a", "a0"), ("b", "b1")) is False
    assert same_person(labels, ("a", "a1"), ("b", "b1")) is False
    assert same_person(labels, ("a", "a9"), ("b", "b1")) is None


def test_labels_of_other_cameras_are_passed_over() -> None:
    labels = track_to_pid([1], [1]) | {("c", "c0"): 7}
    assert set(pids_from_labels(matching([[0.9]]), labels, "identities.csv")) == {("a", "a0"), ("b", "b0")}


def test_labels_of_unknown_tracks_are_refused() -> None:
    with pytest.raises(SanError, match=r"identities\.csv names a/a1, which a does not hold \(2 such"):
        pids_from_labels(matching([[0.9]]), track_to_pid([1, 2, 3], [1]), "identities.csv")
    with pytest.raises(SanError, match="names none of the cameras a, b"):
        pids_from_labels(matching([[0.9]]), {("z", "t"): 1}, "identities.csv")


def test_a_tracklet_of_unreadable_crops_is_known() -> None:
    found = matching([[0.9]])
    first = replace(found.cameras[0], lost_tracks=["a1"])
    result = match_cameras([first, found.cameras[1]], threshold=0.5)
    assert ("a", "a1") in pids_from_labels(result, track_to_pid([1, 2], [1]), "identities.csv")
