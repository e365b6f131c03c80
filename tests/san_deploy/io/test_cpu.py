from __future__ import annotations

import os
import platform
from pathlib import Path

import pytest

from san_deploy.io.cpu import saturates_int8, usable_cores


def test_usable_cores_are_those_of_this_process() -> None:
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)


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
