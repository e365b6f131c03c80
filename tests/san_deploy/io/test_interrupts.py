from __future__ import annotations

import signal
import threading

import pytest

from san_deploy.io.interrupts import held_interrupts


def test_ctrl_c_waits_for_the_end_of_the_block() -> None:
    before = signal.getsignal(signal.SIGINT)
    done = False
    with pytest.raises(KeyboardInterrupt):
        with held_interrupts():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            done = True
        raise AssertionError("the interrupt was lost")
    assert done and signal.getsignal(signal.SIGINT) is before


def test_nothing_changes_where_nothing_is_sent_or_in_another_thread() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with held_interrupts():
        pass
    thread = threading.Thread(target=lambda: held_interrupts().__enter__())
    thread.start()
    thread.join()
    assert signal.getsignal(signal.SIGTERM) is before
