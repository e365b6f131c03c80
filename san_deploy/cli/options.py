"""Options that more than one command has, each said once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

_Command = TypeVar("_Command", bound=Callable[..., Any])

model = click.option(
    "-m",
    "--model",
    type=click.Path(path_type=Path),
    help="An .onnx file of san export.  [default: the starter model]",
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
