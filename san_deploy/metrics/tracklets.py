"""Tracklets: one embedding for a person's pass before a camera, and camera against camera."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import SanError
from .labels import DISTRACTOR
from .ranking import Ranking, evaluate


def pool_tracklets(embedding: np.ndarray, track: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One embedding per tracklet: the mean of its crops' embeddings of norm 1, brought back to length 1.

    Args:
        embedding: `(N, D)` float32 embeddings of norm 1.
        track: `(N,)` names.

    Returns:
        `(T, D)` float32 embeddings of norm 1, and `(T,)` names in sorted order.

    Raises:
        SanError: a tracklet's rows cancel out, so that it has no direction.
    """
    order = np.argsort(track, kind="stable")
    names, first = np.unique(track[order], return_index=True)
    total = np.add.reduceat(embedding[order], first, axis=0, dtype=np.float64)
    norm = np.linalg.norm(total, axis=1, keepdims=True)
    if not np.isfinite(norm).all() or (norm < 1e-6).any():
        bad = names[int(np.argmin(np.where(np.isfinite(norm[:, 0]), norm[:, 0], -1.0)))]
        raise SanError(f"tracklet {bad} has no usable embedding")
    return (total / norm).astype(np.float32), names


def centre_cameras(embedding: np.ndarray, camera: np.ndarray) -> np.ndarray:
    """Take each camera's mean off its embeddings, and bring them back to length 1.

    A camera's colours move all of its embeddings the same way; with few people the mean is the people's own.

    Args:
        embedding: `(N, D)` float32 unit rows.
        camera: `(N,)` names.

    Returns:
        `(N, D)` float32 unit rows.

    Raises:
        SanError: a row is its camera's mean, so that nothing is left of it.
    """
    names, place = np.unique(camera, return_inverse=True)
    sums = np.zeros((len(names), embedding.shape[1]))
    np.add.at(sums, place, embedding)
    rows = embedding - (sums / np.bincount(place)[:, None])[place]
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    if (norm < 1e-6).any():
        bad = camera[int(norm.argmin())]
        raise SanError(
            f"camera {bad} has an embedding that is its mean, of which --center leaves nothing",
            do="leave out --center: it needs more tracklets than this camera has",
        )
    return (rows / norm).astype(np.float32)


def pool_cameras(
    embedding: np.ndarray, *, person: np.ndarray, camera: np.ndarray, track: np.ndarray
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Pool labelled crops into labelled tracklets, camera by camera.

    Args:
        embedding: `(N, D)` float32 embeddings of norm 1, one per crop.
        person: `(N,)` int, of the crops.
        camera: `(N,)` names.
        track: `(N,)` names, unique within a camera.

    Returns:
        Camera name, in sorted order, to its `(T, D)` float32 embeddings of norm 1 and the `(T,)` persons of them.

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


def join_cameras(
    pooled: Mapping[str, tuple[np.ndarray, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tracklets of all cameras as one set, to be evaluated as single crops are.

    Args:
        pooled: of `pool_cameras`.

    Returns:
        `(T, D)` float32 embeddings of norm 1, `(T,)` persons and `(T,)` camera names.
    """
    return (
        np.concatenate([rows for rows, _ in pooled.values()]),
        np.concatenate([people for _, people in pooled.values()]),
        np.repeat(list(pooled), [len(people) for _, people in pooled.values()]),
    )


def evaluate_tracklets(
    embedding: np.ndarray, *, person: np.ndarray, camera: np.ndarray, track: np.ndarray
) -> dict[tuple[str, str], Ranking]:
    """Tracklets of each camera against those of each other camera: one `Ranking` per ordered pair.

    Pairs of cameras that saw nobody in common are left out.

    Args:
        embedding: `(N, D)` float32 embeddings of norm 1, one per crop.
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
