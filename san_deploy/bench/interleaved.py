"""Timing several things in turn, until their figures have settled."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from . import latency


@dataclass(frozen=True)
class Schedule:
    """How long is measured.

    Attributes:
        warmup_s: duration of calls that do not count, for each model and batch size; one call at least.
        seconds: after which a batch size is left, settled or not, for each model.
        rounds: exactly so many, settled or not; None goes on until the figures settle.
    """

    warmup_s: float = 0.5
    seconds: float = 10.0
    rounds: int | None = None


@dataclass(frozen=True)
class Windows:
    """What `interleave` measured.

    Attributes:
        samples_s: duration of each call by work and round, seconds.
        ended: reason why it stopped: `settled`, `time` or `rounds`.
    """

    samples_s: list[list[list[float]]]
    ended: str

    def medians_s(self, work: int) -> list[float]:
        """Of one work's windows, by round."""
        return [statistics.median(window) for window in self.samples_s[work]]

    def settled(self, work: int) -> bool:
        """Whether that work's last windows agree."""
        return latency.settled(self.medians_s(work))

    def all_s(self, work: int) -> list[float]:
        """The duration of every call of one work."""
        return [sample for window in self.samples_s[work] for sample in window]


def interleave(
    works: Sequence[Callable[[], object]],
    schedule: Schedule,
    *,
    window_s: float = 0.0,
    window_calls: int = 1,
    samples: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> Windows:
    """Run works one after the other, round by round, until the medians of every one agree.

    A machine that slows down for a while slows all works of a round. Every other round runs in the opposite
    order, since who comes behind a warm neighbour has an advantage.

    Args:
        works: each is called with nothing, several times per round.
        schedule: warm-up, and when to stop.
        window_s: of a work in a round: calls begin until so much time has passed,
        window_calls: and until there were so many.
        samples: of each work that are wanted before it ends as settled.
        clock: seconds.
    """
    for work in works:
        start = clock()
        work()
        while clock() - start < schedule.warmup_s:
            work()
    taken: list[list[list[float]]] = [[] for _ in works]
    begin = clock()
    while True:
        # With a window of its own in every round, each work has as many rounds as any other.
        turn = list(enumerate(works))
        for index, work in turn if len(taken[0]) % 2 == 0 else turn[::-1]:
            taken[index].append(_window(work, window_s, window_calls, clock))
        windows = Windows(taken, "settled")
        rounds = len(taken[0])
        if schedule.rounds is not None:
            if rounds >= schedule.rounds:
                return Windows(taken, "rounds")
        elif all(len(windows.all_s(i)) >= samples and windows.settled(i) for i in range(len(works))):
            return windows
        elif clock() - begin >= schedule.seconds * len(works):
            return Windows(taken, "time")


def _window(
    work: Callable[[], object], seconds: float, calls: int, clock: Callable[[], float]
) -> list[float]:
    durations: list[float] = []
    begin = now = clock()
    while len(durations) < calls or now - begin < seconds:
        start = clock()
        work()
        now = clock()
        durations.append(now - start)
    return durations
