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

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .cameras import Camera
from .match import Matching
from .similarity import NEAREST, search
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


@dataclass(frozen=True)
class Known:
    """People of a gallery, among whom tracklets are to be found.

    Each counts as one tracklet more, whose embedding is the mean of all that the gallery has of that person: its
    product with a tracklet is their mean similarity, however many they are.

    Attributes:
        person: `(P,)` int64, their numbers, from 1, ascending.
        embedding: `(P, D)` float32, means of unit rows, not brought to length 1.
        owner: for each camera `(T,)` int64, whose tracklets are for certain; 0 for nobody.
        forbidden: for each camera `(F, 2)` int64, tracklets and places in `person` that cannot be one.
        shift: how much more similar a tracklet must be to somebody known than to another tracklet.
        new_people: gives so many numbers for people who are not known.
    """

    person: np.ndarray
    embedding: np.ndarray
    owner: tuple[np.ndarray, ...]
    forbidden: tuple[np.ndarray, ...]
    shift: float
    new_people: Callable[[int], Sequence[int]]


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
    nodes = _Nodes(matching.cameras, site, known)
    if len(matching.cameras) == 2 and nodes.same_camera == APART and not nodes.owner.any():
        method = "greedy"
    floor = None
    if method == "greedy":
        groups = _greedy(matching, nodes)
    elif len(nodes) <= EXACT:
        groups = _dense(nodes, matching.threshold)
    else:
        groups, floor = _sparse(matching, nodes)
    return _identities(matching, nodes, groups, method, floor)


