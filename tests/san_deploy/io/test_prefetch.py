from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from san_deploy.io.prefetch import in_order, threads


def test_results_come_in_order_and_no_more_are_ahead() -> None:
    taken = finished = most = 0
    lock = threading.Lock()

    def numbers() -> Iterator[int]:
        nonlocal taken, most
        for number in range(40):
            taken += 1
            most = max(most, taken - finished)
            yield number

    def work(number: int) -> int:
        time.sleep(0.002 if number % 3 else 0.006)
        with lock:
            return number * number

    with threads(4, "test") as pool:
        results = []
        for result in in_order(pool, work, numbers(), ahead=5):
            finished += 1
            results.append(result)
    assert results == [number * number for number in range(40)]
    # Five under way or waiting, the one that comes next, and the one in hand.
    assert most <= 7


def test_an_error_comes_in_its_turn_and_drops_what_waits() -> None:
    started = []

    def work(number: int) -> int:
        started.append(number)
        if number == 1:
            raise ValueError("one")
        time.sleep(0.01)
        return number

    results = []
    with pytest.raises(ValueError, match="one"), threads(1, "test") as pool:
        for result in in_order(pool, work, iter(range(100)), ahead=10):
            results.append(result)
    assert results == [0] and len(started) < 10
