"""From embedded cameras to matched tracklets, each pair of cameras on its own, and people over all of them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import UsageError
from .assignment import assign_all
from .cameras import Camera, check_names
from .similarity import NEAREST, Edges, Nearest, PairRule, full_matrix, search
from .sources import Reading, embed_sources, read_sources

if TYPE_CHECKING:
    from ..artefact import Threshold
    from ..backends import Backend

#: Why a tracklet has no match, in matches.csv.
TAKEN, BELOW, FORBIDDEN = "taken", "below the threshold", "forbidden"


@dataclass(frozen=True)
class Candidate:
    """A tracklet of the other camera and its cosine similarity."""

    track: str
    similarity: float


@dataclass(frozen=True)
class MatchRow:
    """One line of matches.csv: a matched pair, or a tracklet without a match beside its best candidate.

    `track_a` is always the tracklet that the row is about. So an unmatched tracklet of the second camera
    has the second camera as `camera_a`, and no `track_a` comes twice with the same two cameras in this order.

    Attributes:
        camera_a, track_a: the tracklet.
        camera_b, track_b: its match; or its most similar tracklet of the other camera, where it has none.
        similarity: cosine of the two, -1..1.
        matched: whether they are a match.
        runners_up_a: for `track_a`, the next tracklets of `camera_b`, best first, without `track_b`.
        runners_up_b: likewise for `track_b` in `camera_a`; empty where there is no match.
        reason: why there is no match: the best candidate is `taken` by a better one, `below the threshold`, or
            `forbidden` by time, by place or by the user; empty for a match.
        margin: of a match, how much more similar it is than the better runner-up of either side; infinite where
            there is no runner-up. 0 without a match.
        unsure: whether the margin is smaller than the noise of the similarities.
    """

    camera_a: str
    track_a: str
    camera_b: str
    track_b: str
    similarity: float
    matched: bool
    runners_up_a: tuple[Candidate, ...] = ()
    runners_up_b: tuple[Candidate, ...] = ()
    reason: str = ""
    margin: float = 0.0
    unsure: bool = False


@dataclass(frozen=True)
class PairMatching:
    """Two cameras, matched.

    Attributes:
        camera_a, camera_b: names, in the order the user gave them.
        tracks_a, tracks_b: `(A,)` and `(B,)` unicode, the tracklets of either, sorted.
        threshold: similarity below which nothing matches.
        nearest_a, nearest_b: the most similar tracklets of the other camera, for each of either.
        edges: pairs at or above the threshold of which one is among the nearest of the other.
        edge_count: how many pairs are at or above the threshold in all.
        match_of_a: `(A,)` int64, the tracklet of camera_b matched to every one of camera_a, -1 for no match.
        similarity_of_a: `(A,)` float32, of the match; of the most similar tracklet where there is none.
        margin_of_a: `(A,)` float32, see `MatchRow.margin`.
        noise: standard deviation of a margin that comes from which crops a tracklet has; 0 where it is not known.
        allowed_of_a, allowed_of_b: `(A,)` and `(B,)` bool, whether the most similar tracklet may be the match.
        similarity: `(A, B)` float32, cosine of every pair; None unless it was asked for.
    """

    camera_a: str
    camera_b: str
    tracks_a: np.ndarray
    tracks_b: np.ndarray
    threshold: float
    nearest_a: Nearest
    nearest_b: Nearest
    edges: Edges
    edge_count: int
    match_of_a: np.ndarray
    similarity_of_a: np.ndarray
    margin_of_a: np.ndarray
    noise: float
    allowed_of_a: np.ndarray
    allowed_of_b: np.ndarray
    similarity: np.ndarray | None = None

    @property
    def key(self) -> str:
        """`cam1|cam2`, its name in similarity.npz."""
        return f"{self.camera_a}|{self.camera_b}"

    @property
    def matched(self) -> int:
        """Number of matched pairs."""
        return int((self.match_of_a >= 0).sum())

    @property
    def unsure(self) -> np.ndarray:
        """`(A,)` bool, matches whose margin is smaller than the noise."""
        result: np.ndarray = (self.match_of_a >= 0) & (self.margin_of_a < self.noise)
        return result

    @property
    def match_of_b(self) -> np.ndarray:
        """`(B,)` int64, the tracklet of camera_a matched to every one of camera_b, -1 for no match."""
        result = np.full(len(self.tracks_b), -1, np.int64)
        rows = np.flatnonzero(self.match_of_a >= 0)
        result[self.match_of_a[rows]] = rows
        return result

    def swapped(self) -> PairMatching:
        """The same matches, seen from camera_b."""
        match = self.match_of_b
        own = match >= 0
        similarity = self.nearest_b.similarity[:, 0].copy()
        similarity[own] = self.similarity_of_a[match[own]]
        margin = np.zeros(len(match), np.float32)
        margin[own] = self.margin_of_a[match[own]]
        full = None if self.similarity is None else np.ascontiguousarray(self.similarity.T)
        return PairMatching(
            self.camera_b,
            self.camera_a,
            self.tracks_b,
            self.tracks_a,
            self.threshold,
            self.nearest_b,
            self.nearest_a,
            self.edges.transposed(),
            self.edge_count,
            match,
            similarity,
            margin,
            self.noise,
            self.allowed_of_b,
            self.allowed_of_a,
            full,
        )


@dataclass(frozen=True)
class Matching:
    """Everything that one run of `san match` found.

    Attributes:
        cameras: in the order given.
        pairs: every unordered pair of them, in that order.
        threshold: the similarity that was used, -1..1.
        calibration: where the threshold comes from; None where the user gave it.
        top: runners-up kept for each tracklet.
        model: the model's identity (`Embeddings.model`).
        parameters: how it was run, for matches.json.
    """

    cameras: tuple[Camera, ...]
    pairs: tuple[PairMatching, ...]
    threshold: float
    calibration: Threshold | None
    top: int
    model: dict[str, Any]
    parameters: dict[str, Any] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Wall time of embedding all cameras."""
        return sum(camera.seconds for camera in self.cameras)

    @property
    def crop_count(self) -> int:
        """Crops that were embedded, all cameras together."""
        return sum(camera.crop_count for camera in self.cameras)

    @property
    def crops_per_s(self) -> float:
        """Crops embedded per second, decoding included; 0 where no time was measured."""
        return self.crop_count / self.seconds if self.seconds > 0 else 0.0

    @property
    def unreadable(self) -> int:
        """Crops that could not be read, all cameras together."""
        return sum(len(camera.unreadable) for camera in self.cameras)


