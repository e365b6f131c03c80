"""Ranking metrics, computed as the field does (Market-1501's protocol), in FP32, with a stated tie policy.

One query at a time, and only the ranks of its own positives are found: no Q x G matrix, no full sort.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

import numpy as np

from .datasets.records import DISTRACTOR
from .errors import SanError

#: Cells of one tile of similarities; 4 bytes each.
_TILE_CELLS = 4_000_000


@dataclass(frozen=True)
class Ranking:
    """CMC, mAP and mINP of one evaluation.

    Attributes:
        rank1, rank5, rank10, rank20: share of queries whose first right answer is within the first 1, 5, ...
        mean_ap: mean over queries of the mean precision at the rank of each right answer (not the trapezoid).
        mean_inp: mean over queries of positives / rank of the last one (Ye et al., arXiv 2001.04193).
        queries: queries that count.
        unanswerable: queries without any right answer in the gallery; they are left out.
    """

    rank1: float
    rank5: float
    rank10: float
    rank20: float
    mean_ap: float
    mean_inp: float
    queries: int
    unanswerable: int

    def as_dict(self) -> dict[str, float]:
        """A plain dictionary, for JSON."""
        return asdict(self)


def rank_positives(similarity: np.ndarray, positive: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Ranks, from 1, of the right answers of one query.

    Ties are pessimistic: a wrong answer that is exactly as similar as a right one stands before it, so
    the result depends on no sorting order.

    Args:
        similarity: `(G,)` float32, larger is more alike.
        positive: `(G,)` bool, the right answers.
        ignored: `(G,)` bool, entries that do not count (same person, same camera).

    Returns:
        `(P,)` int64, ascending.
    """
    right = np.sort(similarity[positive & ~ignored])[::-1]
    wrong = np.sort(similarity[~positive & ~ignored])
    wrong_before = len(wrong) - np.searchsorted(wrong, right, side="left")
    return wrong_before + np.arange(1, len(right) + 1)


def evaluate(
    query: np.ndarray,
    gallery: np.ndarray,
    *,
    query_person: np.ndarray,
    gallery_person: np.ndarray,
    query_camera: np.ndarray,
    gallery_camera: np.ndarray,
) -> Ranking:
    """Market-1501's protocol: gallery entries of the same person and the same camera do not count.

    A query's own crop may stand in the gallery: it has its own person and camera, so it does not count.
    Person 0 (`DISTRACTOR`) is a wrong answer for everybody, also for another 0, and no query that counts.

    Args:
        query: `(Q, D)` float32 unit rows.
        gallery: `(G, D)` float32 unit rows.
        query_person: `(Q,)` int.
        gallery_person: `(G,)` int.
        query_camera: `(Q,)` of any comparable type.
        gallery_camera: `(G,)` of the same type.

    Raises:
        SanError: an embedding is not finite, or no query has a right answer.
    """
    for name, rows in (("query", query), ("gallery", gallery)):
        if not np.isfinite(rows).all():
            raise SanError(
                f"the {name} embeddings hold NaN or infinity",
                do="check the model; `san export` refuses such a network",
            )
    hits = np.zeros(21)
    precisions: list[float] = []
    inverse_negative: list[float] = []
    unanswerable = 0
    for start, similarity in _tiles(query.astype(np.float32), gallery.astype(np.float32)):
        for row, values in enumerate(similarity, start):
            positive = (gallery_person == query_person[row]) & (gallery_person != DISTRACTOR)
            ignored = positive & (gallery_camera == query_camera[row])
            ranks = rank_positives(values, positive, ignored)
            if not len(ranks):
                unanswerable += 1
                continue
            if ranks[0] <= 20:
                hits[ranks[0]] += 1
            precisions.append(float(np.mean(np.arange(1, len(ranks) + 1) / ranks)))
            inverse_negative.append(len(ranks) / int(ranks[-1]))
    count = len(precisions)
    if not count:
        raise SanError("no query has a right answer in the gallery", why="nobody is seen by two cameras")
    cmc = np.cumsum(hits) / count
    return Ranking(
        rank1=float(cmc[1]),
        rank5=float(cmc[5]),
        rank10=float(cmc[10]),
        rank20=float(cmc[20]),
        mean_ap=float(np.mean(precisions)),
        mean_inp=float(np.mean(inverse_negative)),
        queries=count,
        unanswerable=unanswerable,
    )


