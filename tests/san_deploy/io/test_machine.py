from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import time

import pytest

from san_deploy.io.machine import (
    CpuTime,
    Machine,
    cpu_time,
    machine,
    parse_cpu_time,
    processor,
    timing_notes,
)

# user nice system idle iowait irq softirq steal guest guest_nice, in hundredths of a second
STAT = """cpu  600 60 6 9000 90 3 3 40 0 0
cpu0 100 10 1 4000 50 1 1 10 0 0
cpu1 500 50 5 5000 40 2 2 30 0 0
intr 1 2 3
"""

QUIET = Machine("Linux", "a processor", 2, 2, "performance", 0.1, "3.11")


def test_reads_proc_stat() -> None:
    assert parse_cpu_time(STAT, {0, 1}, 100) == CpuTime(6.72, 0.4)
    assert parse_cpu_time(STAT, {1}, 100) == CpuTime(5.59, 0.3)
    assert parse_cpu_time(STAT, {7}, 100) is None
    assert parse_cpu_time("", {0}, 100) is None


@pytest.mark.skipif(not os.path.exists("/proc/stat"), reason="this system has no /proc/stat")
def test_the_kernel_counts_what_we_burn() -> None:
    before, own, start = cpu_time(), time.process_time(), time.perf_counter()
    while time.process_time() - own < 0.2:
        pass
    after = cpu_time()
    assert before is not None and after is not None
    # Ticks of 10 ms; others may have worked meanwhile, but no core twice at a time.
    burnt = after.busy_s - before.busy_s
    assert 0.15 <= burnt <= (time.perf_counter() - start + 0.05) * len(os.sched_getaffinity(0))


def test_processor() -> None:
    assert processor("processor : 0\nmodel name\t: AMD EPYC\nmodel name : second\n", "") == "AMD EPYC"
    # ARM's cpuinfo has no model name; the board says what it is, with a zero at its end.
    assert processor("BogoMIPS : 62.50\n", "NVIDIA Jetson Orin Nano\0").startswith(
        "NVIDIA Jetson Orin Nano, "
    )
    assert processor("", "")


def test_this_machine() -> None:
    here = machine()
    assert 1 <= here.cores <= here.cores_in_all and here.processor and here.system
    assert here.python == sys.version.split()[0]


def test_a_quiet_machine_has_no_notes() -> None:
    before, after = CpuTime(0.0, 0.0), CpuTime(20.0, 0.0)
    assert timing_notes(QUIET, seconds=10.0, own_s=19.5, before=before, after=after) == []
    assert timing_notes(QUIET, seconds=10.0, own_s=19.5, before=None, after=None) == []


@pytest.mark.parametrize(
    ("changes", "after", "note"),
    [
        ({"load_average": 2.5}, CpuTime(0.0, 0.0), "load average was 2.5 at the start, with 2 cores"),
        ({"load_average": None, "governor": ""}, CpuTime(0.0, 0.0), "governor is unknown"),
        ({"governor": "powersave"}, CpuTime(0.0, 0.0), "governor is 'powersave'"),
        # 20 busy seconds in 10, of which 5 were ours.
        ({}, CpuTime(20.0, 0.0), "other programs used 1.5 of the 2 cores"),
        ({}, CpuTime(5.0, 3.0), "host of this virtual machine took 0.3 of its 2 cores"),
    ],
)
def test_what_disturbs_is_noted(changes: dict[str, object], after: CpuTime, note: str) -> None:
    at = dataclasses.replace(QUIET, **changes)  # type: ignore[arg-type]
    notes = timing_notes(at, seconds=10.0, own_s=5.0, before=CpuTime(0.0, 0.0), after=after)
    assert len(notes) == 1 and note in notes[0]


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="this system has no /proc")
def test_peak_memory_is_of_this_process_alone() -> None:
    # A new process inherits ru_maxrss from its parent, which holds more than it will itself.
    held = bytearray(b"1") * 200_000_000
    code = """if True:
        from san_deploy.io.machine import peak_rss_mb
        before = peak_rss_mb()
        held = bytearray(b"1") * 100_000_000
        with_it = peak_rss_mb()
        del held
        print(before, with_it - before, peak_rss_mb() - with_it)
    """
    command = [sys.executable, "-c", code]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    before, grown, given_back = map(float, told.split())
    assert before < 100 and 90 < grown < 110 and abs(given_back) < 10
    assert len(held) == 200_000_000
