"""Thresholds against plain counting: rates, intervals over people, F1 with people absent, impostors alone."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from san_deploy.errors import SanError
from san_deploy.matching.cameras import Camera
from san_deploy.matching.threshold import rates_at
from san_deploy.matching.threshold_study import ABSENT, ThresholdStudy, Wish, study_labelled, study_unlabelled

WISH = Wish(None, 0.3, "numbers", "argmax", False)


def seen(
    people: int = 20, cameras: int = 3, noise: float = 0.8, seed: int = 0, dim: int = 24
) -> list[Camera]:
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(people, dim))
    result = []
    for number in range(cameras):
        rows = centre + noise * rng.normal(size=(people, dim))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        tracks = [f"t{k:03d}" for k in range(people)]
        paths = tuple((f"{t}/1.jpg",) for t in tracks)
        result.append(
            Camera(f"c{number}", Path(f"c{number}"), np.array(tracks), rows.astype(np.float32), paths)
        )
    return result


def labels(cameras: list[Camera]) -> dict[tuple[str, str], int]:
    return {(c.name, t): k + 1 for c in cameras for k, t in enumerate(c.tracks.tolist())}


def counted(cameras: list[Camera], threshold: float) -> tuple[float, float]:
    false, true = [], []
    for a, b in itertools.combinations(cameras, 2):
        for i, j in itertools.product(range(len(a.tracks)), range(len(b.tracks))):
            reach = float(a.embedding[i] @ b.embedding[j]) >= threshold
            (true if i == j else false).append(reach)
    return float(np.mean(false)), float(np.mean(true))


@pytest.mark.parametrize("rate", [None, 0.01, 0.1])
def test_rates_are_what_is_counted(rate: float | None) -> None:
    cameras = seen()
    study = study_labelled(cameras, labels(cameras), replace(WISH, false_match_rate=rate))
    threshold = study.threshold
    false, true = counted(cameras, threshold.similarity)
    assert threshold.false_match_rate == pytest.approx(false, abs=1e-3)
    assert threshold.true_match_rate == pytest.approx(true, abs=1e-2)
    if rate is not None:
        assert threshold.false_match_rate <= rate
        assert counted(cameras, threshold.similarity - 0.02)[0] > threshold.false_match_rate
    assert (threshold.impostor_pairs, threshold.genuine_pairs) == (3 * 380, 60)
    assert study.people == 20 and threshold.mask == "argmax"
    for similarity, low, high in threshold.curve[::10]:
        assert (low, high) == pytest.approx(counted(cameras, similarity), abs=2e-3)
    middle = threshold.curve[30]
    assert rates_at(threshold, middle[0]) == pytest.approx(middle[1:])
    assert rates_at(replace(threshold, curve=()), 0.5) is None


def test_intervals_hold_the_rates_and_shrink_with_people() -> None:
    widths = []
    for people in (15, 120):
        cameras = seen(people)
        study = study_labelled(cameras, labels(cameras), replace(WISH, false_match_rate=0.05))
        interval = study.false_match_interval
        assert interval is not None and interval.low <= study.threshold.false_match_rate <= interval.high
        assert study.true_match_interval is not None
        widths.append(interval.high - interval.low)
    assert widths[1] < widths[0] / 2


def test_new_people_keep_the_rate() -> None:
    """What is printed is true of people who were not calibrated on."""
    cameras = seen(150, seed=1)
    study = study_labelled(cameras, labels(cameras), replace(WISH, false_match_rate=0.02))
    others = seen(80, seed=2)
    found = counted(others, study.threshold.similarity)[0]
    assert 0.01 <= found <= 0.04


def test_the_more_are_absent_the_higher_the_best_threshold() -> None:
    cameras = seen(40, noise=0.9)
    study = study_labelled(cameras, labels(cameras), WISH)
    assert [item.absent for item in study.open_sets] == list(ABSENT)
    best = [item.best for item in study.open_sets]
    assert best[0] < best[2]
    assert study.threshold.similarity == best[1]
    for item in study.open_sets:
        assert all(0.0 <= value <= 1.0 for value in (*item.precision, *item.recall))
        assert item.precision[-1] == 1.0 or item.recall[-1] == 0.0
        at = study.similarity.index(item.best)
        assert item.f1[at] >= max(item.f1) - 0.005


def test_distractors_are_impostors() -> None:
    cameras = seen(10, cameras=2)
    known = labels(cameras)
    study = study_labelled(cameras, known | {("c0", "t000"): 0, ("c1", "t000"): 0}, WISH)
    assert (study.threshold.impostor_pairs, study.threshold.genuine_pairs) == (91, 9)
    assert study.people == 11


def test_too_few_are_refused() -> None:
    cameras = seen(4, cameras=2)
    with pytest.raises(SanError, match="12 impostor pairs are too few"):
        study_labelled(cameras, labels(cameras), replace(WISH, false_match_rate=0.01))
    with pytest.raises(SanError, match="0 genuine and 16 impostor"):
        study_labelled(cameras, {key: k + 1 for k, key in enumerate(labels(cameras))}, WISH)
    with pytest.raises(SanError, match="12 pairs of one camera are too few"):
        study_unlabelled(cameras, WISH, 0.01)


def biased(people: int, seed: int) -> list[Camera]:
    """Each camera's colours move all of its embeddings: impostors of one camera are more alike."""
    rng = np.random.default_rng(seed)
    result = []
    for item in seen(people, noise=0.6, seed=seed):
        rows = item.embedding + 0.05 * rng.normal(size=item.embedding.shape[1])
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        result.append(replace(item, embedding=rows.astype(np.float32)))
    return result


@pytest.mark.parametrize("rate", [0.01, 0.05])
def test_without_labels_the_rate_holds_within_a_factor_of_two(rate: float) -> None:
    found = []
    for seed in range(4):
        cameras = biased(100, seed)
        study = study_unlabelled(cameras, WISH, rate)
        found.append(counted(cameras, study.threshold.similarity)[0])
        assert study.threshold.true_match_rate is None and study.open_sets == ()
    assert rate / 2 <= np.mean(found) <= 2 * rate


def test_only_who_overlaps_in_time_is_an_impostor_for_certain() -> None:
    cameras = seen(40, cameras=2)
    # Everybody comes twice; the second time later.
    twice = []
    for item in cameras:
        rows = np.concatenate([item.embedding, item.embedding])
        tracks = np.array([f"{part}{t}" for part in "ab" for t in item.tracks.tolist()])
        start = np.repeat([0.0, 100.0], 40)
        twice.append(
            replace(item, embedding=rows, tracks=tracks, crops=item.crops * 2, start=start, end=start + 10)
        )
    timed: ThresholdStudy = study_unlabelled(twice, WISH, 0.01)
    blind = study_unlabelled([replace(c, start=None, end=None) for c in twice], WISH, 0.01)
    assert timed.threshold.impostor_pairs == 2 * 2 * 40 * 39 // 2
    assert timed.threshold.similarity < blind.threshold.similarity
    assert "overlap in time" in timed.threshold.source and "no times known" in blind.threshold.source
