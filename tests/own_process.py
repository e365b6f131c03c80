"""Tests that a pytest of their own runs, since what they load does not leave its process as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_cases(cases: Path, passed: int) -> None:
    """Run a file of tests in another process; fails unless so many passed, and none else."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "0",
        "-p",
        "no:cacheprovider",
        "-W",
        "ignore",
        cases,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and f"{passed} passed" in done.stdout, done.stdout[-3000:]
