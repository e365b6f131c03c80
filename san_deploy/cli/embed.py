"""`san embed`: embed a folder of crops."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options
from . import text as words

if TYPE_CHECKING:
    from ..embed import Embeddings

#: Unreadable crops that are named; the rest is counted. `--json` names all.
_NAMED = 10


@click.command("embed", cls=options.GroupedCommand)
@click.argument("sources", metavar="DIR", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    metavar="FILE.npz",
    type=click.Path(path_type=Path),
    required=True,
    help="The file to write.",
)
@options.model
@options.running
@options.tracklet_pattern
@options.per_track
@options.reading
@click.option(
    "--shard",
    metavar="I/N",
    help="Embed one of N parts, I from 1 to N: whole tracklets, chosen by the hash of their names.",
)
@click.option(
    "--merge",
    "merging",
    is_flag=True,
    help="Put the files of all N shards, given in place of DIR, together: the bytes of a single run.",
)
@click.option("--force", is_flag=True, help="Replace an existing file.")
@options.as_json
def command(
    *,
    sources: tuple[Path, ...],
    output: Path,
    model: Path | None,
    backend: str,
    device: str,
    pattern: str,
    per_track: int | None,
    batch: int,
    workers: int | None,
    strict: bool,
    shard: str | None,
    merging: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Embed the crops of DIR, a camera in any layout of san match: one folder per tracklet, loose crops, and others.

    FILE.npz gets the arrays embedding (crops x D, float32, rows of norm 1), path and track, and the model's
    identity. Crops that cannot be read are reported, and left out.

    Several machines share a folder with --shard I/N; --merge SHARD.npz... puts their files together.
    """
    from ..errors import SanError, UsageError
    from ..io.atomic import refuse_existing

    refuse_existing(output, force=force)
    if output.is_dir():
        raise SanError(f"{output} is a folder", do="name a file: -o crops.npz")

    if merging:
        _merge(sources, output, force=force, as_json=as_json)
        return
    if len(sources) > 1:
        raise UsageError(
            f"san embed takes one folder; received {len(sources)}",
            do="run it once for each; --merge puts shards together",
        )
    folder = sources[0]

    from ..backends import STARTER, open_backend
    from ..embed import write_embeddings
    from ..io.progress import bar
    from ..matching.sources import Reading, as_one, chosen_crops, embed_source, lost_tracks, read_sources
    from ..shards import Shard, embed_shard, write_shard
    from .cameras import describe

    part = None if shard is None else Shard.parse(shard)
    whole = as_one(read_sources([folder], pattern, at_least=1))
    if not whole.tracks:
        raise SanError(f"{folder} is embedded already", do="name the folder of crops")
    source = whole if part is None else part.of(whole)
    reading = Reading(batch, workers, strict, bar, per_track)
    files = len(chosen_crops(source, per_track))
    runtime = open_backend(model, backend=backend, device=device)
    identity = _identity(model or STARTER, runtime.artefact.as_dict())
    note = f"; {runtime.note}" if runtime.note else ""
    of_all = "" if part is None else f", shard {part},"
    click.echo(f"Embedding {files} crops{of_all} with {identity} on {runtime.name}{note}", err=True)
    describe(whole)
    if part is None:
        result = embed_source(source, runtime, reading)
        write_embeddings(result, output, force=force)
    else:
        embedded = embed_shard(whole, runtime, part, reading)
        result = embedded.result
        write_shard(embedded, output, force=force)
    lost = lost_tracks(source, result)
    for line in _complaints(result, lost):
        click.echo(line, err=True)
    if as_json:
        summary = {
            "output": str(output),
            "model": result.model,
            "runtime": runtime.name,
            "note": runtime.note,
            "layout": source.layout,
            "lost_tracklets": lost,
            **_figures(result),
        }
        click.echo(json.dumps(summary, indent=2, sort_keys=True))
    else:
        click.echo(_text(result, output, identity, runtime.name))


#: What embeds, and so says nothing where embeddings are put together.
_OF_EMBEDDING = ("model", "backend", "device", "pattern", "per_track", "batch", "workers", "strict", "shard")


def _merge(paths: tuple[Path, ...], output: Path, *, force: bool, as_json: bool) -> None:
    from ..embed import write_embeddings
    from ..errors import UsageError
    from ..shards import merge

    context = click.get_current_context()
    for name in _OF_EMBEDDING:
        if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            raise UsageError(f"--{name.replace('_', '-')} does nothing with --merge", do="leave it out")
    result = merge(paths)
    write_embeddings(result, output, force=force)
    crops, tracks = len(result.path), len(result.tracks)
    if as_json:
        summary = {
            "output": str(output),
            "shards": [str(path) for path in paths],
            "crops": crops,
            "tracklets": tracks,
            "embedding_dim": result.embedding.shape[1],
            "model": result.model,
        }
        click.echo(json.dumps(summary, indent=2, sort_keys=True))
    else:
        click.echo(f"{output}: {crops} crops in {tracks} tracklets, put together from {len(paths)} shards")


def _identity(path: Path, model: dict[str, Any]) -> str:
    height, width = model["size_hw"]
    size = f"{height} x {width}"
    return f"{path.name} ({model['arch']}, {size}, {model['precision']}, SHA-256 {model['sha256'][:12]})"


def _figures(result: Embeddings) -> dict[str, Any]:
    crops = len(result.path)
    return {
        "crops": crops,
        "tracklets": len(result.tracks),
        "embedding_dim": result.embedding.shape[1],
        "unreadable": [{"path": item.path, "reason": item.reason} for item in result.unreadable],
        "blank": result.blank,
        "seconds": round(result.seconds, 3),
        "crops_per_second": round(crops / result.seconds, 1),
    }


def _text(result: Embeddings, output: Path, identity: str, runtime: str) -> str:
    figures = _figures(result)
    rate = f"{figures['crops_per_second']:.0f} crops per second"
    unreadable = len(result.unreadable)
    return "\n".join(
        [
            f"model    {identity}",
            f"runtime  {runtime}",
            f"crops    {figures['crops']} in {figures['tracklets']} tracklets; {unreadable} unreadable",
            f"time     {figures['seconds']:.1f} s, {rate}, files to embeddings",
            f"output   {output}: {figures['crops']} x {figures['embedding_dim']} float32",
        ]
    )


def _complaints(result: Embeddings, lost: Sequence[str]) -> list[str]:
    lines = [f"Unreadable: {item.path} {item.reason}." for item in result.unreadable[:_NAMED]]
    if result.unreadable:
        crops = len(result.unreadable) + len(result.path)
        lines.append(f"{len(result.unreadable)} of {crops} crops are unreadable and were left out.")
    if blank := words.blank(result.blank):
        lines.append(blank)
    if lost:
        more = ", ..." if len(lost) > _NAMED else ""
        lines.append(f"{len(lost)} tracklets have no readable crop: {', '.join(lost[:_NAMED])}{more}.")
    return lines
