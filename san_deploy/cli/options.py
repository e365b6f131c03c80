"""Options that more than one command has, each said once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from ..backends import Backend

_Command = TypeVar("_Command", bound=Callable[..., Any])

model = click.option(
    "-m",
    "--model",
    type=click.Path(path_type=Path),
    help="An .onnx or .engine file of san export, or a checkpoint.  [default: the starter model]",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def reading(command: _Command) -> _Command:
    """`--batch`, `--workers` and `--strict`: how crops are read and embedded."""
    for option in (
        click.option("--strict", is_flag=True, help="Stop at the first crop that cannot be read."),
        click.option(
            "--workers", type=click.IntRange(1, 256), help="Threads that decode.  [default: one per core]"
        ),
        click.option(
            "--batch",
            type=click.IntRange(1, 4096),
            default=32,
            show_default=True,
            help="Crops per call of the network.",
        ),
    ):
        command = option(command)
    return command


def running(command: _Command) -> _Command:
    """`--backend` and `--device`: what runs the model, and where. `open_backend` says which names there are."""
    for option in (
        click.option(
            "--device",
            metavar="cpu|cuda[:N]",
            default="auto",
            help="Where to run.  [default: a GPU where one can be used, else the CPU]",
        ),
        click.option(
            "--backend",
            metavar="NAME",
            default="auto",
            help="onnxruntime, onnxruntime-tensorrt, tensorrt, tensorrt-rtx or torch.  [default: by the file]",
        ),
    ):
        command = option(command)
    return command


def say(runtime: Backend) -> None:
    """Tell on stderr what runs the model, and what is to know of that."""
    click.echo(f"Running on {runtime.name}" + (f"; {runtime.note}" if runtime.note else ""), err=True)
