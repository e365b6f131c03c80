"""Cameras as several commands take them: which model they need, and what was understood of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from . import options
from . import text as words

if TYPE_CHECKING:
    from ..backends import Backend
    from ..matching.sources import Source


def open_for(sources: Sequence[Source], given: Mapping[str, Any]) -> Backend | None:
    """The model of `--model`, `--backend` and `--device`, where a crop has to be embedded or a user named one."""
    from ..backends import open_backend

    if given["model"] is None and not any(source.tracks for source in sources):
        return None
    runtime = open_backend(given["model"], backend=given["backend"], device=given["device"])
    options.say(runtime)
    return runtime


def describe(source: Source) -> None:
    """Say on stderr what was understood of a camera, and what looks wrong."""
    from ..images import left_out

    if source.layout:
        click.echo(f"{source.name}: {source.layout}", err=True)
    if source.question:
        click.echo(f"Check this: {source.question}.", err=True)
    if source.path.is_dir() and (passed_over := words.left_out(left_out(source.path))):
        click.echo(f"{source.name}: {passed_over}", err=True)