def _tiles(query: np.ndarray, gallery: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    rows = max(1, _TILE_CELLS // max(1, len(gallery)))
    for start in range(0, len(query), rows):
        yield start, query[start : start + rows] @ gallery.T


def pool_tracklets(embedding: np.ndarray, track: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One embedding per tracklet: the mean of its crops' unit rows, brought back to length 1.

    Args:
        embedding: `(N, D)` float32 unit rows.
        track: `(N,)` names.

    Returns:
        `(T, D)` float32 unit rows, and `(T,)` names in sorted order.

    Raises:
        SanError: a tracklet's rows cancel out, so that it has no direction.
    """
    names, index = np.unique(track, return_inverse=True)
    total = np.zeros((len(names), embedding.shape[1]), np.float64)
    np.add.at(total, index, embedding)
    norm = np.linalg.norm(total, axis=1, keepdims=True)
    if not np.isfinite(norm).all() or (norm < 1e-6).any():
        bad = names[int(np.argmin(np.where(np.isfinite(norm[:, 0]), norm[:, 0], -1.0)))]
        raise SanError(f"tracklet {bad} has no usable embedding")
    return (total / norm).astype(np.float32), names


def pool_cameras(
    embedding: np.ndarray, *, person: np.ndarray, camera: np.ndarray, track: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pool labelled crops into labelled tracklets, camera by camera.

    Args:
        embedding: `(N, D)` float32 unit rows, one per crop.
        person: `(N,)` int, of the crops.
        camera: `(N,)` names.
        track: `(N,)` names, unique within a camera.

    Returns:
        Camera name, in sorted order, to its `(T, D)` float32 unit rows and the `(T,)` persons of them.

    Raises:
        SanError: one tracklet has crops of two people.
    """
    pooled = {}
    for name in sorted(set(camera.tolist())):
        inside = camera == name
        rows, names = pool_tracklets(embedding[inside], track[inside])
        owner: dict[str, int] = {}
        for t, p in zip(track[inside].tolist(), person[inside].tolist(), strict=True):
            if owner.setdefault(t, p) != p:
                raise SanError(
                    f"tracklet {name}/{t} has crops of person {owner[t]} and of person {p}",
                    do="mend the labels",
                )
        pooled[name] = (rows, np.array([owner[t] for t in names.tolist()]))
    return pooled


def evaluate_tracklets(
    embedding: np.ndarray, *, person: np.ndarray, camera: np.ndarray, track: np.ndarray
) -> dict[tuple[str, str], Ranking]:
    """Tracklets of each camera against those of each other camera: one `Ranking` per ordered pair.

    Pairs of cameras that saw nobody in common are left out.

    Args:
        embedding: `(N, D)` float32 unit rows, one per crop.
        person: `(N,)` int, of the crops.
        camera: `(N,)` names.
        track: `(N,)` names, unique within a camera.

    Raises:
        SanError: no two cameras saw the same person, or a tracklet has crops of two people.
    """
    pooled = pool_cameras(embedding, person=person, camera=camera, track=track)
    results = {}
    for a, (rows_a, people_a) in pooled.items():
        for b, (rows_b, people_b) in pooled.items():
            if a != b and (set(people_a.tolist()) & set(people_b.tolist())) - {DISTRACTOR}:
                results[a, b] = evaluate(
                    rows_a,
                    rows_b,
                    query_person=people_a,
                    gallery_person=people_b,
                    query_camera=np.full(len(people_a), a),
                    gallery_camera=np.full(len(people_b), b),
                )
    if not results:
        raise SanError("no two cameras saw the same person", do="evaluate on people whom several cameras saw")
    return results
