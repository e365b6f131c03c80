"""`san gallery`: tracklets that are kept to be found again."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import options

if TYPE_CHECKING:
    from ..gallery import GalleryInfo
    from ..matching.sources import Source


#: A person's number, as databases hold it.
_PERSON = click.IntRange(1, 2**63 - 1)


@click.group("gallery")
def command() -> None:
    """Keep tracklets, to search for people and to know them again another day."""


@command.command("add", cls=options.GroupedCommand)
@click.argument("cameras", nargs=-1, required=True, metavar="CAM|NAME=CAM...")
@options.gallery
@click.option(
    "--identities",
    type=click.Path(path_type=Path),
    help="identities.csv of san match: whose tracklets they are. Its numbers become the gallery's.",
)
@options.keep_crops
@options.tracklet_pattern
@options.model
@options.running
@options.per_track
@options.reading
@options.as_json
def add(*, cameras: tuple[str, ...], location: str, as_json: bool, **given: Any) -> None:
    """Add cameras: folders of crops, or .npz files of san embed. The gallery is made where there is none.

    When a tracklet was seen stands in tracks.csv beside the crops, as san crops --start writes it.
    """
    from ..gallery import open_gallery
    from ..gallery.cameras import camera_pictures, read_people, tracks_of
    from ..io.progress import bar
    from ..matching.site import with_times
    from ..matching.sources import Reading, embed_sources, read_sources
    from .cameras import describe, open_for

    sources = read_sources(cameras, given["pattern"], at_least=1)
    refuse_pictures(sources, given["keep_crops"])
    runtime = open_for(sources, given)
    for source in sources:
        describe(source)
    reading = Reading(
        given["batch"],
        given["workers"],
        given["strict"],
        partial(bar, quiet=as_json),
        given["per_track"],
    )
    embedded, model = embed_sources(sources, runtime, reading)
    embedded = [with_times(camera) for camera in embedded]
    people: list[Any] = [None] * len(embedded)
    if given["identities"] is not None:
        people = list(read_people(given["identities"], embedded))
    tracks = [tracks_of(camera, persons) for camera, persons in zip(embedded, people, strict=True)]
    gallery = open_gallery(location, write=True, create=model)
    try:
        with gallery.transaction():
            added = {
                item.camera: gallery.add(item, camera_pictures(camera, given["keep_crops"]))
                for item, camera in zip(tracks, embedded, strict=True)
            }
        info = gallery.info()
    finally:
        gallery.close()
    if as_json:
        click.echo(json.dumps({"added": added, **_as_dict(info)}, indent=2, sort_keys=True))
    else:
        listed = ", ".join(f"{count} of {camera}" for camera, count in added.items())
        click.echo(
            f"Added {listed} to {info.location}: {info.tracks} tracklets of {len(info.cameras)} cameras"
        )


@command.command("delete", cls=options.GroupedCommand)
@options.gallery
@click.option("--camera", required=True, help="Of which camera.")
@click.option("--track", help="Which tracklet.  [default: all of the camera]")
@options.as_json
def delete(*, location: str, camera: str, track: str | None, as_json: bool) -> None:
    """Delete a tracklet, or a whole camera. `san gallery compact` then takes the vectors out of the files."""
    _change(location, lambda gallery: gallery.delete(camera, track), "Deleted", as_json)


@command.command("expire", cls=options.GroupedCommand)
@options.gallery
@click.option("--older-than", "age", metavar="30d|12h", required=True, help="Days, hours or minutes.")
@options.as_json
def expire(*, location: str, age: str, as_json: bool) -> None:
    """Delete what was last seen longer ago than that; where no time is known, what was added longer ago."""
    import time

    from ..errors import UsageError

    match = re.fullmatch(r"(\d+(?:\.\d+)?)([dhm])", age)
    if match is None:
        raise UsageError(f"--older-than {age} is no age", do="give a number and d, h or m: 30d")
    seconds = float(match[1]) * {"d": 86400, "h": 3600, "m": 60}[match[2]]
    _change(location, lambda gallery: gallery.expire(time.time() - seconds), "Expired", as_json)


@command.command("merge", cls=options.GroupedCommand)
@options.gallery
@click.argument("into", type=_PERSON)
@click.argument("person", type=_PERSON)
@options.as_json
def merge(*, location: str, into: int, person: int, as_json: bool) -> None:
    """Say that the people INTO and PERSON are one, who keeps the number INTO; the other is never given again."""
    _change(location, lambda gallery: gallery.merge(into, person), "Merged", as_json)


@command.command("split", cls=options.GroupedCommand)
@options.gallery
@click.argument("person", type=_PERSON)
@click.argument("tracks", nargs=-1, required=True, metavar="CAMERA/TRACK...")
@options.as_json
def split(*, location: str, person: int, tracks: tuple[str, ...], as_json: bool) -> None:
    """Say that these tracklets are not PERSON: they become a new person, all of them the same."""
    from ..errors import UsageError

    away = [tuple(text.split("/", 1)) for text in dict.fromkeys(tracks)]
    if bad := next((item[0] for item in away if len(item) != 2), None):
        raise UsageError(f"{bad} is no CAMERA/TRACK", do="san search names them so")

    def work(gallery: Any) -> int:
        click.echo(f"New person: {gallery.split(person, away)}", err=True)
        return len(away)

    _change(location, work, "Split off", as_json)


@command.command("compact", cls=options.GroupedCommand)
@options.gallery
@click.option(
    "--index", type=click.Choice(["hnsw", "none"]), help="PostgreSQL: search approximately, or exactly."
)
@options.as_json
def compact(*, location: str, index: str | None, as_json: bool) -> None:
    """Take deleted vectors out of the files for good."""
    from ..errors import UsageError
    from ..gallery import is_url

    if index is not None and not is_url(location):
        raise UsageError("--index is for PostgreSQL; a folder is searched exactly")

    def work(gallery: Any) -> int:
        removed: int = gallery.compact()
        if index is not None:
            gallery.index(index)
        return removed

    _change(location, work, "Removed", as_json)


@command.command("info", cls=options.GroupedCommand)
@options.gallery
@click.option("--events", is_flag=True, help="Its audit too: what was done, and when.")
@options.as_json
def info(*, location: str, events: bool, as_json: bool) -> None:
    """Say what a gallery holds."""
    import datetime

    from ..gallery import open_gallery
    from .text import columns, megabytes

    gallery = open_gallery(location)
    try:
        found, audit = gallery.info(), gallery.events() if events else []
    finally:
        gallery.close()
    if as_json:
        told = [{"when": item.when, "what": item.what, "detail": dict(item.detail)} for item in audit]
        click.echo(
            json.dumps(_as_dict(found) | ({"events": told} if events else {}), indent=2, sort_keys=True)
        )
        return
    rows = [
        ("gallery", f"{found.location}, {found.store}, {megabytes(found.bytes)}"),
        ("network", f"{found.model.get('arch', '?')}, {found.dim} numbers, space {found.space[:12]}"),
        (
            "holds",
            f"{found.tracks} tracklets, {found.people} people; {found.deleted} deleted and not compacted",
        ),
        *(("camera", f"{camera}: {count}") for camera, count in found.cameras.items()),
    ]
    for item in audit:
        when = datetime.datetime.fromtimestamp(item.when, datetime.timezone.utc).isoformat(timespec="seconds")
        rows.append((item.what, f"{when} {json.dumps(dict(item.detail), sort_keys=True)}"))
    click.echo(columns(rows))


@command.command("export", cls=options.GroupedCommand)
@options.gallery
@click.option(
    "-o", "--output", metavar="DIR", type=click.Path(path_type=Path), required=True, help="To write."
)
@click.option("--force", is_flag=True, help="Replace an earlier export.")
def export(*, location: str, output: Path, force: bool) -> None:
    """Write everything as CAMERA.npz, as san embed does, with tracks.csv and identities.csv."""
    from ..gallery import open_gallery
    from ..gallery.export import write_export

    gallery = open_gallery(location)
    try:
        count = write_export(gallery, output, force=force)
    finally:
        gallery.close()
    click.echo(f"Wrote {count} cameras to {output}")


def refuse_pictures(sources: Sequence[Source], count: int) -> None:
    """UsageError where pictures are to be kept of crops that are not there."""
    from ..errors import UsageError

    if count and any(not source.tracks for source in sources):
        raise UsageError("--keep-crops needs the crops", do="give their folders, not .npz files")


def _change(location: str, work: Any, said: str, as_json: bool) -> None:
    from ..gallery import open_gallery

    gallery = open_gallery(location, write=True)
    try:
        count = work(gallery)
        found = gallery.info()
    finally:
        gallery.close()
    if as_json:
        click.echo(json.dumps({said.lower(): count, **_as_dict(found)}, indent=2, sort_keys=True))
    else:
        left = f"; {found.deleted} to compact" if found.deleted else ""
        click.echo(f"{said} {count} tracklets; {found.tracks} are left{left}")


def _as_dict(info: GalleryInfo) -> dict[str, Any]:
    return vars(info) | {"model": dict(info.model), "cameras": dict(info.cameras)}
