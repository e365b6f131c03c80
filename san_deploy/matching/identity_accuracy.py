"""People over all cameras judged by labels: pairs, B-cubed, people who were recovered whole, IDF1 and HOTA."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from ..datasets.records import DISTRACTOR
from .accuracy import TrackToPid
from .assignment import assign
from .identities import Identities
from .match import Matching
from .similarity import Edges


@dataclass(frozen=True)
class IdentityAccuracy:
    """People judged by labels. Tracklets without a label are left out.

    Attributes:
        pair_precision: fraction of the pairs of tracklets of one found person that are of one true person; None
            where there is no pair.
        pair_recall: fraction of the pairs of one true person that were found.
        b_cubed_precision: mean over tracklets of the fraction of its found person that is its true person (Bagga
            and Baldwin, LREC 1998).
        b_cubed_recall: mean over tracklets of the fraction of its true person that is in its found person.
        whole: true people with two tracklets or more whose tracklets, and no others, are one found person.
        people: true people with two tracklets or more.
        idf1: over the frames of all cameras, the fraction of boxes whose person is the true one, where each found
            person is taken for one true person at most, the best way (Ristani et al., ECCV 2016); None where it is not
            known in how many frames each tracklet was seen.
        hota: likewise HOTA (Luiten et al., IJCV 2021). Boxes are taken as they are: of a detector's and a tracker's
            errors neither says anything, and detection accuracy is 1.
    """

    pair_precision: float | None
    pair_recall: float | None
    b_cubed_precision: float
    b_cubed_recall: float
    whole: int
    people: int
    idf1: float | None = None
    hota: float | None = None

    @property
    def pair_f1(self) -> float | None:
        """Harmonic mean of the pairs' precision and recall."""
        return f1(self.pair_precision or 0.0, self.pair_recall) if self.pair_recall is not None else None

    @property
    def b_cubed_f1(self) -> float:
        """Harmonic mean of the B-cubed precision and recall."""
        return f1(self.b_cubed_precision, self.b_cubed_recall)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON, F1 included."""
        return asdict(self) | {"pair_f1": self.pair_f1, "b_cubed_f1": self.b_cubed_f1}


def f1(precision: float, recall: float) -> float:
    """Harmonic mean; 0 where both are."""
    return 2 * precision * recall / (precision + recall) if precision + recall > 0 else 0.0


def score_people(
    matching: Matching, identities: Identities, track_to_pid: TrackToPid
) -> IdentityAccuracy | None:
    """Judge people by labels.

    Args:
        matching: what they were made of.
        identities: the people found.
        track_to_pid: `{(camera, track): person}`; person 0 is somebody else each time.

    Returns:
        None where no tracklet has a label.
    """
    found: list[int] = []
    true: list[int] = []
    boxes: list[int] = []
    for camera, people in zip(matching.cameras, identities.person, strict=True):
        counts = np.zeros(len(people), np.int64) if camera.boxes is None else camera.boxes
        for track, person, count in zip(
            camera.tracks.tolist(), people.tolist(), counts.tolist(), strict=True
        ):
            pid = track_to_pid.get((camera.name, track))
            if pid is not None:
                found.append(person)
                true.append(pid if pid != DISTRACTOR else -1 - len(true))
                boxes.append(count)
    if not found:
        return None
    judged = judge(found, true)
    if min(boxes) > 0:
        idf1, hota = over_frames(found, true, boxes)
        return replace(judged, idf1=idf1, hota=hota)
    return judged


def over_frames(found: list[int], true: list[int], boxes: list[int]) -> tuple[float, float]:
    """IDF1 and HOTA of two groupings of the same N tracklets, each of so many boxes, at least 1.

    Every box is found, at its true place. So IDF1's precision and recall are one, and HOTA is the root of the
    association accuracy at every threshold of overlap.
    """
    weight = np.array(boxes, np.float64)
    people, of_found = np.unique(found, return_inverse=True)
    pids, of_true = np.unique(true, return_inverse=True)
    code, inverse = np.unique(of_found * len(pids) + of_true, return_inverse=True)
    row, column = code // len(pids), code % len(pids)
    both = np.bincount(inverse, weight)
    edges = Edges(row.astype(np.int32), column.astype(np.int32), both.astype(np.float32))
    match = assign(edges, (len(people), len(pids)), 0.0)
    idf1 = both[match[row] == column].sum() / weight.sum()
    either = np.bincount(of_found, weight)[row] + np.bincount(of_true, weight)[column] - both
    return float(idf1), float(np.sqrt((both * both / either).sum() / weight.sum()))


def judge(found: list[int], true: list[int]) -> IdentityAccuracy:
    """Compare two groupings of the same tracklets, N numbers each, N at least 1."""
    of_found, of_true = Counter(found), Counter(true)
    both = Counter(zip(found, true, strict=True))
    right, pairs, possible = (_pairs(counts) for counts in (both, of_found, of_true))
    shared = np.array([both[key] for key in zip(found, true, strict=True)], np.float64)
    several = {pid: count for pid, count in of_true.items() if count > 1}
    whole = sum(
        count == of_true[pid] == of_found[person] and pid in several for (person, pid), count in both.items()
    )
    return IdentityAccuracy(
        right / pairs if pairs else None,
        right / possible if possible else None,
        float(np.mean(shared / [of_found[person] for person in found])),
        float(np.mean(shared / [of_true[pid] for pid in true])),
        whole,
        len(several),
    )


def _pairs(counts: Counter[Any]) -> int:
    return sum(count * (count - 1) // 2 for count in counts.values())
