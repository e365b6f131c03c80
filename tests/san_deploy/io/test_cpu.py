from __future__ import annotations

import math
import os
import platform
from pathlib import Path

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
