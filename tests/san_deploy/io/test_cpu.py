from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from san_deploy.io import cpu
from san_deploy.io.cpu import cpu_quota, saturates_int8, usable_cores


def test_usable_cores_are_those_of_this_process() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        # Docker and Kubernetes with version 2: the namespace's top, or the host's path that is not mounted.
        ("0::/", {"cpu.max": "50000 100000"}, 0.5),
        ("0::/", {"cpu.max": "max 100000"}, math.inf),
        ("0::/kubepods/pod1/box", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/../..", {"cpu.max": "150000 100000"}, 1.5),
        # systemd's CPUQuota=, and a tighter group around it.
        ("0::/a/b", {"a/b/cpu.max": "300000 100000", "a/cpu.max": "200000 100000"}, 2.0),
        # Version 1, under either name, and both at once.
        ("4:cpu,cpuacct:/x", {"cpu,cpuacct/x/cpu.cfs_quota_us": "25000", "P": "cpu,cpuacct/x"}, 0.25),
        ("1:cpu:/\n0::/", {"cpu/cpu.cfs_quota_us": "25000", "P": "cpu"}, 0.25),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "P": "cpu"}, math.inf),
        ("2:cpuset:/\n0::/", {"cpuset/cpu.cfs_quota_us": "25000", "P": "cpuset"}, math.inf),
        ("0::/", {"cpu.max": "nonsense"}, math.inf),
        ("0::/", {"cpu.max": "1 0"}, math.inf),
        ("nonsense", {}, math.inf),
    ],
)
def test_quotas_of_control_groups(
    tmp_path: Path, groups: str, files: dict[str, str], expected: float
) -> None:
    proc, top = tmp_path / "proc", tmp_path / "cgroup"
    proc.mkdir(), top.mkdir()
    (proc / "cgroup").write_text(groups + "\n")
    if period := files.pop("P", ""):
        files[f"{period}/cpu.cfs_period_us"] = "100000"
    for name, text in files.items():
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        (top / name).write_text(text + "\n")
    assert cpu_quota(proc, top) == expected


@pytest.mark.parametrize(("quota", "cores"), [(0.5, 1), (1.0, 1), (1.5, 2), (64.0, 4), (math.inf, 4)])
def test_a_quota_is_rounded_up_to_threads(monkeypatch: pytest.MonkeyPatch, quota: float, cores: int) -> None:
    monkeypatch.setattr(cpu, "cpu_quota", lambda: quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    assert usable_cores() == cores


def test_a_system_without_control_groups(tmp_path: Path) -> None:
    assert cpu_quota(tmp_path, tmp_path) == math.inf


@pytest.mark.parametrize(
    ("machine", "flags", "expected"),
    [
        ("x86_64", "fpu sse4_2 avx2", True),
        ("x86_64", "fpu avx2 avx512f avx512bw", True),
        ("x86_64", "fpu avx2 avx512f avx512_vnni", False),
        ("x86_64", "fpu avx2 avx_vnni", False),
        ("AMD64", "fpu avx2", True),
        ("aarch64", "asimd asimddp", False),
    ],
)
def test_vnni_is_what_keeps_8_bit_products_exact(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: str, flags: str, expected: bool
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor\t: 0\nmodel name\t: A CPU\nflags\t\t: {flags}\n")
    assert saturates_int8(info) is expected


def test_an_x86_that_says_nothing_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    assert saturates_int8(tmp_path / "none")


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
    cpu.give_back()
    assert held - resident() > 50 * 2**20 and last.all()


KEPT = """
import numpy as np, resource, sys
from san_deploy.io.cpu import keep_freed
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
    monkeypatch.setattr(cpu.sys, "platform", "win32")
    cpu.give_back()
    assert not cpu.keep_freed()
