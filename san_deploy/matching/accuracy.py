"""A matching judged by labels: rank-1 of tracklets, precision and recall of the matches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import metrics
from ..datasets.records import DISTRACTOR
from ..errors import SanError
from .match import Matching

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
    """

    rank1: float | None
    right: int
    matched: int
    possible: int
    alone: int
    alone_unmatched: int
    unlabelled: int

    @property
    def precision(self) -> float | None:
        """Fraction of the matches that are right; None where nothing was matched."""
        return self.right / self.matched if self.matched else None

    @property
    def recall(self) -> float | None:
        """Fraction of the possible right matches that were found; None where no person is seen twice."""
        return self.right / self.possible if self.possible else None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, precision and recall included."""
        return asdict(self) | {"precision": self.precision, "recall": self.recall}


def pids_from_labels(
    matching: Matching, labels: TrackToPid, source: Path | str
) -> dict[tuple[str, str], int]:
    """Labels of the matched cameras alone: `{(camera, track): person}`.

    Args:
        matching: what the labels are for.
        labels: `{(camera, track): person}`; cameras that were not matched may stand in it.
        source: the file, for messages.

    Raises:
        SanError: the labels name none of the cameras, or a tracklet that a camera does not have.
    """
    track_to_pid: dict[tuple[str, str], int] = {}
    for camera in matching.cameras:
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
        cameras = ", ".join(camera.name for camera in matching.cameras)
        raise SanError(f"{source} names none of the cameras {cameras}", do="a camera is named by its folder")
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
    right = matched = possible = alone = alone_unmatched = 0
    rank1: list[float] = []
    for pair in matching.pairs:
        people_a = np.array(
            [track_to_pid.get((pair.camera_a, track), -1) for track in pair.tracks_a.tolist()], np.int64
        )
        people_b = np.array(
            [track_to_pid.get((pair.camera_b, track), -1) for track in pair.tracks_b.tolist()], np.int64
        )
        for i in np.flatnonzero(pair.match_of_a >= 0).tolist():
            answer = people_a[i], people_b[pair.match_of_a[i]]
            if min(answer) >= 0:
                matched += 1
                right += int(answer[0] == answer[1] != DISTRACTOR)
        count_a, count_b = (Counter(people[people > 0].tolist()) for people in (people_a, people_b))
        possible += (count_a & count_b).total()
        for people, others, partner in (
            (people_a, count_b, pair.match_of_a),
            (people_b, count_a, pair.match_of_b),
        ):
            absent = np.array([person >= 0 and person not in others for person in people.tolist()], bool)
            alone += int(absent.sum())
            alone_unmatched += int((absent & (partner < 0)).sum())
        for similarity, query, gallery in (
            (pair.similarity, people_a, people_b),
            (pair.similarity.T, people_b, people_a),
        ):
            value = _rank1(similarity, query, gallery)
            if value is not None:
                rank1.append(value)
    unlabelled = sum(
        (camera.name, track) not in track_to_pid
        for camera in matching.cameras
        for track in camera.tracks.tolist()
    )
    mean = float(np.mean(rank1)) if rank1 else None
    return Accuracy(mean, right, matched, possible, alone, alone_unmatched, unlabelled)


def _rank1(similarity: np.ndarray, query: np.ndarray, gallery: np.ndarray) -> float | None:
    labelled = gallery >= 0
    ignored = np.zeros(int(labelled.sum()), bool)
    hits = []
    for values, person in zip(similarity[:, labelled], query.tolist(), strict=True):
        positive = gallery[labelled] == person
        if person > 0 and positive.any():
            hits.append(bool(metrics.rank_positives(values, positive, ignored)[0] == 1))
    return float(np.mean(hits)) if hits else None
