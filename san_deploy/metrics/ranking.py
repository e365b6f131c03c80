"""CMC, mAP and mINP: only the ranks of each query's positives are found, nothing is sorted in full."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .labels import RankingLabels
from .scores import Scores, Similarity, tiles

#: Which of the definitions in use `mean_ap` is; to be printed beside it.
AP_DEFINITION = (
    "average precision: the mean of the precision at the rank of each right answer "
    "(not the trapezoid of Market-1501's MATLAB code)"
)
#: Values that are sorted rather than counted threshold by threshold.
_FEW = 1024
#: Thresholds that are counted one by one at most.
_MANY = 64


@dataclass(frozen=True)
class Ranking:
    """CMC, mAP and mINP of one evaluation.

    Attributes:
        cmc: share of queries whose first positive is within the first 1, 2, 3, ...
        mean_ap: mean over queries of the average precision, see `AP_DEFINITION`.
        mean_inp: mean over queries of positives / rank of the last one (Ye et al., arXiv 2001.04193).
        queries: queries that count.
        distractors: queries that are themselves distractors or junk; they are left out, as are the next two.
        absent: queries whose person is not in the gallery.
        same_camera: queries whose person was seen by no other camera.
    """

    cmc: tuple[float, ...]
    mean_ap: float
    mean_inp: float
    queries: int
    distractors: int
    absent: int
    same_camera: int

    def rank(self, k: int) -> float:
        """CMC at rank `k`, from 1; the last that was asked for where `k` is beyond it."""
        return self.cmc[min(k, len(self.cmc)) - 1]

    @property
    def rank1(self) -> float:
        """Share of queries whose first answer is right."""
        return self.rank(1)

    @property
    def rank5(self) -> float:
        """Share of queries with a positive within the first five."""
        return self.rank(5)

    @property
    def rank10(self) -> float:
        """Share of queries with a positive within the first ten."""
        return self.rank(10)

    @property
    def rank20(self) -> float:
        """Share of queries with a positive within the first twenty."""
        return self.rank(20)

    @property
    def unanswerable(self) -> int:
        """Queries without any positive in the gallery; they are left out."""
        return self.distractors + self.absent + self.same_camera

    def explain(self) -> str:
        """Which queries were left out and why, in a sentence; empty where all count."""
        reasons = [
            f"{count} {why}"
            for count, why in (
                (self.distractors, "of nobody in particular (distractors or junk)"),
                (self.absent, "of people whom the gallery does not hold"),
                (self.same_camera, "of people whom no other camera saw"),
            )
            if count
        ]
        if not reasons:
            return ""
        every = self.queries + self.unanswerable
        return f"{self.unanswerable} of {every} queries are left out: {', '.join(reasons)}"

    def as_dict(self) -> dict[str, float]:
        """Flat, for JSON; of the CMC the ranks 1, 5, 10 and 20."""
        return {f"rank{k}": self.rank(k) for k in (1, 5, 10, 20)} | {
            "mean_ap": self.mean_ap,
            "mean_inp": self.mean_inp,
            "queries": self.queries,
            "unanswerable": self.unanswerable,
            "strangers": self.distractors,
            "absent": self.absent,
            "same_camera": self.same_camera,
        }


@dataclass(frozen=True)
class QueryRanks:
    """How each query fared.

    Attributes:
        first: `(Q,)` int64, rank of the first positive, from 1; 0 where the query does not count.
        last: `(Q,)` int64, rank of the last one; 0 where the query does not count.
        average_precision: `(Q,)` float64; NaN where the query does not count.
        positives: `(Q,)` int64, positives.
        excluded: `(Q,)` int8, why a query does not count, see `RankingLabels.excluded`.
    """

    first: np.ndarray
    last: np.ndarray
    average_precision: np.ndarray
    positives: np.ndarray
    excluded: np.ndarray

    def summary(self, ranks: int = 50) -> Ranking:
        """The means over the queries that count.

        Args:
            ranks: length of the CMC curve, at least 1.
        """
        counts = self.positives > 0
        queries = int(counts.sum())
        distractors, absent, same_camera = (
            int((self.excluded == reason).sum())
            for reason in (RankingLabels.NOT_A_PERSON, RankingLabels.ABSENT, RankingLabels.SAME_CAMERA)
        )
        hits = np.bincount(np.minimum(self.first[counts], ranks + 1), minlength=ranks + 2)
        return Ranking(
            cmc=tuple((np.cumsum(hits[1 : ranks + 1]) / queries).tolist()),
            mean_ap=float(self.average_precision[counts].mean()),
            mean_inp=float((self.positives[counts] / self.last[counts]).mean()),
            queries=queries,
            distractors=distractors,
            absent=absent,
            same_camera=same_camera,
        )


def evaluate(
    query: np.ndarray,
    gallery: np.ndarray,
    *,
    query_person: np.ndarray,
    gallery_person: np.ndarray,
    query_camera: np.ndarray,
    gallery_camera: np.ndarray,
) -> Ranking:
    """Market-1501's protocol on inner products, by the rules of `RankingLabels`; ties as in `rank_positives`.

    Args:
        query: `(Q, D)` embeddings of norm 1; ranked in FP32 whatever their type.
        gallery: `(G, D)` embeddings of norm 1.
        query_person: `(Q,)` int.
        gallery_person: `(G,)` int.
        query_camera: `(Q,)` of any comparable type.
        gallery_camera: `(G,)` of the same type.

    Raises:
        SanError: an embedding is not finite, or no query has a positive.
    """
    labels = RankingLabels(
        query_person=query_person,
        gallery_person=gallery_person,
        query_camera=query_camera,
        gallery_camera=gallery_camera,
    )
    return rank_queries(Similarity(query, gallery), labels).summary()


def evaluate_among(embedding: np.ndarray, *, person: np.ndarray, camera: np.ndarray) -> Ranking:
    """`evaluate` where every crop is a query against all the others.

    Args:
        embedding: `(N, D)` embeddings of norm 1.
        person: `(N,)` int.
        camera: `(N,)` of any comparable type.

    Raises:
        SanError: as `evaluate`.
    """
    return evaluate(
        embedding,
        embedding,
        query_person=person,
        gallery_person=person,
        query_camera=camera,
        gallery_camera=camera,
    )


def rank_queries(
    scores: Scores, labels: RankingLabels, progress: Callable[[int], object] | None = None
) -> QueryRanks:
    """Find the ranks of the positives of every query; ties as in `rank_positives`.

    Args:
        scores: how alike they are.
        labels: who is who.
        progress: called with how many more queries are done.

    Raises:
        SanError: no query has a positive.
    """
    labels.require()
    if scores.shape != labels.shape:
        raise ValueError(f"scores are {scores.shape}, labels {labels.shape}")
    queries = scores.shape[0]
    first, last = np.zeros(queries, np.int64), np.zeros(queries, np.int64)
    precision = np.full(queries, np.nan)
    numbers = np.arange(1, 1 + labels.positives.max(initial=0))
    for start, tile in tiles(scores):
        for query, values in enumerate(tile, start):
            if not labels.positives[query]:
                continue
            index = labels.positives_of(query)
            right = np.sort(values[index])
            values[index] = values[labels.ignored(query)] = -np.inf
            ranks = count_not_below(values, right)[::-1] + numbers[: len(right)]
            first[query], last[query] = ranks[0], ranks[-1]
            precision[query] = np.add.reduce(numbers[: len(right)] / ranks) / len(right)
        if progress:
            progress(len(tile))
    return QueryRanks(first, last, precision, labels.positives, labels.excluded)


def rank_positives(similarity: np.ndarray, positive: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Ranks, from 1, of the positives of one query.

    Ties are pessimistic: a negative that is exactly as similar as a positive stands before it, so
    the result depends on no sorting order.

    Args:
        similarity: `(G,)` float32, larger is more alike.
        positive: `(G,)` bool, the positives.
        ignored: `(G,)` bool, entries that do not count (same person, same camera).

    Returns:
        `(P,)` int64, ascending.
    """
    right = np.sort(similarity[positive & ~ignored])
    wrong = similarity[~positive & ~ignored]
    return count_not_below(wrong, right)[::-1] + np.arange(1, len(right) + 1)


def count_not_below(values: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """How many values are at least as large as each threshold.

    Counting at one threshold reads the values once, some fifty times cheaper than sorting them. Values below
    a threshold are of no use to those above it, so that soon few enough are left to sort.

    Args:
        values: `(N,)` float.
        thresholds: `(P,)` of the same type, ascending.

    Returns:
        `(P,)` int64, descending.
    """
    counts = np.empty(len(thresholds), np.int64)
    for k, threshold in enumerate(thresholds):
        if len(values) <= _FEW or len(thresholds) - k > _MANY:
            counts[k:] = len(values) - np.sort(values).searchsorted(thresholds[k:], "left")
            break
        reach = values >= threshold
        counts[k] = count = np.count_nonzero(reach)
        if 2 * count <= len(values):
            values = values.compress(reach)
    return counts
