"""A matching judged by labels: rank-1 of tracklets, precision and recall of the matches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..datasets.records import DISTRACTOR
from ..errors import SanError
from .cameras import Camera
from .match import Matching, PairMatching
from .similarity import tiles

#: `{(camera, track): person}`.
TrackToPid = Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class Accuracy:
    """A matching judged by labels. Tracklets without a label count neither as right nor as wrong.

    Attributes:
        rank1: mean over ordered camera pairs of the fraction of tracklets whose most similar tracklet of the
            other camera is the same person, among those whose person the other camera saw; None where
            there is none.
        right, matched: matched pairs that are one person, and all matched pairs with two labels.
        possible: right pairs that a perfect one-to-one matching would have.
        alone: tracklets, counted in each camera pair, whose person the other camera did not see.
        alone_unmatched: those of them that were left without a match.
        unlabelled: tracklets that the labels do not name.
        unsure, unsure_right: matches among `matched` whose margin is within the noise, and right ones of them.
    """

    rank1: float | None
    right: int
    matched: int
    possible: int
    alone: int
    alone_unmatched: int
    unlabelled: int
    unsure: int = 0
    unsure_right: int = 0

    @property
    def precision(self) -> float | None:
        """Fraction of the matches that are right; None where nothing was matched."""
        return self.right / self.matched if self.matched else None

    @property
    def recall(self) -> float | None:
        """Fraction of the possible right matches that were found; None where no person is seen twice."""
        return self.right / self.possible if self.possible else None

    @property
    def sure_precision(self) -> float | None:
        """Fraction of the matches that are right, of those that are not unsure; None where there is none."""
        sure = self.matched - self.unsure
        return (self.right - self.unsure_right) / sure if sure else None

    @property
    def sure_recall(self) -> float | None:
        """Fraction of the possible right matches that were found and are not unsure."""
        return (self.right - self.unsure_right) / self.possible if self.possible else None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, precision and recall included."""
        names = ("precision", "recall", "sure_precision", "sure_recall")
        return asdict(self) | {name: getattr(self, name) for name in names}


def pids_from_labels(
    matching: Matching, labels: TrackToPid, source: Path | str
) -> dict[tuple[str, str], int]:
    """`labels_of_cameras` of the matched cameras."""
    return labels_of_cameras(matching.cameras, labels, source)


def labels_of_cameras(
    cameras: Sequence[Camera], labels: TrackToPid, source: Path | str
) -> dict[tuple[str, str], int]:
    """Labels of the cameras given alone: `{(camera, track): person}`.

    Args:
        cameras: what the labels are for.
        labels: `{(camera, track): person}`; other cameras may stand in it.
        source: the file, for messages.

    Raises:
        SanError: the labels name none of the cameras, or a tracklet that a camera does not have.
    """
    track_to_pid: dict[tuple[str, str], int] = {}
    for camera in cameras:
        here = {track: person for (name, track), person in labels.items() if name == camera.name}
        # A tracklet of nothing but unreadable crops is known, though it could not be matched.
        known = {*camera.tracks.tolist(), *camera.lost_tracks}
        unknown = sorted(set(here) - known)
        if unknown:
            raise SanError(
                f"{source} names {camera.name}/{unknown[0]}, which {camera.folder} does not hold"
                + (f" ({len(unknown)} such tracklets)" if len(unknown) > 1 else ""),
                do="give the labels that belong to these cameras",
            )
        track_to_pid |= {(camera.name, track): person for track, person in here.items()}
    if not track_to_pid:
        names = ", ".join(camera.name for camera in cameras)
        raise SanError(f"{source} names none of the cameras {names}", do="a camera is named by its folder")
    return track_to_pid


def same_person(track_to_pid: TrackToPid, a: tuple[str, str], b: tuple[str, str]) -> bool | None:
    """Whether two tracklets `(camera, track)` are one person; None where one has no label.

    A distractor (person 0) is never the same person as another tracklet.
    """
    if a not in track_to_pid or b not in track_to_pid:
        return None
    return track_to_pid[a] == track_to_pid[b] and track_to_pid[a] != DISTRACTOR


