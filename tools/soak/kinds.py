"""A kind of file that a command reads, and `san` called in this process."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from san_deploy.cli import main as san_main

#: Of a network that trains in a second.
TRAIN = (
    *("--size", "32x32", "--epochs", "2", "--validation-people", "0", "--device", "cpu", "--workers", "1"),
    # `auto` measures, and a busy machine may choose otherwise from run to run.
    *("--precision", "fp32"),
    *("--set", "settings.depth=18", "--set", "settings.width=0.125"),
    *("--set", "steps=2", "--set", "num_ids=2", "--set", "num_instances=2"),
)


@dataclass(frozen=True)
class Kind:
    """A kind of file, and a command that reads it.

    Attributes:
        row: its row in the table.
        file: that is damaged, relative to the made folder.
        argv: of the command, in that folder; what it writes is called `out` or begins with `out.`.
        form: `binary`, `text` or `json`: how it is damaged.
        hashed: whether every byte is vouched for, so that another answer is a silent change.
        needs: a module without which the command does not run.
        slow: whether the command takes seconds: it gets an eighth of the mutants of another.
    """

    row: str
    file: str
    argv: tuple[str, ...]
    form: str = "binary"
    hashed: bool = False
    needs: str = ""
    slow: bool = False


def call(argv: Sequence[str]) -> tuple[int, str, str]:
    """Run `san` in this process: exit code, stdout, stderr. What is no `SystemExit` comes through."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["san", *argv]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                san_main()
            except SystemExit as stopped:
                return int(stopped.code or 0), out.getvalue(), err.getvalue()
    finally:
        sys.argv = before
    raise AssertionError("san_main ends by SystemExit")


def has(module: str) -> bool:
    """Whether a module is here; no name needs none."""
    return not module or importlib.util.find_spec(module) is not None


def run(*argv: str) -> None:
    """Run `san` in this process; RuntimeError where it fails."""
    code, _, err = call(argv)
    if code:
        raise RuntimeError(f"san {' '.join(argv)}: {err}")
