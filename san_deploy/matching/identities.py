"""One identity over all cameras: tracklets gathered into people under constraints.

Camera pairs matched on their own contradict each other (a-b and b-c match, a-c does not). Two ways to settle
that, `METHODS`:

- `average`: average linkage. The two groups whose tracklets are most similar on average become one person, until no
  average reaches the threshold.
- `greedy`: the matched pairs, most similar first, as long as no two tracklets meet that cannot be one person.

docs/people.md compares them; greedy additive edge contraction (Keuper et al., ICCV 2015) was tried and was
behind both where people are absent from a camera.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from .linkage.joining import dense, greedy, sparse
from .linkage.nodes import Known, Nodes
from .match import Matching
from .site import APART, Site

METHODS = ("average", "greedy")
DEFAULT = "average"
#: Up to so many tracklets every pair counts with its similarity; beyond, only stored ones do.
EXACT = 3000


@dataclass(frozen=True)
class Identities:
    """Who is who.

    Attributes:
        person: for each camera in the order of `Matching.cameras` its `(T,)` int64 persons, from 1.
        confidence: likewise `(T,)` float64, mean similarity to the person's other tracklets; NaN where it has none.
        margin: likewise, how much larger that is than the mean similarity to the next person's tracklets of other
            cameras; of a tracklet alone, how much the threshold is above that.
        method: one of `METHODS`.
        same_camera: `apart` or `overlap`, see `site.Site`.
        floor: similarity that pairs count with that were not stored; None where all were.
        known: numbers of the people whom a gallery knew before.
    """

    person: tuple[np.ndarray, ...]
    confidence: tuple[np.ndarray, ...]
    margin: tuple[np.ndarray, ...]
    method: str
    same_camera: str
    floor: float | None = None
    known: frozenset[int] = frozenset()

    @property
    def count(self) -> int:
        """Number of people."""
        return len({pid for camera in self.person for pid in camera.tolist()})

    @property
    def sizes(self) -> list[int]:
        """Tracklets of each person, the largest first."""
        _, counts = np.unique(np.concatenate(self.person), return_counts=True)
        return sorted(counts.tolist(), reverse=True)


def find_people(
    matching: Matching, site: Site | None = None, method: str = DEFAULT, known: Known | None = None
) -> Identities:
    """Gather the tracklets of all cameras into people.

    The groups depend on embeddings, times and marks alone, neither on the order of the cameras nor on names.

    Args:
        matching: of two cameras or more; of one or more where people are known. With two, nobody known, and no person
            twice before one, its matches are the people.
        site: rules; the same that the matching was made with.
        method: one of `METHODS`.
        known: people of a gallery. Nobody of them changes the number, and no two of them become one.
    """
    site = site or Site()
    nodes = Nodes(matching.cameras, site, known)
    if len(matching.cameras) == 2 and nodes.same_camera == APART and not nodes.owner.any():
        method = "greedy"
    floor = None
    if method == "greedy":
        groups = greedy(matching, nodes)
    elif len(nodes) <= EXACT:
        groups = dense(nodes, matching.threshold)
    else:
        groups, floor = sparse(matching, nodes)
    return _identities(matching, nodes, groups, method, floor)


def _identities(
    matching: Matching, nodes: Nodes, groups: Iterable[list[int]], method: str, floor: float | None
) -> Identities:
    """Number the people by their first tracklet, cameras by name, and say how sure each tracklet is."""
    names = [(camera.name, track) for camera in matching.cameras for track in camera.tracks.tolist()]
    seen = nodes.first[-2]  # the known come after all tracklets
    found = [sorted(members) for members in groups]
    here = sorted(
        (item for item in found if item[0] < seen), key=lambda item: min(names[m] for m in item if m < seen)
    )
    owners = [int(nodes.owner[members].max()) for members in here]
    new = (nodes.known.new_people if nodes.known else _from_one)(owners.count(0))
    numbers = iter(new)
    person, own = np.empty((2, len(nodes)), np.int64)
    for place, (owner, members) in enumerate(zip(owners, here, strict=True)):
        person[members] = owner or next(numbers)
        own[members] = place
    for place, members in enumerate((item for item in found if item[0] >= seen), len(here)):
        own[members] = place
    confidence, margin = _sureness(nodes, own, matching.threshold)
    split = nodes.first[1:-2]
    return Identities(
        tuple(np.split(person[:seen], split)),
        tuple(np.split(confidence[:seen], split)),
        tuple(np.split(margin[:seen], split)),
        method,
        nodes.same_camera,
        floor,
        frozenset(owners) - {0},
    )


def _from_one(count: int) -> Sequence[int]:
    return range(1, count + 1)


def _sureness(nodes: Nodes, own: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean similarity of each tracklet to its person's others, and its margin; camera by camera, in blocks of rows."""
    confidence, margin = np.full((2, len(own)), np.nan)
    sums, sizes = _sums(nodes.embedding, own, np.ones(len(own), bool))
    for camera in range(len(nodes.cameras)):
        # Others of its own camera say little of a tracklet: they are other people, in the same colours.
        outside, counts = _sums(nodes.embedding, own, nodes.camera != camera)
        means = (outside / np.maximum(counts, 1)[:, None]).astype(np.float32).T
        nobody = np.flatnonzero(counts == 0)
        here = np.flatnonzero(nodes.camera == camera)
        height = max(1, 4_000_000 // len(sums))
        for start in range(0, len(here), height):
            rows = here[start : start + height]
            embedding, mine = nodes.embedding[rows], own[rows]
            others = sizes[mine] - 1
            total = np.einsum("nd,nd->n", embedding, sums[mine] - embedding)
            confidence[rows] = np.where(others > 0, total / np.maximum(others, 1), np.nan)
            mean = embedding @ means  # (H, P)
            mean[:, nobody] = -1.0
            mean[np.arange(len(rows)), mine] = -1.0
            margin[rows] = np.where(others > 0, confidence[rows], threshold) - mean.max(axis=1)
    return confidence, margin


def _sums(embedding: np.ndarray, own: np.ndarray, counted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each person the sum `(P, D)` of its tracklets that count, and how many they are."""
    order = np.argsort(own, kind="stable")
    _, first = np.unique(own[order], return_index=True)
    rows = embedding[order] * counted[order, None]
    return np.add.reduceat(rows, first, axis=0, dtype=np.float64), np.bincount(
        own[counted], minlength=len(first)
    )
