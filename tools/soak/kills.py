"""SIGKILL at any time, then the command again: the same bytes as if nobody had killed it, and nothing left over."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

from .processes import Job, clear, digests, prepared, run, start
from .verdict import Table, judge_words


def soak(folder: Path, table: Table, *, count: int, seed: int, only: str, say: Callable[[str], None]) -> None:
    """Kill `count` runs, spread evenly over the commands.

    Args:
        folder: empty, to work in.
        table: to count in; rows are `kill COMMAND`.
        count: of kills.
        seed: of the times, as shares of the command's own.
        only: part of a command's name.
        say: is told how far it is.
    """
    jobs = prepared(folder, only, table.skipped)
    known = {job.name: _reference(job, folder) for job in jobs}
    rng = random.Random(seed)
    for number in range(count if jobs else 0):
        job = jobs[number % len(jobs)]
        expected, seconds = known[job.name]
        share = rng.random()
        verdict, detail = _kill(job, clear(folder / "outputs"), expected, share * seconds)
        table.add(f"kill {job.name}", f"at {share:.4f} of its time", verdict, detail)
        if number % 20 == 19:
            say(f"{number + 1} of {count} kills, {len(table.finds)} finds")


def _reference(job: Job, folder: Path) -> tuple[dict[str, str], float]:
    """Digests of the files that two whole runs agree in, and seconds of one."""
    found = []
    for _ in range(2):
        out = clear(folder / "outputs") / job.out
        began = time.monotonic()
        code, _, err = run(job.words(out))
        if code:
            raise RuntimeError(f"san {job.name} fails: {err}")
        found.append(digests(out))
        seconds = time.monotonic() - began
    return {name: digest for name, digest in found[0].items() if found[1].get(name) == digest}, seconds


def _kill(job: Job, where: Path, expected: dict[str, str], seconds: float) -> tuple[str, str]:
    out = where / job.out
    process = start(job.words(out))
    time.sleep(seconds)
    process.kill()
    process.wait()
    whole = out.exists()
    # Nothing but a gallery and a run, which are written piece by piece, may be there in part.
    if whole and not (job.resume or job.name == "gallery add"):
        if any(digests(out).get(name) != digest for name, digest in expected.items()):
            return "half file", f"{out} was there in part after the kill"
        clear(where)
    left_by_kill = digests(out)
    code, printed, err = run(job.words(out, again=(out / "config.json").exists()))
    verdict = judge_words(code, printed, err)
    if verdict == "refused":
        # As it must be where the command had ended its work before the kill, and else a resume that does not go on.
        ended = all(left_by_kill.get(name) == digest for name, digest in expected.items())
        return ("unchanged" if ended else "silent change"), err
    if verdict:
        return verdict, err
    if left := [path.name for path in where.rglob(".san-*")]:
        return "half file", f"left behind: {left}"
    found = digests(out)
    differ = [name for name, digest in expected.items() if found.get(name) != digest]
    return ("silent change", f"differ: {differ}\n{err}") if differ else ("unchanged", "")
