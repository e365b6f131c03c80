from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from san_deploy.io import memory


def resident() -> int:
    """Bytes of this process."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
def test_what_is_free_goes_back() -> None:
    # Blocks below glibc's threshold for pages of their own, and one behind them that keeps the heap from shrinking.
    blocks = [np.ones(100_000, np.uint8) for _ in range(1000)]
    last = np.ones(1000, np.uint8)
    held = resident()
    del blocks
    memory.give_back()
    assert held - resident() > 50 * 2**20 and last.all()


KEPT = """
import numpy as np, resource, sys
from san_deploy.io.memory import keep_freed
assert keep_freed() is (sys.argv[1] == "True")
for turn in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(2):
        np.ones(2**26, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc")
@pytest.mark.parametrize("kept", [True, False])
def test_large_blocks_are_kept_unless_the_user_set_it(kept: bool) -> None:
    environment = {**os.environ, **({} if kept else {"MALLOC_MMAP_THRESHOLD_": "131072"})}
    done = subprocess.run(
        [sys.executable, "-c", KEPT, str(kept)], env=environment, capture_output=True, text=True, check=True
    )
    # Two arrays of 64 MB are cleared by the system, in pages of 2 MB at the largest, or not at all.
    assert (int(done.stdout) < 20) is kept


def test_a_c_library_without_it_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.sys, "platform", "win32")
    memory.give_back()
    assert not memory.keep_freed()
