"""Whether people are ranked alike: by labels where there are any, and by each crop's nearest neighbours.

Rounding moves every similarity a little, so crops that are as good as equally near change places: that is no
difference. `similarity_noise` measures that little, and neighbours count as different beyond it only. With labels, what
counts is what people lose: the loss of each query, with an interval by bootstrap over people, since the crops of one
person are won and lost together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from san_deploy import metrics
from san_deploy.errors import SanError
from san_deploy.metrics.nearest import Neighbours, nearest

from ..gates import Gates
from ..result import Check, RankingFigures, Stage
from ..sample import SampleLabels

#: Neighbours that are compared.
_NEAREST = 10
#: Below every cosine.
_OWN = -2.0
#: With fewer tracklets there is nobody to choose among: then each crop stands for itself.
_TRACKLETS = 3
#: Points are differences of shares that were added up in floating point.
_DIGITS = 9
#: With fewer people an interval over people says little.
FEW_PEOPLE = 10
#: Two similarities this many of their standard deviations apart are not equal.
_DEVIATIONS = 2.0
#: Draws of the bootstrap.
_DRAWS = 2_000
_SCORES = (
    ("rank1_drop", "rank1", "rank-1"),
    ("map_drop", "mean_ap", "mAP"),
    ("minp_drop", "mean_inp", "mINP"),
)


def compare_ranking(
    reference: np.ndarray,
    target: np.ndarray,
    tracks: Sequence[str],
    labels: SampleLabels | None,
    gates: Gates,
) -> Stage:
    """Rank both models' rows among themselves and compare.

    Scores are FP32 inner products of unit rows in both. Equal scores are settled in the same way in both: against
    the right answer, and among neighbours by the lower number.

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
    won_and_lost = None if labels is None else _ranked(reference, target, labels, notes)
    alike = _compare_neighbours(reference, target, tracks, gates, notes)
    figures = RankingFigures(
        labelled=won_and_lost is not None,
        queries=won_and_lost.queries if won_and_lost else 0,
        people=won_and_lost.people if won_and_lost else 0,
        reference=won_and_lost.reference if won_and_lost else {},
        target=won_and_lost.target if won_and_lost else {},
        interval=won_and_lost.interval if won_and_lost else {},
        won=won_and_lost.won if won_and_lost else 0,
        lost=won_and_lost.lost if won_and_lost else 0,
        noise=alike.noise,
        top1_agreement=alike.top1,
        top10_overlap=alike.top10,
        ties=alike.ties,
    )
    checks = _label_checks(figures, gates) if figures.labelled else []
    if not figures.labelled or gates.asked & {"top1_agreement", "top10_overlap"}:
        checks += _neighbour_checks(figures, len(reference), gates)
    return Stage("ranking", figures, tuple(checks), notes=tuple(notes))


def similarity_noise(before: np.ndarray, after: np.ndarray, dim: int, gates: Gates) -> float:
    """Standard deviation of how far the target's rounding moves the similarity of two crops.

    Measured over pairs, robustly: a few rows that are far off do not count as noise. At most what rows give that just
    hold their gate: an error vector of length e = sqrt(2 - 2 cos) in each of two rows of D numbers, in any direction,
    moves their inner product by sqrt(2 / D) e.

    Args:
        before: similarities of pairs of crops in the reference.
        after: of the same pairs in the target.
        dim: D.
        gates: on the rows' cosines.
    """
    # The median of a normal distribution's absolute values is at 0.6745 standard deviations.
    measured = float(np.median(np.abs(after.astype(np.float64) - before))) / 0.6745
    cosines = [
        gates.limits[name] for name in ("min_cosine", "mean_cosine", "p1_cosine") if name in gates.limits
    ]
    if not cosines:
        return measured
    error = np.sqrt(max(0.0, 2.0 - 2.0 * max(cosines)))
    return min(measured, float(np.sqrt(2.0 / dim) * error))


class _Ranked(NamedTuple):
    queries: int
    people: int
    reference: dict[str, float]
    target: dict[str, float]
    interval: dict[str, tuple[float, float]]
    won: int
    lost: int


def _ranked(
    reference: np.ndarray, target: np.ndarray, labels: SampleLabels, notes: list[str]
) -> _Ranked | None:
    """What queries find; None, with a note, where the labels rank nobody."""
    try:
        first, second = (_ranks(rows, labels) for rows in (reference, target))
    except SanError as error:
        notes.append(f"The labels rank nobody here: {error}")
        return None
    counts = first.positives > 0
    person = labels.person[labels.query][counts]
    before, after = (_values(ranks, counts) for ranks in (first, second))
    interval = {key: bootstrap_over_people(before[key] - after[key], person) for key in before}
    people = len(set(person.tolist()))
    if people < FEW_PEOPLE:
        notes.append(
            f"The queries are of {people} people: with fewer than {FEW_PEOPLE}, the ranking proves little."
        )
    return _Ranked(
        queries=int(counts.sum()),
        people=people,
        reference={key: float(values.mean()) for key, values in before.items()},
        target={key: float(values.mean()) for key, values in after.items()},
        interval=interval,
        won=int(((second.first == 1) & (first.first > 1)).sum()),
        lost=int(((first.first == 1) & (second.first > 1)).sum()),
    )


def _ranks(rows: np.ndarray, labels: SampleLabels) -> metrics.QueryRanks:
    query, gallery = labels.query, labels.gallery
    known = metrics.RankingLabels(
        query_person=labels.person[query],
        gallery_person=labels.person[gallery],
        query_camera=labels.camera[query],
        gallery_camera=labels.camera[gallery],
    )
    return metrics.rank_queries(metrics.Similarity(rows[query], rows[gallery]), known)


