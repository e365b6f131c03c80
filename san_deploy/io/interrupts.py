"""Ctrl-C at a time when a library cannot be stopped."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


@contextlib.contextmanager
def held_interrupts() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM wait until the block has ended.

    For imports of compiled libraries: PyTorch's, interrupted in its initialisation, prints a traceback of its own and
    leaves a half-made module.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[tuple[int, FrameType | None]] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for each in before:
        signal.signal(each, lambda received, frame: waiting.append((received, frame)))
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    for number, frame in waiting[:1]:
        handler = before[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            signal.raise_signal(number)
