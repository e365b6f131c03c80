"""Similarities of queries and gallery, made a tile of rows at a time: the whole matrix never stands in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from ..errors import SanError

#: Queries of one tile: fewer, and the matrix product pays for reading the gallery over and over.
_TILE_ROWS = 512
#: Cells of one tile at most, 4 bytes each.
_TILE_CELLS = 1 << 26


class Scores(Protocol):
    """How alike each of Q queries is to each of G gallery crops.

    Implementations should
    - write finite float32, larger is more alike;
    - be free of state, so that any rows can be asked for in any order.
    """

    #: (Q, G).
    shape: tuple[int, int]

    def fill(self, start: int, stop: int, out: np.ndarray) -> None:
        """Write the rows of queries `start` to `stop` into `out`, `(stop - start, G)` float32, contiguous."""
        ...


def tiles(scores: Scores) -> Iterator[tuple[int, np.ndarray]]:
    """All rows, a tile after the other: the first query's number and `(B, G)` float32.

    The caller may write into a tile; the next one reuses its memory.
    """
    queries, gallery = scores.shape
    height = max(1, min(queries, _TILE_ROWS, _TILE_CELLS // max(1, gallery)))
    buffer = np.empty((height, gallery), np.float32)
    for start in range(0, queries, height):
        tile = buffer[: min(height, queries - start)]
        scores.fill(start, start + len(tile), tile)
        yield start, tile


def checked_embeddings(rows: np.ndarray, name: str) -> np.ndarray:
    """Embeddings as contiguous float32, the same array where it is that already.

    Args:
        rows: `(N, D)` of any number type.
        name: what they are, for messages.

    Raises:
        SanError: not two-dimensional, or a value is NaN, infinite, or too large for a product in FP32.
    """
    with np.errstate(over="ignore"):
        result = np.ascontiguousarray(rows, np.float32)
    if result.ndim != 2:
        raise SanError(f"the {name} embeddings are of shape {result.shape}, not (crops, values)")
    # A sum of squares is finite only where every value is, and bounds every inner product.
    if not np.isfinite(np.einsum("ij,ij->i", result, result)).all():
        raise SanError(
            f"the {name} embeddings hold NaN or infinity",
            do="check the model; `san export` refuses such a network",
        )
    return result


def checked_pair(query: np.ndarray, gallery: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both by `checked_embeddings`; SanError besides where their rows differ in length."""
    rows = checked_embeddings(query, "query")
    # Every crop against all others: one conversion and one check for both.
    others = rows if gallery is query else checked_embeddings(gallery, "gallery")
    if rows.shape[1] != others.shape[1]:
        raise SanError(
            f"query embeddings have {rows.shape[1]} values, gallery embeddings {others.shape[1]}",
            why="they come from different models",
            do="embed both with one model",
        )
    return rows, others


def unit_embeddings(rows: np.ndarray, name: str) -> np.ndarray:
    """By `checked_embeddings`, then brought to length 1: a new array; SanError besides for a row of zeros."""
    rows = checked_embeddings(rows, name)
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    if not (norm > 0).all():
        raise SanError(f"the {name} embeddings hold a row of zeros", do="check the model")
    return rows / norm


class Similarity:
    """Inner products, which are cosines for unit embeddings, in FP32 whatever the type of the embeddings.

    Equal gallery embeddings get equal values. BLAS does not promise it: with some kernels a column's last bit
    depends on its place, which would part crops that are the same.

    Args:
        query: `(Q, D)`.
        gallery: `(G, D)`.

    Raises:
        SanError: the embeddings are not finite or not of one size.
    """

    def __init__(self, query: np.ndarray, gallery: np.ndarray) -> None:
        self._query, self._gallery = checked_pair(query, gallery)
        self.shape = len(self._query), len(self._gallery)
        self._copies, self._originals = _copies(self._gallery)

    def fill(self, start: int, stop: int, out: np.ndarray) -> None:
        """As `Scores.fill`."""
        np.matmul(self._query[start:stop], self._gallery.T, out=out)
        if len(self._copies):
            out[:, self._copies] = out[:, self._originals]


def _copies(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows that equal an earlier one, and that earlier one: two `(C,)` int64."""
    # Whole numbers add up without rounding: equal rows have equal sums, and few others do.
    sums = np.add.reduce(rows.view(np.uint32), axis=1, dtype=np.uint64)
    order = np.argsort(sums, kind="stable")
    fresh = np.diff(sums[order], prepend=np.uint64(0)) != 0
    fresh[:1] = True
    original = order[np.maximum.accumulate(np.where(fresh, np.arange(len(rows)), 0))]
    suspect = np.flatnonzero(~fresh)
    copies, originals = order[suspect], original[suspect]
    same = np.array([np.array_equal(rows[a], rows[b]) for a, b in zip(copies, originals, strict=True)], bool)
    return copies[same], originals[same]
