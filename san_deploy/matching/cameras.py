"""Cameras as they are matched: one embedding per tracklet, its crops, and when it was seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import metrics
from ..errors import SanError, UsageError

if TYPE_CHECKING:
    from ..embed import Embeddings, Unreadable


@dataclass(frozen=True)
class Camera:
    """One embedded camera.

    Attributes:
        name: base name of its folder.
        folder: where its crops lie, to read them.
        tracks: `(T,)` unicode, names in sorted order.
        embedding: `(T, D)` float32 embeddings of norm 1, one per tracklet.
        crops: for every tracklet, its crops' paths relative to `folder`, sorted.
        unreadable: crops that gave no embedding, and why.
        seconds: wall time of embedding it.
        half_difference: `(T, D)` float32, half the difference between the means of a tracklet's earlier and its
            later crops: how far its embedding would move with other crops. Zero where it has a single crop.
        start, end: `(T,)` float64 seconds, when a tracklet was seen; NaN where it is not known.
        lost_tracks: tracklets that are not in `tracks` since none of their crops is readable, sorted.
        blank: crops of one colour all over, which match each other.
        clock: whether these are seconds of a clock that other cameras share, not of the camera's own video.
        boxes: `(T,)` int64, in how many frames a tracklet was seen, 0 where nobody said; None where nobody did at all.
    """

    name: str
    folder: Path
    tracks: np.ndarray
    embedding: np.ndarray
    crops: tuple[tuple[str, ...], ...]
    unreadable: tuple[Unreadable, ...] = ()
    seconds: float = 0.0
    half_difference: np.ndarray | None = None
    start: np.ndarray | None = None
    end: np.ndarray | None = None
    clock: bool = False
    boxes: np.ndarray | None = None
    lost_tracks: Sequence[str] = ()
    blank: Sequence[str] = ()

    @property
    def crop_count(self) -> int:
        """Crops that were embedded."""
        return sum(map(len, self.crops))


def check_names(names: Sequence[str], at_least: int = 2) -> None:
    """Refuse camera names that the output could not distinguish; UsageError."""
    if len(names) < at_least:
        raise UsageError("matching needs two cameras or more", do="give one folder for each camera")
    for name, count in Counter(names).items():
        if count > 1:
            raise UsageError(
                f"{count} cameras are called {name}",
                why="a camera is named by its folder or file",
                do="name them: NAME=PATH",
            )
        if "|" in name:
            raise UsageError(
                f"the camera name {name!r} holds '|', which separates cameras in the output",
                do="rename the folder",
            )


def camera_from_embeddings(name: str, folder: Path, embeddings: Embeddings) -> Camera:
    """Pool one camera's crops into tracklets.

    Raises:
        SanError: no crop was readable, or a tracklet's embeddings cancel out.
    """
    if not len(embeddings.track):
        raise SanError(f"{folder} holds no readable crop", do="check the files, or leave the camera out")
    pooled, tracks = metrics.pool_tracklets(embeddings.embedding, embeddings.track)
    crops: dict[str, list[str]] = {track: [] for track in tracks.tolist()}
    for path, track in zip(embeddings.path.tolist(), embeddings.track.tolist(), strict=True):
        crops[track].append(path)
    return Camera(
        name,
        Path(folder),
        tracks,
        pooled,
        tuple(tuple(sorted(paths)) for paths in crops.values()),
        tuple(embeddings.unreadable),
        embeddings.seconds,
        half_difference(embeddings.embedding, embeddings.path, embeddings.track),
        blank=embeddings.blank,
    )


def half_difference(embedding: np.ndarray, path: np.ndarray, track: np.ndarray) -> np.ndarray:
    """Half the difference between the means of each tracklet's earlier and later crops.

    The halves lie one after the other: neighbouring frames are nearly the same picture, and halves of every
    other frame would say that nothing varies.

    Args:
        embedding: `(N, D)` float32 embeddings of norm 1, one per crop.
        path: `(N,)` names; a tracklet's crops are in time in this order.
        track: `(N,)` names.

    Returns:
        `(T, D)` float32, in the order of the tracklets' names; zero for a single crop.
    """
    order = np.lexsort((path, track))
    _, first, counts = np.unique(track[order], return_index=True, return_counts=True)
    place = np.arange(len(order)) - np.repeat(first, counts)
    half = np.repeat(counts // 2, counts)
    # With an odd number the crop in the middle belongs to the later half.
    weight = np.where(place < half, -0.5 / np.maximum(half, 1), 0.5 / (np.repeat(counts, counts) - half))
    weight[half == 0] = 0.0
    weighted = embedding[order] * weight[:, None].astype(np.float32)
    return np.add.reduceat(weighted, first, axis=0, dtype=np.float64).astype(np.float32)


def centred(camera: Camera) -> Camera:
    """The camera with the mean of its tracklets taken off each, and their length 1 again.

    A camera's colours move all of its embeddings the same way; with few tracklets the mean is the people's own.

    Raises:
        SanError: a tracklet is the mean itself, so that nothing is left of it.
    """
    rows = metrics.centre_cameras(camera.embedding, np.full(len(camera.tracks), camera.name))
    spread = camera.half_difference
    if spread is not None:
        away = camera.embedding - camera.embedding.mean(axis=0, dtype=np.float64)
        spread = (spread / np.linalg.norm(away, axis=1, keepdims=True)).astype(np.float32)
    return replace(camera, embedding=rows, half_difference=spread)
