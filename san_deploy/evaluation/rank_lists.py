"""The worst and the best rank lists of an evaluation, chosen to be looked at."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import numpy as np

from ..datasets import Crop
from ..metrics import rank_lists, rank_positives
from .result import EvaluationResult

#: RankingLabels of a list that are shown.
LENGTH = 10


@dataclass(frozen=True)
class Answer:
    """One entry of a rank list.

    Attributes:
        rank: place in the list, from 1.
        crop: the gallery crop.
        score: similarity as `metrics.Scores` gives it: a cosine, or a negative re-ranked distance.
        right: whether it is the query's person.
    """

    rank: int
    crop: Crop
    score: float
    right: bool


@dataclass(frozen=True)
class Listed:
    """A query with the head of its rank list.

    Attributes:
        crop: the query.
        average_precision: average precision of the query.
        answers: the first, at most `LENGTH`.
        first_right: the first right answer where it stands behind them; else None.
        ranks: ranks of all positives, ascending.
    """

    crop: Crop
    average_precision: float
    answers: list[Answer]
    first_right: Answer | None
    ranks: list[int]


def worst_and_best(result: EvaluationResult, count: int) -> tuple[list[Listed], list[Listed]]:
    """Up to `count` queries of the lowest average precision and as many others of the highest.

    One query of each person, or the page would show one person's failure eight times. Of equals, those with more
    right answers come first.
    """
    precision, positives = result.queries.average_precision, result.queries.positives
    counts = np.flatnonzero(positives)
    person = result.labels.query_person
    up = counts[np.lexsort((counts, -positives[counts], precision[counts]))]
    down = counts[np.lexsort((counts, -positives[counts], -precision[counts]))]
    worst = _one_each(up, person, count, ())
    best = _one_each(down, person, count, set(worst))
    return [_listed(result, query) for query in worst], [_listed(result, query) for query in best]


def _one_each(order: np.ndarray, person: np.ndarray, count: int, without: Container[int]) -> list[int]:
    chosen: dict[int, int] = {}
    for query in order.tolist():
        if len(chosen) == count:
            break
        if query not in without:
            chosen.setdefault(int(person[query]), query)
    return list(chosen.values())


def _listed(result: EvaluationResult, query: int) -> Listed:
    # Ranks of this very row: in a tile of many rows the last bit of a product may differ.
    ranks = _ranks(result, query)
    first = ranks[0]
    (found,) = rank_lists(result.scores, result.labels, [query], max(LENGTH, first))
    gallery = result.chosen.gallery
    entries = [
        Answer(rank, gallery[row], score, right)
        for rank, (row, score, right) in enumerate(
            zip(found.gallery.tolist(), found.score.tolist(), found.positive.tolist(), strict=True), 1
        )
    ]
    return Listed(
        result.chosen.query[query],
        float(result.queries.average_precision[query]),
        entries[:LENGTH],
        entries[first - 1] if first > LENGTH else None,
        ranks,
    )


def _ranks(result: EvaluationResult, query: int) -> list[int]:
    values = np.empty((1, result.scores.shape[1]), np.float32)
    result.scores.fill(query, query + 1, values)
    right, ignored = np.zeros(values.shape[1], bool), np.zeros(values.shape[1], bool)
    right[result.labels.positives_of(query)] = True
    ignored[result.labels.ignored(query)] = True
    return [int(rank) for rank in rank_positives(values[0], right, ignored)]