def match_pair(
    a: Camera,
    b: Camera,
    threshold: float,
    *,
    top: int = 5,
    rules: Callable[[Camera, Camera], PairRule | None] | None = None,
    full: bool = False,
) -> PairMatching:
    """Similarities and assignment of two cameras; the answer is the same whichever is given first.

    Args:
        a: one camera.
        b: the other.
        threshold: similarity below which nothing matches.
        top: runners-up to keep for each tracklet.
        rules: of two cameras, which of their pairs may match; None where all may.
        full: keep the similarity of every pair, 4 bytes for each.

    Raises:
        SanError: an embedding or the threshold is not finite.
    """
    if a.name > b.name:
        # Made in the order of the names: rounding and ties do not depend on the order of the arguments.
        return match_pair(b, a, threshold, top=top, rules=rules, full=full).swapped()
    rule = rules(a, b) if rules else None
    # One more than `top`: the match itself is taken out of the list.
    count = max(top + 1, NEAREST)
    near_a, near_b, edges, in_all = search(
        a.embedding, b.embedding, threshold=threshold, count=count, rule=rule
    )
    match, edges = assign_all(
        a.embedding, b.embedding, edges, threshold=threshold, complete=len(edges) == in_all, rule=rule
    )
    rows = np.flatnonzero(match >= 0)
    similarity = near_a.similarity[:, 0].copy()
    similarity[rows] = np.einsum("nd,nd->n", a.embedding[rows], b.embedding[match[rows]])
    margin = np.zeros(len(match), np.float32)
    next_a = _runner_up(near_a, rows, match[rows])
    next_b = _runner_up(near_b, match[rows], rows)
    margin[rows] = similarity[rows] - np.maximum(next_a, next_b)
    return PairMatching(
        a.name,
        b.name,
        a.tracks,
        b.tracks,
        float(threshold),
        near_a,
        near_b,
        edges,
        in_all,
        match,
        similarity,
        margin,
        margin_noise(a, b, near_a, near_b),
        _allowed(rule, np.arange(len(a.tracks)), near_a.index[:, 0]),
        _allowed(rule, near_b.index[:, 0], np.arange(len(b.tracks))),
        full_matrix(a.embedding, b.embedding) if full else None,
    )