class _Nodes:
    """All tracklets as one list, camera after camera, and which of them can be one person.

    Known people come last, as if a camera had seen each of them once.
    """

    def __init__(self, cameras: Sequence[Camera], site: Site, known: Known | None) -> None:
        self.cameras = cameras
        self.known = known
        people = len(known.person) if known else 0
        self.first = np.cumsum([0, *(len(camera.tracks) for camera in cameras), people])
        self.camera = np.repeat(np.arange(len(cameras) + 1), np.diff(self.first))
        rows = [camera.embedding for camera in cameras]
        self.embedding = np.concatenate([*rows, known.embedding] if known else rows)
        #: Whose a tracklet is for certain, 0 for nobody.
        self.owner = np.concatenate([*known.owner, known.person]) if known else np.zeros(len(self), np.int64)
        self.forbidden = self._forbidden()
        self.same_camera = site.mode(cameras)
        self.rules = {
            (a, b): site.rule(cameras[a], cameras[b])
            for a, b in itertools.combinations(range(len(cameras)), 2)
        }
        unknown = np.full(len(self), np.nan)
        never = np.full(people, np.nan)
        timed = all(camera.start is not None for camera in cameras)
        self.start = (
            np.concatenate([*(c.start for c in cameras if c.start is not None), never]) if timed else unknown
        )
        self.end = (
            np.concatenate([*(c.end for c in cameras if c.end is not None), never]) if timed else unknown
        )

    def __len__(self) -> int:
        return int(self.first[-1])

    def _forbidden(self) -> np.ndarray:
        """Codes `tracklet * nodes + known person` of pairs that cannot be one, sorted."""
        pairs = zip(self.first[:-2], self.known.forbidden, strict=True) if self.known else ()
        codes = [
            (item[:, 0] + first) * len(self) + item[:, 1] + self.first[-2]
            for first, item in pairs
            if len(item)
        ]
        return np.sort(np.concatenate([*codes, np.empty(0, np.int64)]))

    def shifted(self, a: np.ndarray, b: np.ndarray, similarity: np.ndarray) -> np.ndarray:
        """Similarities of pairs as they count: less where one of the two is known."""
        if self.known is None or not self.known.shift:
            return similarity
        return similarity - self.known.shift * ((self.owner[a] > 0) != (self.owner[b] > 0))

    def allowed(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Whether the tracklets `a` and `b`, which broadcast against each other, can be one person."""
        a, b = np.broadcast_arrays(a, b)
        camera_a, camera_b = self.camera[a], self.camera[b]
        result = camera_a != camera_b
        if self.same_camera != APART:
            apart = (self.end[a] < self.start[b]) | (self.end[b] < self.start[a])
            result = result | apart
        if self.known is not None:
            owner_a, owner_b = self.owner[a], self.owner[b]
            result &= (owner_a == 0) | (owner_b == 0) | (owner_a == owner_b)
            if len(self.forbidden):
                codes = np.minimum(a, b).astype(np.int64) * len(self) + np.maximum(a, b)
                result &= ~np.isin(codes, self.forbidden)
        for (first, second), rule in self.rules.items():
            if rule is None:
                continue
            for x, y, here in (
                (a, b, (camera_a == first) & (camera_b == second)),
                (b, a, (camera_a == second) & (camera_b == first)),
            ):
                if here.any():
                    result[here] &= rule.allowed(x[here] - self.first[first], y[here] - self.first[second])
        return result

    def must(self) -> Iterator[tuple[int, int]]:
        """Pairs that a user confirmed, and tracklets of one known person."""
        for owner in np.unique(self.owner[self.owner > 0]).tolist():
            yield from itertools.pairwise(np.flatnonzero(self.owner == owner).tolist())
        for (a, b), rule in self.rules.items():
            if rule is not None:
                rows, columns = rule.must
                yield from zip(
                    (rows + self.first[a]).tolist(), (columns + self.first[b]).tolist(), strict=True
                )

    def order(self) -> np.ndarray:
        """The tracklets in an order of their embeddings: ties are settled by it, not by names."""
        # Rows that agree in their first numbers are the same row, whose order changes nothing.
        return np.lexsort(self.embedding.T[7::-1])


def _seeds(nodes: _Nodes) -> list[list[int]]:
    """Each tracklet alone, but for those that a user joined."""
    group = {number: [number] for number in nodes.order().tolist()}
    for a, b in nodes.must():
        if group[a] is not group[b]:
            group[a].extend(group[b])
            for member in group[b]:
                group[member] = group[a]
    return list({id(members): members for members in group.values()}.values())


def _greedy(matching: Matching, nodes: _Nodes) -> list[list[int]]:
    number = {camera.name: k for k, camera in enumerate(matching.cameras)}
    edges: list[tuple[float, int, int]] = []
    place = np.argsort(nodes.order())
    for pair in matching.pairs:
        rows = np.flatnonzero(pair.match_of_a >= 0)
        a = rows + nodes.first[number[pair.camera_a]]
        b = pair.match_of_a[rows] + nodes.first[number[pair.camera_b]]
        values = nodes.shifted(a, b, pair.similarity_of_a[rows])
        edges += zip(values.tolist(), a.tolist(), b.tolist(), strict=True)
    limit = np.float32(matching.threshold)
    for a, b, similarity in _near_known(nodes):
        values = nodes.shifted(a, b, similarity)
        kept = values >= limit
        edges += zip(values[kept].tolist(), a[kept].tolist(), b[kept].tolist(), strict=True)
    edges.sort(key=lambda edge: (-edge[0], *sorted((int(place[edge[1]]), int(place[edge[2]])))))
    group: dict[int, list[int]] = {}
    for members in _seeds(nodes):
        group |= dict.fromkeys(members, members)
    for _, a, b in edges:
        one, two = group[a], group[b]
        if one is not two and nodes.allowed(np.array(one)[:, None], np.array(two)[None, :]).all():
            one.extend(two)
            group |= dict.fromkeys(two, one)
    return list({id(members): members for members in group.values()}.values())


def _dense(nodes: _Nodes, threshold: float) -> list[list[int]]:
    """Agglomeration over every pair. A pair that cannot be one person is -inf, and stays so in every sum."""
    groups = _seeds(nodes)
    order = [member for members in groups for member in members]
    rows = nodes.embedding[order]
    similarity = (rows @ rows.T).astype(np.float64)
    index = np.array(order)
    for start in range(0, len(index), 256):
        part = index[start : start + 256]
        similarity[start : start + 256][~nodes.allowed(part[:, None], index[None, :])] = -np.inf
    similarity = nodes.shifted(index[:, None], index[None, :], similarity)
    similarity = np.minimum(similarity, similarity.T)  # a product's two halves may be rounded differently
    limit = float(np.float32(threshold))
    sizes = np.array([len(members) for members in groups], np.float64)
    score = _between_groups(similarity, sizes)
    np.fill_diagonal(score, -np.inf)
    best = score.argmax(axis=1)
    value = score[np.arange(len(score)), best]
    while len(score) > 1:
        i = int(value.argmax())
        if not value[i] >= limit:
            break
        j = int(best[i])
        joined = (sizes[i] * score[i] + sizes[j] * score[j]) / (sizes[i] + sizes[j])
        joined[[i, j]] = -np.inf
        sizes[i] += sizes[j]
        groups[i].extend(groups[j])
        groups[j] = []
        score[i], score[:, i] = joined, joined
        score[j], score[:, j] = -np.inf, -np.inf
        stale = np.flatnonzero((best == i) | (best == j))
        better = joined > value
        better[[i, j]] = False
        best[better], value[better] = i, joined[better]
        for row in {*stale.tolist(), i, j}:
            best[row] = score[row].argmax()
            value[row] = score[row, best[row]]
    return [members for members in groups if members]


def _between_groups(similarity: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Means over the pairs of two groups; groups lie one after the other."""
    if (sizes == 1).all():
        return similarity
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    sums = np.add.reduceat(np.add.reduceat(similarity, first, axis=0), first, axis=1)
    return np.asarray(sums / np.outer(sizes, sizes))


def _sparse(matching: Matching, nodes: _Nodes) -> tuple[list[list[int]], float]:
    """Agglomeration over stored pairs; the others count as the floor, the least similarity that was stored.

    Every two groups that are each other's most similar are joined at once, round by round. That gives what joining
    the most similar of all gives, one by one: no average with a joined group exceeds both averages with its parts
    (reducibility; Murtagh, The Computer Journal 1983).
    """
    nothing = np.empty(0, np.int64)
    parts = [(nothing, nothing, np.empty(0, np.float32)), *_stored(matching, nodes)]
    a, b, values = (np.concatenate([part[k] for part in parts]) for k in range(3))
    values = nodes.shifted(a, b, values)
    floor = float(values.min(initial=1.0))
    groups = _Groups(nodes)
    links = groups.links(a, b, values)
    limit = float(np.float32(matching.threshold))
    while True:
        pairs = groups.size[links.first] * groups.size[links.second]
        mean = (links.total + (pairs - links.count) * floor) / pairs
        kept = (mean >= limit) & ~links.blocked
        unknown = np.flatnonzero(kept & ~links.checked & (links.count < pairs))
        links.blocked[unknown] = ~groups.allowed(links.first[unknown], links.second[unknown])
        links.checked[unknown] = True
        kept = np.flatnonzero(kept & ~links.blocked)
        if not len(kept):
            return groups.members(), floor
        chosen = groups.nearest_of_each_other(links.first[kept], links.second[kept], mean[kept])
        links = groups.join(links.first[kept[chosen]], links.second[kept[chosen]], links)


@dataclass(frozen=True)
class _Links:
    """Pairs of groups of which a similarity is stored, each once.

    Attributes:
        first, second: `(L,)` int64, groups, the lesser number first.
        total: sum of the similarities that are stored, float64.
        count: how many these are.
        blocked: whether they cannot be one person.
        checked: whether `blocked` is known.
    """

    first: np.ndarray
    second: np.ndarray
    total: np.ndarray
    count: np.ndarray
    blocked: np.ndarray
    checked: np.ndarray

    def together(self, groups: int) -> _Links:
        """The same with each pair once."""
        code = self.first * groups + self.second
        order = np.argsort(code, kind="stable")
        start = np.flatnonzero(np.diff(code[order], prepend=-1))
        if not len(start):
            return self
        first, second = self.first[order][start], self.second[order][start]
        total, count = (np.add.reduceat(item[order], start) for item in (self.total, self.count))
        blocked = np.logical_or.reduceat(self.blocked[order], start)
        checked = np.logical_and.reduceat(self.checked[order], start)
        return _Links(first, second, total, count, blocked, checked)


class _Groups:
    """Groups of tracklets that grow, by number."""

    def __init__(self, nodes: _Nodes) -> None:
        self._nodes = nodes
        seeds = _seeds(nodes)
        self._home = np.empty(len(nodes), np.int64)
        for number, members in enumerate(seeds):
            self._home[members] = number
        self.size = np.bincount(self._home, minlength=len(seeds))
        #: Ties are settled by it, not by names.
        self._place = np.full(len(seeds), len(nodes))
        np.minimum.at(self._place, self._home, np.argsort(nodes.order()))

    def members(self) -> list[list[int]]:
        """The tracklets of each group."""
        order = np.argsort(self._home, kind="stable")
        return [part.tolist() for part in np.split(order, np.cumsum(self.size[self.size > 0])[:-1])]

    def links(self, a: np.ndarray, b: np.ndarray, similarity: np.ndarray) -> _Links:
        """What stored pairs of tracklets say of the groups."""
        no = np.zeros(len(a), bool)
        ones = np.ones(len(a), np.int64)
        return self._ordered(
            _Links(self._home[a], self._home[b], similarity.astype(np.float64), ones, no, no)
        )

    def _ordered(self, links: _Links) -> _Links:
        between = links.first != links.second
        parts = (links.first, links.second, links.total, links.count, links.blocked, links.checked)
        a, b, *rest = (item[between] for item in parts)
        return _Links(np.minimum(a, b), np.maximum(a, b), *rest).together(len(self.size))

    def allowed(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Whether all tracklets of the groups `a` can be one person with all of `b`, `(L,)` each."""
        if not len(a):
            return np.empty(0, bool)
        order = np.argsort(self._home, kind="stable")
        start = np.cumsum(self.size) - self.size
        pairs = self.size[a] * self.size[b]
        first = np.cumsum(pairs) - pairs
        place = np.arange(int(pairs.sum())) - np.repeat(first, pairs)
        width = np.repeat(self.size[b], pairs)
        one = order[np.repeat(start[a], pairs) + place // width]
        two = order[np.repeat(start[b], pairs) + place % width]
        result: np.ndarray = np.logical_and.reduceat(self._nodes.allowed(one, two), first)
        return result

    def nearest_of_each_other(self, a: np.ndarray, b: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Which of the pairs of groups are most similar to each other; the most similar of all is among them."""
        low, high = np.minimum(self._place[a], self._place[b]), np.maximum(self._place[a], self._place[b])
        rank = np.empty(len(a), np.int64)
        rank[np.lexsort((high, low, -mean))] = np.arange(len(a))
        best = np.full(len(self.size), len(a))
        np.minimum.at(best, a, rank)
        np.minimum.at(best, b, rank)
        return np.flatnonzero((best[a] == rank) & (best[b] == rank))

    def join(self, a: np.ndarray, b: np.ndarray, links: _Links) -> _Links:
        """Join the groups `a` with `b`, no group twice; the links of what there is then."""
        new = np.arange(len(self.size))
        new[b] = a
        self._home = new[self._home]
        self.size[a] += self.size[b]
        self.size[b] = 0
        self._place[a] = np.minimum(self._place[a], self._place[b])
        changed = np.zeros(len(self.size), bool)
        changed[a] = True
        first, second = new[links.first], new[links.second]
        checked = links.checked & ~changed[first] & ~changed[second]
        return self._ordered(_Links(first, second, links.total, links.count, links.blocked, checked))


def _stored(matching: Matching, nodes: _Nodes) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Nearest pairs as nodes and similarities, each pair once; of one camera too where it may see people twice."""
    number = {camera.name: k for k, camera in enumerate(matching.cameras)}
    for pair in matching.pairs:
        first_a, first_b = nodes.first[number[pair.camera_a]], nodes.first[number[pair.camera_b]]
        near_a, near_b = pair.nearest_a, pair.nearest_b
        a = np.concatenate(
            [np.repeat(np.arange(len(near_a.index)), near_a.index.shape[1]), near_b.index.ravel()]
        )
        b = np.concatenate(
            [near_a.index.ravel(), np.repeat(np.arange(len(near_b.index)), near_b.index.shape[1])]
        )
        values = np.concatenate([near_a.similarity.ravel(), near_b.similarity.ravel()])
        yield _allowed_once(nodes, a + first_a, b + first_b, values)
    for a, b, values in _near_known(nodes):
        yield _allowed_once(nodes, a, b, values)
    if nodes.same_camera == APART:
        return
    for k, camera in enumerate(matching.cameras):
        # Itself is the nearest of all.
        near, *_ = search(camera.embedding, camera.embedding, threshold=2.0, count=NEAREST + 1)
        a = np.repeat(np.arange(len(near.index)), near.index.shape[1]) + nodes.first[k]
        b = near.index.ravel() + nodes.first[k]
        yield _allowed_once(nodes, np.minimum(a, b), np.maximum(a, b), near.similarity.ravel())


def _near_known(nodes: _Nodes) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each tracklet the known people whom it is most like, as nodes and similarities."""
    if nodes.known is None or not len(nodes.known.person):
        return
    for k, camera in enumerate(nodes.cameras):
        near, *_ = search(camera.embedding, nodes.known.embedding, threshold=2.0, count=NEAREST)
        a = np.repeat(np.arange(len(near.index)), near.index.shape[1]) + nodes.first[k]
        yield a, near.index.ravel().astype(np.int64) + nodes.first[-2], near.similarity.ravel()


def _allowed_once(
    nodes: _Nodes, a: np.ndarray, b: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    _, kept = np.unique(a.astype(np.int64) * len(nodes) + b, return_index=True)
    a, b, values = a[kept], b[kept], values[kept]
    keep = nodes.allowed(a, b) & (a != b)
    return a[keep], b[keep], values[keep]


def _identities(
    matching: Matching, nodes: _Nodes, groups: Iterable[list[int]], method: str, floor: float | None
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


def _sureness(nodes: _Nodes, own: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
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
