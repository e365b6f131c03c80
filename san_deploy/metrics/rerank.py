"""k-reciprocal re-ranking (Zhong et al., CVPR 2017, arXiv 1701.08398) without a matrix of all against all.

The published program keeps several N x N matrices of the N = Q + G crops. Here similarities are made a tile at a
time and only the neighbours of each crop are kept; the k-reciprocal features are sparse, and the re-ranked
distances of a tile of queries are made when they are asked for. The result is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..errors import UsageError
from .nearest import nearest
from .scores import Similarity, checked_pair, unit_embeddings

#: The paper's values (Sec. 4.2, 5).
K1, K2, LAMBDA = 20, 6, 0.3
#: A squared distance below this is FP32's rounding of a cosine near 1, and no scale to measure others by.
_LEAST = np.float32(1e-6)
#: Cells that are worked on at once.
_BLOCK_CELLS = 1 << 21
#: Cells that stay in the cache between the passes over them.
_CACHE_CELLS = 1 << 16
#: Where k1 is a large share of all crops, full matrices are faster. A step by indices takes as long as about so many
#: multiplications of a matrix product, and as so many minima of two full rows.
_PRODUCT_STEPS, _MINIMUM_STEPS = 256, 16


@dataclass(frozen=True)
class Sparse:
    """A sparse matrix by rows: row i has `column[start[i] : start[i + 1]]`, in ascending order, and `value`."""

    start: np.ndarray
    column: np.ndarray
    value: np.ndarray

    def entries(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where the entries of some rows are: which of `rows`, and the place in `column` and `value`."""
        return spans(self.start[rows], self.start[rows + 1])

    def rows(self, rows: np.ndarray) -> Sparse:
        """Some of the rows, in their order."""
        which, place = self.entries(rows)
        start = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(np.bincount(which, minlength=len(rows)), out=start[1:])
        return Sparse(start, self.column[place], self.value[place])

    def dense(self, rows: slice, columns: int) -> np.ndarray:
        """Some of the rows as a full matrix, `(rows, columns)` float32."""
        which, place = self.entries(np.arange(rows.start, rows.stop))
        result = np.zeros((rows.stop - rows.start, columns), np.float32)
        result[which, self.column[place]] = self.value[place]
        return result

    def transpose(self, rows: slice, columns: int) -> Sparse:
        """By columns, some of the rows only, numbered from 0."""
        first, end = self.start[rows.start], self.start[rows.stop]
        column, value = self.column[first:end], self.value[first:end]
        row = np.repeat(
            np.arange(rows.stop - rows.start, dtype=np.int32), np.diff(self.start[rows.start : rows.stop + 1])
        )
        order = np.argsort(column, kind="stable")
        start = np.zeros(columns + 1, np.int64)
        np.cumsum(np.bincount(column, minlength=columns), out=start[1:])
        return Sparse(start, row[order], value[order])