def _runner_up(near: Nearest, rows: np.ndarray, match: np.ndarray) -> np.ndarray:
    """Similarity of the nearest of each row that is not its match; -inf where there is none."""
    index, values = near.index[rows, :2], near.similarity[rows, :2]
    first_is_match = index[:, 0] == match
    second = values[:, 1] if values.shape[1] > 1 else np.full(len(rows), -np.inf, np.float32)
    return np.where(first_is_match, second, values[:, 0])


def margin_noise(a: Camera, b: Camera, near_a: Nearest, near_b: Nearest) -> float:
    """Standard deviation of the margin between the two nearest, as a tracklet's crops vary.

    Each tracklet's earlier and later crops give a margin of their own; half of their difference is one sample
    of the error of the whole tracklet's margin. Rounding of the network's precision is part of it.

    Returns:
        The root mean square over the tracklets of both cameras with two crops or more; 0 where there is none.
    """
    samples = []
    for camera, other, near in ((a, b, near_a), (b, a, near_b)):
        if camera.half_difference is None or near.index.shape[1] < 2:
            continue
        several = np.flatnonzero([len(paths) > 1 for paths in camera.crops])
        first, second = near.index[several, 0], near.index[several, 1]
        across = other.embedding[first] - other.embedding[second]
        samples.append(np.einsum("nd,nd->n", camera.half_difference[several], across))
    values = np.concatenate([*samples, np.empty(0, np.float32)]).astype(np.float64)
    return float(np.sqrt(np.mean(values**2))) if len(values) else 0.0


