"""`san bench`: how fast a model is, alone and from files to embeddings."""

from __future__ import annotations

import json
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import UsageError
from ..io.printable import printable
from . import options
from . import text as words

if TYPE_CHECKING:
    from ..artefact import Artefact
    from ..bench.engine import EngineFigures
    from ..bench.latency import Ratio
    from ..bench.models import Bench, ModelFigures


class _Batches(click.ParamType):
    name = "N[,N...]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        try:
            sizes = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"'{value}' is no list of whole numbers like 1,8,32", param, ctx)
        if not all(1 <= size <= 4096 for size in sizes):
            self.fail(f"batches are from 1 to 4096; received {value}", param, ctx)
        return tuple(dict.fromkeys(sizes))


@click.command("bench", cls=options.GroupedCommand)
@click.argument("folder", metavar="[DIR]", required=False, type=click.Path(path_type=Path))
@options.model
@options.running
@click.option(
    "--compare",
    "others",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Another model, measured in turn with the first. Repeatable.",
)
@click.option(
    "--batch",
    "batch_sizes",
    type=_Batches(),
    default="1,8,16,32,64",
    show_default=True,
    help="Crops per call.",
)
@click.option(
    "--warmup",
    type=options.Number(0.0, 600.0),
    metavar="S",
    default=0.5,
    show_default=True,
    help="Seconds that do not count, for each model and batch.",
)
@click.option(
    "--seconds",
    type=options.Number(0.0, 3600.0, min_open=True),
    metavar="S",
    default=10.0,
    show_default=True,
    help="Most for each model and batch; less where the figures settle.",
)
@click.option(
    "--rounds",
    type=click.IntRange(1, 10_000),
    help="Measure exactly so many windows instead of until they settle.",
)
@click.option(
    "--crops",
    "count",
    type=click.IntRange(1, 100_000),
    default=256,
    show_default=True,
    help="Different crops to measure with, spread evenly over DIR (the sample crops are 624).",
)
@click.option("--workers", type=click.IntRange(1, 256), help="Threads that decode.  [default: one per core]")
@options.removed("--seed", do="leave it out: without DIR the sample crops are measured with, always the same")
@options.as_json
def command(
    *,
    folder: Path | None,
    model: Path | None,
    backend: str,
    device: str,
    others: tuple[Path, ...],
    batch_sizes: tuple[int, ...],
    warmup: float,
    seconds: float,
    rounds: int | None,
    count: int,
    workers: int | None,
    as_json: bool,
) -> None:
    """Measure how fast a model is: the engine alone at each batch size, then files to embeddings.

    The crops are those of DIR; without DIR the sample crops of the package. Windows of calls are repeated until
    the medians of the last three agree within 5 %, or the time is up: it says which. Percentiles are given
    where there are calls enough for them, p99 from 100 on.

    With --compare the models take turns window by window, and ratios are taken within a round: a machine that
    slows down for a while slows them all. Beside a ratio stand its quartiles over the rounds.
    """
    for name, value in (("--warmup", warmup), ("--seconds", seconds)):
        if math.isnan(value):
            raise click.BadParameter("nan is no number", param_hint=name)

    from ..backends import STARTER, open_backend
    from ..bench.folder import open_crops
    from ..bench.interleaved import Schedule
    from ..bench.models import bench, open_model

    paths = [model or STARTER, *others]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UsageError("a model is named twice", do="give --compare other files than -m")
    models = [
        open_model(path, lambda file: open_backend(file, backend=backend, device=device)) for path in paths
    ]

    # What is printed in the end must not fail in the end.
    known = []
    for item in models:
        artefact, how = words.counted(item.backend.artefact, words.recount(item.path, item.backend.artefact))
        known.append((artefact, how))
        with words.reading(item.path):
            words.accuracy(artefact, how)
            json.dumps(item.backend.artefact.as_dict(), allow_nan=False)

    def report(line: str) -> None:
        click.echo(line, err=True)

    if folder is None:
        report("no DIR was given: measuring with the sample crops")
    with open_crops(folder, count) as crops:
        result = bench(
            models,
            crops,
            batch_sizes=batch_sizes,
            schedule=Schedule(warmup_s=warmup, seconds=seconds, rounds=rounds),
            workers=workers,
            report=report,
        )
    repeat = shlex.join(["san", *sys.argv[1:]])
    if as_json:
        click.echo(json.dumps({"command": repeat, **result.as_dict()}, indent=2))
    else:
        click.echo(printable(as_text(result, repeat, known)))


