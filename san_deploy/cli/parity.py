"""`san parity`: whether a deployed model ranks people as the trained network does, and where it starts to differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options

if TYPE_CHECKING:
    from san_export.parity.result import Ladder

#: What `--json` takes for stdout.
_STDOUT = Path("-")


@click.command(
    "parity",
    short_help="Say whether a deployed model ranks as the trained network does.",
    cls=options.GroupedCommand,
)
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--crops",
    "folder",
    required=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="A folder of crops, best of your own cameras; a labelled data set brings its labels.",
)
@click.option(
    "--labels",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Who is on the crops: identities.csv (camera,track,person[,split]).  [default: that of DIR]",
)
@click.option("--split", help="Of labelled crops, or `all`.  [default: query against gallery, or `test`]")
@click.option("--num", "count", type=click.IntRange(10, 1_000_000), help="Crops to take.  [default: 1000]")
@click.option(
    "--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True, help="Chooses the crops."
)
@click.option(
    "--gate",
    "asked",
    multiple=True,
    metavar="NAME=VALUE",
    help="What a figure must reach; NAME=off asks for nothing. Repeatable.  [default: by precision and mask]",
)
@click.option(
    "--mask",
    metavar="argmax|expected|ramp:EPS",
    help="Of a checkpoint's network.  [default: that of TARGET]",
)
@click.option(
    "--onnx",
    "onnx_file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="What an engine was built from.  [default: the file that it names, beside it]",
)
@options.running
@click.option(
    "--json",
    "json_file",
    metavar="FILE|-",
    type=click.Path(path_type=Path, allow_dash=True),
    help="Write everything as JSON; - prints it instead of the table.",
)
@click.option(
    "--html", metavar="FILE", type=click.Path(path_type=Path), help="Write a page that stands alone."
)
@click.option("--junit", metavar="FILE", type=click.Path(path_type=Path), help="Write JUnit XML for a CI.")
@click.option("--force", is_flag=True, help="Replace existing files.")
def command(
    *,
    reference: Path,
    target: Path,
    folder: Path,
    labels: Path | None,
    split: str | None,
    count: int | None,
    seed: int,
    asked: tuple[str, ...],
    mask: str | None,
    onnx_file: Path | None,
    backend: str,
    device: str,
    json_file: Path | None,
    html: Path | None,
    junit: Path | None,
    force: bool,
) -> None:
    """Say whether TARGET ranks people as REFERENCE does, and where it starts to differ.

    REFERENCE is a checkpoint, run in FP32 by PyTorch, or an ONNX file. TARGET is an ONNX file or an engine. The
    same crops go through both, rung by rung: the description, the preprocessing, the embeddings at several batch
    sizes, the bits of the sharp masks, the first layer that differs by more than rounding, the ranking.

    Where a figure misses its gate, the exit code is 3 and the gate is named, after everything was written.
    """
    from san_export.parity.gates import make_gates, parse_gates, refuse_without_labels
    from san_export.parity.sample import Sample, choose

    parse_gates(asked)
    writers = _writers(json_file, html, junit, force=force)
    chosen = choose(folder, labels=labels, count=count, seed=seed, split=split)
    if chosen.labels is None:
        refuse_without_labels(asked)

    from san_export.parity.models import open_sides
    from san_export.parity.run import run_ladder, verdict
    from san_export.parity.table import lines

    sides = open_sides(reference, target, mask=mask, onnx_file=onnx_file, backend=backend, device=device)
    gates = make_gates(sides.target.artefact, sides.reference.artefact.mask, asked)
    sample = Sample(chosen, sides.target.artefact.size_hw)
    click.echo(f"Comparing {len(sample)} {sample.source}", err=True)
    click.echo(f"reference  {reference}: {sides.reference.runtime}", err=True)
    click.echo(f"target     {target}: {sides.target.runtime}", err=True)
    ladder = run_ladder(sides, sample, gates, seed=seed, report=lambda line: click.echo(line, err=True))
    for write, path in writers:
        write(ladder, path)
    if json_file == _STDOUT:
        click.echo(_as_json(ladder))
    else:
        click.echo("\n".join(lines(ladder)))
        for _, path in writers:
            click.echo(f"written to {path}", err=True)
    if (error := verdict(ladder)) is not None:
        raise error


_Write = Callable[["Ladder", Path], None]


def _writers(
    json_file: Path | None, html: Path | None, junit: Path | None, *, force: bool
) -> list[tuple[_Write, Path]]:
    """What is to be written where; what cannot be is refused now, before anything long starts."""
    from san_export.parity.html import write_page
    from san_export.parity.junit import write_junit

    from ..errors import SanError, UsageError
    from ..io.atomic import refuse_existing

    asked: list[tuple[str, _Write, Path | None]] = [
        ("--json", _write_json, None if json_file == _STDOUT else json_file),
        ("--html", write_page, html),
        ("--junit", write_junit, junit),
    ]
    result: list[tuple[_Write, Path]] = []
    for name, write, path in asked:
        if path is None:
            continue
        if path.is_dir():
            raise SanError(f"{path} is a folder", do=f"name a file: {name} FILE")
        if path.resolve() in [other.resolve() for _, other in result]:
            raise UsageError(f"{path} is to be written twice", do="name another file")
        refuse_existing(path, force=force)
        result.append((write, path))
    return result


def _write_json(ladder: Ladder, path: Path) -> None:
    from ..io.atomic import atomic_file

    with atomic_file(path) as temporary:
        temporary.write_text(_as_json(ladder) + "\n", encoding="utf-8")


def _as_json(ladder: Ladder) -> str:
    return json.dumps(ladder.as_dict(), indent=2, allow_nan=False)
