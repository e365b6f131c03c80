"""`san parity`: whether a deployed model ranks people as the trained network does, and where it starts to differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import options

if TYPE_CHECKING:
    from san_export.parity.result import ParityRun

#: What `--json` takes for stdout.
_STDOUT = Path("-")


@click.command(
    "parity",
    short_help="Say whether a deployed model ranks as the trained network does.",
    cls=options.GroupedCommand,
)
@click.argument("reference", type=click.Path(path_type=Path))
@click.argument("target", required=False, type=click.Path(path_type=Path))
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
@click.option(
    "--outputs",
    metavar="FILE.npy|.npz",
    type=click.Path(path_type=Path),
    help="Rows that another program computed for these crops, in place of TARGET.",
)
@click.option(
    "--resize",
    metavar="cv2-linear|cv2-area|...",
    help="Bring TARGET's crops to size as another pipeline does, to see what that costs.",
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
    target: Path | None,
    folder: Path,
    labels: Path | None,
    split: str | None,
    count: int | None,
    seed: int,
    asked: tuple[str, ...],
    mask: str | None,
    onnx_file: Path | None,
    outputs: Path | None,
    resize: str | None,
    backend: str,
    device: str,
    json_file: Path | None,
    html: Path | None,
    junit: Path | None,
    force: bool,
) -> None:
    """Say whether TARGET ranks people as REFERENCE does, and where it starts to differ.

    REFERENCE is a checkpoint, run in FP32 by PyTorch, or an ONNX file. TARGET is an ONNX file or an engine. The
    same crops go through both. The verdict rests on what the target says of itself, on the embeddings at several
    batch sizes and on the ranking; the preprocessing, the bits of the sharp masks and the layers say where a
    difference begins.

    --outputs takes the rows of another program (a C++ pipeline, DeepStream, Triton) in place of TARGET: an .npy of
    (N, D) float32 in the sorted order of the crops' paths, or an .npz with `embedding` and `path`.

    Where a figure misses its gate, the exit code is 3 and the gate is named, after everything was written.
    """
    from san_export.parity.gates import make_gates, parse_gates, refuse_without_labels
    from san_export.parity.outputs import read_outputs, resize_of
    from san_export.parity.sample import Sample, choose

    from ..errors import UsageError

    parse_gates(asked)
    if (target is None) == (outputs is None):
        raise UsageError("one target is compared", do="give TARGET, or --outputs FILE")
    if resize is not None and outputs is not None:
        raise UsageError("--resize is for a TARGET that runs here", do="leave it out")
    writers = _writers(json_file, html, junit, force=force)
    resizer = None if resize is None else resize_of(resize)
    given = None if outputs is None else read_outputs(outputs, folder)
    chosen = choose(folder, labels=labels, count=count, seed=seed, split=split)
    if chosen.labels is None:
        refuse_without_labels(asked)

    from san_export.parity.models import open_outputs, open_pair
    from san_export.parity.run import gate_error, run_parity
    from san_export.parity.text import lines

    if given is not None:
        pair = open_outputs(reference, given, mask=mask)
    else:
        assert target is not None
        pair = open_pair(reference, target, mask=mask, onnx_file=onnx_file, backend=backend, device=device)
    if resizer is not None and resize is not None:
        pair = pair.resized(resizer, resize)
    gates = make_gates(pair.target.artefact, pair.reference.artefact.mask, asked)
    sample = Sample(chosen, pair.reference.artefact.size_hw, pair.reference.artefact.resize)
    click.echo(f"Comparing {len(sample)} {sample.source}", err=True)
    click.echo(f"reference  {reference}: {pair.reference.runtime}", err=True)
    click.echo(f"target     {pair.target.path}: {pair.target.runtime}", err=True)
    run = run_parity(pair, sample, gates, seed=seed, report=lambda line: click.echo(line, err=True))
    for write, path in writers:
        write(run, path)
    if json_file == _STDOUT:
        click.echo(_as_json(run))
    else:
        click.echo("\n".join(lines(run)))
        for _, path in writers:
            click.echo(f"written to {path}", err=True)
    if (error := gate_error(run)) is not None:
        raise error


_Write = Callable[["ParityRun", Path], None]


def _writers(
    json_file: Path | None, html: Path | None, junit: Path | None, *, force: bool
) -> list[tuple[_Write, Path]]:
    """What is to be written where; what cannot be written is refused now, before anything long starts."""
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


def _write_json(run: ParityRun, path: Path) -> None:
    from ..io.atomic import atomic_file

    with atomic_file(path) as temporary:
        temporary.write_text(_as_json(run) + "\n", encoding="utf-8")


def _as_json(run: ParityRun) -> str:
    return json.dumps(run.as_dict(), indent=2, allow_nan=False)