def _values(ranks: metrics.QueryRanks, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Of each query that counts, in percent."""
    return {
        "rank1": 100.0 * (ranks.first[counts] == 1),
        "mean_ap": 100.0 * ranks.average_precision[counts],
        "mean_inp": 100.0 * ranks.positives[counts] / ranks.last[counts],
    }


def bootstrap_over_people(loss: np.ndarray, person: np.ndarray) -> tuple[float, float]:
    """The 95 % interval of a mean over queries, people drawn with replacement, each with all their queries.

    Args:
        loss: `(Q,)` of each query.
        person: `(Q,)` who is asked for.
    """
    _, group = np.unique(person, return_inverse=True)
    total, size = np.bincount(group, loss), np.bincount(group)
    drawn = np.random.default_rng(0).multinomial(len(size), np.full(len(size), 1 / len(size)), _DRAWS)
    means = (drawn @ total) / (drawn @ size)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


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


class _Alike(NamedTuple):
    noise: float
    top1: float
    top10: float
    ties: int


def _compare_neighbours(
    reference: np.ndarray, target: np.ndarray, tracks: Sequence[str], gates: Gates, notes: list[str]
) -> _Alike:
    """What both models have in common of each crop's nearest crops of other tracklets."""
    _, track = np.unique(np.array(tracks), return_inverse=True)
    if track.max() + 1 < _TRACKLETS:
        track = np.arange(len(reference))
        notes.append(f"With fewer than {_TRACKLETS} tracklets, each crop stands for a tracklet of its own.")
    count = min(_NEAREST, len(reference) - 1)
    first, second = (nearest(_Others(rows, track), count) for rows in (reference, target))
    # Of neighbours, since the similarity of crops that are alike moves less.
    after = np.einsum("nd,nkd->nk", target, target[first.column])
    others = first.score > _OWN
    noise = similarity_noise(first.score[others], after[others], reference.shape[1], gates)
    # The difference of two similarities has sqrt(2) of the noise of one.
    equal = _DEVIATIONS * np.sqrt(2.0) * noise
    # How near the reference finds the target's neighbours.
    known = np.einsum("nd,nkd->nk", reference, reference[second.column])
    same = track[first.column[:, 0]] == track[second.column[:, 0]]
    tied = ~same & (known[:, 0] >= first.score[:, 0] - equal)
    overlap = [_shared(row, first, second, track, known[row], equal) for row in range(len(reference))]
    if track.max() + 1 < len(track):
        exact = float((first.column[:, 0] == second.column[:, 0]).mean())
        notes.append(
            "Neighbours are of other tracklets, and crops of one tracklet count as one: the very same crop is the "
            f"nearest for {exact:.1%}."
        )
    return _Alike(noise, float((same | tied).mean()), float(np.mean(overlap)), int(tied.sum()))


def _shared(
    row: int, first: Neighbours, second: Neighbours, track: np.ndarray, known: np.ndarray, equal: float
) -> float:
    """Share of a crop's nearest that both have; what is as near as the reference's last one is shared, too."""
    # Where most crops are of one tracklet, there are fewer than ten others.
    there = int((first.score[row] > _OWN).sum())
    wanted = Counter(track[first.column[row, :there]].tolist())
    last = first.score[row, there - 1] - equal
    own = set(first.column[row, :there].tolist())
    shared = 0
    for column, score in zip(second.column[row, :there], known, strict=False):
        of = int(track[column])
        if wanted[of] > 0:
            wanted[of] -= 1
            shared += 1
        elif score >= last and column not in own:
            shared += 1
    return shared / there


def _label_checks(figures: RankingFigures, gates: Gates) -> list[Check]:
    """A loss of less than one query cannot be measured; nor one that another choice of people may make a gain.

    Where a user set the gate, the loss itself has to hold it.
    """
    checks: list[Check] = []
    one = round(100 / figures.queries, _DIGITS)
    for gate, key, name in _SCORES:
        before, after = figures.reference[key], figures.target[key]
        low, high = figures.interval[key]
        loss = round(before - after, _DIGITS)
        message = (
            f"{name} from {before:.2f} to {after:.2f} % over {figures.queries} queries of {figures.people} people, a "
            f"loss of {low:.2f} to {high:.2f} points by bootstrap over people"
        )
        limit = max(gates.limits.get(gate, one), one)
        if gates.limits.get(gate, one) < one:
            message += f"; {gates.limits[gate]:g} points are less than one query, which may be lost"
        if gate not in gates.asked and loss > limit and low < 0:
            message += ": other people may as well gain"
            limit = loss
        checks += gates.check(gate, loss, message, limit=limit)
    return checks


def _neighbour_checks(figures: RankingFigures, crops: int, gates: Gates) -> list[Check]:
    checks: list[Check] = []
    least = round(1 - 1 / crops, _DIGITS)
    asked = gates.limits.get("top1_agreement", least)
    message = f"{figures.top1_agreement:.2%} of {crops} crops have the same nearest neighbour"
    if figures.ties:
        message += f", {figures.ties} of them up to rounding"
    if asked > least:
        message += f"; {asked:g} is finer than one crop, which may differ"
    value = round(figures.top1_agreement, _DIGITS)
    checks += gates.check("top1_agreement", value, message, limit=min(asked, least))
    message = f"{figures.top10_overlap:.2%} of the {min(_NEAREST, crops - 1)} nearest neighbours are the same"
    return [*checks, *gates.check("top10_overlap", round(figures.top10_overlap, _DIGITS), message)]
