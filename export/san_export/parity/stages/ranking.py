"""Whether people are ranked alike: by labels where there are any, and by each crop's nearest neighbours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from san_deploy import metrics
from san_deploy.errors import SanError
from san_deploy.metrics.nearest import nearest

from ..gates import Gates
from ..result import Check, RankingFigures, Stage
from ..sample import Labels

#: Neighbours that are compared.
_NEAREST = 10
#: Below every cosine.
_OWN = -2.0
#: With fewer tracklets there is nobody to choose among: then each crop stands for itself.
_TRACKLETS = 3
#: Points are differences of shares that were added up in floating point.
_DIGITS = 9


def compare_ranking(
    reference: np.ndarray, target: np.ndarray, tracks: Sequence[str], labels: Labels | None, gates: Gates
) -> Stage:
    """Rank both sides' rows among themselves and compare.

    Scores are FP32 inner products of unit rows on both sides. Equal scores are settled in the same way on both:
    against the right answer, and among neighbours by the lower number.

    A crop's neighbours are of other tracklets, and two crops of one tracklet are the same neighbour: frames of one
    person a moment apart are as good as equal, and which of them is nearer is noise.

    Args:
        reference: `(N, D)` float32 unit rows.
        target: `(N, D)` float32; brought to length 1 here, since their length has a gate of its own.
        tracks: names of the tracklets of the N crops.
        labels: of the N crops. With them, neighbours have a gate only where one was asked for.
        gates: what to reach. A gate finer than one query, or one crop, allows one.
    """
    with np.errstate(all="ignore"):
        length = np.linalg.norm(target, axis=1, keepdims=True)
        bad = int((~(np.isfinite(length) & (length > 0))).sum())
    if bad:
        return Stage(
            "ranking", None, skipped=f"{bad} rows of the target are zero or not finite: nothing to rank"
        )
    target = (target / length).astype(np.float32)
    notes: list[str] = []
    scores: tuple[dict[str, float], dict[str, float]] = ({}, {})
    queries = won = lost = 0
    if labels is not None:
        try:
            first, second = (_ranks(rows, labels) for rows in (reference, target))
        except SanError as error:
            notes.append(f"The labels rank nobody here: {error}")
        else:
            scores = _points(first), _points(second)
            queries = int((first.positives > 0).sum())
            won = int(((second.first == 1) & (first.first > 1)).sum())
            lost = int(((first.first == 1) & (second.first > 1)).sum())
    _, track = np.unique(np.array(tracks), return_inverse=True)
    if track.max() + 1 < _TRACKLETS:
        track = np.arange(len(reference))
        notes.append(f"With fewer than {_TRACKLETS} tracklets, each crop stands for a tracklet of its own.")
    alike, same, overlap = _neighbours(reference, target, track)
    if track.max() + 1 < len(track):
        notes.append(
            "Neighbours are of other tracklets, and crops of one tracklet count as one: the very same crop is the "
            f"nearest for {same.mean():.1%}."
        )
    figures = RankingFigures(
        labelled=bool(scores[0]),
        queries=queries,
        reference=scores[0],
        target=scores[1],
        won=won,
        lost=lost,
        top1_agreement=float(alike.mean()),
        top10_overlap=float(overlap.mean()),
    )
    checks = _label_checks(figures, gates) if figures.labelled else []
    if not figures.labelled or gates.asked & {"top1_agreement", "top10_overlap"}:
        checks += _neighbour_checks(figures, len(reference), gates)
    return Stage("ranking", figures, tuple(checks), notes=tuple(notes))


def _ranks(rows: np.ndarray, labels: Labels) -> metrics.QueryRanks:
    query, gallery = labels.query, labels.gallery
    answers = metrics.RankingLabels(
        query_person=labels.person[query],
        gallery_person=labels.person[gallery],
        query_camera=labels.camera[query],
        gallery_camera=labels.camera[gallery],
    )
    return metrics.rank_queries(metrics.Similarity(rows[query], rows[gallery]), answers)


def _points(ranks: metrics.QueryRanks) -> dict[str, float]:
    summary = ranks.summary()
    return {
        "rank1": 100 * summary.rank1,
        "mean_ap": 100 * summary.mean_ap,
        "mean_inp": 100 * summary.mean_inp,
    }


class _Others:
    """Scores of each crop with the crops of other tracklets; its own tracklet is below all."""

    def __init__(self, rows: np.ndarray, track: np.ndarray) -> None:
        self._scores = metrics.Similarity(rows, rows)
        self._track = track
        self.shape = self._scores.shape

    def fill(self, start: int, stop: int, out: np.ndarray) -> None:
        """As `Scores.fill`."""
        self._scores.fill(start, stop, out)
        out[self._track[start:stop, None] == self._track[None, :]] = _OWN


def _neighbours(
    reference: np.ndarray, target: np.ndarray, track: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What both sides have in common of each crop's nearest crops of other tracklets, `(N,)` each.

    Returns:
        Whether the nearest one is of the same tracklet; whether it is the very same crop; the share of the ten
        nearest that both have, crops of one tracklet taken as one.
    """
    count = min(_NEAREST, len(reference) - 1)
    first, second = (nearest(_Others(rows, track), count) for rows in (reference, target))
    overlap = []
    for one, two, score in zip(first.column, second.column, first.score, strict=True):
        # Where most crops are of one tracklet, there are fewer than ten others.
        there = int((score > _OWN).sum())
        both = Counter(track[one[:there]].tolist()) & Counter(track[two[:there]].tolist())
        overlap.append(both.total() / there)
    same = first.column[:, 0] == second.column[:, 0]
    return track[first.column[:, 0]] == track[second.column[:, 0]], same, np.array(overlap)


def _label_checks(figures: RankingFigures, gates: Gates) -> list[Check]:
    """A loss of less than one query is none that can be measured."""
    checks: list[Check] = []
    one = round(100 / figures.queries, _DIGITS)
    for gate, key, name in (
        ("rank1_drop", "rank1", "rank-1"),
        ("map_drop", "mean_ap", "mAP"),
        ("minp_drop", "mean_inp", "mINP"),
    ):
        before, after = figures.reference[key], figures.target[key]
        told = f"{name} from {before:.2f} to {after:.2f} % over {figures.queries} queries"
        asked = gates.limits.get(gate, one)
        if asked < one:
            told += f"; {asked:g} points are less than one query, which may be lost"
        checks += gates.check(gate, round(before - after, _DIGITS), told, limit=max(asked, one))
    return checks


def _neighbour_checks(figures: RankingFigures, crops: int, gates: Gates) -> list[Check]:
    checks: list[Check] = []
    least = round(1 - 1 / crops, _DIGITS)
    asked = gates.limits.get("top1_agreement", least)
    told = f"{figures.top1_agreement:.2%} of {crops} crops have the same nearest neighbour"
    if asked > least:
        told += f"; {asked:g} is finer than one crop, which may differ"
    value = round(figures.top1_agreement, _DIGITS)
    checks += gates.check("top1_agreement", value, told, limit=min(asked, least))
    told = f"{figures.top10_overlap:.2%} of the {min(_NEAREST, crops - 1)} nearest neighbours are the same"
    return [*checks, *gates.check("top10_overlap", round(figures.top10_overlap, _DIGITS), told)]
