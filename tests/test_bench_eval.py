"""The benchmark of evaluation runs, and agrees with itself, on a small size without a peer."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = Path(__file__).parent.parent / "tools" / "bench_eval.py"


@pytest.mark.skipif(sys.platform != "linux", reason="reads peaks of memory from /proc")
def test_it_runs_and_its_data_is_realistic() -> None:
    done = subprocess.run(
        [sys.executable, TOOL, "--size", "small", "--rounds", "1", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result["summary"]) == {"floor", "ours", "rerank"}
    ours, rerank = result["summary"]["ours"], result["summary"]["rerank"]
    assert 0.8 < ours["rank1"] < 0.99 and 0.6 < ours["mean_ap"] < rerank["mean_ap"] < 1.0
    assert 0 < ours["beyond_mb"] < ours["peak_mb"]
    assert ours["above_floor"][0] > 0


def test_a_peer_that_is_not_there_is_said(tmp_path: Path) -> None:
    command = [sys.executable, TOOL, "--size", "small", "--rounds", "1", "--fastreid", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"{tmp_path} holds no rank.py" in done.stderr
    assert "Traceback" not in done.stderr
