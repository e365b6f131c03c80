"""The `san` command. One file per command; a command is imported only when it is called."""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
import warnings
from importlib.machinery import EXTENSION_SUFFIXES
from types import FrameType
from typing import TextIO

import click

from .. import __version__
from ..errors import SanError
from ..io.atomic import disk_advice, is_of_the_disk
from ..io.extras import EXTRA_OF, InstallWarning, install
from .streams import open_streams

#: Command -> help line. The line stands here so that `san --help` imports no command.
COMMANDS = {
    "bench": "Measure how fast a model is.",
    "crops": "Cut crops out of a video, by a tracker's boxes.",
    "demo": "Match three cameras of sample crops, write the report.",
    "embed": "Embed a folder of crops.",
    "eval": "Evaluate a model on a labelled data set: CMC, mAP, mINP.",
    "export": "Turn a checkpoint into an ONNX file and an engine that the edge runs.",
    "gallery": "Keep tracklets, to search for people and to know them again.",
    "import": "Wrap an embedding network that others trained, so that all commands take it.",
    "info": "Say what a model file is and where it runs, or what this machine has.",
    "match": "Match people across cameras, write the report.",
    "parity": "Say whether a deployed model ranks as the trained network does, and where it differs.",
    "search": "Find where a person was seen, in a gallery.",
    "threshold": "Choose the similarity from which two tracklets are one person.",
    "train": "Train a Sharp Attention Network.",
}


#: Command -> its file, where Python keeps the name for itself.
_FILES = {"import": "import_model"}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f".{_FILES.get(cmd_name, cmd_name)}", __package__)
        command: click.Command = module.command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's; a name that is not there gets the nearest one that is."""
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean '{near[0]}'?", ctx) from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 error, 2 wrong usage, 3 a check ran and failed, 130 Ctrl-C.",
)
@click.version_option(__version__, prog_name="san")
def san() -> None:
    """Person re-identification with Sharp Attention Networks, from training to the edge."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which `docker stop`, systemd and `timeout` send: cleaned up after as Ctrl-C is."""


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _Terminated


_say_by_python = warnings.showwarning


def _say(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """As `warnings.showwarning`; a warning that is for the user is one line, without the place in our code."""
    if issubclass(category, InstallWarning):
        click.echo(f"Warning: {message}", err=True)
    else:
        _say_by_python(message, category, filename, lineno, file, line)


def main() -> None:
    """Run `san`; turn errors into one line and an exit code (0 ok, 1 error, 2 usage, 3 a gate failed)."""
    open_streams()
    signal.signal(signal.SIGTERM, _terminate)
    warnings.showwarning = _say
    try:
        san(standalone_mode=False)
        code = 0
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except click.exceptions.Exit as error:
        code = error.exit_code
    except SanError as error:
        click.echo(f"Error: {error}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort) as stopped:
        click.echo("Stopped. Nothing half-written was left.", err=True)
        # click makes an Abort of it.
        code = 143 if isinstance(stopped.__cause__ or stopped, _Terminated) else 130
    except MemoryError as error:
        why = f" ({error})" if str(error) else ""
        click.echo(f"Error: there is not enough memory{why}. Give smaller batches, or fewer crops.", err=True)
        code = 1
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # `san ... | head`: the reader left. Nothing more can be said on stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        elif is_of_the_disk(error):
            where = f" ({error.filename})" if error.filename else ""
            advice = disk_advice(error)
            click.echo(f"Error: {error.strerror}{where}. {advice[0].upper()}{advice[1:]}.", err=True)
        else:
            raise
        code = 1
    except ModuleNotFoundError as error:
        extra = EXTRA_OF.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        weights = any(word.endswith((".safetensors", ".pth", ".pt")) for word in sys.argv)
        if sys.argv[1:2] in (["export"], ["parity"], ["import"]) and (extra == "train" or weights):
            # PyTorch and onnx are in several extras; name the one that brings all that the command needs.
            extra = "export"
        click.echo(f"Error: {error.name} is not installed. {install(extra)}.", err=True)
        code = 1
    except ImportError as error:
        # A library that does not load; a name that is not in a module is a bug of somebody's.
        if not (error.path or "").endswith(tuple(EXTENSION_SUFFIXES)):
            raise
        click.echo(
            f"Error: {error.path} cannot be loaded: {error}. Give more memory, or reinstall it.", err=True
        )
        code = 1
    sys.exit(code)