def as_text(result: Bench, repeat: str, known: Sequence[tuple[Artefact, str]]) -> str:
    """The summary that is printed, without a newline at its end.

    Args:
        result: of `bench`.
        repeat: the command.
        known: of each model, from `words.counted`.
    """
    names = _names([model.path for model in result.models])
    rows: list[words.Row] = []
    for name, model in zip(names, result.models, strict=True):
        size, opened = words.megabytes(model.bytes), f"opened in {model.open_s:.2f} s"
        rows.append(("model", f"{name}: {words.identity(model.artefact)}"))
        rows.append(("", f"{size}, SHA-256 {model.artefact.sha256[:12]}, {opened}, {model.runtime}"))
    here = result.machine
    load = "" if here.load_average is None else f", load average {here.load_average:g}"
    rows.append(("machine", f"{here.processor}, {here.cores} cores{load}, {here.system}"))
    unreadable = result.crops["unreadable"]
    left_out = f"; {unreadable} could not be read" if unreadable else ""
    rows.append(("crops", f"{result.crops['count']} {result.crops['source']}{left_out}"))
    parts = [words.columns(rows), _engines(result, names), _folders(result, names)]

    rows = []
    for name, (artefact, how) in zip(names, known, strict=True):
        whose = f"{name}: " if len(names) > 1 else ""
        rows += [(what, whose + line) for what, line in words.accuracy(artefact, how)]
    parts.append("what the file says of its accuracy, which is not measured here\n" + words.columns(rows))

    rows = [("note", note) for note in result.notes]
    if result.peak_rss_mb is not None:
        together = " with all models" if len(names) > 1 else ""
        rows.insert(0, ("memory", f"{result.peak_rss_mb:.0f} MB at its peak{together}"))
    rows.append(("took", f"{result.seconds:.0f} s"))
    rows.append(("again", repeat))
    parts.append(words.columns(rows))
    return "\n\n".join(parts)


def _names(paths: list[str]) -> list[str]:
    """File names; whole paths where these would be the same."""
    names = [Path(path).name for path in paths]
    return names if len(set(names)) == len(names) else paths


def _engines(result: Bench, names: list[str]) -> str:
    several = len(names) > 1
    head = ["model"] * several + ["batch", "calls", "p50", "p90", "p95", "p99", "mean", "min", "max"]
    head += ["crops/s", "settled to", *(["speed"] * several)]
    rows = []
    splits = []
    for index in range(len(result.models[0].engine)):
        for name, model in zip(names, result.models, strict=True):
            item = model.engine[index]
            rows.append(
                ([name] if several else []) + _engine(item) + ([_speed(item.speed)] if several else [])
            )
            if item.split_ms is not None:
                whose = f"{name}, " if several else ""
                split = ", ".join(f"{key.replace('_', '-')} {ms:.3f}" for key, ms in item.split_ms.items())
                splits.append(f"  {whose}batch {item.batch}: {split} ms")
    lines = ["the engine alone: crops in memory, one caller, milliseconds per call", *_table(head, rows)]
    return "\n".join(lines + splits)


def _engine(item: EngineFigures) -> list[str]:
    latency = item.latency
    percentiles = [latency.percentiles_ms.get(name) for name in ("p50", "p90", "p95", "p99")]
    return [
        str(item.batch),
        str(latency.calls),
        *(_ms(value) for value in (*percentiles, latency.mean_ms, latency.min_ms, latency.max_ms)),
        _rate(item.crops_per_second),
        f"{item.spread:.1%}" if item.settled and item.spread is not None else f"no ({item.ended})",
    ]


def _folders(result: Bench, names: list[str]) -> str:
    several = len(names) > 1
    first = result.models[0].folder
    head = ["model"] * several + ["runs", "crops/s", "of the engine's", "decode", "resize", "all", "settled"]
    rows = [_folder(model, name, several) for name, model in zip(names, result.models, strict=True)]
    message = (
        f"files to embeddings: batch {first.batch}, {first.workers} threads decode, {first.files} files a run; "
        "CPU milliseconds per crop"
    )
    return "\n".join([message, *_table(head + ["speed"] * several, rows)])


def _folder(model: ModelFigures, name: str, several: bool) -> list[str]:
    item = model.folder
    cells = [
        str(item.runs),
        _rate(item.crops_per_second),
        _range(item.share),
        *(f"{ms:.2f}" for ms in (item.decode_cpu_ms, item.resize_cpu_ms, item.cpu_ms)),
        "yes" if item.settled else f"no ({item.ended})",
    ]
    return [name, *cells, _speed(item.speed)] if several else cells


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    """Right-aligned columns; names to the left."""
    table = [head, *rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(head))]
    return [
        "  "
        + "  ".join(
            f"{cell:<{width}}" if title == "model" else f"{cell:>{width}}"
            for title, cell, width in zip(head, row, widths, strict=True)
        )
        for row in table
    ]


def _ms(value: float | None) -> str:
    """Four figures; a dash where there were too few calls."""
    if value is None:
        return "-"
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def _rate(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def _speed(value: Ratio | None) -> str:
    return "1" if value is None else f"{_range(value)} x"


def _range(value: Ratio) -> str:
    return f"{value.median:.2f} ({value.low:.2f} to {value.high:.2f})"
