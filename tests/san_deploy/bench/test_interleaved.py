"""With a clock that the works themselves move on: nothing here depends on the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain, repeat

import pytest

from san_deploy.bench.interleaved import Schedule, interleave


class Clock:
    """Seconds that only pass while works run; `order` has the names of the works in the order of their calls."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order = ""

    def __call__(self) -> float:
        return self.now

    def work(self, name: str, durations: Iterable[float]) -> Callable[[], None]:
        """Takes as long as the next of `durations`."""
        endless = iter(durations)

        def run() -> None:
            self.now += next(endless)
            self.order += name

        return run


COLD = Schedule(warmup_s=0.0, seconds=100.0)


def test_stops_when_three_windows_agree() -> None:
    clock = Clock()
    # One call to warm up, then windows of one call each.
    work = clock.work("a", [9.0, 5.0, 3.0, 1.0, 1.02, 1.04])
    windows = interleave([work], COLD, clock=clock)
    assert windows.ended == "settled" and windows.settled(0)
    assert windows.medians_s(0) == pytest.approx([5.0, 3.0, 1.0, 1.02, 1.04])


def test_goes_on_until_there_are_samples_enough() -> None:
    clock = Clock()
    windows = interleave([clock.work("a", repeat(0.5))], COLD, samples=8, clock=clock)
    assert (windows.ended, len(windows.all_s(0))) == ("settled", 8)


def test_stops_when_the_time_is_up_and_says_so() -> None:
    clock = Clock()
    durations = chain.from_iterable(repeat([1.0, 2.0]))
    windows = interleave([clock.work("a", durations)], Schedule(0.0, seconds=10.0), clock=clock)
    assert windows.ended == "time" and not windows.settled(0)
    # 2 + 1 + 2 + 1 + 2 + 1 + 2 = 11 s; the time is looked at between rounds.
    assert len(windows.all_s(0)) == 7


def test_the_time_is_for_each_work() -> None:
    clock = Clock()
    jumping = chain.from_iterable(repeat([1.0, 2.0]))
    windows = interleave(
        [clock.work("a", repeat(1.0)), clock.work("b", jumping)], Schedule(0.0, seconds=5.0), clock=clock
    )
    assert windows.ended == "time" and windows.settled(0) and not windows.settled(1)
    assert 10.0 <= clock.now - 2.0 <= 13.0


def test_exactly_so_many_rounds() -> None:
    clock = Clock()
    windows = interleave([clock.work("a", repeat(1.0))], Schedule(0.0, 0.001, rounds=2), clock=clock)
    assert (windows.ended, windows.medians_s(0)) == ("rounds", [1.0, 1.0])


def test_warm_up_lasts_so_long_and_does_not_count() -> None:
    clock = Clock()
    work = clock.work("a", chain([1.0, 1.0, 1.0], repeat(0.25)))
    windows = interleave([work], Schedule(warmup_s=2.5, seconds=9.0, rounds=1), clock=clock)
    assert windows.all_s(0) == [0.25]


def test_a_window_has_its_calls_and_its_time() -> None:
    clock = Clock()
    slow, quick = clock.work("s", repeat(4.0)), clock.work("q", repeat(0.25))
    windows = interleave(
        [slow, quick], Schedule(0.0, 9.0, rounds=1), window_s=1.0, window_calls=3, clock=clock
    )
    assert [len(windows.all_s(work)) for work in (0, 1)] == [3, 4]


def test_works_take_turns_and_every_other_round_the_other_way_round() -> None:
    clock = Clock()
    works = [clock.work(name, repeat(1.0)) for name in "abc"]
    interleave(works, Schedule(0.0, 9.0, rounds=3), clock=clock)
    assert clock.order == "abc" + "abc" + "cba" + "abc"
