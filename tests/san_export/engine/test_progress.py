"""One bar out of TensorRT's phases, and Ctrl-C while another thread computes."""

from __future__ import annotations

import signal
import threading
import time

import numpy as np
import pytest
from san_export.engine.progress import Phases, interruptible


def ctrl_c() -> None:
    """A real one: what `_thread.interrupt_main` does cannot end a wait."""
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


def test_a_phase_fills_a_step_of_its_parent() -> None:
    told: list[int] = []
    phases = Phases(told.append)
    phases.start("building", None, 2)
    phases.start("fusing", "building", 4)
    for step in range(4):
        assert phases.step("fusing", step)
    assert told == [12, 13, 12, 13] and sum(told) == 50
    phases.finish("fusing")
    assert phases.step("building", 0) and sum(told) == 50
    phases.start("timing", "building", 1)
    phases.start("a kernel", "timing", 10)
    phases.step("a kernel", 4)
    assert sum(told) == 75
    phases.finish("a kernel")
    phases.finish("timing")
    phases.finish("building")
    assert sum(told) == 100


def test_steps_that_are_left_out_count_when_the_phase_ends() -> None:
    told: list[int] = []
    phases = Phases(told.append)
    phases.start("building", None, 1000)
    phases.finish("building")
    assert told == [100]


@pytest.mark.parametrize("steps", [0, -1])
def test_a_phase_without_steps(steps: int) -> None:
    told: list[int] = []
    phases = Phases(told.append)
    phases.start("building", None, steps)
    phases.step("building", 0)
    # A step of a phase that nobody told of, a second end, and a parent that is over already.
    assert phases.step("unknown", 3)
    phases.finish("building")
    phases.finish("building")
    phases.start("late", "building", 5)
    phases.step("late", 0)
    phases.finish("late")
    assert sum(told) == 100


def test_cancel_stops_the_next_step() -> None:
    phases = Phases()
    phases.start("building", None, 2)
    assert phases.step("building", 0)
    phases.cancel()
    assert not phases.step("building", 1)


def test_the_result_and_the_error_of_the_work_arrive() -> None:
    def fail() -> None:
        raise ZeroDivisionError("of the work")

    assert interruptible(lambda: threading.current_thread().name, lambda: None) == "san-tensorrt-build"
    with pytest.raises(ZeroDivisionError, match="of the work"):
        interruptible(fail, lambda: None)


def test_ctrl_c_is_heard_while_the_work_runs_and_raised_after_it() -> None:
    stop, events = threading.Event(), []

    def work() -> None:
        # When the other thread waits: one that comes before the work began ends it before it begins.
        time.sleep(0.05)
        ctrl_c()
        assert stop.wait(10)
        # A second one, while the first is obeyed: it must not leave the work behind.
        ctrl_c()
        time.sleep(0.05)
        events.append("work ended")

    def cancel() -> None:
        events.append("cancelled")
        stop.set()

    with pytest.raises(KeyboardInterrupt):
        interruptible(work, cancel)
    assert events[0] == "cancelled" and events[-1] == "work ended"


def test_ctrl_c_at_any_moment_leaves_no_work_behind() -> None:
    for pause in np.linspace(0, 2e-3, 40):
        stop, ran = threading.Event(), []

        def work(stop: threading.Event = stop, ran: list[str] = ran) -> None:
            ran.append("began")
            stop.wait(10)
            ran.append("ended")

        timer = threading.Timer(pause, ctrl_c)
        with pytest.raises(KeyboardInterrupt):
            timer.start()
            interruptible(work, stop.set)
        assert ran in ([], ["began", "ended"])
