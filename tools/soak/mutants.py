"""Damaged files, each given to a command that reads it; in a process of its own, which is watched."""

from __future__ import annotations

import hashlib
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from .damage import damaged
from .digests import of_bytes, of_file
from .kinds import Kind, call, has
from .made import copy_of, make
from .verdict import BAD, Table, judge_words

#: Seconds of computing, and of waiting on a busy machine, after which a run hangs.
CPU_LIMIT, WALL_LIMIT = 30.0, 300.0
Progress = Callable[[str], None]


def soak(
    folder: Path,
    table: Table,
    *,
    count: int,
    seed: int,
    only: str = "",
    trained: bool = True,
    say: Progress = print,
) -> None:
    """Damage files `count` times, spread over the kinds.

    Args:
        folder: empty, to work in; the files of bad runs are kept in it, in `finds/`.
        table: to count in; rows are the kinds.
        count: of damaged files; kinds whose command is slow get fewer.
        seed: of the damage: kind, number and seed make one file again.
        only: part of a row's name; empty takes all kinds.
        trained: take the files of a training run, too.
        say: is told how far it is.
    """
    kinds = _made(folder / "made", trained=trained)
    chosen = [kind for kind in kinds if only.lower() in kind.row.lower()]
    for kind in [kind for kind in chosen if not has(kind.needs)]:
        table.skipped[kind.row] = f"{kind.needs} is not installed"
        chosen.remove(kind)
    worker = _Worker(folder)
    try:
        for done, (kind, number) in enumerate(_jobs(chosen, count)):
            verdict, detail = worker.run(kind, number, seed)
            table.add(kind.row, f"mutant {number} of seed {seed}", verdict, detail)
            if verdict in BAD:
                _keep(folder, kind, number, seed, detail)
            if done % 500 == 499:
                say(f"{done + 1} of {count} mutants, {len(table.finds)} finds")
    finally:
        worker.stop()


def mutant(pristine: bytes, kind: Kind, number: int, seed: int) -> bytes:
    """The bytes of one damaged file."""
    return damaged(pristine, kind.form, random.Random(f"{seed}/{kind.row}/{number}"))


def _made(folder: Path, *, trained: bool) -> list[Kind]:
    folder.mkdir(parents=True)
    before = os.getcwd()
    os.chdir(folder)
    try:
        return make(folder, trained=trained)
    finally:
        os.chdir(before)


def _jobs(kinds: Sequence[Kind], count: int) -> Iterator[tuple[Kind, int]]:
    rounds = (
        (kind, number) for number in itertools.count() for kind in kinds if not (kind.slow and number % 8)
    )
    return itertools.islice(rounds, count if kinds else 0)


def _keep(folder: Path, kind: Kind, number: int, seed: int, detail: str) -> None:
    kept = folder / "finds"
    kept.mkdir(exist_ok=True)
    name = f"{hashlib.sha256(kind.row.encode()).hexdigest()[:6]}-{number}"
    data = mutant((folder / "made" / kind.file).read_bytes(), kind, number, seed)
    (kept / f"{name}-{Path(kind.file).name}").write_bytes(data)
    (kept / f"{name}.txt").write_text(f"{kind}\nnumber {number}, seed {seed}\n\n{detail}\n", errors="replace")


