"""`san search`: where else was this person seen?"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options

if TYPE_CHECKING:
    from ..artefact import Threshold
    from ..gallery.search import Found


@click.command("search", cls=options.GroupedCommand)
@click.argument("query", metavar="CROP|DIR", type=click.Path(path_type=Path))
@options.gallery
@click.option(
    "-k", "k", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Tracklets to find."
)
@click.option("--camera", "cameras", multiple=True, help="Seen by this camera; may be given several times.")
@click.option("--after", metavar="ISO-TIME", help="Seen then or later.")
@click.option("--before", metavar="ISO-TIME", help="Seen earlier.")
@click.option("--html", metavar="FILE", type=click.Path(path_type=Path), help="Write a page with pictures.")
@options.tracklet_pattern
@options.model
@options.running
@click.option("--force", is_flag=True, help="Replace an existing page.")
@options.as_json
def command(
    *,
    query: Path,
    location: str,
    k: int,
    cameras: tuple[str, ...],
    html: Path | None,
    model: Path | None,
    backend: str,
    device: str,
    force: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Find the tracklets of a gallery that are most like CROP, or like the person whose crops lie in DIR.

    A DIR of folders, or in another layout of san match, is a query for each tracklet.
    """
    from ..embedder import Embedder
    from ..errors import SanError
    from ..gallery import SearchFilter, open_gallery
    from ..gallery.search import query_sources, read_queries, search
    from ..io.atomic import refuse_existing
    from .cameras import describe

    where = SearchFilter(cameras, _time(given["after"], "--after"), _time(given["before"], "--before"))
    if not query.exists():
        raise SanError(f"{query} does not exist", do="give a crop, or a folder of one person's crops")
    if html is not None:
        refuse_existing(html, force=force)
    sources = query_sources(query, given["pattern"])
    for source in sources if query.is_dir() else ():
        describe(source)
    gallery = open_gallery(location)
    try:
        embedder = Embedder(model, backend=backend, device=device)
        found = search(
            gallery, read_queries(sources, embedder), embedder.artefact.as_dict(), k=k, where=where
        )
        threshold = embedder.artefact.threshold
        if html is not None:
            from ..reports.search_page import write_search_page

            write_search_page(html, found, gallery, threshold=threshold, force=force)
    finally:
        gallery.close()
    if as_json:
        click.echo(json.dumps(_as_dict(found, threshold), indent=2, sort_keys=True, allow_nan=False))
    else:
        click.echo(_text(found, threshold))
        if html is not None:
            click.echo(f"page  {html}")


def _time(text: str | None, name: str) -> float | None:
    if text is None:
        return None
    from ..errors import UsageError
    from ..video.tracks import parse_time

    try:
        return parse_time(text)
    except ValueError as error:
        raise UsageError(f"{name} {text} is no time", do="write it as 2026-03-01T09:30") from error


def _as_dict(found: list[Found], threshold: Threshold | None) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        return None if isinstance(value, float) and math.isnan(value) else value

    queries = []
    for item in found:
        hits = []
        for hit in item.hits:
            reaches = None if threshold is None else hit.similarity >= threshold.similarity
            hits.append({key: plain(value) for key, value in vars(hit).items()} | {"matches": reaches})
        queries.append({"query": item.query.name, "crops": len(item.query.files), "hits": hits})
    kept = ("similarity", "false_match_rate", "true_match_rate", "source")  # without the curve
    stands = None if threshold is None else {name: getattr(threshold, name) for name in kept}
    return {"threshold": stands, "queries": queries}


def _text(found: list[Found], threshold: Threshold | None) -> str:
    from ..reports.times import when

    lines = []
    for item in found:
        lines.append(f"{item.query.name}, {len(item.query.files)} crops")
        for place, hit in enumerate(item.hits, 1):
            mark = "  " if threshold is None or hit.similarity < threshold.similarity else "* "
            person = "" if hit.person is None else f"  person {hit.person}"
            seen = when(hit.start, hit.end)
            lines.append(
                f"{mark}{place:>3}  {hit.similarity:.4f}  {hit.camera}/{hit.track}{person}{'  ' + seen if seen else ''}"
            )
        if not item.hits:
            lines.append("     nothing: no tracklet fits --camera, --after and --before")
    if threshold is not None:
        lines.append(
            f"* at or above {threshold.similarity:.4f}, which {threshold.false_match_rate:.2%} of pairs of different "
            f"people reach{_genuine(threshold)} ({threshold.source})"
        )
    return "\n".join(lines)


def _genuine(threshold: Threshold) -> str:
    rate = threshold.true_match_rate
    return "" if rate is None else f" and {rate:.1%} of one person's"