def score(matching: Matching, track_to_pid: TrackToPid) -> Accuracy:
    """Judge a matching by labels, over all camera pairs together (rank-1: mean over ordered pairs).

    Args:
        matching: the result.
        track_to_pid: `{(camera, track): person}`, see `pids_from_labels`.
    """
    right = matched = possible = alone = alone_unmatched = unsure = unsure_right = 0
    rank1: list[float] = []
    embedding = {camera.name: camera.embedding for camera in matching.cameras}
    for pair in matching.pairs:
        pids_a, pids_b = _pids(pair, track_to_pid)
        rows = np.flatnonzero(pair.match_of_a >= 0)
        of_a, of_b = pids_a[rows], pids_b[pair.match_of_a[rows]]
        labelled = (of_a >= 0) & (of_b >= 0)
        correct = labelled & (of_a == of_b) & (of_a != DISTRACTOR)
        doubtful = pair.unsure[rows]
        matched, right = matched + int(labelled.sum()), right + int(correct.sum())
        unsure += int((labelled & doubtful).sum())
        unsure_right += int((correct & doubtful).sum())
        count_a, count_b = (Counter(pids[pids > 0].tolist()) for pids in (pids_a, pids_b))
        possible += (count_a & count_b).total()
        for pids, others, match in ((pids_a, count_b, pair.match_of_a), (pids_b, count_a, pair.match_of_b)):
            absent = np.array([pid >= 0 and pid not in others for pid in pids.tolist()], bool)
            alone += int(absent.sum())
            alone_unmatched += int((absent & (match < 0)).sum())
        rank1 += _rank1(embedding[pair.camera_a], embedding[pair.camera_b], pids_a, pids_b)
    unlabelled = sum(
        (camera.name, track) not in track_to_pid
        for camera in matching.cameras
        for track in camera.tracks.tolist()
    )
    mean = float(np.mean(rank1)) if rank1 else None
    return Accuracy(mean, right, matched, possible, alone, alone_unmatched, unlabelled, unsure, unsure_right)


def _pids(pair: PairMatching, track_to_pid: TrackToPid) -> tuple[np.ndarray, np.ndarray]:
    """Persons of either camera's tracklets, -1 without a label."""
    a, b = (
        np.array([track_to_pid.get((camera, track), -1) for track in tracks.tolist()], np.int64)
        for camera, tracks in ((pair.camera_a, pair.tracks_a), (pair.camera_b, pair.tracks_b))
    )
    return a, b


def _rank1(a: np.ndarray, b: np.ndarray, pids_a: np.ndarray, pids_b: np.ndarray) -> list[float]:
    """Rank-1 of `a` in `b` and of `b` in `a`, where anybody has a right answer. A tie counts as wrong."""
    lowest = np.float32(-np.inf)
    right_a, wrong_a = np.full((2, len(a)), lowest, np.float32)
    right_b, wrong_b = np.full((2, len(b)), lowest, np.float32)
    for start, tile in tiles(a, b):
        rows = slice(start, start + len(tile))
        pids = pids_a[rows, None]
        same = (pids == pids_b) & (pids > 0)
        positive = np.where(same, tile, lowest)
        right_a[rows], right_b = positive.max(axis=1), np.maximum(right_b, positive.max(axis=0))
        # A tracklet without a label is no answer, neither right nor wrong.
        wrong_a[rows] = np.where(~same & (pids_b >= 0), tile, lowest).max(axis=1)
        wrong_b = np.maximum(wrong_b, np.where(~same & (pids >= 0), tile, lowest).max(axis=0))
    return [
        float((right > wrong)[asked].mean())
        for right, wrong in ((right_a, wrong_a), (right_b, wrong_b))
        if (asked := np.isfinite(right)).any()
    ]
