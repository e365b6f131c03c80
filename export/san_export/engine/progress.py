"""TensorRT's build as one progress bar, and Ctrl-C that TensorRT obeys."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeVar

_Result = TypeVar("_Result")
#: Seconds until Ctrl-C is heard at the latest.
_HEARD_WITHIN = 0.2


@dataclass
class _Phase:
    start: float
    share: float
    steps: int
    done: int = 0

    @property
    def position(self) -> float:
        return self.start + self.share * min(self.done / self.steps, 1.0)


class Phases:
    """TensorRT tells of phases within phases, each of some steps; this is how far it is in all.

    A phase fills one step of the phase that it is in, so the position never goes back. TensorRT calls from
    threads of its own.

    Args:
        advance: takes how many per cent more are done.
    """

    def __init__(self, advance: Callable[[int], None] = lambda percent: None) -> None:
        self._advance = advance
        self._lock = threading.Lock()
        self._open: dict[str, _Phase] = {}
        self._told = 0
        self._cancelled = False

    def cancel(self) -> None:
        """Let TensorRT stop at the next step of any phase."""
        self._cancelled = True

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """A phase of `steps` begins within `parent`, or as the outermost."""
        with self._lock:
            outer = self._open.get(parent) if parent else None
            start, share = (outer.position, outer.share / outer.steps) if outer else (0.0, 1.0)
            self._open[name] = _Phase(start, share, max(steps, 1))

    def step(self, name: str, step: int) -> bool:
        """The step of that number, from 0, is done.

        Returns:
            Whether TensorRT is to go on.
        """
        with self._lock:
            if phase := self._open.get(name):
                phase.done = step + 1
                self._tell(phase.position)
        return not self._cancelled

    def finish(self, name: str) -> None:
        """A phase is over, even where steps of it were left out."""
        with self._lock:
            if phase := self._open.pop(name, None):
                self._tell(phase.start + phase.share)

    def _tell(self, position: float) -> None:
        # When it is to stop, TensorRT ends all phases.
        if self._cancelled:
            return
        # A little more than the sum of shares, which are rounded.
        percent = int(position * 100 + 1e-6)
        if percent > self._told:
            self._advance(percent - self._told)
            self._told = percent


def monitor(trt: ModuleType, phases: Phases) -> Any:
    """A `trt.IProgressMonitor` that tells `phases`."""
    base: Any = trt.IProgressMonitor

    class Monitor(base):
        def __init__(self) -> None:
            base.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            phases.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return phases.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            phases.finish(phase_name)

    return Monitor()


def interruptible(work: Callable[[], _Result], cancel: Callable[[], None]) -> _Result:
    """Run `work` in a thread of its own, so that this one hears Ctrl-C while TensorRT computes.

    Python hears signals in the main thread alone and between two of its own instructions: there are none while
    that thread is inside TensorRT, and an exception in TensorRT's callbacks would be swallowed there.

    Args:
        work: what takes long, and releases Python's lock meanwhile.
        cancel: makes `work` end early; called on each Ctrl-C. None of them ends the wait: TensorRT must not be
            left behind at work in a process that ends.

    Raises:
        KeyboardInterrupt: after `work` has ended.
    """
    result: Future[_Result] = Future()
    lock = threading.Lock()
    began = given_up = False

    def run() -> None:
        nonlocal began
        with lock:
            if given_up:
                return
            began = True
        try:
            result.set_result(work())
        except BaseException as error:  # whatever it is belongs to the thread that waits
            result.set_exception(error)

    thread = threading.Thread(target=run, name="san-tensorrt-build", daemon=True)
    try:
        thread.start()
        _await(result)
    except KeyboardInterrupt:
        while True:
            # The first one may come before the thread began, and each later one anywhere in here.
            with contextlib.suppress(KeyboardInterrupt):
                with lock:
                    given_up = True
                if began and not result.done():
                    cancel()
                    _await(result)
                break
        raise
    return result.result()


def _await(result: Future[Any]) -> None:
    # A signal that comes just before a wait begins is heard when that wait ends, so none may be long. And not
    # thread.join(), which takes a thread for ended once it was interrupted (Python 3.11).
    while not result.done():
        wait([result], timeout=_HEARD_WITHIN)
