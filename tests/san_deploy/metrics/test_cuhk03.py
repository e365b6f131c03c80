"""The expectation over all draws, against all draws made one by one and against random ones."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest

from san_deploy import metrics
from san_deploy.errors import SanError
from san_deploy.metrics import RankingLabels, Similarity, draw_single_shot, single_shot

RANKS = 6


def case(seed: int, *, distractors: int = 0) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Three people with 3, 4 and 2 gallery crops (one person by one camera alone), few values: many ties."""
    rng = np.random.default_rng(seed)
    labels = {
        "query_person": np.array([1, 1, 2, 2, 2, 3, 9]),
        "query_camera": np.array([1, 2, 1, 2, 2, 1, 1]),
        "gallery_person": np.array([1, 1, 1, 2, 2, 2, 2, 3, 3, -1, 5, 5] + [0] * distractors),
        "gallery_camera": np.array([1, 2, 2, 1, 1, 2, 3, 1, 1, 2, 1, 2] + [2] * distractors),
    }
    query = rng.integers(-3, 4, (7, 2)).astype(np.float32)
    gallery = rng.integers(-3, 4, (12 + distractors, 2)).astype(np.float32)
    return query, gallery, labels


def crops_of(labels: dict[str, np.ndarray], person: int, other_than: int | None = None) -> list[int]:
    people, cameras = labels["gallery_person"], labels["gallery_camera"]
    return [g for g in range(len(people)) if people[g] == person and cameras[g] != other_than]


def place(values: np.ndarray, standing: list[int], answer: int) -> int:
    """Rank of the answer among the crops that stand in the gallery; of equals it comes last."""
    return 1 + sum(values[g] >= values[answer] for g in standing if g != answer)


def curve(ranks: list[tuple[float, int]]) -> np.ndarray:
    total = sum(weight for weight, _ in ranks)
    return np.array([sum(weight for weight, rank in ranks if rank <= k) / total for k in range(1, RANKS + 1)])


def every_draw_by_query(
    query: np.ndarray, gallery: np.ndarray, labels: dict[str, np.ndarray]
) -> Iterator[tuple[float, int]]:
    distractors = crops_of(labels, 0)
    for q, values in enumerate(query @ gallery.T):
        person = labels["query_person"][q]
        right = crops_of(labels, person, labels["query_camera"][q])
        others = [p for p in (1, 2, 3, 5) if p != person]
        draws = list(itertools.product(right, *(crops_of(labels, p) for p in others)))
        for answer, *standing in draws:
            yield 1 / len(draws), place(values, standing + distractors, answer)


def every_draw_by_person(
    query: np.ndarray, gallery: np.ndarray, labels: dict[str, np.ndarray]
) -> Iterator[tuple[float, int]]:
    scores = query @ gallery.T
    choices = []
    for person in (1, 2):
        probes = [q for q in range(7) if labels["query_person"][q] == person]
        choice = []
        for probe in probes:
            picks = crops_of(labels, person, labels["query_camera"][probe])
            choice += [(probe, pick, 1 / len(probes) / len(picks)) for pick in picks]
        choices.append(choice)
    for person in (3, 5):  # seen by one camera, and not asked for
        crops = crops_of(labels, person)
        choices.append([(-1, crop, 1 / len(crops)) for crop in crops])
    for draw in itertools.product(*choices):
        chance = float(np.prod([weight for *_, weight in draw]))
        standing = [pick for _, pick, _ in draw] + crops_of(labels, 0)
        for probe, pick, _ in draw:
            if probe >= 0:
                yield chance, place(scores[probe], standing, pick)


@pytest.mark.parametrize("distractors", [0, 3])
@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("by", ["person", "query"])
def test_equals_the_mean_of_all_draws(
    by: metrics.cuhk03.By, seed: int, distractors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, gallery, labels = case(seed, distractors=distractors)
    every = {"person": every_draw_by_person, "query": every_draw_by_query}[by]
    expected = curve(list(every(query, gallery, labels)))
    result = single_shot(Similarity(query, gallery), RankingLabels(**labels), by=by, ranks=RANKS)
    assert np.allclose(result.cmc, expected, atol=1e-12)
    assert (result.queries, result.people, result.draws) == (5, 2, 0)
    monkeypatch.setattr(metrics.cuhk03, "_BLOCK_CELLS", 1)
    assert single_shot(Similarity(query, gallery), RankingLabels(**labels), by=by, ranks=RANKS).cmc == (
        pytest.approx(result.cmc)
    )


@pytest.mark.parametrize("seed", range(3))
def test_literal_draws_have_that_mean(seed: int) -> None:
    query, gallery, labels = case(seed, distractors=1)
    scores, answers = Similarity(query, gallery), RankingLabels(**labels)
    exact = single_shot(scores, answers, ranks=RANKS)
    drawn = draw_single_shot(scores, answers, draws=3000, seed=seed, ranks=RANKS)
    error = 5 * np.array(drawn.spread) / 3000**0.5 + 1e-9
    assert (np.abs(np.array(drawn.cmc) - exact.cmc) <= error).all()
    assert max(drawn.spread) > 0


def test_a_seed_gives_one_result() -> None:
    query, gallery, labels = case(0)
    scores, answers = Similarity(query, gallery), RankingLabels(**labels)
    first, again, other = (draw_single_shot(scores, answers, seed=seed) for seed in (1, 1, 2))
    assert first == again != other
    assert (first.draws, first.by) == (20, "person")


def test_one_query_by_hand() -> None:
    # Another person reaches the answer with one crop of two, a third with one of three: 1/2 x 2/3 is rank-1.
    gallery = np.array([[5], [9], [1], [5], [1], [1]], np.float32)
    answers = RankingLabels(
        query_person=np.array([1]),
        gallery_person=np.array([1, 2, 2, 3, 3, 3]),
        query_camera=np.array([0]),
        gallery_camera=np.ones(6, int),
    )
    result = single_shot(Similarity(np.ones((1, 1), np.float32), gallery), answers, ranks=4)
    assert result.cmc == pytest.approx((1 / 3, 1 / 3 + 1 / 2, 1.0, 1.0))
    assert result.rank(20) == pytest.approx(1.0)


def test_nobody_to_find_is_an_error() -> None:
    rows, label = np.eye(2, dtype=np.float32), np.array([1, 2])
    answers = RankingLabels(
        query_person=label, gallery_person=label, query_camera=label, gallery_camera=label
    )
    for metric in (single_shot, draw_single_shot):
        with pytest.raises(SanError, match="no query has a right answer"):
            metric(Similarity(rows, rows), answers)
