"""Query expansion: an embedding is drawn towards its nearest gallery crops before it is compared.

Average query expansion (Chum et al., ICCV 2007) adds them as they are, alpha query expansion (Radenovic et al., TPAMI
2019, arXiv 1711.02512) by the power alpha of their similarity.
"""

from __future__ import annotations

import numpy as np

from ..errors import SanError, UsageError
from .nearest import nearest
from .scores import Similarity, checked_pair, unit_embeddings

#: Beyond it a neighbour of cosine 0.9 has no weight left in FP32 beside the row itself.
MOST_ALPHA = 100.0
#: Cells of the neighbours that are gathered at once.
_BLOCK_CELLS = 1 << 22


def expand_queries(
    query: np.ndarray,
    gallery: np.ndarray,
    *,
    count: int = 10,
    alpha: float = 3.0,
    gallery_too: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Add to each row the sum of its nearest gallery rows, each by max(cosine, 0) ** alpha.

    No label is looked at: crops of the query's own camera, and its own crop where it stands in the gallery,
    are neighbours like any other.

    Args:
        query: `(Q, D)`; rows are brought to length 1 first.
        gallery: `(G, D)`, likewise.
        count: neighbours, at least 1.
        alpha: 0 is average query expansion; at most `MOST_ALPHA`.
        gallery_too: the gallery's rows are expanded as well, by their nearest but themselves.

    Returns:
        Query and gallery, float32 embeddings of norm 1.

    Raises:
        SanError: an embedding is not finite or of length 0, or cancels out against its neighbours.
        UsageError: count or alpha is out of range.
    """
    if count < 1 or not 0.0 <= alpha <= MOST_ALPHA:
        raise UsageError(
            f"query expansion by {count} neighbours and alpha {alpha} makes no sense",
            do=f"give at least one neighbour and an alpha from 0 to {MOST_ALPHA:g}",
        )
    query, gallery = checked_pair(query, gallery)
    query, gallery = unit_embeddings(query, "query"), unit_embeddings(gallery, "gallery")
    index, score, _ = nearest(Similarity(query, gallery), count)
    expanded = _expand(query, gallery, index, score, alpha)
    if not gallery_too:
        return expanded, gallery
    index, score, _ = nearest(Similarity(gallery, gallery), count + 1)
    itself = index == np.arange(len(gallery))[:, None]
    # Among that many copies of a crop it may not find itself: then the least alike goes.
    itself[~itself.any(axis=1), -1] = True
    others = len(gallery), index.shape[1] - 1
    index, score = index[~itself].reshape(others), score[~itself].reshape(others)
    return expanded, _expand(gallery, gallery, index, score, alpha)


def _expand(
    rows: np.ndarray, among: np.ndarray, index: np.ndarray, score: np.ndarray, alpha: float
) -> np.ndarray:
    weight = np.maximum(score, 0.0) ** np.float32(alpha)
    result = rows.copy()
    height = max(1, _BLOCK_CELLS // max(1, index.shape[1] * rows.shape[1]))
    for low in range(0, len(rows), height):
        part = slice(low, low + height)
        result[part] += np.einsum("nk,nkd->nd", weight[part], among[index[part]])
    try:
        return unit_embeddings(result, "expanded")
    except SanError as error:
        raise SanError("an embedding and its neighbours cancel out", do="expand by fewer") from error
