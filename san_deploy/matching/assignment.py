"""One-to-one matches between two cameras, with "no match" as an answer, and the most similar candidates."""

from __future__ import annotations

import lap
import numpy as np

from ..errors import SanError


def assign(similarity: np.ndarray, threshold: float) -> np.ndarray:
    """One-to-one matches that maximise the sum of (similarity - threshold) over the matched pairs.

    Only pairs with similarity >= threshold can match, so leaving a tracklet alone is a real answer: it is
    taken where a match would cost others more than it gains. Both are compared in float32. The result depends
    on the matrix alone; among equally good answers, a pair exactly at the threshold is matched.

    Args:
        similarity: `(A, B)` float32, finite; A or B may be 0.
        threshold: in the same unit.

    Returns:
        `(A,)` int64, the column matched to every row, -1 for no match.

    Raises:
        SanError: a similarity or the threshold is NaN or infinite.
    """
    if not np.isfinite(similarity).all() or not np.isfinite(threshold):
        raise SanError("a similarity or the threshold is not finite", do="check the model")
    result = np.full(similarity.shape[0], -1, np.int64)
    if 0 in similarity.shape:
        return result
    similarity = similarity.astype(np.float32)
    limit = np.float32(threshold)
    allowed = similarity >= limit
    # The smallest bonus that survives in float64 sums: it decides nothing but pairs exactly at the threshold.
    gain = np.where(allowed, similarity.astype(np.float64) - float(limit) + 1e-12, 0.0)
    # A forbidden pair gains nothing, the same as no match: so a full assignment with its zero pairs taken
    # out is the optimum, and the matrix need not be extended by A + B dummy rows and columns.
    _, columns, _ = lap.lapjv(-gain, extend_cost=True)
    columns = np.asarray(columns, np.int64)
    rows = np.flatnonzero(columns >= 0)
    rows = rows[allowed[rows, columns[rows]]]
    result[rows] = columns[rows]
    return result


def rank(similarity: np.ndarray, top: int) -> np.ndarray:
    """Columns of the largest values of every row, best first; equal values in the order of the columns.

    Args:
        similarity: `(A, B)` float32.
        top: how many, at most B are given.

    Returns:
        `(A, min(top, B))` int64.
    """
    return np.argsort(-similarity, axis=1, kind="stable")[:, :top]
