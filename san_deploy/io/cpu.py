"""Cores and memory of this process: how many it may use, what 8-bit products do, what the C library keeps of memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import platform
import sys
from pathlib import Path

#: Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_GLIBC = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")
#: Bytes from which `give_back` gives back.
_WORTH = 32 << 20


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


def give_back(held: int = _WORTH) -> None:
    """Return what is free to the system, after a step that held much; nothing happens where the C library cannot.

    glibc keeps freed blocks of up to 32 MB, the weights of a network layer by layer.

    Args:
        held: bytes of what is free now. Less than 32 MB is not worth it: a collection takes a quarter of a second
            beside PyTorch.
    """
    if held < _WORTH:
        return
    gc.collect()
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_freed() -> bool:
    """Let this process keep what it frees, for work that takes as much again at once, such as a step of training.

    By default glibc takes large blocks from the system for each use, which has to clear them, page by page. Measured:
    docs/benchmarks.md. Environment variables of glibc's, where they are set, are left alone.

    Returns:
        Whether the C library took it.
    """
    set_option = getattr(_libc(), "mallopt", None)
    if set_option is None or any(name in os.environ for name in _GLIBC):
        return False
    return bool(set_option(_MMAP_THRESHOLD, 2**30)) and bool(set_option(_TRIM_THRESHOLD, 2**31 - 1))


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
