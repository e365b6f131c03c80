"""Choosing the similarity above which two tracklets are taken for one person, from people with labels."""

from __future__ import annotations

import itertools
import math

import numpy as np

from .. import metrics
from ..artefact import Threshold
from ..datasets.records import DISTRACTOR
from ..errors import SanError

#: Fraction of impostor pairs that may reach the threshold, unless the user asks for another. On held-out
#: people of WARD's train split (docs/benchmarks.md) the F1 score of the one-to-one matches is best near it,
#: whether everybody or only seven in ten are seen by both cameras; 1 % costs half of the right matches. The
#: assignment keeps most of these impostors apart: they have partners of their own.
FALSE_MATCH_RATE = 0.05
#: Impostor pairs that are kept at most; beyond it an evenly spaced part stands for all.
MAX_PAIRS = 5_000_000
_TILE_CELLS = 4_000_000


def tracklet_similarities(
    embedding: np.ndarray,
    *,
    person: np.ndarray,
    camera: np.ndarray,
    track: np.ndarray,
    max_pairs: int = MAX_PAIRS,
) -> tuple[np.ndarray, np.ndarray]:
    """Similarities of tracklets of the same person and of different people, over every pair of cameras.

    Person 0 (`DISTRACTOR`) is an impostor to everybody, to another person 0 too.

    Args:
        embedding: `(N, D)` float32 embeddings of norm 1, one per crop.
        person: `(N,)` int, of the crops.
        camera: `(N,)` names.
        track: `(N,)` names, unique within a camera.
        max_pairs: impostor pairs that are kept at most, about; evenly spaced where there are more.

    Returns:
        genuine `(P,)` and impostor `(Q,)`, float32 cosines; either may be empty.

    Raises:
        SanError: a tracklet has crops of two people, or no usable embedding.
    """
    pooled = metrics.pool_cameras(embedding, person=person, camera=camera, track=track)
    cells = sum(len(a[0]) * len(b[0]) for a, b in itertools.combinations(pooled.values(), 2))
    # Every step-th diagonal, so that each tracklet of either camera keeps its fraction of impostors.
    step = max(1, math.ceil(cells / max_pairs))
    genuine, impostor = [np.empty(0, np.float32)], [np.empty(0, np.float32)]
    for (embedding_a, people_a), (embedding_b, people_b) in itertools.combinations(pooled.values(), 2):
        height = max(1, _TILE_CELLS // max(1, len(embedding_b)))
        for start in range(0, len(embedding_a), height):
            tile = embedding_a[start : start + height] @ embedding_b.T
            part = people_a[start : start + height, None]
            same = (part == people_b[None, :]) & (part != DISTRACTOR)
            genuine.append(tile[same])
            if step == 1:
                impostor.append(tile[~same])
                continue
            column, row = np.arange(len(embedding_b)), np.arange(start, start + len(tile))[:, None]
            impostor.append(tile[~same & ((column + row) % step == 0)])
    return np.concatenate(genuine), np.concatenate(impostor)


def choose_threshold(
    genuine: np.ndarray,
    impostor: np.ndarray,
    *,
    source: str,
    false_match_rate: float = FALSE_MATCH_RATE,
    mask: str = "",
) -> Threshold:
    """The lowest threshold that no more than `false_match_rate` of the impostor pairs reach.

    It lies half-way between the last impostor let through and the first one shut out, rounded up to four
    decimals where that changes nothing, so that the number printed is the number used.

    Args:
        genuine: `(P,)` float32, cosines of genuine pairs (one person).
        impostor: `(Q,)` float32, cosines of tracklet pairs of different people.
        source: whose people they are, in words; it is printed wherever the threshold is.
        false_match_rate: target, above 0 and below 1.
        mask: that the embeddings were made with, see `Artefact.mask`; empty leaves it to the file.

    Returns:
        The threshold with the rates that were counted at it; `false_match_rate` is at most the target.

    Raises:
        SanError: too few pairs to speak of such a rate, a similarity that is not finite, or
            impostors that no threshold keeps out.
    """
    genuine, impostor = np.asarray(genuine, np.float32).ravel(), np.asarray(impostor, np.float32).ravel()
    if not np.isfinite(genuine).all():
        raise SanError("a similarity to calibrate on is not finite", do="check the model")
    if not len(genuine):
        raise SanError("no genuine pair to calibrate on", do="calibrate on people whom two cameras saw")
    value = threshold_at(impostor, false_match_rate)
    return Threshold(
        similarity=value,
        false_match_rate=fraction_reaching(impostor, value),
        true_match_rate=fraction_reaching(genuine, value),
        impostor_pairs=len(impostor),
        genuine_pairs=len(genuine),
        source=source,
        mask=mask,
    )


def threshold_at(impostor: np.ndarray, false_match_rate: float) -> float:
    """The lowest threshold that no more than `false_match_rate` of the impostors reach; see `choose_threshold`.

    Args:
        impostor: `(Q,)` cosines of tracklet pairs of different people; compared in float32.
        false_match_rate: target, above 0 and below 1.

    Raises:
        SanError: as `choose_threshold`.
    """
    if not 0.0 < false_match_rate < 1.0:
        raise SanError(
            f"a false match rate of {false_match_rate} was asked for", do="give one above 0 and below 1"
        )
    impostor = np.asarray(impostor, np.float32).ravel()
    if not np.isfinite(impostor).all():
        raise SanError("a similarity to calibrate on is not finite", do="check the model")
    needed = math.ceil(1.0 / false_match_rate - 1e-9)
    if len(impostor) < needed:
        raise SanError(
            f"{len(impostor)} impostor pairs are too few to calibrate",
            why=f"a false match rate of {false_match_rate:g} needs {needed}",
            do="calibrate on more people",
        )
    impostor = np.sort(impostor)[::-1]
    allowed = math.floor(false_match_rate * len(impostor) + 1e-9)
    shut_out = impostor[allowed] if allowed < len(impostor) else np.float32(-1.0)
    above = impostor[impostor > shut_out]  # at most `allowed`; fewer where values are equal
    let_in = above[-1] if len(above) else np.float32(1.0)
    value = _between(float(shut_out), float(let_in))
    if value is None:
        raise SanError(
            "no threshold keeps impostors out",
            why=f"more than {false_match_rate:g} of their pairs have similarity {float(shut_out):.4f}",
            do="train a better network",
        )
    return value


def _between(low: float, high: float) -> float | None:
    """A number above `low`, not above `high`, in float32 too; with four decimals where they fit."""
    middle = (low + high) / 2
    for value in (math.ceil(middle * 1e4) / 1e4, middle, high):
        if np.float32(low) < np.float32(value) <= np.float32(high):
            return float(value)
    return None


def fraction_reaching(values: np.ndarray, threshold: float) -> float:
    """Fraction of similarities at or above a threshold, compared in float32 as `assignment.assign` does."""
    return float(np.mean(values.astype(np.float32, copy=False) >= np.float32(threshold)))


def rates_at(calibration: Threshold, similarity: float) -> tuple[float, float] | None:
    """False and true match rate that a calibration gives another threshold; None where it has no curve."""
    if not calibration.curve:
        return None
    at, false, true = np.array(calibration.curve).T
    return float(np.interp(similarity, at, false)), float(np.interp(similarity, at, true))
