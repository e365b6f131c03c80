"""Options that more than one command has, each said once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ..errors import UsageError

if TYPE_CHECKING:
    from ..backends import Backend
    from ..datasets import Options

_Command = TypeVar("_Command", bound=Callable[..., Any])

#: Headings of options that several commands have, by the names of their parameters.
_SECTIONS = {
    "Model and device": ("model", "checkpoint", "mask", "backend", "device", "no_self_check"),
    "Reading crops": ("per_track", "batch", "workers", "strict"),
    "Data set": (
        "split",
        "layout",
        "pattern",
        "no_camera",
        "boxes",
        "protocol",
        "testset",
        "cache",
        "distractors",
    ),
    "Output": ("out", "output", "force", "as_json"),
}


class Number(click.FloatRange):
    """A number within a range. NaN and infinity, which click takes, are none: every comparison with NaN fails."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """As click's."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number", param, ctx)
        return number


class GroupedCommand(click.Command):
    """A command that lists its own options first, then under headings those that several commands have.

    Args:
        sections: headings of this command's own, `{heading: names of parameters}`; they stand before the others.
    """

    def __init__(
        self, *args: Any, sections: Mapping[str, tuple[str, ...]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.sections = {"Options": (), **(sections or {}), **_SECTIONS}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click's, a section for each heading."""
        rows: dict[str, list[tuple[str, str]]] = {heading: [] for heading in self.sections}
        for param in self.get_params(ctx):
            # Arguments stand in the usage line.
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                found = (heading for heading, names in self.sections.items() if param.name in names)
                rows[next(found, "Options")].append(record)
        for heading, records in rows.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


model = click.option(
    "-m",
    "--model",
    type=click.Path(path_type=Path),
    help="An .onnx or .engine file of san export, or a checkpoint.  [default: the starter model]",
)
as_json = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


def removed(*names: str, do: str) -> Callable[[_Command], _Command]:
    """Options of earlier releases, each refused with one line that says what to do instead."""

    def refuse(_: click.Context, param: click.Parameter, value: str | None) -> None:
        if value is not None:
            raise UsageError(f"{param.opts[0]} is not there any more", do=do)

    def add(command: _Command) -> _Command:
        for name in names:
            command = click.option(name, hidden=True, expose_value=False, callback=refuse)(command)
        return command

    return add


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


per_track = click.option(
    "--per-track",
    type=click.IntRange(1),
    metavar="N",
    help="Crops of each tracklet at most, spread evenly over it.  [default: all]",
)


tracklet_pattern = click.option(
    "--pattern",
    default="",
    metavar="NAME",
    help="Read tracklets off file names: '{track}_{}.jpg'; also {camera}, {person}.  [default: recognised]",
)
gallery = click.option(
    "--gallery",
    "location",
    metavar="DIR|URL",
    required=True,
    help="A folder, or postgresql://USER@HOST/DATABASE.",
)
keep_crops = click.option(
    "--keep-crops",
    type=click.IntRange(0, 100),
    default=0,
    show_default=True,
    help="Small pictures of a tracklet that the gallery keeps.",
)


def data_set(command: _Command) -> _Command:
    """How a data set is read where its folder does not tell: fields of `datasets.Options`."""
    for option in (
        click.option(
            "--cache", type=click.Path(path_type=Path), help="Where CUHK03's crops are extracted to."
        ),
        click.option(
            "--testset", type=click.IntRange(1), help="Of CUHK03's old protocol, 1 to 20.  [default: 1]"
        ),
        click.option(
            "--protocol", default="", show_default=False, metavar="old|new", help="CUHK03's protocol."
        ),
        click.option(
            "--boxes", default="", show_default=False, metavar="labelled|detected", help="CUHK03's boxes."
        ),
        click.option("--no-camera", is_flag=True, help="Every crop is a camera of its own."),
        click.option(
            "--pattern",
            default="",
            show_default=False,
            metavar="NAME",
            help="Read labels off file names: '{person}_c{camera}_{}.jpg'; also {track}, {split}.",
        ),
        click.option(
            "--layout",
            default="",
            show_default=False,
            help="The data set's layout, where its folder does not tell.",
        ),
    ):
        command = option(command)
    return command


def data_options(given: Mapping[str, Any], *, distractors: bool = False) -> Options:
    """What the options of `data_set` say."""
    from ..datasets import Options

    return Options(
        layout=given["layout"],
        pattern=given["pattern"],
        no_camera=given["no_camera"],
        distractors=distractors,
        boxes=given["boxes"],
        protocol=given["protocol"],
        testset=given["testset"] or 0,
        cache=given["cache"],
    )


class _BackendOption(click.Option):
    """Lists the table of runtimes, which is read when help is asked for."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        from ..backends import BACKENDS

        *most, last = BACKENDS
        self.help = f"{', '.join(most)} or {last}.  [default: by the file]"
        return super().get_help_record(ctx)


def _skip_self_check(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        from ..self_check import skipped

        ctx.with_resource(skipped())


def running(command: _Command) -> _Command:
    """`--backend`, `--device` and `--no-self-check`: what runs the model, and where.

    `open_backend` says which names there are.
    """
    for option in (
        click.option(
            "--no-self-check",
            is_flag=True,
            expose_value=False,
            callback=_skip_self_check,
            help="Do not hold an engine against the network's own rows when it is first loaded here.",
        ),
        click.option(
            "--device",
            metavar="cpu|cuda[:N]",
            default="auto",
            help="Where to run.  [default: a GPU where one can be used, else the CPU]",
        ),
        click.option(
            "--backend", cls=_BackendOption, metavar="NAME", default="auto", help="filled in when it is shown"
        ),
    ):
        command = option(command)
    return command


def say(runtime: Backend) -> None:
    """Tell on stderr what runs the model, and what is to know of that."""
    click.echo(f"Running on {runtime.name}" + (f"; {runtime.note}" if runtime.note else ""), err=True)
