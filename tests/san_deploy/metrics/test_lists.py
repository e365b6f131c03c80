"""Rank lists to look at stand in the order that the metrics count by."""

from __future__ import annotations

import numpy as np

from san_deploy.metrics import RankingLabels, Similarity, rank_lists, rank_queries
from tests.san_deploy.metrics import oracle


def test_lists_agree_with_the_ranks() -> None:
    rng = np.random.default_rng(3)
    labels = oracle.labels(rng, 20, 60, 5)
    query, gallery = (rng.integers(-2, 3, (n, 3)).astype(np.float32) for n in (20, 60))
    scores, answers = Similarity(query, gallery), RankingLabels(**labels)
    ranks = rank_queries(scores, answers)
    lists = rank_lists(scores, answers, range(20), length=60)
    assert any(ranks.first > 1)
    for query_number, (found, first) in enumerate(zip(lists, ranks.first, strict=True)):
        assert found.query == query_number
        assert (int(np.argmax(found.positive)) + 1 if found.positive.any() else 0) == first
        assert int(found.positive.sum()) == answers.positives[query_number]
        assert (np.diff(found.score) <= 0).all()
        assert not set(found.gallery.tolist()) & set(answers.ignored(query_number).tolist())
        assert np.array_equal(found.score, gallery[found.gallery] @ query[query_number])


def test_length() -> None:
    rows, person = np.eye(4, dtype=np.float32), np.array([1, 1, 2, 3])
    answers = RankingLabels(
        query_person=person, gallery_person=person, query_camera=np.arange(4), gallery_camera=np.arange(4)
    )
    (found,) = rank_lists(Similarity(rows, rows), answers, [1], length=2)
    # All others are equally unlike: wrong ones first, the lower number before the higher.
    assert (found.gallery.tolist(), found.positive.tolist()) == ([2, 3], [False, False])
