"""What a shell sees: help in sections, near names, completion, exit codes."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from san_deploy.cli import COMMANDS
from san_deploy.cli import san as san_group
from tests.conftest import Result

San = Callable[..., Result]
MAIN = "import sys; sys.argv[0] = 'san'; from san_deploy.cli import main; main()"


def test_a_name_that_is_nearly_a_command(san: San) -> None:
    assert "No such command 'mtch'. Did you mean 'match'?" in san("mtch", code=2).err
    assert "Did you mean" not in san("xyzzy", code=2).err
    # click writes its own, with quotes or without.
    assert re.search(r"Did you mean '?--threshold'?\?", san("match", "a", "b", "--treshold", "1", code=2).err)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_in_one_section(san: San, command: str) -> None:
    """`-h` too; a command of a dozen options has headings."""
    text = san(command, "--help").out
    options = re.findall(r"^  (?:-\w, )?(--[\w-]+)", text[text.index("\nOptions:") :], re.MULTILINE)
    assert len(options) == len(set(options))
    assert text.count("--help") == 1
    if len(options) > 12:
        assert "\nOutput:\n" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_takes_a_number_that_is_none(command: str) -> None:
    """Every comparison with NaN fails, and so would a gate of NaN let anything pass."""
    for param in numbers(san_group.get_command(click.Context(san_group), command)):
        for value in ("nan", "inf", "-inf"):
            with pytest.raises(click.BadParameter, match=r"is no finite number|is not in the range"):
                param.type.convert(value, param, None)


def numbers(command: click.Command | None) -> list[click.Parameter]:
    """The options of a command, or of a group's, that take a number with a point."""
    if isinstance(command, click.Group):
        return [found for name in command.commands for found in numbers(command.commands[name])]
    assert command is not None
    return [
        param for param in command.params if isinstance(param.type, (click.FloatRange, type(click.FLOAT)))
    ]


def test_numbers_are_found() -> None:
    names = {
        param.name
        for name in COMMANDS
        for param in numbers(san_group.get_command(click.Context(san_group), name))
    }
    assert {"threshold", "min_cosine", "max_drop", "fps", "fmr", "seconds"} <= names


def test_an_unknown_layout_lists_those_that_are_known(san: San, tmp_path: Path) -> None:
    (tmp_path / "strange").mkdir()
    told = san("eval", tmp_path / "strange", code=1).err
    assert "no layout known here. Expected one of these:\n  a crop folder" in told
    assert all(len(line) < 300 for line in told.splitlines())


def test_completion() -> None:
    """As bash asks for it, see docs/install.md."""
    for words, number, expected in (("san ex", 1, "export"), ("san match --thr", 2, "--threshold")):
        asked = {"_SAN_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(number)}
        done = subprocess.run(
            [sys.executable, "-c", MAIN],
            env=os.environ | asked,
            capture_output=True,
            text=True,
            check=True,
        )
        assert f"plain,{expected}" in done.stdout.splitlines()


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopped(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Ctrl-C and what `docker stop` sends: a code of its own each, one line, nothing left."""
    slow = (
        "import time, san_deploy.cli as cli; cli.san.callback = None; "
        "cli.san.invoke = lambda ctx: (print('ready', flush=True), time.sleep(60)); "
    )
    process = subprocess.Popen(
        [sys.executable, "-c", slow + MAIN, "info"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(number)
    _, told = process.communicate(timeout=30)
    assert process.returncode == code
    assert told.strip() == "Stopped. Nothing half-written was left." and not list(tmp_path.iterdir())


def _embed(crops: Path, model: Path, out: Path, redirect: str) -> int:
    words = [sys.executable, "-m", "san_deploy", "embed", crops, "-m", model, "-o", out]
    done = subprocess.run(["bash", "-c", f'"$@" {redirect}', "san", *words], check=False, capture_output=True)
    return done.returncode


@pytest.mark.skipif(os.name == "nt", reason="a POSIX shell")
@pytest.mark.parametrize(
    "redirect", ["2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full", "2> >(exec <&-; sleep 0.1)"]
)
def test_messages_that_nobody_can_read_do_not_end_the_work(
    tmp_path: Path, crops: Path, model: Path, redirect: str
) -> None:
    """As services close them, or a log's disk is full: the file is there, and holds no message of a library."""
    expected = tmp_path / "expected.npz"
    assert _embed(crops, model, expected, "") == 0
    assert _embed(crops, model, tmp_path / "a.npz", redirect) == 0
    assert (tmp_path / "a.npz").read_bytes() == expected.read_bytes()


@pytest.mark.parametrize(
    ("words", "missing", "extra"),
    [
        (["import", "osnet.pth"], "onnx", "export"),
        (["import", "theirs.onnx"], "onnx", "convert"),
        (["import", "osnet.pth"], "torch", "export"),
        (["parity", "run/model.safetensors", "fp16.onnx"], "onnx", "export"),
        (["parity", "fp32.onnx", "fp16.onnx"], "onnx", "convert"),
        (["eval", "crops"], "torch", "train"),
    ],
)
def test_a_missing_package_names_the_extra_that_brings_all(
    words: list[str], missing: str, extra: str
) -> None:
    code = (
        "import sys; import san_deploy.cli as cli\n"
        f"def stand_in(**_): raise ModuleNotFoundError(name={missing!r})\n"
        "cli.san = stand_in\n"
        f"sys.argv = ['san', *{words!r}]; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"{missing} is not installed" in done.stderr
    assert f"'.[{extra}]'" in done.stderr or f"san-deploy[{extra}]" in done.stderr, done.stderr


@pytest.mark.parametrize("name", ["torch/_C.so", ""])
def test_a_library_that_does_not_load(name: str) -> None:
    """A file that no loader takes is said in a line; a name that a module lacks is a bug, with its traceback."""
    code = (
        "import sys; import san_deploy.cli as cli\n"
        "def stand_in(**_): raise ImportError('failed to map segment', name='_C', path=sys.argv[1] or None)\n"
        "cli.san = stand_in; cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    told = "Error: torch/_C.so cannot be loaded: failed to map segment. Give more memory"
    assert done.stderr.startswith(told) if name else "Traceback" in done.stderr
