"""Outputs on disks that are full, read-only, refuse chmod, or go away; and processes that may have little."""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from .processes import Job, clear, digests, prepared, run
from .verdict import Table, judge_words

#: A module that Python imports first: chmod is refused, as exFAT, CIFS and some FUSE disks do.
_NO_CHMOD = """
import os
def refuse(*given, **named):
    raise PermissionError(1, "Operation not permitted")
os.chmod = os.fchmod = os.lchmod = refuse
"""


@dataclass(frozen=True)
class Case:
    """One trouble.

    Attributes:
        name: of its row.
        where: gives the folder to write in, in a `with` block, below the folder that it is given.
        limit: what the process may have: `resource.RLIMIT_...` and how much.
        extra: of the environment.
    """

    name: str
    where: Callable[[Path], contextlib.AbstractContextManager[Path]]
    limit: tuple[int, int] | None = None
    extra: tuple[tuple[str, str], ...] = ()


@contextlib.contextmanager
def _plain(folder: Path) -> Iterator[Path]:
    yield clear(folder)


@contextlib.contextmanager
def _tmpfs(folder: Path, options: str) -> Iterator[Path]:
    clear(folder)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "soak", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise OSError(f"mount: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=False, capture_output=True)


@contextlib.contextmanager
def _going_away(folder: Path, after: float) -> Iterator[Path]:
    clear(folder)
    gone = threading.Event()

    def remove() -> None:
        time.sleep(after)
        while not gone.is_set():
            shutil.rmtree(folder, ignore_errors=True)
            time.sleep(0.01)

    thread = threading.Thread(target=remove)
    thread.start()
    try:
        yield folder
    finally:
        gone.set()
        thread.join()
        clear(folder)


def cases(folder: Path) -> list[Case]:
    """All troubles; `folder` gets what they need."""
    stub = folder / "no-chmod"
    stub.mkdir(exist_ok=True)
    (stub / "sitecustomize.py").write_text(_NO_CHMOD)
    found = [Case(f"full disk, {kb} kB", partial(_tmpfs, options=f"size={kb}k")) for kb in (4, 16, 64)]
    found.append(Case("no inodes", partial(_tmpfs, options="nr_inodes=3")))
    found.append(Case("read-only disk", partial(_tmpfs, options="ro")))
    found += [Case(f"vanishes after {s} s", partial(_going_away, after=s)) for s in (0.5, 1.0, 2.0)]
    found.append(Case("chmod refused", _plain, extra=(("PYTHONPATH", str(stub)),)))
    found += [Case(f"ulimit -f {kb}", _plain, (resource.RLIMIT_FSIZE, kb << 10)) for kb in (0, 1, 8)]
    found += [Case(f"ulimit -n {n}", _plain, (resource.RLIMIT_NOFILE, n)) for n in (8, 16, 32, 64)]
    found += [Case(f"ulimit -v {mb} MB", _plain, (resource.RLIMIT_AS, mb << 20)) for mb in (300, 1000, 4000)]
    return found


def soak(folder: Path, table: Table, *, only: str, say: Callable[[str], None]) -> None:
    """Every command in every trouble, once.

    Args:
        folder: empty, to work in.
        table: to count in; rows are the troubles.
        only: part of a trouble's name, or of a command's after `/`.
        say: is told how far it is.
    """
    trouble, _, command = only.partition("/")
    jobs = prepared(folder, command, table.skipped)
    for case in cases(folder):
        if trouble.lower() not in case.name:
            continue
        say(f"{case.name}, {len(table.finds)} finds")
        for job in jobs:
            try:
                verdict, detail = _judged(case, job, folder / "outputs")
            except OSError as error:
                table.skipped[case.name] = str(error)
                break
            except subprocess.TimeoutExpired as error:
                verdict, detail = "hang", str(error)
            table.add(case.name, job.name, verdict, detail)


def _judged(case: Case, job: Job, where: Path) -> tuple[str, str]:
    def before() -> None:
        if case.limit is not None:
            kind, most = case.limit
            resource.setrlimit(kind, (most, most))

    with case.where(where) as place:
        out = place / job.out
        extra = dict(case.extra)
        if "PYTHONPATH" in extra:
            from .processes import environment

            extra["PYTHONPATH"] += os.pathsep + environment()["PYTHONPATH"]
        code, printed, err = run(job.words(out), before=before if case.limit else None, extra=extra)
        verdict = judge_words(code, printed, err)
        left = [path.name for path in place.rglob(".san-*")] if place.exists() else []
        there = bool(digests(out)) if place.exists() else False
    if case.name.startswith("ulimit -v") and code and verdict != "refused":
        # The loader or a library ends such a process before a line of ours runs.
        return ("refused" if "emory" in err or "allocate" in err or "thread" in err else verdict), err
    if left:
        return "half file", f"left behind: {left}\n{err}"
    if verdict == "refused" and there and not (job.resume or job.name == "gallery add"):
        return "half file", f"{out} is there after exit code {code}\n{err}"
    return verdict or "unchanged", err
