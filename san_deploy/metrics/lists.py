"""The head of a query's rank list, to look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from .labels import RankingLabels
from .scores import Scores


@dataclass(frozen=True)
class RankList:
    """The first entries that one query found.

    Attributes:
        query: its number.
        gallery: `(K,)` int64, numbers of gallery crops, best first; those that do not count are left out.
        score: `(K,)` float32, as `Scores` gives it.
        positive: `(K,)` bool, whether it is the query's person.
    """

    query: int
    gallery: np.ndarray
    score: np.ndarray
    positive: np.ndarray


def rank_lists(
    scores: Scores, labels: RankingLabels, queries: Iterable[int], length: int = 10
) -> list[RankList]:
    """Rank lists of some queries, in the order that the metrics count by: of equals the wrong one first.

    Args:
        scores: how alike they are.
        labels: who is who.
        queries: numbers of queries.
        length: entries at most.
    """
    values = np.empty((1, scores.shape[1]), np.float32)
    result = []
    for query in queries:
        scores.fill(query, query + 1, values)
        right = np.zeros(scores.shape[1], bool)
        right[labels.positives_of(query)] = True
        kept = np.ones(scores.shape[1], bool)
        kept[labels.ignored(query)] = False
        entries = np.flatnonzero(kept)
        order = np.lexsort((right[entries], -values[0, entries]))[:length]
        gallery = entries[order]
        result.append(RankList(query, gallery, values[0, gallery], right[gallery]))
    return result
