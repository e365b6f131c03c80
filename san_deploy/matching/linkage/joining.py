"""Three ways from tracklets to groups of them: matches first, over every pair, and over the pairs that are stored."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..match import Matching
from ..similarity import NEAREST, search
from ..site import APART
from .nodes import Nodes, seeds


def greedy(matching: Matching, nodes: Nodes) -> list[list[int]]:
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
    for members in seeds(nodes):
        group |= dict.fromkeys(members, members)
    for _, a, b in edges:
        one, two = group[a], group[b]
        if one is not two and nodes.allowed(np.array(one)[:, None], np.array(two)[None, :]).all():
            one.extend(two)
            group |= dict.fromkeys(two, one)
    return list({id(members): members for members in group.values()}.values())


def dense(nodes: Nodes, threshold: float) -> list[list[int]]:
    """Agglomeration over every pair. A pair that cannot be one person is -inf, and stays so in every sum."""
    groups = seeds(nodes)
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


def sparse(matching: Matching, nodes: Nodes) -> tuple[list[list[int]], float]:
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

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        alone = seeds(nodes)
        self._home = np.empty(len(nodes), np.int64)
        for number, members in enumerate(alone):
            self._home[members] = number
        self.size = np.bincount(self._home, minlength=len(alone))
        #: Ties are settled by it, not by names.
        self._place = np.full(len(alone), len(nodes))
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


def _stored(matching: Matching, nodes: Nodes) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
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


def _near_known(nodes: Nodes) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """For each tracklet the known people whom it is most like, as nodes and similarities."""
    if nodes.known is None or not len(nodes.known.person):
        return
    for k, camera in enumerate(nodes.cameras):
        near, *_ = search(camera.embedding, nodes.known.embedding, threshold=2.0, count=NEAREST)
        a = np.repeat(np.arange(len(near.index)), near.index.shape[1]) + nodes.first[k]
        yield a, near.index.ravel().astype(np.int64) + nodes.first[-2], near.similarity.ravel()


def _allowed_once(
    nodes: Nodes, a: np.ndarray, b: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    _, kept = np.unique(a.astype(np.int64) * len(nodes) + b, return_index=True)
    a, b, values = a[kept], b[kept], values[kept]
    keep = nodes.allowed(a, b) & (a != b)
    return a[keep], b[keep], values[keep]
