"""Tracklets of all cameras as one list, with the people whom a gallery knows, and which of them can be one person."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..cameras import Camera
from ..site import APART, Site


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


class Nodes:
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


def seeds(nodes: Nodes) -> list[list[int]]:
    """Each tracklet alone, but for those that a user joined."""
    group = {number: [number] for number in nodes.order().tolist()}
    for a, b in nodes.must():
        if group[a] is not group[b]:
            group[a].extend(group[b])
            for member in group[b]:
                group[member] = group[a]
    return list({id(members): members for members in group.values()}.values())