def _allowed(rule: PairRule | None, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    return np.ones(len(row), bool) if rule is None else rule.allowed(row, column)


def match_cameras(
    cameras: Sequence[Camera],
    *,
    threshold: float,
    calibration: Threshold | None = None,
    top: int = 5,
    model: dict[str, Any] | None = None,
    parameters: dict[str, Any] | None = None,
    rules: Callable[[Camera, Camera], PairRule | None] | None = None,
    full: bool = False,
    at_least: int = 2,
) -> Matching:
    """Match every unordered pair of cameras on its own.

    With three cameras a-b, b-c and a-c may therefore disagree; `identities.find_people` settles that.

    Args:
        cameras: with different names.
        threshold: similarity below which nothing matches.
        calibration: what the threshold stands for, where that is known.
        top: runners-up to keep for each tracklet.
        model: the model's identity, to be written down.
        parameters: how it was run, to be written down.
        rules: see `match_pair`.
        full: likewise.
        at_least: how many cameras there must be.

    Raises:
        UsageError: fewer cameras, or two of the same name.
    """
    check_names([camera.name for camera in cameras], at_least)
    pairs = tuple(
        match_pair(a, b, threshold, top=top, rules=rules, full=full)
        for a, b in itertools.combinations(cameras, 2)
    )
    return Matching(tuple(cameras), pairs, float(threshold), calibration, top, model or {}, parameters or {})


def iter_rows(pair: PairMatching, top: int) -> Iterator[MatchRow]:
    """The rows of one camera pair: first every tracklet of camera_a, then the unmatched ones of camera_b.

    Args:
        pair: two matched cameras.
        top: runners-up of each tracklet, at most.
    """
    names_a, names_b = pair.tracks_a.tolist(), pair.tracks_b.tolist()
    match_of_b = pair.match_of_b
    matched = pair.match_of_a.tolist()
    unsure = pair.unsure.tolist()

    def reason(near: Nearest, row: int, allowed: np.ndarray) -> str:
        if not allowed[row]:
            return FORBIDDEN
        return TAKEN if near.similarity[row, 0] >= np.float32(pair.threshold) else BELOW

    def candidates(near: Nearest, row: int, names: list[str], without: int) -> tuple[Candidate, ...]:
        index, values = near.index[row].tolist(), near.similarity[row].tolist()
        kept = [(i, value) for i, value in zip(index, values, strict=True) if i != without][:top]
        return tuple(Candidate(names[i], value) for i, value in kept)

    for i, name in enumerate(names_a):
        j = matched[i] if matched[i] >= 0 else int(pair.nearest_a.index[i, 0])
        row = MatchRow(
            pair.camera_a,
            name,
            pair.camera_b,
            names_b[j],
            float(pair.similarity_of_a[i]),
            matched[i] >= 0,
            candidates(pair.nearest_a, i, names_b, j),
        )
        if row.matched:
            others = candidates(pair.nearest_b, j, names_a, i)
            yield replace(row, runners_up_b=others, margin=float(pair.margin_of_a[i]), unsure=unsure[i])
        else:
            yield replace(row, reason=reason(pair.nearest_a, i, pair.allowed_of_a))
    for j in np.flatnonzero(match_of_b < 0).tolist():
        i = int(pair.nearest_b.index[j, 0])
        yield MatchRow(
            pair.camera_b,
            names_b[j],
            pair.camera_a,
            names_a[i],
            float(pair.nearest_b.similarity[j, 0]),
            False,
            candidates(pair.nearest_b, j, names_a, i),
            reason=reason(pair.nearest_b, j, pair.allowed_of_b),
        )


def resolve_threshold(
    given: float | None, calibration: Threshold | None, *, center: bool = False
) -> tuple[float, Threshold | None]:
    """The threshold to use, and what it stands for where that is known.

    Args:
        given: by the user.
        calibration: of the model.
        center: whether the cameras' means are taken off, which changes every similarity.

    Raises:
        UsageError: none was given and the model brings none of that kind, or the given one is no cosine.
    """
    if given is not None:
        if not -1.0 <= given <= 1.0:  # also refuses NaN
            raise UsageError(f"--threshold {given} is no cosine similarity", do="give a number from -1 to 1")
        return float(given), None
    if calibration is None:
        raise UsageError("the model brings no calibrated threshold", do="give one: --threshold 0.5")
    if calibration.center != center:
        kind, other = ("with", "without") if calibration.center else ("without", "with")
        raise UsageError(
            f"the model's threshold was calibrated {kind} --center, and you match {other}",
            do=f"calibrate it: san threshold{' --center' if center else ''}, or give --threshold",
        )
    return calibration.similarity, calibration


def match_folders(
    folders: Sequence[Path],
    backend: Backend,
    *,
    threshold: float | None = None,
    top: int = 5,
    reading: Reading | None = None,
) -> Matching:
    """Embed the crops of every camera and match each pair: `san match` without its output.

    Args:
        folders: one per camera, see `sources.read_sources`.
        backend: the opened model.
        threshold: None takes the one that the model was calibrated to.
        top: runners-up to keep for each tracklet.
        reading: how to read crops.

    Raises:
        UsageError: see `read_sources`, `resolve_threshold`.
        SanError: a folder is missing, empty or wholly unreadable; the model fails.
    """
    value, calibration = resolve_threshold(threshold, backend.artefact.threshold)
    reading = reading or Reading()
    cameras, model = embed_sources(read_sources(folders), backend, reading)
    return match_cameras(
        cameras,
        threshold=value,
        calibration=calibration,
        top=top,
        model=model,
        parameters={"batch": reading.batch, "top": top, "strict": reading.strict, "backend": backend.name},
    )
