"""What a threshold does on a user's own cameras: rates over people, F1 of the matches, or impostors alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..artefact import Threshold
from ..datasets.records import DISTRACTOR
from ..errors import SanError
from .accuracy import TrackToPid
from .assignment import assign
from .cameras import Camera
from .identity_accuracy import f1
from .similarity import edges_above
from .threshold import fraction_reaching, threshold_at

#: Fractions of people taken out of each camera, at random: nobody, three in ten, every second.
ABSENT = (0.0, 0.3, 0.5)
#: Thresholds that are looked at.
POINTS = 61
#: Resamples of people for an interval, and its level.
RESAMPLES, LEVEL = 400, 0.95
_DRAWS, _SEED = 10, 0
#: Similarities that the tail of the impostors is fitted to: the largest tenth.
_TAIL = 0.1


@dataclass(frozen=True)
class Interval:
    """Of `LEVEL`, over resampled people."""

    low: float
    high: float


@dataclass(frozen=True)
class OpenSet:
    """Matches at each threshold where some people are before one camera only.

    Attributes:
        absent: fraction of the people that was taken out of each camera.
        precision, recall: at each threshold of the study; precision is 1 where nothing matches.
        best: the threshold in the middle of those whose F1 is within half a point of the best.
    """

    absent: float
    precision: tuple[float, ...]
    recall: tuple[float, ...]
    best: float

    @property
    def f1(self) -> list[float]:
        """Harmonic mean of precision and recall at each threshold."""
        return [f1(p, r) for p, r in zip(self.precision, self.recall, strict=True)]


@dataclass(frozen=True)
class ThresholdStudy:
    """A threshold, and what it rests on.

    Attributes:
        threshold: chosen, with its rates and the curve.
        how: it was chosen, in words.
        similarity: thresholds that were looked at, ascending.
        false_match_interval, true_match_interval: of the rates at the threshold; None without labels.
        open_sets: one for each of `ABSENT`; empty without labels.
        people: with labels; 0 without.
        tracklets: of each camera.
    """

    threshold: Threshold
    how: str
    similarity: tuple[float, ...]
    false_match_interval: Interval | None
    true_match_interval: Interval | None
    open_sets: tuple[OpenSet, ...]
    people: int
    tracklets: dict[str, int]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Wish:
    """What a user asks of a threshold.

    Attributes:
        false_match_rate: that impostor pairs may have; None takes the best F1.
        absent: fraction of people whom only one camera sees, for the best F1; one of `ABSENT`.
        source: whose people they are, in words.
        mask: of the network.
        center: whether each camera's mean was taken off.
    """

    false_match_rate: float | None
    absent: float
    source: str
    mask: str
    center: bool


def study_labelled(cameras: Sequence[Camera], track_to_pid: TrackToPid, wish: Wish) -> ThresholdStudy:
    """Choose a threshold on people with labels.

    Args:
        cameras: two or more.
        track_to_pid: `{(camera, track): person}`; tracklets without a label are left out.
        wish: what is asked for.

    Raises:
        SanError: too few people or pairs for what is asked for.
    """
    pairs = _Pairs.of(cameras, track_to_pid)
    genuine, impostor = pairs.similarity[pairs.genuine], pairs.similarity[~pairs.genuine]
    if not len(genuine) or not len(impostor):
        raise SanError(
            f"{len(genuine)} genuine and {len(impostor)} impostor pairs say nothing about a threshold",
            do="label more people whom two cameras saw",
        )
    grid = _grid(genuine, impostor)
    sets = tuple(_open_set(cameras, track_to_pid, grid, absent) for absent in ABSENT)
    if wish.false_match_rate is None:
        value = next(item.best for item in sets if item.absent == wish.absent)
        how = f"best F1 of the matches where {wish.absent:.0%} of the people are before one camera only"
    else:
        value = threshold_at(impostor, wish.false_match_rate)
        how = f"false match rate of {wish.false_match_rate:g}"
    false_interval, true_interval = pairs.intervals(value)
    return ThresholdStudy(
        Threshold(
            similarity=value,
            false_match_rate=fraction_reaching(impostor, value),
            true_match_rate=fraction_reaching(genuine, value),
            impostor_pairs=len(impostor),
            genuine_pairs=len(genuine),
            source=f"{wish.source}, {pairs.people} people",
            mask=wish.mask,
            center=wish.center,
            curve=tuple((t, fraction_reaching(impostor, t), fraction_reaching(genuine, t)) for t in grid),
        ),
        how,
        tuple(grid),
        false_interval,
        true_interval,
        sets,
        pairs.people,
        {camera.name: len(camera.tracks) for camera in cameras},
    )


@dataclass(frozen=True)
class _Pairs:
    """Every pair of labelled tracklets of two cameras: persons by number, and similarity."""

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray
    genuine: np.ndarray
    people: int

    @classmethod
    def of(cls, cameras: Sequence[Camera], track_to_pid: TrackToPid) -> _Pairs:
        # Distractors are people of their own.
        number: dict[object, int] = {}
        pids = []
        for camera in cameras:
            own = np.full(len(camera.tracks), -1)
            for k, track in enumerate(camera.tracks.tolist()):
                pid = track_to_pid.get((camera.name, track))
                if pid is not None:
                    key = pid if pid != DISTRACTOR else (camera.name, track)
                    own[k] = number.setdefault(key, len(number))
            pids.append(own)
        first, second, values = [], [], []
        for (a, pids_a), (b, pids_b) in itertools.combinations(zip(cameras, pids, strict=True), 2):
            rows, columns = np.flatnonzero(pids_a >= 0), np.flatnonzero(pids_b >= 0)
            values.append((a.embedding[rows] @ b.embedding[columns].T).ravel())
            first.append(np.repeat(pids_a[rows], len(columns)))
            second.append(np.tile(pids_b[columns], len(rows)))
        one, two = np.concatenate(first), np.concatenate(second)
        return cls(one, two, np.concatenate(values), one == two, len(number))

    def intervals(self, threshold: float) -> tuple[Interval, Interval]:
        """Of the false and the true match rate: people are drawn with replacement, and their pairs with them."""
        reach = self.similarity >= np.float32(threshold)
        size = self.people
        code = self.first * size + self.second
        counts, hits = (
            np.bincount(code[mask], minlength=size * size).reshape(size, size).astype(np.float64)
            for mask in (np.ones(len(code), bool), reach)
        )
        own, own_hits = counts.diagonal().copy(), hits.diagonal().copy()
        np.fill_diagonal(counts, 0.0)
        np.fill_diagonal(hits, 0.0)
        rng = np.random.default_rng(_SEED)
        false, true = [], []
        for _ in range(RESAMPLES):
            weight = np.bincount(rng.integers(size, size=size), minlength=size).astype(np.float64)
            pairs = weight @ counts @ weight
            if pairs:
                false.append(weight @ hits @ weight / pairs)
            if weight @ own:
                true.append(weight @ own_hits / (weight @ own))
        return _interval(np.array(false)), _interval(np.array(true))


def _interval(values: np.ndarray) -> Interval:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(low), float(high))


def _grid(genuine: np.ndarray, impostor: np.ndarray) -> list[float]:
    """Thresholds from the impostors' median to the most similar genuine pair, evenly spaced."""
    low, high = float(np.median(impostor)), float(genuine.max())
    return [round(value, 4) for value in np.linspace(min(low, high - 0.05), high, POINTS).tolist()]


