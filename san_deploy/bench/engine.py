"""The engine alone: latency and throughput by batch size, crops in memory, models in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

import numpy as np

from ..backends import Backend
from . import latency
from .interleaved import Schedule, interleave
from .latency import Latency, Ratio

#: A window of one batch size has so many calls at least, and lasts as `window_s` says.
WINDOW_CALLS = 3
#: Different batches that are run in turn, so that no cache sees the same crops twice in a row.
_BATCHES = 4
#: Calls that are profiled: copy-in, run, copy-out.
_PROFILED = 20


@dataclass(frozen=True)
class EngineFigures:
    """A network at one batch size, crops in memory, called from one thread.

    Attributes:
        batch: crops per call.
        latency: durations of a call.
        crops_per_second: over all calls.
        windows_ms: median of each round's window.
        spread: relative difference of the last windows; None where there are too few.
        settled: whether they agree within `latency.TOLERANCE`.
        ended: reason why measuring stopped, see `Windows`.
        split_ms: medians of copy-in, run, copy-out and the like; None where the backend does not measure them.
        speed: speed as a multiple of the first model's, round by round; None for the first model.
    """

    batch: int
    latency: Latency
    crops_per_second: float
    windows_ms: list[float]
    spread: float | None
    settled: bool
    ended: str
    split_ms: dict[str, float] | None
    speed: Ratio | None


def window_s(schedule: Schedule) -> float:
    """Seconds that a window lasts at least: a quarter, or less where the time limit is short."""
    return min(0.25, schedule.seconds / 20)


def measure_engines(
    backends: Sequence[Backend],
    crops: Sequence[np.ndarray],
    batch: int,
    schedule: Schedule,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> list[EngineFigures]:
    """Latency and throughput of each model at one batch size, all in turn.

    Args:
        backends: the models; the first is what the others are compared with.
        crops: for each model, `(N, H, W, 3)` uint8 BGR of its own size.
        batch: crops per call.
        schedule: how long.
        clock: seconds.
    """
    works = [_in_turn(backend, batches(pool, batch)) for backend, pool in zip(backends, crops, strict=True)]
    windows = interleave(
        works,
        schedule,
        window_s=window_s(schedule),
        window_calls=WINDOW_CALLS,
        samples=latency.least_samples(max(latency.PERCENTILES)),
        clock=clock,
    )
    figures = []
    for index, backend in enumerate(backends):
        medians_s, all_s = windows.medians_s(index), windows.all_s(index)
        spread = latency.spread(medians_s)
        figures.append(
            EngineFigures(
                batch=batch,
                latency=latency.summarise(all_s),
                crops_per_second=batch * len(all_s) / sum(all_s),
                windows_ms=[1e3 * median for median in medians_s],
                spread=spread if np.isfinite(spread) else None,
                settled=windows.settled(index),
                ended=windows.ended,
                split_ms=_split(backend, batches(crops[index], batch)),
                speed=latency.ratio(windows.medians_s(0), medians_s) if index else None,
            )
        )
    return figures


def batches(crops: np.ndarray, batch: int) -> list[np.ndarray]:
    """Some different batches of `batch` crops; crops come again where there are too few."""
    places = np.arange(_BATCHES * batch) % len(crops)
    return [crops[places[i * batch : (i + 1) * batch]] for i in range(_BATCHES)]


def _in_turn(backend: Backend, inputs: Sequence[np.ndarray]) -> Callable[[], object]:
    endless = cycle(inputs)
    return lambda: backend(next(endless))


def _split(backend: Backend, inputs: Sequence[np.ndarray]) -> dict[str, float] | None:
    profile = getattr(backend, "profile", None)
    if profile is None:
        return None
    calls = [profile(item) for item in islice(cycle(inputs), _PROFILED)]
    return {name: statistics.median(call[name] for call in calls) for name in calls[0]}
