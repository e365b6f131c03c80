"""How long calls took: percentiles, whether the figures have settled, ratios. Pure functions of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

#: That are given where there are samples enough.
PERCENTILES = (50, 90, 95, 99)
#: So many successive windows must agree.
WINDOWS = 3
#: And their medians may differ by this share at most.
TOLERANCE = 0.05


@dataclass(frozen=True)
class Latency:
    """Of the calls of one kind, milliseconds.

    Attributes:
        calls: number of measured calls.
        mean_ms, min_ms, max_ms: over all of them.
        percentiles_ms: `{"p50": ...}`, those of `PERCENTILES` that the calls are enough for.
    """

    calls: int
    mean_ms: float
    min_ms: float
    max_ms: float
    percentiles_ms: dict[str, float]


@dataclass(frozen=True)
class Ratio:
    """One thing against another that was measured in turn with it.

    Attributes:
        median: median of the rounds' ratios.
        low, high: quartiles; half of the rounds lie between them.
        least, most: extremes over all rounds.
        rounds: number of rounds.
    """

    median: float
    low: float
    high: float
    least: float
    most: float
    rounds: int


def least_samples(percentile: int) -> int:
    """How many samples a percentile needs: so many that one of them is expected to lie beyond it.

    Example:
        >>> least_samples(99)
        100
    """
    return -(-100 // (100 - percentile))


def summarise(samples_s: Sequence[float]) -> Latency:
    """Percentiles (by `numpy.percentile`, which interpolates) and the rest.

    Args:
        samples_s: one or more durations, seconds.
    """
    ms = np.asarray(samples_s, np.float64) * 1e3
    return Latency(
        calls=len(ms),
        mean_ms=float(ms.mean()),
        min_ms=float(ms.min()),
        max_ms=float(ms.max()),
        percentiles_ms={
            f"p{q}": float(np.percentile(ms, q)) for q in PERCENTILES if len(ms) >= least_samples(q)
        },
    )


def spread(medians: Sequence[float]) -> float:
    """By what share the last `WINDOWS` medians differ: largest / least - 1; infinite where there are fewer.

    Example:
        >>> round(spread([9.0, 2.0, 2.1, 2.0]), 3)
        0.05
    """
    last = medians[-WINDOWS:]
    if len(last) < WINDOWS or min(last) <= 0:
        return float("inf")
    return max(last) / min(last) - 1.0


def settled(medians: Sequence[float], tolerance: float = TOLERANCE) -> bool:
    """Whether the last `WINDOWS` medians agree within `tolerance`."""
    return spread(medians) <= tolerance


def ratio(ours: Sequence[float], base: Sequence[float]) -> Ratio:
    """`ours / base` round by round: a machine that slows down for a while slows both of a round.

    Args:
        ours: one figure for each round, positive.
        base: of the same rounds, likewise.

    Example:
        >>> ratio([2.0, 3.0, 4.0], [1.0, 1.0, 4.0])
        Ratio(median=2.0, low=1.5, high=2.5, least=1.0, most=3.0, rounds=3)
    """
    values = [a / b for a, b in zip(ours, base, strict=True)]
    low, median, high = (float(value) for value in np.percentile(values, (25, 50, 75)))
    return Ratio(median, low, high, min(values), max(values), len(values))
