"""Memory that the C library keeps for later although nothing of this process uses it any more."""

from __future__ import annotations

import ctypes
import gc
import os
import sys

#: Of glibc's malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_GLIBC = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def give_back() -> None:
    """Return what is free to the system, after a step that held much; nothing happens where the C library cannot.

    glibc keeps freed blocks of up to 32 MB, the weights of a network layer by layer.
    """
    gc.collect()
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None:
        trim(0)


def keep_freed() -> bool:
    """Let this process keep what it frees, for work that takes as much again at once, such as a step of training.

    By default glibc takes large blocks from the system for each use, which has to clear them, page by page. Measured:
    docs/benchmarks.md. Two environment variables of glibc's, where they are set, are left alone.

    Returns:
        Whether the C library took it.
    """
    set_option = getattr(_libc(), "mallopt", None)
    if set_option is None or any(name in os.environ for name in _GLIBC):
        return False
    return bool(set_option(_MMAP_THRESHOLD, 2**30)) and bool(set_option(_TRIM_THRESHOLD, 2**31 - 1))


def _libc() -> ctypes.CDLL | None:
    return ctypes.CDLL(None) if sys.platform == "linux" else None
