"""Work that threads do ahead of whoever takes its results, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


@contextmanager
def threads(count: int, name: str) -> Iterator[ThreadPoolExecutor]:
    """`count` threads. On an error and on Ctrl-C, what waits is dropped and what runs is awaited."""
    pool = ThreadPoolExecutor(count, name)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def in_order(
    pool: Executor, work: Callable[[_Argument], _Result], arguments: Iterable[_Argument], *, ahead: int
) -> Iterator[_Result]:
    """The results of `work`, in the order of `arguments`, whichever thread is the faster.

    Args:
        pool: what does the work; its owner shuts it down.
        work: called once for each argument.
        arguments: taken no faster than results are.
        ahead: results that are under way or waiting, at most.
    """
    waiting: deque[Future[_Result]] = deque()
    for argument in arguments:
        if len(waiting) == ahead:
            yield waiting.popleft().result()
        waiting.append(pool.submit(work, argument))
    while waiting:
        yield waiting.popleft().result()
