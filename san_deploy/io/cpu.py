"""The CPU: how many cores this process may use, and whether its 8-bit products can overflow."""

from __future__ import annotations

import contextlib
import math
import os
import platform
from pathlib import Path


def usable_cores() -> int:
    """Cores that this process may use, at least 1: `taskset`, CPU sets and CPU quotas of containers count.

    Half a core is one, one and a half are two: the last thread then waits for its time now and then.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(cores, cpu_quota())))


def cpu_quota(proc: Path = Path("/proc/self"), groups: Path = Path("/sys/fs/cgroup")) -> float:
    """Cores' worth of time that the control groups of this process leave it; infinite where none limits it.

    Both versions are read (kernel.org: admin-guide/cgroup-v2, `cpu.max`; scheduler/sched-bwc, `cpu.cfs_quota_us`). A
    group cannot have more than those around it. Inside a container the path may be the host's: then the group is the
    top of what is mounted.

    Args:
        proc: of the process.
        groups: where control groups are mounted.
    """
    quota = math.inf
    for line in _lines(proc / "cgroup"):
        _, controllers, inside = [*line.split(":", 2), "", ""][:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        below = [part for part in Path(inside).parts if part not in ("/", "..")]
        for top in (groups / controllers, groups / "cpu") if controllers else (groups, groups / "unified"):
            for depth in range(len(below) + 1):
                quota = min(quota, _quota_of(top.joinpath(*below[:depth])))
    return quota


def _quota_of(group: Path) -> float:
    """What one group leaves, in cores; infinite without a limit."""
    found = " ".join(_lines(group / "cpu.max")).split()
    found = found or [*_lines(group / "cpu.cfs_quota_us"), *_lines(group / "cpu.cfs_period_us")]
    with contextlib.suppress(ValueError, ZeroDivisionError):
        quota, period = map(int, found)
        if quota > 0:
            return quota / period
    return math.inf


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def saturates_int8(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether products of unsigned and signed 8-bit numbers may saturate at 16 bits: x86 without VNNI or AMX.

    An x86 processor that does not say what it has is taken for one without.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i686", "x86"):
        return False
    flags = next((line.split(":", 1)[1].split() for line in _lines(cpuinfo) if line.startswith("flags")), [])
    return not {"avx_vnni", "avx512_vnni", "amx_int8"} & set(flags)