class _Worker:
    """A process that runs one damaged file after another; ended and begun again where it hangs or dies."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: Any = None
        self._pipe: Connection | None = None

    def run(self, kind: Kind, number: int, seed: int) -> tuple[str, str]:
        """The verdict, and what was said."""
        if self._process is None:
            self._start()
        assert self._pipe is not None
        self._pipe.send((kind, number, seed))
        began, computed = time.monotonic(), _cpu_seconds(self._process.pid)
        while not self._pipe.poll(0.2):
            if not self._process.is_alive():
                code = self._process.exitcode
                self.stop()
                return "traceback", f"the process died: exit code {code}"
            waited, used = time.monotonic() - began, _cpu_seconds(self._process.pid) - computed
            if used > CPU_LIMIT or waited > WALL_LIMIT:
                self.stop()
                return "hang", f"{used:.0f} s of computing in {waited:.0f} s"
        try:
            verdict, detail = self._pipe.recv()
        except (EOFError, OSError):
            self.stop()
            return "traceback", "the process died"
        if not verdict:
            raise RuntimeError(detail)
        return verdict, detail

    def _start(self) -> None:
        work = self._folder / "work"
        shutil.rmtree(work, ignore_errors=True)
        copy_of(self._folder / "made", work)
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, work, self._folder / "made"), daemon=True
        )
        self._process.start()
        theirs.close()

    def stop(self) -> None:
        """End the process, whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        self._process = self._pipe = None


def _cpu_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _serve(pipe: Connection, work: Path, made: Path) -> None:
    """In the process: run what comes through the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir(work)
    # What libraries print on the descriptors themselves belongs to nobody's terminal.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    expected: dict[str, dict[str, str]] = {}
    while True:
        try:
            kind, number, seed = pipe.recv()
        except EOFError:
            return
        if kind.row not in expected:
            try:
                expected[kind.row] = _reference(kind, work, made)
            except Exception as error:
                pipe.send(("", str(error)))
                return
        pristine = (made / kind.file).read_bytes()
        (work / kind.file).write_bytes(mutant(pristine, kind, number, seed))
        try:
            pipe.send(_judged(kind, work, expected[kind.row]))
        finally:
            _restore(kind, work, made)


def _reference(kind: Kind, work: Path, made: Path) -> dict[str, str]:
    """What the whole file gives, without what differs from run to run."""
    runs = []
    for _ in range(2):
        code, out, err = call(kind.argv)
        if code:
            raise RuntimeError(f"{kind.row}: the whole file is refused: {err}")
        runs.append(_result(work, out))
        _restore(kind, work, made)
    return {name: digest for name, digest in runs[0].items() if runs[1].get(name) == digest}


def _judged(kind: Kind, work: Path, expected: dict[str, str]) -> tuple[str, str]:
    try:
        code, out, err = call(kind.argv)
    except BaseException:
        return "traceback", traceback.format_exc()
    verdict = judge_words(code, out, err)
    if left := [path.name for path in work.rglob(".san-*")]:
        return "half file", f"left behind: {left}\n{err}"
    # An empty folder that a cache was to be in is no half of anything.
    written = [
        *work.glob("out"),
        *(path for path in work.glob("out.*") if path.is_file() or any(path.iterdir())),
    ]
    if verdict:
        if code == 1 and written:
            return "half file", f"{written} after exit code {code}\n{err}"
        return verdict, err
    found = _result(work, out)
    if all(found.get(name) == digest for name, digest in expected.items()):
        return "unchanged", err
    if not kind.hashed:
        return "other value", err
    said = "damaged" in out or "nothing vouches" in out + err or '"state": "unknown"' in out
    return ("refused" if said else "silent change"), out + err


def _result(work: Path, out: str) -> dict[str, str]:
    """Digests of what a command wrote and printed, by name."""
    files = [path for top in (*work.glob("out"), *work.glob("out.*")) for path in (top, *top.rglob("*"))]
    files += [work / "run" / "model.safetensors"] if (work / "run").exists() else []
    return {str(path.relative_to(work)): of_file(path) for path in files if path.is_file()} | {
        "stdout": of_bytes(out.encode()) if out.startswith("{") else ""
    }


def _restore(kind: Kind, work: Path, made: Path) -> None:
    for path in (*work.glob("out"), *work.glob("out.*"), *work.glob(".san-*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    top = Path(kind.file).parts[0]
    if "train" in kind.argv:
        shutil.rmtree(work / top)
        shutil.copytree(made / top, work / top)
    else:
        shutil.copyfile(made / kind.file, work / kind.file)
