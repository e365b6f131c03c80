"""What this machine is, as far as it bears on timings: processor, cores, clock, load, and who else works."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from pathlib import Path

from .cpu import usable_cores

_GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
_STAT = Path("/proc/stat")
_STATUS = Path("/proc/self/status")
_CPUINFO = Path("/proc/cpuinfo")
#: What a board calls itself, for example `NVIDIA Jetson Orin Nano Developer Kit`.
_BOARD = Path("/proc/device-tree/model")
#: A share of the cores that makes a note.
_BUSY = 0.1
_STOLEN = 0.02


@dataclass(frozen=True)
class Machine:
    """Where something was measured.

    Attributes:
        system: operating system and its version.
        processor: name of the processor, and of the board where it has one.
        cores: that this process may use.
        cores_in_all: that the machine has.
        governor: of the CPU frequency, `performance` for example; empty where the system does not say.
        load_average: of the last minute, over the whole machine; None where the system does not say.
        python: version.
    """

    system: str
    processor: str
    cores: int
    cores_in_all: int
    governor: str
    load_average: float | None
    python: str


def machine() -> Machine:
    """This machine, now."""
    return Machine(
        system=platform.platform(),
        processor=processor(_text(_CPUINFO), _text(_BOARD)),
        cores=usable_cores(),
        cores_in_all=os.cpu_count() or 1,
        governor=_text(_GOVERNOR).strip(),
        load_average=round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        python=platform.python_version(),
    )


def processor(cpuinfo: str, board: str) -> str:
    """The processor's name.

    Args:
        cpuinfo: text of /proc/cpuinfo, or empty.
        board: text of /proc/device-tree/model, or empty.
    """
    name = platform.processor() or platform.machine()
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name" and value.strip():
            name = value.strip()
            break
    board = board.strip("\0 \n")
    return f"{board}, {name}" if board else name


@dataclass(frozen=True)
class CpuTime:
    """Seconds that cores have spent since the machine started.

    Attributes:
        busy_s: working, for whomever.
        stolen_s: when this machine is a virtual one, taken by its host.
    """

    busy_s: float
    stolen_s: float


def cpu_time() -> CpuTime | None:
    """Of the cores that this process may use; None where the system does not say."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    return parse_cpu_time(_text(_STAT), os.sched_getaffinity(0), os.sysconf("SC_CLK_TCK"))


def parse_cpu_time(stat: str, cores: set[int], ticks_per_s: int) -> CpuTime | None:
    """Read the `cpuN` lines of /proc/stat, see proc(5): user nice system idle iowait irq softirq steal.

    Args:
        stat: the file's text.
        cores: whose lines count.
        ticks_per_s: unit of its figures.
    """
    busy = stolen = 0
    found = False
    for line in stat.splitlines():
        name, *values = line.split() or [""]
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in cores and len(values) >= 8:
            user, nice, system, _, _, irq, softirq, steal = map(int, values[:8])
            busy += user + nice + system + irq + softirq
            stolen += steal
            found = True
    return CpuTime(busy / ticks_per_s, stolen / ticks_per_s) if found else None


def timing_notes(
    at: Machine, *, seconds: float, own_s: float, before: CpuTime | None, after: CpuTime | None
) -> list[str]:
    """What made the timings of a measurement less reliable than they look, in words.

    Args:
        at: the machine as it was before.
        seconds: that the measurement took.
        own_s: CPU seconds that this process spent meanwhile.
        before: `cpu_time` at its begin,
        after: and at its end.
    """
    notes = []
    if at.load_average is not None and at.load_average > at.cores:
        notes.append(f"the load average was {at.load_average:g} at the start, with {at.cores} cores")
    if before is not None and after is not None and seconds > 0:
        others = max(0.0, after.busy_s - before.busy_s - own_s) / seconds
        stolen = max(0.0, after.stolen_s - before.stolen_s) / seconds
        if others > _BUSY * at.cores:
            notes.append(f"other programs used {others:.1f} of the {at.cores} cores meanwhile")
        if stolen > _STOLEN * at.cores:
            notes.append(f"the host of this virtual machine took {stolen:.1f} of its {at.cores} cores")
    if not at.governor:
        notes.append("the CPU frequency governor is unknown: the clock may change meanwhile")
    elif at.governor != "performance":
        notes.append(f"the CPU frequency governor is '{at.governor}': the clock changes with the load")
    return notes


def peak_rss_mb() -> float | None:
    """The most memory that this process has had resident so far, 10^6 bytes; None where Linux is not."""
    # Not getrusage's ru_maxrss: a new program inherits that from the one that started it.
    for line in _text(_STATUS).splitlines():
        name, *values = line.split()
        if name == "VmHWM:":
            return int(values[0]) * 1024 / 1e6
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
