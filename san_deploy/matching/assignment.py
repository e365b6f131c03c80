"""One-to-one matches between two cameras, with "no match" as an answer: a sparse assignment, solved exactly."""

from __future__ import annotations

import lap
import numpy as np

from ..errors import SanError
from .similarity import Edges, PairRule, ruled, tiles

#: The smallest bonus that survives in float64 sums: it decides nothing but pairs exactly at the threshold.
_BONUS = 1e-12
#: Gains that are equal but for the rounding of their sums.
_ROUNDING = _BONUS / 2
#: New edges that one round adds for a row at most.
_NEW_EDGES = 32


def assign(edges: Edges, shape: tuple[int, int], threshold: float) -> np.ndarray:
    """One-to-one matches that maximise the sum of (similarity - threshold) over the matched pairs.

    Only edges at or above the threshold can match, so leaving a tracklet alone is a real answer: it is
    taken where a match would cost others more than it gains. Both are compared in float32. Among equally
    good answers, a pair exactly at the threshold is matched.

    The square problem that is solved has the rows and a dummy row for every column, the columns and a dummy
    column for every row; where a pair matches, its dummies take each other over the transposed edge, at no
    cost. So its optimum is the maximum above (Jonker and Volgenant 1987, as lapx solves it).

    Args:
        edges: pairs with finite similarity.
        shape: tracklets of either camera.
        threshold: in the same unit.

    Returns:
        `(A,)` int64, the column matched to every row, -1 for no match.

    Raises:
        SanError: a similarity or the threshold is NaN or infinite.
    """
    if not np.isfinite(edges.similarity).all() or not np.isfinite(threshold):
        raise SanError("a similarity or the threshold is not finite", do="check the model")
    height, width = shape
    result = np.full(height, -1, np.int64)
    kept = edges.similarity >= np.float32(threshold)
    row, column = edges.row[kept].astype(np.int64), edges.column[kept].astype(np.int64)
    if not len(row):
        return result
    gain = _gain(edges.similarity[kept], threshold)
    top = float(gain.max())
    # Rows of the square problem: the tracklets of the first camera, then the dummies of the second.
    sizes = np.concatenate([np.bincount(row, minlength=height), np.bincount(column, minlength=width)]) + 1
    first = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
    columns, cost = np.empty(first[-1], np.int32), np.empty(first[-1], np.float64)
    number = np.arange(len(row))
    columns[number + row], cost[number + row] = column, top - gain
    last = first[1 : height + 1] - 1
    columns[last], cost[last] = width + np.arange(height), top / 2
    dummy = first[height:-1]
    columns[dummy], cost[dummy] = np.arange(width), top / 2
    order = np.lexsort((row, column))
    transposed = first[height] + number + column[order] + 1
    columns[transposed], cost[transposed] = width + row[order], 0.0
    chosen, _ = lap.lapmod(height + width, cost, first, columns, return_cost=False)
    chosen = np.asarray(chosen[:height], np.int64)
    matched = chosen < width
    result[matched] = chosen[matched]
    return result


def assign_all(
    a: np.ndarray,
    b: np.ndarray,
    edges: Edges,
    *,
    threshold: float,
    complete: bool,
    rule: PairRule | None = None,
) -> tuple[np.ndarray, Edges]:
    """`assign` over every pair of two cameras, exact although most pairs are never stored.

    The assignment over some edges comes with prices (its dual solution). A pair that is not among them can
    improve it only where it gains more than the prices of its two tracklets; such pairs are looked for in
    tiles and added until there is none (column generation).

    Args:
        a: `(A, D)` unit embeddings.
        b: `(B, D)`, likewise.
        edges: pairs to begin with.
        threshold: similarity below which nothing matches.
        complete: whether `edges` are all pairs at or above the threshold.
        rule: which pairs may match, the same as `edges` were made with.

    Returns:
        `(A,)` int64 as of `assign`, and the edges with those that were added.
    """
    shape = len(a), len(b)
    while True:
        match = assign(edges, shape, threshold)
        if complete:
            return match, edges
        price_a, price_b = _prices(edges, shape, match, threshold)
        new = _improving(a, b, price_a, price_b, threshold=threshold, rule=rule)
        joined = edges.joined(new)
        if len(joined) == len(edges):
            return match, edges
        edges = joined


def _gain(similarity: np.ndarray, threshold: float) -> np.ndarray:
    return similarity.astype(np.float64) - float(np.float32(threshold)) + _BONUS


def _prices(
    edges: Edges, shape: tuple[int, int], match: np.ndarray, threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """Dual solution of an optimal assignment, with the least prices of columns.

    Prices p, q >= 0 with p_i + q_j >= gain_ij, equal where i and j match, and 0 for a tracklet without one. A
    column's price is the longest path to it in the residual graph (Ahuja, Magnanti and Orlin 1993, sec. 9).
    """
    height, width = shape
    by_column = edges.transposed()
    keep = by_column.similarity >= np.float32(threshold)
    column, row = by_column.row[keep], by_column.column[keep]
    gain = _gain(by_column.similarity[keep], threshold)
    names, first = np.unique(column, return_index=True)
    own = match[row] == column
    matched_gain = np.zeros(height)
    matched_gain[row[own]] = gain[own]
    partner = np.where(match >= 0, match, 0)
    price_b = np.zeros(width)
    while True:
        price_a = np.where(match >= 0, matched_gain - price_b[partner], 0.0)
        wanted = np.maximum.reduceat(gain - price_a[row], first) if len(first) else np.empty(0)
        raised = wanted > price_b[names] + _ROUNDING
        if not raised.any():
            return np.maximum(price_a, 0.0), price_b
        price_b[names[raised]] = wanted[raised]


def _improving(
    a: np.ndarray,
    b: np.ndarray,
    price_a: np.ndarray,
    price_b: np.ndarray,
    *,
    threshold: float,
    rule: PairRule | None,
) -> Edges:
    """Pairs that gain more than their prices, those that gain most of each row."""
    found = []
    base = (price_b + float(np.float32(threshold))).astype(np.float32)
    for start, raw in tiles(a, b):
        tile = ruled(raw, start, rule, np.float32(threshold))
        price = price_a[start : start + len(tile)]
        # Coarsely in float32, then the few that are left exactly.
        rows, columns = np.nonzero(tile > (base - np.float32(1e-5)) + price.astype(np.float32)[:, None])
        excess = _gain(tile[rows, columns], threshold) - price[rows] - price_b[columns]
        keep = (excess > _ROUNDING) & (tile[rows, columns] >= np.float32(threshold))
        rows, columns, excess = rows[keep], columns[keep], excess[keep]
        order = np.lexsort((-excess, rows))
        rows, columns = rows[order], columns[order]
        place = np.arange(len(rows)) - np.searchsorted(rows, np.arange(len(tile)))[rows]
        rows, columns = rows[place < _NEW_EDGES], columns[place < _NEW_EDGES]
        found.append(Edges((rows + start).astype(np.int32), columns.astype(np.int32), tile[rows, columns]))
    return Edges(
        *(np.concatenate([getattr(e, name) for e in found]) for name in ("row", "column", "similarity"))
    )