def _open_set(
    cameras: Sequence[Camera], track_to_pid: TrackToPid, grid: Sequence[float], absent: float
) -> OpenSet:
    labelled = [
        np.array([k for k, t in enumerate(camera.tracks.tolist()) if (camera.name, t) in track_to_pid])
        for camera in cameras
    ]
    pids = [
        np.array([track_to_pid[camera.name, str(camera.tracks[k])] for k in rows.tolist()])
        for camera, rows in zip(cameras, labelled, strict=True)
    ]
    rng = np.random.default_rng(_SEED)
    size = max(map(len, labelled))
    draws = 1 if absent == 0.0 else max(2, min(_DRAWS, 2_000_000 // max(1, size * size)))
    right, matched, possible = np.zeros((3, len(grid)))
    for _ in range(draws):
        kept = []
        for rows, people in zip(labelled, pids, strict=True):
            names = np.unique(people)
            gone = rng.permutation(names)[: round(absent * len(names))]
            keep = ~np.isin(people, gone)
            kept.append((rows[keep], people[keep]))
        for (a, (rows_a, pids_a)), (b, (rows_b, pids_b)) in itertools.combinations(
            zip(cameras, kept, strict=True), 2
        ):
            if not len(rows_a) or not len(rows_b):
                continue
            similarity = a.embedding[rows_a] @ b.embedding[rows_b].T
            same = (pids_a[:, None] == pids_b) & (pids_a[:, None] != DISTRACTOR)
            possible += min(same.any(axis=1).sum(), same.any(axis=0).sum())
            for k, threshold in enumerate(grid):
                match = assign(edges_above(similarity, threshold), similarity.shape, threshold)
                rows = np.flatnonzero(match >= 0)
                matched[k] += len(rows)
                right[k] += same[rows, match[rows]].sum()
    precision = np.where(matched > 0, right / np.maximum(matched, 1), 1.0)
    recall = right / np.maximum(possible, 1)
    score = np.array([f1(p, r) for p, r in zip(precision.tolist(), recall.tolist(), strict=True)])
    good = np.flatnonzero(score >= score.max() - 0.005)
    # The run of good ones that holds the best, not a second hill.
    best = int(score.argmax())
    run = [k for k in good.tolist() if not (set(range(min(k, best), max(k, best))) - set(good.tolist()))]
    return OpenSet(absent, tuple(precision.tolist()), tuple(recall.tolist()), grid[run[len(run) // 2]])


def study_unlabelled(cameras: Sequence[Camera], wish: Wish, rate: float) -> ThresholdStudy:
    """Choose a threshold for a false match rate without knowing anybody.

    Two tracklets of one camera that overlap in time are two people: they are the impostors. Where no times are known,
    all pairs of one camera are taken for impostors, which a person who comes back makes too careful. One camera's
    impostors are more alike than two cameras' are, so their upper tail is moved and scaled to where most pairs of
    different cameras lie: nearly all of these are of different people, too.

    Args:
        cameras: one or more.
        wish: source, mask and centring; its rate is not looked at.
        rate: false match rate to aim at.

    Raises:
        SanError: too few pairs for that rate.
    """
    within, timed = _within(cameras)
    if len(within) < max(20, np.ceil(1.0 / rate)):
        raise SanError(
            f"{len(within)} pairs of one camera are too few for a false match rate of {rate:g}",
            do="give more tracklets, a larger --fmr, or --labels",
        )
    across = [(a.embedding @ b.embedding.T).ravel() for a, b in itertools.combinations(cameras, 2)]
    shift, scale = 0.0, 1.0
    if across:
        middle, spread = _bulk(within)
        middle_across, spread_across = _bulk(np.concatenate(across))
        scale = spread_across / spread
        shift = middle_across - scale * middle
    moved = shift + scale * within
    value = threshold_at(moved, rate)
    grid = [
        round(t, 4)
        for t in np.linspace(float(np.median(moved)), max(value, float(moved.max())), POINTS).tolist()
    ]
    known = "that overlap in time" if timed else "of one camera, no times known"
    return ThresholdStudy(
        Threshold(
            similarity=value,
            false_match_rate=fraction_reaching(moved, value),
            true_match_rate=None,
            impostor_pairs=len(moved),
            genuine_pairs=0,
            source=f"{wish.source}, tracklets {known}, without labels",
            mask=wish.mask,
            center=wish.center,
        ),
        f"false match rate of {rate:g}, estimated without labels",
        tuple(grid),
        None,
        None,
        (),
        0,
        {camera.name: len(camera.tracks) for camera in cameras},
    )


def _within(cameras: Sequence[Camera]) -> tuple[np.ndarray, bool]:
    """Similarities of impostors of one camera, and whether it is known that they are."""
    timed = all(camera.start is not None for camera in cameras)
    found = []
    for camera in cameras:
        rows, columns = np.triu_indices(len(camera.tracks), 1)
        if camera.start is not None and camera.end is not None and timed:
            both = (camera.start[rows] <= camera.end[columns]) & (camera.start[columns] <= camera.end[rows])
            rows, columns = rows[both], columns[both]
        found.append(np.einsum("nd,nd->n", camera.embedding[rows], camera.embedding[columns]))
    return np.concatenate(found), timed


def _bulk(values: np.ndarray) -> tuple[float, float]:
    """Median, and how far the lowest tenth lies below it: genuine pairs, which are few and high, move neither."""
    low, middle = np.quantile(values, [0.1, 0.5])
    return float(middle), max(float(middle - low), 1e-6)
