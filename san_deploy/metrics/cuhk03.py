"""CUHK03's single-gallery-shot protocol: one gallery crop per person, drawn at random (Li et al., CVPR 2014).

Published figures are means of a few draws. Here the expectation over all draws is computed exactly. Given the
crop drawn for the query's person, another person stands before it with the probability that the crop drawn
for him is at least as similar. People are drawn independently: nobody stands before it with the product of
the opposites (rank-1), and at most k - 1 people do by a Poisson-binomial sum (rank-k).

A gallery with one positive has no use for AP (its mean would never be below rank-1, as published figures
are). Papers give that of the whole gallery, which is `Ranking.mean_ap`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .labels import DISTRACTOR, RankingLabels
from .ranking import count_not_below
from .scores import Scores, tiles

#: What is averaged over, and what is drawn; see `single_shot`.
By = Literal["person", "query"]
#: Cells (people x thresholds) that are worked on at once; 8 bytes each.
_BLOCK_CELLS = 2_000_000


@dataclass(frozen=True)
class SingleShot:
    """Single-gallery-shot CMC.

    Attributes:
        cmc: probability, or mean over draws, of a positive within the first 1, 2, 3, ...
        spread: standard deviation over the draws that were made; empty for the exact expectation.
        draws: number of draws that were made; 0 for the exact expectation.
        by: what was averaged over, see `single_shot`.
        queries: queries that have a positive.
        people: persons among them.
    """

    cmc: tuple[float, ...]
    spread: tuple[float, ...]
    draws: int
    by: By
    queries: int
    people: int

    def rank(self, k: int) -> float:
        """CMC at rank `k`, from 1; the last that was asked for where `k` is beyond it."""
        return self.cmc[min(k, len(self.cmc)) - 1]


def single_shot(
    scores: Scores,
    labels: RankingLabels,
    *,
    by: By = "person",
    ranks: int = 50,
    progress: Callable[[int], object] | None = None,
) -> SingleShot:
    """The exact expectation of the single-gallery-shot CMC; of equals the wrong one stands first.

    One gallery crop is drawn for each person, for the query's own person one by another camera. Every
    distractor stands in the gallery; junk does not.

    - `person`, the SAN paper's draw: for each person one query, uniformly, then one gallery crop by another
      camera, uniformly; everybody's query is ranked against everybody's gallery crop. The mean is over
      people. `draw_single_shot` makes such draws.
    - `query`, CUHK03's metric as torchreid and FastReID compute it, with ten draws: each query has a gallery
      of its own, in which other people's crops are drawn uniformly. The mean is over queries.

    Args:
        scores: how alike they are.
        labels: who is who.
        by: which of the two.
        ranks: length of the CMC curve, at least 1.
        progress: called with how many more queries are done.

    Raises:
        SanError: no query has a positive.
    """
    labels.require()
    gallery = _Gallery(labels, by)
    weight = _query_weights(labels, by)
    most = 1 + int(labels.positives.max())
    height = max(1, _BLOCK_CELLS // (most * gallery.people))
    total = np.zeros(ranks)
    for start, tile in tiles(scores):
        for low in range(0, len(tile), height):
            part = tile[low : low + height]
            total += _expectation(part, start + low, labels, gallery, weight, ranks)
        if progress:
            progress(len(tile))
    return _result(labels, by, total)


def draw_single_shot(
    scores: Scores, labels: RankingLabels, *, draws: int = 20, seed: int = 0, ranks: int = 50
) -> SingleShot:
    """Literal draws as the SAN paper makes them; their expectation is `single_shot`'s by `person`.

    Args:
        scores: how alike they are.
        labels: who is who.
        draws: how many, at least 1.
        seed: of the generator; one seed, one result.
        ranks: length of the CMC curve, at least 1.

    Raises:
        SanError: no query has a positive.
    """
    labels.require()
    rng = np.random.default_rng(seed)
    gallery = _Gallery(labels, "query")
    asked = np.flatnonzero(labels.positives)
    probes_of = [asked[labels.query_person[asked] == p] for p in np.unique(labels.query_person[asked])]
    crops_of = [np.flatnonzero(gallery.person == code) for code in range(gallery.people)]
    drawn = np.empty((draws, len(crops_of)), np.int64)
    picks = np.empty((draws, len(probes_of)), np.int64)
    uses: dict[int, list[tuple[int, int]]] = {}
    for draw in range(draws):
        for k, choice in enumerate(probes_of):
            probe = int(rng.choice(choice))
            picks[draw, k] = rng.choice(labels.positives_of(probe))
            uses.setdefault(probe, []).append((draw, k))
        drawn[draw] = [rng.choice(choice) for choice in crops_of]
        drawn[draw, gallery.person[picks[draw]]] = picks[draw]
    rank = np.empty(picks.shape, np.int64)
    for start, tile in tiles(scores):
        for query, values in enumerate(tile, start):
            for draw, k in uses.get(query, ()):
                answer = values[picks[draw, k]]
                rank[draw, k] = np.count_nonzero(values[drawn[draw]] >= answer)
                rank[draw, k] += np.count_nonzero(values[gallery.distractors] >= answer)
    curves = (rank[:, :, None] <= np.arange(1, ranks + 1)).mean(axis=1)
    return _result(labels, "person", curves.mean(axis=0), draws, tuple(curves.std(axis=0).tolist()))


def _result(
    labels: RankingLabels, by: By, cmc: np.ndarray, draws: int = 0, spread: tuple[float, ...] = ()
) -> SingleShot:
    counts = labels.positives > 0
    people = len(np.unique(labels.query_person[counts]))
    return SingleShot(tuple(cmc.tolist()), spread, draws, by, int(counts.sum()), people)


class _Gallery:
    """Who may be drawn.

    Attributes:
        person: `(G,)` int64, persons numbered from 0; -1 for distractors and junk.
        people: number of persons.
        chance: `(G,)` float64, of being the crop drawn for its person; 0 for distractors and junk.
        distractors: `(K,)` int64.
    """

    def __init__(self, labels: RankingLabels, by: By) -> None:
        given = labels.gallery_person
        self.distractors = np.flatnonzero(given == DISTRACTOR)
        real = given != DISTRACTOR
        real[labels.junk] = False
        names, code, size = np.unique(given[real], return_inverse=True, return_counts=True)
        self.people = len(names)
        self.person = np.full(len(given), -1, np.int64)
        self.person[real] = code
        self.chance = np.zeros(len(given))
        self.chance[real] = 1.0 / size[code]
        if by == "person":
            self._condition_on_queries(labels)

    def _condition_on_queries(self, labels: RankingLabels) -> None:
        # A person's gallery crop depends on the query drawn for him: it is by another camera.
        asked = np.flatnonzero(labels.positives)
        weight = _query_weights(labels, "person") * len(np.unique(labels.query_person[asked]))
        self.chance[np.isin(labels.gallery_person, labels.query_person[asked])] = 0.0
        for query in asked.tolist():
            right = labels.positives_of(query)
            self.chance[right] += weight[query] / len(right)


def _query_weights(labels: RankingLabels, by: By) -> np.ndarray:
    """`(Q,)` float64 that sum to 1; 0 for queries that do not count."""
    counts = labels.positives > 0
    weight = np.zeros(len(counts))
    if by == "query":
        weight[counts] = 1.0 / counts.sum()
    else:
        people, code, size = np.unique(labels.query_person[counts], return_inverse=True, return_counts=True)
        weight[counts] = 1.0 / (len(people) * size[code])
    return weight


def _expectation(
    tile: np.ndarray, start: int, labels: RankingLabels, gallery: _Gallery, weight: np.ndarray, ranks: int
) -> np.ndarray:
    """Sum over the queries of a tile of weight x CMC, `(ranks,)`; overwrites the tile."""
    chances, certain, weights = [], [], []
    for query, values in enumerate(tile, start):
        if not labels.positives[query]:
            continue
        index = labels.positives_of(query)
        right = np.sort(values[index])
        values[index] = values[labels.ignored(query)] = -np.inf
        certain.append(count_not_below(values[gallery.distractors], right))
        values[gallery.distractors] = -np.inf
        rivals = np.flatnonzero(values >= right[0])
        # How many of the positives each rival stands before; then that by person: (people, P + 1).
        reached = right.searchsorted(values[rivals], "right")
        mass = np.bincount(
            gallery.person[rivals] * (len(right) + 1) + reached,
            weights=gallery.chance[rivals],
            minlength=gallery.people * (len(right) + 1),
        ).reshape(gallery.people, -1)
        chances.append(mass[:, ::-1].cumsum(axis=1)[:, -2::-1])
        weights.append(np.full(len(right), weight[query] / len(right)))
    if not chances:
        return np.zeros(ranks)
    before = np.minimum(np.concatenate(chances, axis=1), 1.0)  # (people, positives of all queries)
    # exactly[k]: the probability that k of the people seen so far, and all distractors, stand before.
    exactly = np.zeros((ranks + 1, before.shape[1]))
    exactly[np.minimum(np.concatenate(certain), ranks), np.arange(before.shape[1])] = 1.0
    for p in before[before.any(axis=1)]:
        exactly[1:] += p * (exactly[:-1] - exactly[1:])
        exactly[0] *= 1.0 - p
    return np.cumsum(exactly[:ranks] @ np.concatenate(weights))
