"""Similarities of two cameras' tracklets in bounded memory: the nearest of each, and the pairs worth a match.

The matrix is made in tiles and never stands in memory as a whole: 20,000 x 20,000 cosines are 1.6 GB.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

#: Cells of one tile, 16 MB of float32.
TILE_CELLS = 4_000_000
#: Nearest tracklets that are looked up for each at least; with the threshold they make the edges.
NEAREST = 16


class PairRule(Protocol):
    """What is known of two cameras' pairs besides their similarity."""

    @property
    def must(self) -> tuple[np.ndarray, np.ndarray]:
        """Pairs that must match, `(M,)` rows and columns. `allowed` leaves their tracklets no other partner."""
        ...

    def allowed(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Whether pairs may match; integer arrays that broadcast against each other, bool of their shape."""
        ...


@dataclass(frozen=True)
class Nearest:
    """The most similar tracklets of the other camera, best first, equal ones in the order of their names.

    Attributes:
        index: `(A, k)` int32.
        similarity: `(A, k)` float32, cosine.
    """

    index: np.ndarray
    similarity: np.ndarray


@dataclass(frozen=True)
class Edges:
    """Pairs that may match, sorted by `row`, then `column`.

    Attributes:
        row, column: `(E,)` int32, tracklets of either camera.
        similarity: `(E,)` float32, cosine; at least the threshold where the pair must match.
    """

    row: np.ndarray
    column: np.ndarray
    similarity: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def transposed(self) -> Edges:
        """The same pairs, seen from the other camera."""
        order = np.lexsort((self.row, self.column))
        return Edges(self.column[order], self.row[order], self.similarity[order])

    def joined(self, other: Edges) -> Edges:
        """The pairs of both, each once."""
        row, column = np.concatenate([self.row, other.row]), np.concatenate([self.column, other.column])
        similarity = np.concatenate([self.similarity, other.similarity])
        order = np.lexsort((column, row))
        row, column, similarity = row[order], column[order], similarity[order]
        new = np.ones(len(row), bool)
        new[1:] = (row[1:] != row[:-1]) | (column[1:] != column[:-1])
        return Edges(row[new], column[new], similarity[new])


def tiles(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """`a @ b.T` in blocks of rows: the number of the first row, and `(H, B)` float32.

    Args:
        a: `(A, D)` unit embeddings.
        b: `(B, D)`, likewise.
    """
    a, b = a.astype(np.float32, copy=False), b.astype(np.float32, copy=False)
    height = max(1, TILE_CELLS // max(1, len(b)))
    for start in range(0, len(a), height):
        yield start, a[start : start + height] @ b.T


def edges_above(similarity: np.ndarray, threshold: float) -> Edges:
    """The pairs of a small matrix, `(A, B)` float32, at or above a threshold."""
    row, column = np.nonzero(similarity >= np.float32(threshold))
    return Edges(row.astype(np.int32), column.astype(np.int32), similarity[row, column])


def ruled(tile: np.ndarray, start: int, rule: PairRule | None, limit: np.float32) -> np.ndarray:
    """A tile in which pairs that must not match are -inf, and pairs that must are at least `limit`.

    Args:
        tile: `(H, B)` float32; it is left as it is.
        start: number of its first row.
        rule: None gives the tile itself.
        limit: the threshold.
    """
    if rule is None:
        return tile
    rows, columns = np.arange(start, start + len(tile))[:, None], np.arange(tile.shape[1])[None, :]
    result = np.where(rule.allowed(rows, columns), tile, np.float32(-np.inf))
    row, column = rule.must
    inside = (row >= start) & (row < start + len(tile))
    row, column = row[inside] - start, column[inside]
    result[row, column] = np.maximum(result[row, column], limit)
    return result


def full_matrix(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`(A, B)` float32, the same numbers as `tiles`; 4 bytes for every pair."""
    return np.concatenate([tile for _, tile in tiles(a, b)])


def search(
    a: np.ndarray, b: np.ndarray, *, threshold: float, count: int, rule: PairRule | None = None
) -> tuple[Nearest, Nearest, Edges, int]:
    """The nearest tracklets of either side, and the edges among them.

    Args:
        a: `(A, D)` unit embeddings, A at least 1.
        b: `(B, D)`, likewise.
        threshold: similarity below which no pair is an edge; compared in float32.
        count: nearest tracklets to keep for each, at most all of the other camera.
        rule: which pairs may match; the nearest are found without it.

    Returns:
        Nearest of `a` in `b` and of `b` in `a`; the edges: pairs at or above the threshold of which one is
        among the `count` nearest of the other; how many pairs are at or above the threshold in all.
    """
    limit = np.float32(threshold)
    of_a: list[tuple[np.ndarray, np.ndarray]] = []
    of_b = _Columns(len(b), count)
    edges: list[Edges] = []
    in_all = 0
    for start, raw in tiles(a, b):
        near = largest(raw, count)
        of_a.append(near)
        of_b.add(raw, start)
        tile = ruled(raw, start, rule, limit)
        if rule is not None:
            near = largest(tile, count)
        in_all += int(np.count_nonzero(tile >= limit))
        edges.append(_edges(*near, start, limit))
    nearest_a = Nearest(
        np.concatenate([index for index, _ in of_a]), np.concatenate([values for _, values in of_a])
    )
    nearest_b = of_b.nearest()
    found = Edges(*(np.concatenate([getattr(e, name) for e in edges]) for name in _FIELDS))
    if rule is None and len(found) < in_all:
        # Those that are near from the other side alone.
        row, values = nearest_b.index.ravel(), nearest_b.similarity.ravel()
        column = np.repeat(np.arange(len(b), dtype=np.int32), nearest_b.index.shape[1])
        keep = values >= limit
        found = found.joined(Edges(row[keep], column[keep], values[keep]))
    return nearest_a, nearest_b, found, in_all


_FIELDS = ("row", "column", "similarity")


def _edges(index: np.ndarray, values: np.ndarray, start: int, limit: np.float32) -> Edges:
    """Those of the nearest of a tile's rows that are at or above `limit`."""
    rows, place = np.nonzero(values >= limit)
    columns = index[rows, place]
    order = np.lexsort((columns, rows))
    return Edges((rows[order] + start).astype(np.int32), columns[order], values[rows, place][order])


class _Columns:
    """The largest values of every column of a matrix that comes in blocks of rows.

    A value enters only where it exceeds the least that its column keeps, so that after the first block few do.
    """

    def __init__(self, width: int, count: int) -> None:
        self._width, self._count = width, count
        self._least = np.full(width, -np.inf, np.float32)
        self._kept = np.empty(0, np.int32), np.empty(0, np.int32), np.empty(0, np.float32)
        self._new: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._new_count = 0

    def add(self, tile: np.ndarray, start: int) -> None:
        """Take in the rows from `start` on; they come in ascending order."""
        if not len(self._kept[0]) and self._count:
            index, values = largest(np.ascontiguousarray(tile.T), self._count)
            columns = np.repeat(np.arange(self._width, dtype=np.int32), index.shape[1])
            new = columns, index.ravel() + start, values.ravel()
        else:
            rows, cells = np.nonzero(tile > self._least)
            new = cells.astype(np.int32), (rows + start).astype(np.int32), tile[rows, cells]
        self._new.append(new)
        self._new_count += len(new[0])
        if self._new_count > self._width * self._count // 2:
            self._merge()

    def _merge(self) -> None:
        column, row, value = (np.concatenate(part) for part in zip(self._kept, *self._new, strict=True))
        order = np.lexsort((row, -value, column))
        column = column[order]
        place = np.arange(len(column)) - np.searchsorted(column, np.arange(self._width))[column]
        kept = place < self._count
        order = order[kept]
        self._kept = column[kept], row[order], value[order]
        last = place[kept] == self._count - 1
        self._least[self._kept[0][last]] = self._kept[2][last]
        self._new, self._new_count = [], 0

    def nearest(self) -> Nearest:
        """What every column keeps."""
        self._merge()
        shape = self._width, len(self._kept[0]) // self._width
        return Nearest(self._kept[1].reshape(shape), self._kept[2].reshape(shape))


def largest(values: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest values of every row, best first; equal values in the order of the columns.

    Args:
        values: `(A, B)` float32.
        count: how many, at most B are given.

    Returns:
        Columns `(A, min(count, B))` int32 and the values in them.
    """
    height, width = values.shape
    count = min(count, width)
    if count == width:
        index = np.argsort(-values, axis=1, kind="stable")
        return index.astype(np.int32), np.take_along_axis(values, index, axis=1)
    if count == 0:
        return np.empty((height, 0), np.int32), np.empty((height, 0), values.dtype)
    least = np.partition(values, width - count, axis=1)[:, width - count, None]
    rows, columns = np.nonzero(values >= least)  # more than `count` in a row only where values are equal
    found = values[rows, columns]
    order = np.lexsort((columns, -found, rows))
    place = np.arange(len(rows)) - np.searchsorted(rows, np.arange(height))[rows]
    order = order[place < count]
    shape = (height, count)
    return columns[order].astype(np.int32).reshape(shape), found[order].reshape(shape)
