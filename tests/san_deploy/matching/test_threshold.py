"""The threshold for a false match rate, against counting."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from san_deploy.errors import SanError
from san_deploy.matching.threshold import FALSE_MATCH_RATE, choose_threshold, tracklet_similarities


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_known_threshold() -> None:
    impostor = np.arange(100, dtype=np.float32) / 100  # 0.00 .. 0.99
    genuine = np.array([0.5, 0.97, 0.985, 0.995], np.float32)
    result = choose_threshold(genuine, impostor, source="numbers", false_match_rate=0.02)
    # 0.98 and 0.99 may pass; the threshold lies half-way to 0.97, which may not.
    assert result.similarity == pytest.approx(0.975, abs=1e-4)
    assert (result.false_match_rate, result.true_match_rate) == (0.02, 0.5)
    assert (result.impostor_pairs, result.genuine_pairs, result.source) == (100, 4, "numbers")


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(st.floats(-1, 0.9375, width=32), min_size=100, max_size=160),
    rate=st.sampled_from([0.01, 0.02, 0.1, 0.5]),
)
def test_rate_is_kept_and_no_lower_threshold_keeps_it(values: list[float], rate: float) -> None:
    impostor = np.array(values, np.float32)
    result = choose_threshold(impostor, impostor, source="", false_match_rate=rate)
    let_in = impostor >= np.float32(result.similarity)
    assert let_in.mean() <= rate
    assert result.false_match_rate == let_in.mean() == result.true_match_rate
    below = impostor[~let_in]
    # Lowering it to the next stranger would let in too many.
    assert (impostor >= below.max()).mean() > rate


def test_printed_threshold_is_the_one_used() -> None:
    rng = np.random.default_rng(0)
    result = choose_threshold(
        rng.uniform(0, 1, 50), rng.uniform(-1, 0.8, 5000), source="", false_match_rate=0.01
    )
    assert result.similarity == float(f"{result.similarity:.4f}")


@pytest.mark.parametrize(
    ("genuine", "impostor", "rate", "told"),
    [
        ([0.9], [0.1] * 99, 0.01, "needs 100"),
        ([], [0.1] * 100, 0.01, "no genuine pair"),
        ([0.9], [np.nan] * 100, 0.01, "not finite"),
        ([np.inf], [0.1] * 100, 0.01, "not finite"),
        ([0.9], [1.0] * 100, 0.01, "no threshold"),
        ([0.9], [0.1] * 100, 0.0, "above 0"),
        ([0.9], [0.1] * 100, float("nan"), "above 0"),
    ],
)
def test_calibration_that_cannot_be(
    genuine: list[float], impostor: list[float], rate: float, told: str
) -> None:
    with pytest.raises(SanError, match=told):
        choose_threshold(np.array(genuine), np.array(impostor), source="", false_match_rate=rate)


def test_default_rate_needs_few_people() -> None:
    # Six people before two cameras are 30 impostor pairs; 11 people before two are 110.
    assert 1 / FALSE_MATCH_RATE <= 11 * 10


def naive_similarities(
    embedding: np.ndarray, person: np.ndarray, camera: np.ndarray, track: np.ndarray
) -> tuple[list[float], list[float]]:
    tracklets: dict[tuple[str, str], list[int]] = {}
    for index, key in enumerate(zip(camera.tolist(), track.tolist(), strict=True)):
        tracklets.setdefault(key, []).append(index)
    pooled = {key: unit(embedding[rows].mean(0, keepdims=True))[0] for key, rows in tracklets.items()}
    genuine, impostor = [], []
    keys = sorted(tracklets)
    for i, a in enumerate(keys):
        for b in keys[i + 1 :]:
            if a[0] != b[0]:
                same = person[tracklets[a][0]] == person[tracklets[b][0]] != 0
                (genuine if same else impostor).append(float(pooled[a] @ pooled[b]))
    return genuine, impostor


def labelled() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    person = rng.integers(0, 6, 60)
    camera = np.array([f"c{k}" for k in rng.integers(0, 3, 60)])
    # Two tracklets of a person before one camera now and then; 0 is a distractor.
    track = np.array([f"t{p}{k % 2}" for k, p in enumerate(person)])
    return {"embedding": unit(rng.normal(size=(60, 8))), "person": person, "camera": camera, "track": track}


def test_similarities_against_plain_loops() -> None:
    data = labelled()
    genuine, impostor = tracklet_similarities(**data)
    expected = naive_similarities(**data)
    assert genuine.dtype == impostor.dtype == np.float32
    assert np.allclose(np.sort(genuine), np.sort(expected[0]), atol=1e-6)
    assert np.allclose(np.sort(impostor), np.sort(expected[1]), atol=1e-6)


def test_bounded_pairs_keep_every_genuine_one() -> None:
    data = labelled()
    genuine, impostor = tracklet_similarities(**data)
    some_genuine, some_impostor = tracklet_similarities(**data, max_pairs=60)
    assert np.array_equal(genuine, some_genuine)
    assert 0 < len(some_impostor) < len(impostor)


def test_one_camera_gives_no_pair() -> None:
    data = labelled() | {"camera": np.full(60, "c0")}
    genuine, impostor = tracklet_similarities(**data)
    assert len(genuine) == len(impostor) == 0


def test_tracklet_of_two_people_is_refused() -> None:
    data = labelled() | {"track": np.full(60, "t")}
    with pytest.raises(SanError, match="has crops of person"):
        tracklet_similarities(**data)
