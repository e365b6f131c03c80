"""The most similar crops of each row, a tile at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from .scores import Scores, tiles

#: Rows that are searched at once: their cells stay in the cache between the passes over them.
_BLOCK_ROWS = 32
#: Groups of columns for each neighbour that is wanted.
_GROUPS = 32


class Neighbours(NamedTuple):
    """The nearest of each of Q rows.

    Attributes:
        column: `(Q, K)` int32, most alike first; of equals the lower number first.
        score: `(Q, K)` float32, as `Scores` gives it.
        lowest: `(Q,)` float32, the smallest score of the row.
    """

    column: np.ndarray
    score: np.ndarray
    lowest: np.ndarray


def nearest(scores: Scores, count: int, progress: Callable[[int], object] | None = None) -> Neighbours:
    """Find the most similar columns of every row without keeping the scores.

    Args:
        scores: how alike they are.
        count: K, at least 1; all columns where there are fewer.
        progress: called with how many more rows are done.
    """
    rows, columns = scores.shape
    count = min(count, columns)
    result = Neighbours(
        np.empty((rows, count), np.int32), np.empty((rows, count), np.float32), np.empty(rows, np.float32)
    )
    for start, tile in tiles(scores):
        for low in range(0, len(tile), _BLOCK_ROWS):
            block = tile[low : low + _BLOCK_ROWS]
            done = slice(start + low, start + low + len(block))
            result.lowest[done] = block.min(axis=1)
            result.column[done], result.score[done] = _largest(block, count)
        if progress:
            progress(len(tile))
    return result


def _largest(block: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values of the `count` largest of each row, in order."""
    rows, columns = block.shape
    # The columns are dealt to groups. If `count` groups have a largest value of b or more, the row has that
    # many values of b or more: few others reach it.
    groups = min(columns, _GROUPS * count)
    best = block[:, : columns // groups * groups].reshape(rows, -1, groups).max(axis=1)
    bound = np.partition(best, groups - count, axis=1)[:, groups - count, None]
    cell = np.flatnonzero(block >= bound)
    row, value = cell // columns, block.ravel()[cell]
    # Cells come in ascending order, so that a stable sort puts the lower number of equals first.
    order = np.lexsort((-value, row))
    first = np.searchsorted(row, np.arange(rows))
    chosen = order[first[:, None] + np.arange(count)]
    return (cell[chosen] % columns).astype(np.int32), value[chosen]
