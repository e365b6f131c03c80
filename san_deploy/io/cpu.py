"""The CPU: how many cores this process may use, and whether its 8-bit products can overflow."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def usable_cores() -> int:
    """Cores that the scheduler gives to this process: `taskset` and container CPU sets count, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def saturates_int8(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether products of unsigned and signed 8-bit numbers may saturate at 16 bits: x86 without VNNI or AMX.

    An x86 processor that does not say what it has is taken for one without.
    """
    if platform.machine().lower() not in ("x86_64", "amd64", "i686", "x86"):
        return False
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    flags = next((line.split(":", 1)[1].split() for line in lines if line.startswith("flags")), [])
    return not {"avx_vnni", "avx512_vnni", "amx_int8"} & set(flags)
