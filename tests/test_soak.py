"""The campaign: a seeded slice of it, and that it sees what it is there to see."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from soak import damage, disks, kills, mutants, run
from soak.kinds import Kind
from soak.processes import Job
from soak.verdict import BAD, VERDICTS, Table, judge_words

KIND = Kind("a kind", "a.bin", ("embed",), hashed=True)
pytestmark = pytest.mark.skipif(os.name == "nt", reason="POSIX processes and signals")


@pytest.fixture(autouse=True)
def _same_working_directory() -> Iterator[None]:
    before, handler = os.getcwd(), signal.getsignal(signal.SIGTERM)
    yield
    os.chdir(before)
    signal.signal(signal.SIGTERM, handler)


def test_a_slice_of_the_mutants(tmp_path: Path) -> None:
    table = Table()
    mutants.soak(tmp_path / "soak", table, count=52, seed=20261130, trained=False, say=lambda text: None)
    assert not table.finds, table.text()
    assert sum(counts.total() for counts in table.counts.values()) == 52
    assert sum(counts["refused"] for counts in table.counts.values()) > 10


def test_damage_comes_again_with_its_seed() -> None:
    data = b"camera,track,person\ncam1,t1,1\n"
    for form in ("binary", "text", "json"):
        kind = Kind("row", "a", (), form)
        made = [mutants.mutant(data, kind, number, 3) for number in range(40)]
        assert made == [mutants.mutant(data, kind, number, 3) for number in range(40)]
        assert len(set(made)) > 20 and made != [mutants.mutant(data, kind, n, 4) for n in range(40)]
    assert damage.damaged(b"", "json", random.Random(0)) is not None


def _leaves(name: str, code: int, text: str = "Error: no.\n") -> Callable[[object], tuple[int, str, str]]:
    def call(argv: object) -> tuple[int, str, str]:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text("half")
        return code, "", text

    return call


def _raises(argv: object) -> tuple[int, str, str]:
    raise ZeroDivisionError


@pytest.mark.parametrize(
    ("call", "hashed", "verdict"),
    [
        (_raises, True, "traceback"),
        (lambda argv: (1, "", "Traceback (most recent call last):\nError: x"), True, "traceback"),
        (lambda argv: (1, "", ""), True, "traceback"),
        (lambda argv: (1, "", "Error: no.\n"), True, "refused"),
        (_leaves("out.npz", 1), True, "half file"),
        (_leaves(".san-x/new/a", 1), True, "half file"),
        (_leaves("out.npz", 0), True, "silent change"),
        (_leaves("out.npz", 0), False, "other value"),
        (lambda argv: (0, "", ""), True, "silent change"),
    ],
)
def test_what_a_run_came_to(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[[object], tuple[int, str, str]],
    hashed: bool,
    verdict: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mutants, "call", call)
    kind = Kind("a kind", "a.bin", ("embed",), hashed=hashed)
    assert mutants._judged(kind, tmp_path, {"out.npz": "of the whole file"})[0] == verdict


def test_a_hang_and_a_dead_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "a.bin").write_bytes(b"x")
    for serve, limit, verdict in ((_sleeps, 0.5, "hang"), (_dies, 60.0, "traceback")):
        monkeypatch.setattr(mutants, "_serve", serve)
        monkeypatch.setattr(mutants, "WALL_LIMIT", limit)
        worker = mutants._Worker(tmp_path)
        assert worker.run(KIND, 0, 0)[0] == verdict
        worker.stop()


def _sleeps(pipe: object, work: Path, made: Path) -> None:
    signal.pause()


def _dies(pipe: object, work: Path, made: Path) -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def test_finds_are_printed_and_the_exit_code_is_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for verdict in VERDICTS:

        def part(table: Table, *given: object, found: str = verdict) -> None:
            table.add("a row", "mutant 5 of seed 0", found, "what was said")

        monkeypatch.setattr(run, "_part", lambda name, row, folder, table, given, part=part: part(table))
        monkeypatch.setattr(sys, "argv", ["soak", "--only", "mutants:a"])
        with pytest.raises(SystemExit) as stopped:
            run.main()
        assert stopped.value.code == (3 if verdict in BAD else 0)
        assert ("mutant 5 of seed 0: what was said" in capsys.readouterr().out) == (verdict in BAD)
        monkeypatch.setattr(sys, "argv", ["soak", "--only", "mutants:a", "--json"])
        with pytest.raises(SystemExit):
            run.main()
        told = json.loads(capsys.readouterr().out)
        assert told["counts"] == {"a row": {verdict: 1}}
        assert [find["verdict"] for find in told["finds"]] == [verdict] * (verdict in BAD)


@pytest.mark.parametrize(
    ("code", "err", "verdict"),
    [(0, "", ""), (1, "Error: a", "refused"), (2, "Usage: a\nError: b", "refused"), (-11, "", "traceback")],
)
def test_words(code: int, err: str, verdict: str) -> None:
    assert judge_words(code, "", err) == verdict


#: Writes a file in two steps, slowly, and leaves it half where it is killed.
_HALF = "import sys, time; f = open(sys.argv[1], 'w'); f.write('a'); f.flush(); time.sleep(5); f.write('b')"


def test_a_half_file_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = Job("embed", ("{out}",), "a.txt")
    monkeypatch.setattr(
        kills, "start", lambda words: subprocess.Popen([sys.executable, "-S", "-c", _HALF, *words])
    )
    verdict, _ = kills._kill(job, tmp_path, {"a.txt": "of the whole"}, 2.0)
    assert verdict == "half file"


def test_a_disk_that_is_left_dirty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case in disks.cases(tmp_path) if case.name == "ulimit -f 1")
    job = Job("embed", ("{out}",), "a.npz")

    def fails(words: list[str], **given: object) -> tuple[int, str, str]:
        Path(words[0]).write_bytes(b"half")
        return 1, "", "Error: no space."

    monkeypatch.setattr(disks, "run", fails)
    assert disks._judged(case, job, tmp_path / "outputs")[0] == "half file"