def spans(first: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Count from `first[i]` to `end[i]` for every i, one after the other: `(i, place)`, both int64."""
    length = end - first
    which = np.repeat(np.arange(len(length)), length)
    place = np.arange(len(which)) + np.repeat(first - (np.cumsum(length) - length), length)
    return which, place


def chunks(length: np.ndarray) -> Iterator[slice]:
    """Cut entries that make `length` steps each into parts of about as many steps as are made at once."""
    total = np.cumsum(length)
    cuts = np.searchsorted(total, np.arange(0, total[-1] if len(total) else 0, _BLOCK_CELLS), "right")
    yield from (slice(low, high) for low, high in pairwise([*cuts.tolist(), len(length)]))


class Reranked:
    """Re-ranked distances, negative, as `metrics.Scores`: larger is more alike.

    The distance is (1 - weight) x Jaccard distance of the k-reciprocal features + weight x squared Euclidean
    distance over its largest value in the query's row (Eq. 12).

    Args:
        query: `(Q, D)`; rows are brought to length 1. None where `query_rows` says which they are.
        gallery: `(G, D)`, junk left out: it would be counted as a neighbour.
        query_rows: `(Q,)` int, the places of the queries in the gallery, where they all stand in it. Given twice,
            each crop would find itself twice among its neighbours, and half as many others.
        k1: neighbours that are looked at for reciprocity; all crops where there are fewer.
        k2: neighbours whose features are averaged, 1 to k1 + 1; 1 averages none.
        weight: of the original distance, the paper's lambda, 0 to 1.
        progress: called with how many more of the Q + G crops have found their neighbours.

    Raises:
        SanError: an embedding is not finite or of length 0.
        UsageError: k1, k2 or weight is out of range.
    """

    def __init__(
        self,
        query: np.ndarray | None,
        gallery: np.ndarray,
        *,
        query_rows: np.ndarray | None = None,
        k1: int = K1,
        k2: int = K2,
        weight: float = LAMBDA,
        progress: Callable[[int], object] | None = None,
    ) -> None:
        if k1 < 1 or not 1 <= k2 <= k1 + 1 or not 0.0 <= weight <= 1.0:
            raise UsageError(
                f"re-ranking with k1 {k1}, k2 {k2} and weight {weight} makes no sense",
                do="give k1 >= 1, k2 from 1 to k1 + 1 and a weight from 0 to 1",
            )
        if query is None:
            if query_rows is None:
                raise UsageError("re-ranking needs queries: their embeddings, or their places in the gallery")
            rows, asked, among = unit_embeddings(gallery, "gallery"), query_rows, slice(0, len(gallery))
        else:
            rows = unit_embeddings(np.concatenate(checked_pair(query, gallery)), "query or gallery")
            asked, among = np.arange(len(query)), slice(len(query), len(rows))
        self.shape = len(asked), len(gallery)
        self._weight = weight
        neighbours = nearest(Similarity(rows, rows), k1 + 1, progress)
        # Squared Euclidean distance of unit rows is 2 - 2 x cosine; the largest is that of the least alike.
        farthest = np.maximum(2.0 - 2.0 * neighbours.lowest, _LEAST)
        feature = reciprocal_features(rows, neighbours.column, farthest, k1)
        if k2 > 1:
            feature = average(feature, neighbours.column[:, :k2])
        self._crops = len(rows)
        self._farthest = farthest[asked]
        self._feature = feature.rows(asked)
        self._inverted = feature.transpose(among, len(rows))
        self._similarity = Similarity(rows[asked], rows[among])

    def fill(self, start: int, stop: int, out: np.ndarray) -> None:
        """As `metrics.Scores.fill`."""
        self._similarity.fill(start, stop, out)
        # -weight x (2 - 2 x cosine) / farthest - (1 - weight) x (1 - overlap)
        slope = (2.0 * self._weight / self._farthest[start:stop]).astype(np.float32)
        height = max(1, _BLOCK_CELLS // self._crops)
        for low in range(start, stop, height):
            part = slice(low - start, min(low + height, stop) - start)
            block = out[part]
            block *= slope[part, None]
            block -= (slope[part] + np.float32(1.0 - self._weight))[:, None]
            common = self._common(low, low + len(block)).ravel()
            # Most pairs have no neighbour in common.
            cell = np.flatnonzero(common > 0)
            common = common[cell]
            # 1 - Jaccard distance (Eq. 10). Features sum to 1: the sum of maxima is 2 - that of minima.
            block.reshape(-1)[cell] += (1.0 - self._weight) * common / (2.0 - common)

    def distance(self) -> np.ndarray:
        """`(Q, G)` float32, the whole matrix of re-ranked distances."""
        result = np.empty(self.shape, np.float32)
        self.fill(0, len(result), result)
        return np.negative(result, out=result)

    def _common(self, start: int, stop: int) -> np.ndarray:
        """Sums of the minima of features, `(stop - start, G)` float64."""
        row, place = self._feature.entries(np.arange(start, stop))
        length = np.diff(self._inverted.start)[self._feature.column[place]]
        cells = (stop - start) * self.shape[1] * self._crops
        if int(length.sum()) * _MINIMUM_STEPS > cells:
            return self._common_full(start, stop)
        height = stop - start
        sums = (self._common_of(row[part], place[part], height) for part in chunks(length))
        common = next(sums, np.zeros(height * self.shape[1]))
        for more in sums:
            common += more
        return common.reshape(height, self.shape[1])

    def _common_of(self, row: np.ndarray, place: np.ndarray, height: int) -> np.ndarray:
        """What some entries of the queries' features add to the sums, `(height * G,)` float64."""
        column, value = self._feature.column[place], self._feature.value[place]
        entry, other = spans(self._inverted.start[column], self._inverted.start[column + 1])
        found = np.bincount(
            row[entry] * self.shape[1] + self._inverted.column[other],
            weights=np.minimum(value[entry], self._inverted.value[other]),
            minlength=height * self.shape[1],
        )
        # Without any entry NumPy counts in integers.
        return found.astype(np.float64, copy=False)

    def _common_full(self, start: int, stop: int) -> np.ndarray:
        """Sums of minima of full rows, `(stop - start, G)` float64."""
        asked = self._feature.dense(slice(start, stop), self._crops)
        common = np.zeros((stop - start, self.shape[1]))
        height = max(1, _CACHE_CELLS // self.shape[1])
        for low in range(0, self._crops, height):
            part = slice(low, min(low + height, self._crops))
            others = self._inverted.dense(part, self.shape[1])
            for row, values in enumerate(asked[:, part]):
                common[row] += np.minimum(others, values[:, None]).sum(axis=0)
        return common


def reciprocal_features(rows: np.ndarray, index: np.ndarray, farthest: np.ndarray, k1: int) -> Sparse:
    """The k-reciprocal features of all crops (Eq. 3 to 7): sparse, non-negative, rows of sum 1.

    Args:
        rows: `(N, D)` float32 embeddings of norm 1.
        index: `(N, K)` int32, the neighbours of each, itself among them, nearest first; K = k1 + 1 where
            there are so many crops.
        farthest: `(N,)` largest squared distance of each.
        k1: as in the paper.
    """
    count = len(rows)
    # The published program rounds half to even, and counts the crop itself besides.
    half = index[:, : int(np.around(min(k1, 2 * count) / 2)) + 1]
    mutual, mutual_half = reciprocal(index), reciprocal(half)
    size_half = mutual_half.sum(axis=1)
    full = int(size_half[index[mutual]].sum()) * _PRODUCT_STEPS > count**3
    column, value, length = [], [], np.empty(count, np.int64)
    height = max(1, _BLOCK_CELLS // count)
    marks = np.zeros((height, count), bool)
    for low in range(0, count, height):
        block = slice(low, min(low + height, count))
        place = np.flatnonzero(mutual[block])
        near = place // index.shape[1] * count + index[block].ravel()[place]
        marks.ravel()[near] = True  # R(p, k1) (Eq. 3), for all p of the block
        expand = _expand_full if full else _expand
        # Cells are few: to keep their numbers is faster than to look for them.
        added = expand(marks[: block.stop - low], near, half, mutual_half, size_half)
        cell = np.unique(np.concatenate([near, added]))
        marks.ravel()[near] = False
        at, other = cell // count, cell % count
        weights = np.exp(2.0 * (_cosines(rows, at + low, other) - 1.0) / farthest[low + at])
        total = np.bincount(at, weights=weights)
        column.append(other.astype(np.int32))
        value.append((weights / total[at]).astype(np.float32))
        length[block] = np.bincount(at, minlength=block.stop - low)
    return Sparse(np.concatenate([[0], np.cumsum(length)]), np.concatenate(column), np.concatenate(value))


def _expand(
    marks: np.ndarray, cells: np.ndarray, index: np.ndarray, mutual: np.ndarray, size: np.ndarray
) -> np.ndarray:
    """The cells of each R(q, k1 / 2) of which R(p, k1) holds more than two thirds, for q in it (Eq. 5).

    Args:
        marks: `(P, N)` bool, who is in R(p, k1), for some p.
        cells: `(M,)` where it is true, row x N + column, in any order.
        index: `(N, K)` int32 neighbours of all crops.
        mutual: `(N, K)` bool, which of them are in R(q, k1 / 2).
        size: `(N,)` int64, how many.

    Returns:
        Cells, in any order, some of them more than once.
    """
    count, width = index.shape
    found = []
    height = max(1, _BLOCK_CELLS // width)
    for low in range(0, len(cells), height):
        part = cells[low : low + height]
        near = part % count
        place = np.flatnonzero(mutual[near])
        pair = place // width
        candidate = (part - near)[pair] + index[near].ravel()[place]
        inside = np.bincount(pair, weights=marks.ravel()[candidate], minlength=len(near))
        found.append(candidate[(inside > 2.0 / 3 * size[near])[pair]])
    return np.concatenate(found)


def _expand_full(
    marks: np.ndarray, cells: np.ndarray, index: np.ndarray, mutual: np.ndarray, size: np.ndarray
) -> np.ndarray:
    """The same by products of full matrices; whole numbers are exact in FP32."""
    result, count = marks.copy(), len(index)
    members = marks.astype(np.float32)
    height = max(1, _BLOCK_CELLS // count)
    for low in range(0, count, height):
        part = slice(low, min(low + height, count))
        row, place = np.nonzero(mutual[part])
        near = np.zeros((part.stop - low, count), np.float32)
        near[row, index[part][row, place]] = 1.0
        taken = (members @ near.T > 2.0 / 3 * size[part]) & marks[:, part]
        result |= taken.astype(np.float32) @ near > 0.0
    return np.flatnonzero(result)


def reciprocal(index: np.ndarray) -> np.ndarray:
    """Which neighbours have the crop among theirs (Eq. 2): `(N, K)` bool of `(N, K)` int32."""
    count, width = index.shape
    result = np.empty(index.shape, bool)
    # By neighbour: all places of crop 0, then of crop 1, ...
    order = np.argsort(index, axis=None, kind="stable")
    first = np.concatenate([[0], np.cumsum(np.bincount(index.ravel(), minlength=count))])
    height = max(1, _BLOCK_CELLS // count)
    for low in range(0, count, height):
        high = min(low + height, count)
        place = order[first[low] : first[high]]
        # Who has crop `low`, `low + 1`, ... among the neighbours.
        holders = np.zeros((high - low, count), bool)
        holders[index.ravel()[place] - low, place // width] = True
        result[low:high] = np.take_along_axis(holders, index[low:high], axis=1)
    return result


def average(feature: Sparse, index: np.ndarray) -> Sparse:
    """Each crop's feature becomes the mean of its nearest crops' (local query expansion, Eq. 11).

    Args:
        feature: of N crops.
        index: `(N, k2)` int32, the nearest of each.
    """
    count, width = index.shape
    column, value, length = [], [], np.empty(count, np.int64)
    steps = width * len(feature.column) // count
    # Rows that are nearly full are added up in place, others sorted.
    full = 4 * steps > count
    height = max(1, _BLOCK_CELLS // max(1, count if full else steps))
    for low in range(0, count, height):
        block = index[low : low + height]
        cell, total = (_sums_full if full else _sums)(feature, block)
        value.append((total / width).astype(np.float32))
        column.append((cell % count).astype(np.int32))
        length[low : low + height] = np.bincount(cell // count, minlength=len(block))
    return Sparse(np.concatenate([[0], np.cumsum(length)]), np.concatenate(column), np.concatenate(value))


def _sums(feature: Sparse, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of the features of the crops in each row: cells, row x N + column, and values."""
    near, place = feature.entries(index.ravel())
    cell = near // index.shape[1] * (len(feature.start) - 1) + feature.column[place]
    order = np.argsort(cell, kind="stable")
    cell = cell[order]
    first = np.flatnonzero(np.diff(cell, prepend=-1))
    return cell[first], np.add.reduceat(feature.value[place[order]], first)


def _sums_full(feature: Sparse, index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same by full rows."""
    crops, count = index.ravel(), len(feature.start) - 1
    total = np.zeros(len(index) * count)
    for part in chunks(np.diff(feature.start)[crops]):
        near, place = feature.entries(crops[part])
        cell = (part.start + near) // index.shape[1] * count + feature.column[place]
        total += np.bincount(cell, weights=feature.value[place], minlength=len(total))
    cell = np.flatnonzero(total)
    return cell, total[cell]


def _cosines(rows: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Inner products of pairs of unit rows, `(n,)` float32, at most 1 as no rounding may have it."""
    result = np.empty(len(a), np.float32)
    height = max(1, _BLOCK_CELLS // rows.shape[1])
    for low in range(0, len(a), height):
        part = slice(low, low + height)
        np.einsum("ij,ij->i", rows[a[part]], rows[b[part]], out=result[part])
    return np.minimum(result, 1.0, out=result)
